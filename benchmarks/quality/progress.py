"""Where a run of hours stands: a bar in a terminal, one line a finished cell elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from benchmarks.quality.cells import Cell
from benchmarks.quality.process import Outcome
from benchmarks.quality.trials import DONE


class Progress:
    """Count cells and guess what is left: a row's cell takes as long as that row's others, else as all others.

    at_once: how many cells are trained side by side.
    """

    def __init__(self, out: TextIO = sys.stderr, at_once: int = 1) -> None:
        self.at_once = at_once
        self.console = Console(file=out, highlight=False, soft_wrap=True)
        self._left: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}
        self._n_done = 0
        self._now: dict[str, tuple[Cell, float]] = {}  # by its name: what is trained, and since when
        self._bar: Bar | None = None
        if self.console.is_terminal:
            # No thread of its own: the benchmark forks.
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Bar(*columns, console=self.console, auto_refresh=False)
            self._task = self._bar.add_task("", total=None)
            self._bar.start()

    def expect(self, row: str, n_cells: int, seconds: Sequence[float]) -> None:
        """Say how many cells a row has and how long earlier ones took."""
        self._left[row] = n_cells
        self._seconds[row] = list(seconds)

    def read(self, row: str) -> None:
        """Count a cell that needs no training."""
        self._count(row)

    def begin(self, cell: Cell) -> None:
        """Say what is trained now."""
        self._now[cell.name] = (cell, time.monotonic())
        self.tick()

    def tick(self) -> None:
        """Draw the bar again."""
        if self._bar is None or not self._now:
            return
        now = time.monotonic()
        running = [f"{cell.row} seed {cell.seed}, {words(now - began)}" for cell, began in self._now.values()]
        text = f"{'; '.join(running)}; {self._rest()}"
        self._bar.update(self._task, completed=self._n_done, total=self._total(), description=text)
        self._bar.refresh()

    def end(self, cell: Cell, outcome: Outcome, macro: float) -> None:
        """Say how a cell ended."""
        self._now.pop(cell.name, None)
        if outcome.word == DONE:
            self._seconds.setdefault(cell.row, []).append(outcome.seconds)
        self._count(cell.row)
        found = f"validation {macro:.4f}" if outcome.word == DONE else f"{outcome.word}: {outcome.message}"
        settings = "".join(f" {name}={value}" for name, value in cell.settings.items())
        line = f"[{self._n_done}/{self._total()}] {cell.row}{settings} seed {cell.seed}: {found}"
        self.console.print(f"{line}, {words(outcome.seconds)}; {self._rest()}", markup=False)

    def finish(self, row: str) -> None:
        """Forget cells of a row that will not be trained."""
        self._left[row] = 0

    def stop(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()

    def _count(self, row: str) -> None:
        self._n_done += 1
        self._left[row] = max(0, self._left.get(row, 0) - 1)

    def _total(self) -> int:
        return self._n_done + sum(self._left.values())

    def _rest(self) -> str:
        """Return how long the rest may take."""
        everything = [value for values in self._seconds.values() for value in values]
        if not everything:
            return "no cell has ended yet"
        usual = sum(everything) / len(everything)
        rest = 0.0
        for row, left in self._left.items():
            known = self._seconds.get(row) or [usual]
            rest += left * sum(known) / len(known)
        return f"about {words(rest / self.at_once)} left" if sum(self._left.values()) else "the last cell"


def words(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
