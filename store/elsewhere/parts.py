"""Read the parts of a run as one store, without merging them: each part stays in its own file, unchanged.

Rows of positions are read from the parts. Everything else is merged once into an index beside the parts
(store/elsewhere/index.py), which is made when the parts are first opened, and again when they have changed.
"""

import errno
import hashlib
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import duckdb
from filelock import FileLock

from annotate_transformer.store.database import NO_EXTENSIONS, SETTINGS, connection, no_room_as_sentence
from annotate_transformer.store.elsewhere import index
from annotate_transformer.store.elsewhere.place import Elsewhere
from annotate_transformer.store.errors import NotAStore
from annotate_transformer.store.location import located, temporary_folder
from annotate_transformer.store.parts import distinct_files

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_FOLDER = "parts.index"  # the name of the index of all parts in a folder
# _opening: held while a connection is made, because connections of this process share one database.
_opening = threading.Lock()


class Parts(Elsewhere):
    """A run in parts, read as one store. It is given as the folder or the list of the parts' files."""

    what, database, can_be_verified = "a run in parts", "store", True

    def __init__(self, given: str | Path | Sequence[str | Path]) -> None:
        self.folder = Path(given) if isinstance(given, str | Path) else None
        self.given = [] if isinstance(given, str | Path) else [Path(file) for file in given]
        super().__init__(str(self.folder or ", ".join(map(str, self.given))))

    def connect(self) -> duckdb.DuckDBPyConnection:
        files = self._files()
        with _opening:
            kept, record = self._index(files)
            # Connections with the same name share one database; a changed part gives another name.
            name = hashlib.sha256(f"{located(kept)} {record}".encode()).hexdigest()
            config = NO_EXTENSIONS | {"temp_directory": temporary_folder(kept)}
            con = duckdb.connect(f":memory:{name}", config=config)
            try:
                is_open = con.execute(
                    "SELECT 1 FROM duckdb_databases() WHERE database_name = 'store'"
                ).fetchone()
                for statement in ["USE store"] if is_open else index.opening(kept, record, files):
                    con.execute(statement)
                for setting in SETTINGS:
                    con.execute(setting)
            except BaseException as error:
                con.close()
                if isinstance(error, duckdb.Error):
                    _explain(files)
                raise
        return con

    def opening(self) -> list[str]:
        """Make the index if necessary; return the SQL with which another process opens the parts."""
        files = self._files()
        return index.opening(*self._index(files), files)

    def refusal(self) -> NotAStore:
        files = f"{self.folder}/*.duckdb" if self.folder else "PART…"
        return NotAStore(
            f"{self.address} is {self.what}, and this needs one file. Make it with `annotate merge {files} "
            "--db FILE`, and give that file."
        )

    def _files(self) -> list[Path]:
        """Return the paths of the parts' files, ordered by name.

        Raises:
            NotAStore: there is no file.
            NotOneRun: a file is given twice.
        """
        files = [*self.folder.glob("*.duckdb")] if self.folder else self.given
        if not files:
            has = "has no file *.duckdb" if self.folder else "is no store"
            raise NotAStore(
                f"{self.folder or 'An empty list'} {has}. Give the store's file, or the parts of a run: the "
                "folder with their files, or all files."
            )
        for file in files:
            if not located(file).exists():
                raise NotAStore(f"There is no store at {file}. Give all parts of the run.")
        return sorted(distinct_files(files), key=str)

    def _index(self, files: Sequence[Path]) -> tuple[Path, index.Record]:
        """Return the path and the record of the parts' index; make the index unless it is up to date."""
        beside = self._beside(files)
        try:
            return self._made(files, beside)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
        name = hashlib.sha256(str(located(beside)).encode()).hexdigest()
        temporary = Path(_temporary().name) / f"{name}.index"
        if (record := index.recorded(temporary)) is None or not record.is_true(files):
            self.tell(
                f"{beside.parent} cannot be written, so the index of the parts is kept for this time only."
            )
        return self._made(files, temporary)

    def _beside(self, files: Sequence[Path]) -> Path:
        """Return the path of the index: in the folder, or beside the first file, with a hash of all paths."""
        if self.folder:
            return self.folder / IN_FOLDER
        names = "\0".join(str(located(file)) for file in files)
        return files[0].with_name(f"parts-{hashlib.sha256(names.encode()).hexdigest()[:12]}.index")

    def _made(self, files: Sequence[Path], kept: Path) -> tuple[Path, index.Record]:
        record = index.recorded(kept)
        if record is None or not record.is_true(files):
            with FileLock(f"{kept}.lock"):  # another process may be making the index
                record = index.recorded(kept)
                if record is None or not record.is_true(files):
                    self.tell(f"Making {kept}, the lists and statistics of all parts; this is done once.")
                    with no_room_as_sentence(kept):
                        record = index.make(files, kept)
        return kept, record


@cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    """Return a temporary folder, the same one at each call, which is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="annotate-")


def _explain(files: Sequence[Path]) -> None:
    """Open each part by itself, so that the first one that cannot be opened raises an error with its name."""
    for file in files:
        with connection(file, read_only=True):
            pass
