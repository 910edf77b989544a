"""Say where a store is: in a file on this machine, or elsewhere, where it can only be read."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

from annotate_transformer.store.errors import NotAStore, StoreError


class Elsewhere(ABC):
    """A store that is not one file on this machine; `address` says where it is.

    `what`: what it is, for a message, such as "a file on a web server";
    `database`: the database, of those that the connection has, with the store's schema;
    `can_be_verified`: whether `annotate verify` reads it.
    """

    what: str
    database = "memory"
    can_be_verified = False

    def __init__(self, address: str) -> None:
        self.address = address
        self.tell: Callable[[str], None] = lambda sentence: None  # reports a slow step

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The last part of the address, as a title"""
        return self.address.rstrip("/").rpartition("/")[2]

    @abstractmethod
    def connect(self) -> duckdb.DuckDBPyConnection:
        """Return a connection with the store's schema, which the caller must close.

        Raises:
            StoreError: there is no store at the address, or it cannot be read.
        """

    def opening(self) -> list[str]:
        """Return the SQL statements with which a connection of another process opens the store.

        Raises:
            NotAStore: only a connection of this process can open it.
        """
        raise self.refusal()

    def explained(self, error: BaseException) -> StoreError | None:
        """Return an error for the user if a query failed because the store is elsewhere; None otherwise."""
        return None

    def refusal(self) -> NotAStore:
        """Return the error of a command that needs a store in one file."""
        return NotAStore(
            f"{self.address} is {self.what}, and this needs a file on this machine. "
            "Give the path of a store's file."
        )


Place: TypeAlias = Path | Elsewhere
# Address: where a user says a store is: a file, a folder with a run's parts, all parts' files, or a URL
Address: TypeAlias = str | os.PathLike[str] | Elsewhere | list[Any] | tuple[Any, ...]
KINDS = {  # the beginning of an address → the class of `store.elsewhere` for it
    "http://": ("web", "Web"),
    "https://": ("web", "Web"),
    "ducklake:": ("lake", "Lake"),
}


def place(address: Address) -> Place:
    """Convert a user's address to a path or an `Elsewhere`; a file need not exist.

    Raises:
        NotAStore: the address is empty.
    """
    if isinstance(address, Elsewhere):
        return address
    if address == "":
        raise NotAStore("The store's file name is empty. Give the store's file, or a new file name.")
    if isinstance(address, list | tuple) or os.path.isdir(address):
        return _elsewhere("parts", "Parts", address)
    for begins, (module, name) in KINDS.items():
        if str(address).startswith(begins):
            return _elsewhere(module, name, str(address))
    return Path(address)


def _elsewhere(module: str, name: str, address: Any) -> Elsewhere:
    # Imported only now, because these modules import other modules of the store, which takes time.
    made: Elsewhere = getattr(import_module(f"annotate_transformer.store.elsewhere.{module}"), name)(address)
    return made
