"""Finished cells in the repository: the rank of every case under every system, small enough to be kept for good.

Who has them can take any interval or difference anew, add a row of their own and compare it case by case, or go on
with a benchmark that another machine began, without training what was trained. A file a cell; no pickle.

Shapes: M cases.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.data import Array

_FIGURES = "figures"
_QUICK_S = 60.0  # what trains sooner is not worth its place


def archive(cells: Path, folder: Path, at_least_s: float = _QUICK_S, *, rows: Collection[str] | None = None) -> int:
    """Copy the finished cells of a cache's folder into an archive's; return how many were new or had changed.

    at_least_s: cells whose training took less are left out, but for ensembles, which need other cells' scores.
    rows: those of these rows alone; None: of all.
    Ranks are kept as whole numbers of halves (the mean rank of a tie is one), 0 for a case that has none; what
    cannot be ranked at all is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = 0
    for file in sorted(cells.glob("*.npz")):
        figures = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        if rows is not None and figures["row"] not in rows:
            continue
        if figures["train_s"] < at_least_s and figures["kind"] != "ensemble":
            continue
        with np.load(file) as found:
            packed = {name: _packed(ranks_M) for name, ranks_M in found.items() if np.isfinite(ranks_M).any()}
            n_cases = {name: np.int64(len(ranks_M)) for name, ranks_M in found.items() if name not in packed}
        text = np.frombuffer(json.dumps(figures, sort_keys=True).encode(), dtype=np.uint8)
        changed += _write(folder / file.name, {**packed, **n_cases, _FIGURES: text})
    return changed


def restore(folder: Path, cells: Path) -> int:
    """Copy archived cells to where a cache looks for them, but for those that it has; return how many."""
    copied = 0
    for file in sorted(folder.glob("*.npz")):
        to = cells / file.name
        if to.exists():
            continue
        cells.mkdir(parents=True, exist_ok=True)
        with np.load(file) as found:
            figures = json.loads(bytes(found[_FIGURES]).decode())
            ranks = {name: _unpacked(values) for name, values in found.items() if name != _FIGURES}
        to.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        _write(to, ranks)  # last: its presence says that the cell is whole
        copied += 1
    return copied


def _packed(ranks_M: Array) -> Array:
    ranks_M = np.where(np.isnan(ranks_M), 0, ranks_M)
    halves_M = np.rint(2 * ranks_M)
    if not np.array_equal(halves_M, 2 * ranks_M):
        raise ValueError("a rank is no multiple of one half: mean ranks of ties are")
    highest = halves_M.max(initial=0)
    return halves_M.astype(np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.uint32)


def _unpacked(values: Array) -> Array:
    return np.where(values > 0, values / 2.0, np.nan) if values.ndim else np.full(int(values), np.nan)


def _write(file: Path, arrays: dict[str, Any]) -> bool:
    """Replace a file in one step; whether it is another than before."""
    if file.exists():
        with np.load(file) as before:
            if _same(before, arrays):
                return False
    partial = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(file)
    return True


def _same(before: Any, arrays: dict[str, Any]) -> bool:
    names: Iterable[str] = before.files
    return set(names) == set(arrays) and all(np.array_equal(before[name], arrays[name]) for name in names)
