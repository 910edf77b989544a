"""Make a folder to share: a store, a card that describes it and checksums; upload it as a data set."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from annotate_transformer import store
from annotate_transformer.app.present import formats
from annotate_transformer.app.present.words import one_line
from annotate_transformer.store.database import SCHEMA_VERSION, connection
from annotate_transformer.store.errors import AnnotateError, DamagedStore
from annotate_transformer.store.export import new_folder
from annotate_transformer.store.location import located
from annotate_transformer.store.queries import named, schema
from annotate_transformer.store.writer import Writer

if TYPE_CHECKING:
    import pandas as pd

STORE, CARD, SUMS = "store.duckdb", "README.md", "SHA256SUMS"  # the files of the folder
EXAMPLE = "SELECT token, next_token, -next_logprob AS loss FROM positions ORDER BY loss DESC LIMIT 5"


class UploadFailed(AnnotateError):
    """The upload to the hub failed; the folder itself is complete."""


@dataclass(frozen=True)
class About:
    """The facts on the card that the user gives, because the store does not have them.

    `title`: of the data set; `license`: its name on the hub, such as cc-by-4.0; `repository`: USER/NAME.
    """

    title: str
    license: str | None
    repository: str | None


def make_folder(db: Path, folder: Path, about: About, watch: Callable[[str], None]) -> list[Path]:
    """Copy the store into a new folder with a card and checksums, and return the paths of the files.

    The copy is verified before the folder gets its name. watch: called with what is being done

    Raises:
        BadQuestion: the store has no finished run, or the folder exists.
        DamagedStore: a check of the copy has failed.
    """
    with new_folder(folder) as part:
        watch("copying the store")
        _copy(db, part / STORE)
        watch("checking the copy")
        for finding in store.verify(part / STORE):
            if finding.broken:
                raise DamagedStore(
                    f"{db} is not sound ({finding.of}: {finding.check}), so it is not published. "
                    f"`annotate verify {db}` says more."
                )
        (part / CARD).write_text(card(part / STORE, about), encoding="utf-8")
        sums = "".join(f"{_sha256(part / name)}  {name}\n" for name in (STORE, CARD))
        (part / SUMS).write_text(sums, encoding="utf-8")
    return [folder / name for name in (STORE, CARD, SUMS)]


def _copy(db: Path, target: Path) -> None:
    """Copy a store while no command writes into it."""
    with store.open(db) as s, s.together():
        s.run()  # raises an error if no run is finished
    with Writer(db):
        if Path(f"{located(db)}.wal").exists():  # writes that a killed process left outside the file
            with connection(db, read_only=False) as con:
                con.execute("CHECKPOINT")
        shutil.copyfile(located(db), target)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def card(db: Path, about: About) -> str:
    """Return the text of the card, which describes runs, exactness and views, and how to query the store."""
    with store.open(db) as s:
        runs = s.runs()
        views = s.sql(named("describe.sql")["names"], {"schema": schema()})
    address = _address(about.repository)
    head = {"pretty_name": about.title, "license": about.license, "tags": ["interpretability", "duckdb"]}
    return "\n".join(
        [
            "---",
            *(f"{name}: {json.dumps(value)}" for name, value in head.items() if value),  # JSON is valid YAML
            "---",
            f"# {one_line(about.title)}",
            "",
            _what(db, runs),
            "## Runs",
            "",
            _table(runs),
            _how(address),
            "## Views and macros",
            "",
            "Terms are in logits, and `loss` is in nats. `annotate schema VIEW` describes the columns.",
            "",
            *(f"- `{row.name}`: {row.comment.partition('?')[0]}?" for row in views.itertuples(index=False)),
            "",
        ]
    )


def _what(db: Path, runs: "pd.DataFrame") -> str:
    return f"""\
Every token of a text, annotated with the direct effect of each layer, head and neuron of a language model
on the prediction there. The terms of a position sum to the logit. The error of each sum is stored: it is
{runs.worst_closure.max():.1e} logits at most. The direct effect of a component is what it adds to a logit
with the scale of the final norm frozen; it is not what would change without the component.

The file `{STORE}` is a DuckDB database of {db.stat().st_size / 1e6:,.1f} MB, with the text. It was made and
checked by Annotate Transformer (schema version {SCHEMA_VERSION}). `sha256sum -c {SUMS}` checks the files.
"""


def _how(address: str) -> str:
    return f"""\
## How to ask it

Python, which reads the parts of the file that a question needs (`pip install 'annotate-transformer[http]'`):

```python
import annotate_transformer as at

with at.open("{address}") as s:
    print(s.runs())
    print(s.sql("{EXAMPLE}"))
```

The command line, with the file downloaded: `annotate app --db {STORE}` shows it in the browser, and
`annotate neuron L0N0 --db {STORE}` describes a neuron. DuckDB alone answers SQL over the same views: `duckdb
-readonly {STORE}`.
"""


def _table(runs: "pd.DataFrame") -> str:
    names = {
        "run_id": "run", "model": "model", "revision": "revision", "corpus": "text", "tokens": "tokens",
        "status": "status", "worst_closure": "largest closure error (logits)",
    }  # fmt: skip
    shown = runs[[*names]].assign(
        model=[Path(str(model)).name for model in runs.model],
        corpus=[Path(str(corpus)).name for corpus in runs.corpus],
        tokens=[f"{tokens:,}" for tokens in runs.tokens],
        worst_closure=[f"{closure:.1e}" for closure in runs.worst_closure],
    )
    written = BytesIO()
    formats.write(shown.rename(columns=names), "markdown", written)
    return written.getvalue().decode()


def _address(repository: str | None) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, STORE, repo_type="dataset") if repository else f"https://…/{STORE}"


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Upload the folder into a data-set repository, which is made if it is missing; return its address.

    The token is the one of `hf auth login` or of HF_TOKEN.

    Raises:
        UploadFailed: the hub refuses, or does not answer.
    """
    import httpx
    from huggingface_hub import HfApi

    try:
        made = HfApi().create_repo(repository, repo_type="dataset", exist_ok=True, private=private or None)
        HfApi().upload_folder(
            repo_id=repository, folder_path=folder, repo_type="dataset", commit_message="Upload a store"
        )
    except (OSError, ValueError, httpx.HTTPError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UploadFailed(
            f"{folder} is complete, but the hub has not taken it ({why}). "
            f"Log in with `hf auth login`, then `hf upload {repository} {folder} --repo-type dataset`."
        ) from error
    return str(made)
