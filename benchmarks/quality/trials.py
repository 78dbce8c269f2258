"""Every attempt to train a cell, one JSON line each: the failed and the rejected ones are kept, too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

DONE, ABSENT, FAILED = "done", "absent", "failed"


@dataclass(frozen=True)
class Trial:
    """One attempt. cell: its name in the cache. valid_macro: macro NDCG@10 on validation, nan where it failed.

    seconds: of training and ranking, as a person waits. outcome: done, absent or failed; message: why. needs: the
    cells whose scores it read. epochs, patience: of the budget. code: the commit.
    """

    cell: str
    row: str
    settings: Mapping[str, Any]
    seed: int
    valid_macro: float
    seconds: float
    outcome: str
    message: str
    needs: Sequence[str]
    epochs: int
    patience: int
    code: str
    date: str


class Trials:
    """The file of all attempts in one benchmark set."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.all: list[Trial] = []
        if file.exists():
            names = {field.name for field in fields(Trial)}
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    values = json.loads(line)
                except json.JSONDecodeError:
                    continue  # a line that a power cut left half written
                values["valid_macro"] = math.nan if values["valid_macro"] is None else values["valid_macro"]
                self.all.append(Trial(**{name: values[name] for name in names}))

    def add(self, trial: Trial) -> None:
        """Keep an attempt."""
        self.all.append(trial)
        values = asdict(trial)
        if not math.isfinite(trial.valid_macro):
            values["valid_macro"] = None
        with self.file.open("a+b") as out:
            out.seek(max(0, out.tell() - 1))
            after_half_a_line = out.read(1) not in (b"", b"\n")
            out.write(b"\n" * after_half_a_line + json.dumps(values).encode() + b"\n")

    def of(self, row: str) -> list[Trial]:
        """Return the attempts of a row, oldest first."""
        return [trial for trial in self.all if trial.row == row]

    def done(self, cell: str, epochs: int, patience: int) -> Trial | None:
        """Return the last attempt that finished a cell under a budget."""
        same = [
            trial
            for trial in self.all
            if (trial.cell, trial.epochs, trial.patience, trial.outcome) == (cell, epochs, patience, DONE)
        ]
        return same[-1] if same else None
