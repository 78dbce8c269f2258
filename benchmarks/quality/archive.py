"""Finished cells in the repository: the rank of every case under every system, small enough to be kept for good.

Who has them can take any interval or difference anew, add a row of their own and compare it case by case, or go on
with a benchmark that another machine began, without training what was trained. A file a cell; no pickle. Of
settings that lost only that is kept which says so: their ranks on validation. Beside them the trials, a line each.

Shapes: M cases.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.cells import CHOSEN_BY
from benchmarks.quality.data import Array
from benchmarks.quality.systems import Row
from benchmarks.quality.trials import Trials

_FIGURES = "figures"
TRIALS = "trials.jsonl"


def archive(cells: Path, folder: Path, rows: Iterable[Row]) -> int:
    """Copy the finished cells of rows from a cache's folder into an archive's; return how many were new or changed.

    What is whole in the archive stays so: a smaller run chooses among less. Ranks are kept as whole numbers of
    halves (the mean rank of a tie is one), 0 for a case that has none; what cannot be ranked at all is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept, changed = Trials(folder / TRIALS), 0
    for row in rows:
        for trial in row.trials:
            if trial not in kept.all:
                kept.add(trial)
        chosen = {result.cell.name for result in row.results.values()}
        for name in sorted(chosen | {trial.cell for trial in row.trials}):
            file = cells / f"{name}.npz"
            if file.exists() and (name in chosen or not _is_whole(folder / file.name)):
                changed += _write(folder / file.name, _packed_cell(file, whole=name in chosen))
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
    if (folder / TRIALS).exists():
        cells.mkdir(parents=True, exist_ok=True)
        known = Trials(cells / TRIALS)
        for trial in Trials(folder / TRIALS).all:
            if trial not in known.all:
                known.add(trial)
    return copied


def _is_whole(file: Path) -> bool:
    if not file.exists():
        return False
    with np.load(file) as found:
        return set(found.files) != {CHOSEN_BY, _FIGURES}


def _packed_cell(file: Path, *, whole: bool) -> dict[str, Any]:
    figures = file.with_suffix(".json").read_text(encoding="utf-8")
    with np.load(file) as found:
        ranks = {name: ranks_M for name, ranks_M in found.items() if whole or name == CHOSEN_BY}
    packed = {name: _packed(ranks_M) for name, ranks_M in ranks.items() if np.isfinite(ranks_M).any()}
    n_cases = {name: np.int64(len(ranks_M)) for name, ranks_M in ranks.items() if name not in packed}
    text = json.dumps(json.loads(figures), sort_keys=True)
    return {**packed, **n_cases, _FIGURES: np.frombuffer(text.encode(), dtype=np.uint8)}


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
