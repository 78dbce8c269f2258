"""The attempts at a cell: the folder that a stopped one leaves to the next, and what they have cost together."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import peak_gib
from benchmarks.record import ROOT

NOTE = "attempt.json"
_CODE = ("syncrec_model", "benchmarks/peers")  # what training computes with


@cache
def code_mark() -> str:
    """Return a mark of the code that trains, as it was when first asked, and of torch.

    Of the files, not of the commit: an edit changes it before it is committed, a change of a page does not.
    """
    found = hashlib.sha256(torch.__version__.encode())
    for folder in _CODE:
        for file in sorted((ROOT / folder).glob("*.py")):
            found.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def prepare(folder: Path, of: Mapping[str, Any], *, resumes: bool) -> None:
    """Leave a cell's folder as a stopped attempt left it, else empty it.

    of: all that both attempts must have in common, plain JSON. resumes: whether the system can go on from there.
    """
    if resumes and _read(folder / NOTE).get("of") == dict(of):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if resumes:
        _write(folder / NOTE, {"of": dict(of)})


@dataclass(frozen=True)
class Spent:
    """Seconds, seconds of processor (this process and its ended children), highest resident memory."""

    seconds: float = 0.0
    core_s: float = 0.0
    peak_gib: float = 0.0


class Meter:
    """What a cell has cost: from now on, and in the attempts before as far as they kept it.

    A system that resumes calls `keep` just before it writes a checkpoint. So an epoch that a kill broke off is in
    no cost, as it would not be without the kill; what the next attempt sets up again is.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / NOTE
        self._note = _read(self._file)
        self.earlier = Spent(**self._note.get("spent", {}))
        self._began, self._core_began = time.perf_counter(), _core_seconds()

    def spent(self) -> Spent:
        """Return what it has cost so far."""
        return Spent(
            self.earlier.seconds + time.perf_counter() - self._began,
            self.earlier.core_s + _core_seconds() - self._core_began,
            max(self.earlier.peak_gib, peak_gib(torch.device("cpu"))),
        )

    def keep(self) -> None:
        """Write it down for the next attempt."""
        _write(self._file, {**self._note, "spent": asdict(self.spent())})


def _core_seconds() -> float:
    """Return the seconds of processor that this process and its ended children have had: other work adds none."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _read(file: Path) -> dict[str, Any]:
    """Return a note; an empty one where there is none, or half of one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, note: Mapping[str, Any]) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(note), encoding="utf-8")
    partial.replace(file)
