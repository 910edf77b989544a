"""Start the process of each part as a task of a Ray cluster.

A task starts the same process as without Ray (`worker.annotate`), on whichever machine Ray chooses. Ray does
not repeat a task by itself: `parts.Parts` starts what failed again, with one rule for both ways.
"""

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.metadata import version
from secrets import token_hex
from typing import Any

from annotate_transformer.app.cli.jobs import worker
from annotate_transformer.app.cli.jobs.parts import Ended, Job, Parts

LOCAL = "local"  # the value of --ray that starts a cluster on this machine
AUTO = "auto"  # the value of --ray for the cluster at RAY_ADDRESS, or the one running on this machine
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0  # maximum seconds to wait for a cluster's answer
KILL_SECONDS = 10.0
LEAST = 0.0001  # the smallest fraction of a CPU that Ray can assign
LOST = -signal.SIGKILL  # exit status reported for a process that died with its worker
OBJECTS_BYTES = 80 * 2**20  # shared memory for Ray's objects; the tasks store none
# Turn off Ray's usage reports, and give its processes time to start on a busy machine.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "240"}
PACKAGE = "annotate-transformer"
TOKEN = (
    "it asks for a token. Set RAY_AUTH_MODE=token, and have the cluster's token in RAY_AUTH_TOKEN or in "
    "~/.ray/auth_token"
)


