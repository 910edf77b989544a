"""`annotate …` in this process, as a person types it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from annotate_transformer.app.cli.main import main

COMMANDS = {
    "runs": (),
    "stats": (),
    "token": (" the",),
    "phrase": ("capital of",),
    "neuron": ("L1N7",),
    "head": ("L3H2",),
    "heads": ("--kind", "K"),
    "position": (1_000_000_000_777,),
    "neurons": (),
    "bigrams": (" the",),
    "compare": (1, 2, "--what", "heads"),
    "expand": ("Dublin is the capital of",),
}


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str


class Asking:
    """`annotate …` in this process: the process that a person starts is tested in test_cli.py."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, db: Path) -> None:
        self.capsys, self.patch, self.db = capsys, patch, db

    def __call__(self, *words: object) -> Said:
        self.patch.setattr(sys, "argv", ["annotate", *map(str, words), "--db", str(self.db)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self.capsys.readouterr()
        return Said(int(ended.value.code or 0), printed.out, printed.err)

    def example(self, command: str, *more: object) -> Said:
        return self(command, *COMMANDS[command], *more)
