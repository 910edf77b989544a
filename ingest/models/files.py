"""Find the files of a model, in a folder or in one commit of a repository on the hub.

Only regular files with known names are opened. Links are followed, because the hub's cache consists of
links; a link reveals no more than whether its target is a model.
"""

import json
import stat
from pathlib import Path
from typing import Any

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.models.sentences import in_a_line

MOST_BYTES = {"config.json": 2**20, "tokenizer.json": 2**28, "tokenizer_config.json": 2**24}
MOST_INDEX_BYTES = 2**26
POINTER = b"version https://git-lfs"


class Files:
    """The files of one model, in a folder or on the hub; `find` and `need` return the path of a file."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.revision = checkpoint, checkpoint.revision_on_hub
        self._is_pinned = False

    def find(self, name: str) -> Path | None:
        """Return the path of the file with this name, or None if there is no such file.

        Raises:
            ModelError: the file exists and cannot be read.
        """
        if self.checkpoint.is_local:
            path = Path(self.checkpoint.folder, name)
            try:
                path.lstat()
            except FileNotFoundError:
                return None
        else:
            found = self._on_hub(name)
            if found is None:
                return None
            path = found
        self._check(path, name)
        return path

    def need(self, name: str) -> Path:
        """Return the path of the file with this name; raise ModelError if the file is missing."""
        found = self.find(name)
        if found is None:
            self.reach(name)
            raise self.wrong(name, "is missing. Save the model again with save_pretrained")
        return found

    def object(self, name: str) -> dict[str, Any]:
        """Return the JSON object in the file with this name."""
        path, most = self.need(name), MOST_BYTES.get(name, MOST_INDEX_BYTES)
        if path.stat().st_size > most:
            raise self.wrong(name, f"has {path.stat().st_size:,} bytes, and at most {most:,} are read")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise self.wrong(name, f"is not JSON ({in_a_line(error)})") from error
        if not isinstance(found, dict):
            raise self.wrong(name, "is not a JSON object")
        return found

    def wrong(self, name: str, what: str) -> ModelError:
        return ModelError(f"{self.checkpoint.name} cannot be loaded as a model: its {name} {what}.")

    def names(self) -> list[str]:
        """Return the names of all files in the folder, for error messages."""
        return (
            sorted(p.name for p in Path(self.checkpoint.folder).iterdir()) if self.checkpoint.is_local else []
        )

    def reach(self, name: str) -> None:
        """Make transformers raise an error that says why a file was not found on the hub."""
        if not self.checkpoint.is_local:
            self._cached(name, raising=True)

    def _on_hub(self, name: str) -> Path | None:
        """Return a file's path in the local cache; download it if needed. All files are from one commit."""
        from transformers.utils.hub import extract_commit_hash

        found = self._cached(name, raising=not self._is_pinned)
        if found and not self._is_pinned:
            self.revision, self._is_pinned = extract_commit_hash(found, None) or self.revision, True
        return Path(found) if found else None

    def _cached(self, name: str, *, raising: bool) -> str | None:
        from transformers.utils.hub import cached_file

        found: str | None = cached_file(
            self.checkpoint.path, name, revision=self.revision, _raise_exceptions_for_missing_entries=raising
        )
        return found

    def _check(self, path: Path, name: str) -> None:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise self.wrong(name, "is not a regular file")
            with path.open("rb") as file:
                start = file.read(len(POINTER))
        except OSError as error:
            raise self.wrong(name, f"cannot be read: {error.strerror or error}") from error
        if start == POINTER:
            raise self.wrong(
                name, "is a pointer of Git LFS and not the file itself. Run `git lfs pull` in its folder"
            )