@dataclass(frozen=True)
class OnRay:
    """The options for annotating the parts of a run on a Ray cluster.

    `address`: local, auto, HOST:PORT or ray://HOST:PORT; `jobs`: how many parts at a time at most;
    `cpus`, `gpus`: those of a part; None: chosen from the cluster's machines (`cpus_of`).
    """

    address: str
    jobs: int | None
    cpus: float | None
    gpus: float

    def check(self) -> None:
        """Raise SettingsError if the CPUs or GPUs of a part are not a number that Ray accepts."""
        from annotate_transformer.ingest.errors import SettingsError

        if not (self.cpus is None or LEAST <= self.cpus < math.inf):
            raise SettingsError(f"--cpus-per-part {self.cpus:g} must be a number above 0, such as 0.5 or 4.")
        if not 0 <= self.gpus < math.inf or (self.gpus > 1 and self.gpus % 1):
            raise SettingsError(
                f"--gpus-per-part {self.gpus:g} must be 0, a fraction of 1 such as 0.25, or a whole number."
            )

    def device(self, asked: str) -> str:
        """Return the device for all parts; `auto` means the GPU if each part has one, else the CPU.

        Raises:
            SettingsError: the device is a GPU, and no part has one.
        """
        from annotate_transformer.ingest.errors import SettingsError

        if asked.startswith("cuda") and not self.gpus:
            raise SettingsError(
                f"With --ray, --device {asked} needs --gpus-per-part: 1, or 0.5 for two parts on one GPU."
            )
        return ("cuda" if self.gpus else "cpu") if asked == "auto" else asked

    @contextmanager
    def starter(self, parts: Parts, versions: Mapping[str, str]) -> Iterator["RayTasks"]:
        """Context manager: yield the starter of tasks; `versions`: library → version that workers must have.

        Raises:
            SettingsError: there is no such cluster, or it has no machine for a part.
        """
        seen, packages = parts.folder.absolute() / "seen", {**versions, PACKAGE: version(PACKAGE)}
        expected = worker.Expected(os.getcwd(), seen, token_hex(8), packages)
        expected.seen.write_text(expected.token)
        with cluster(self.address) as ray:
            machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            cpus = self.cpus_of(machines, parts.parts)
            yield RayTasks(ray, self.jobs or parts.parts, cpus, self.gpus, expected)

    def cpus_of(self, machines: Sequence[Mapping[str, float]], parts: int) -> float:
        """Return the number of CPUs per part: the given one, or a machine's CPUs shared by its parts.

        `machines`: the resources of each, by Ray's names. One part at a time is on a machine, or as many as
        its GPUs allow, or as many as --jobs gives it. All parts have as many CPUs, those of the machine that
        has fewest, because numbers of threads must be equal for equal bits.

        Raises:
            SettingsError: no machine has what a part needs.

        >>> [OnRay("", jobs, None, 0).cpus_of([{"CPU": 8.0}, {"CPU": 6.0}], 16) for jobs in (None, 4)]
        [6.0, 3.0]
        >>> OnRay("", None, None, 0.5).cpus_of([{"CPU": 64.0}, {"CPU": 16.0, "GPU": 2.0}], 16)
        4.0
        """
        least = self.cpus or LEAST
        able = [of for of in machines if of.get("CPU", 0) >= least and of.get("GPU", 0) >= self.gpus]
        if not able:
            from annotate_transformer.ingest.errors import SettingsError

            raise SettingsError(
                f"No machine of the Ray cluster has the CPUs and GPUs of a part ({self.cpus or 1:g} and "
                f"{self.gpus:g}): they have {_listed(machines)}. Give a smaller --cpus-per-part or "
                "--gpus-per-part, or add machines."
            )
        if self.cpus is not None:
            return self.cpus
        each = math.ceil(min(self.jobs or len(able), parts) / len(able))
        shares = [of["CPU"] / (of["GPU"] // self.gpus if self.gpus else each) for of in able]
        return float(math.floor(min(shares))) or min(shares)


def _listed(machines: Sequence[Mapping[str, float]]) -> str:
    told = (f"{of.get('CPU', 0):g} CPUs and {of.get('GPU', 0):g} GPUs" for of in machines)
    return "; ".join(dict.fromkeys(told)) or "nothing"


class RayTasks:
    """Tasks of a Ray cluster, at most `at_once` at a time, each with `cpus` CPUs and `gpus` GPUs."""

    def __init__(self, ray: Any, at_once: int, cpus: float, gpus: float, expected: worker.Expected) -> None:
        ray.cloudpickle.register_pickle_by_value(worker)
        self.ray, self.at_once, self.expected = ray, at_once, expected
        self.threads = max(1, int(cpus))
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(worker.annotate)
        self.running = dict[int, Any]()

    def start(self, job: Job) -> None:
        claim = job.store.with_suffix(".claim")
        self.running[job.part] = self.task.remote(job.words, job.log, claim, self.threads, self.expected)

    def ended(self) -> Iterator[tuple[int, Ended]]:
        for part, result in [*self.running.items()]:
            done, _ = self.ray.wait([result], timeout=0)
            if done:
                del self.running[part]
                yield part, self._result(result)

    def _result(self, result: Any) -> Ended:
        try:
            return Ended(*self.ray.get(result))
        except self.ray.exceptions.RayTaskError as error:  # for example, a worker cannot read a pickle
            return Ended(LOST, str(error).strip().splitlines()[-1])
        except self.ray.exceptions.RayError as error:
            return Ended(LOST, (str(error).strip() or type(error).__name__).splitlines()[0])

    def interrupt(self) -> None:
        for result in self.running.values():
            self.ray.cancel(result)

    def kill(self) -> None:
        for result in self.running.values():
            with suppress(self.ray.exceptions.RayError):
                self.ray.cancel(result, force=True)
        if self.running:
            self.ray.wait([*self.running.values()], num_returns=len(self.running), timeout=KILL_SECONDS)


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Context manager: connect to a Ray cluster and yield the module `ray`; `local` starts a cluster here.

    Ray prints messages to standard output, which is discarded during the block.

    Raises:
        SettingsError: Ray is not installed, or the address does not answer.
    """
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    ray = _imported()
    _check_answers(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if address == LOCAL:
        quiet |= {"include_dashboard": False, "object_store_memory": OBJECTS_BYTES}
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            ray.init(address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _no_cluster(address, str(error)) from error
        finally:
            for number, handler in handlers.items():  # ray.init replaces the handler of SIGTERM
                signal.signal(number, handler)
        try:
            yield ray
        finally:
            ray.shutdown()


def _imported() -> Any:
    from annotate_transformer.ingest.errors import SettingsError

    try:
        import ray
    except ImportError as error:
        raise SettingsError(
            "--ray needs Ray, which is not installed. Install it with `pip install "
            f"'{PACKAGE}[ray]'`, or leave --ray out for processes on this machine."
        ) from error
    return ray


def _check_answers(address: str) -> None:
    """Check that a cluster answers, in a process that can be killed, because Ray itself waits for minutes.

    Raises:
        SettingsError: it does not answer.
    """
    asked = os.environ.get("RAY_ADDRESS", AUTO) if address == AUTO else address
    if asked in (LOCAL, AUTO):  # Ray reports a missing local cluster at once
        return
    host, _, port = asked.removeprefix("ray://").rpartition(":")
    try:
        with suppress(ValueError), socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS):
            pass
    except OSError as error:
        raise _no_cluster(asked, error.strerror or str(error)) from error
    if "://" in asked:
        return
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", asked]
    try:
        asking = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise _no_cluster(asked, f"it did not answer in {ANSWER_SECONDS:.0f} s") from error
    said = asking.stderr.decode(errors="replace").strip()
    if "AuthenticationError" in said:
        raise _no_cluster(asked, TOKEN)
    if asking.returncode:
        raise _no_cluster(asked, said.splitlines()[-1] if said else "")


def _no_cluster(address: str, why: str) -> Exception:
    from annotate_transformer.ingest.errors import SettingsError

    told = f": {' '.join(why.split())}" if why else ""
    return SettingsError(
        f"There is no Ray cluster at {address} that this machine can join{told.rstrip('.')}. Start one with "
        "`ray start --head`, and give its address (auto: the one on this machine), or --ray local."
    )
