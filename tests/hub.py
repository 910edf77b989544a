"""A hub on this machine that takes a data set as the Hugging Face hub does, for `HF_ENDPOINT`."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tools.range_server import at_work


@contextmanager
def hub(folder: Path, *, token: str) -> Iterator[str]:
    """Context manager: serve a hub that puts what it is sent into `folder`; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {token}":
                self._answer(401, {"error": "Invalid credentials"})
            elif self.path == "/api/repos/create":
                asked = json.loads(sent)
                assert asked["type"] == "dataset"
                self._answer(200, {"url": f"{address}/datasets/{asked['organization']}/{asked['name']}"})
            elif self.path == "/api/validate-yaml":
                self._answer(200, {"errors": [], "warnings": []})
            elif self.path.endswith("/preupload/main"):
                files = [{"path": file["path"]} for file in json.loads(sent)["files"]]
                how = {"uploadMode": "regular", "shouldIgnore": False}
                self._answer(200, {"files": [file | how for file in files]})
            elif self.path.endswith("/commit/main"):
                self._keep(sent)
            else:
                self._answer(404, {"error": f"nothing at {self.path}"})

        def _keep(self, sent: bytes) -> None:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            self._answer(
                200, {"commitOid": "0" * 40, "commitUrl": f"{address}/datasets/someone/texts/commit/0"}
            )

        def _answer(self, status: int, told: dict[str, Any]) -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with at_work(Handler) as address:
        yield address
