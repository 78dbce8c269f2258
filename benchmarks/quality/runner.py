"""Train what is missing: of every row the search with seed 0, the choice on validation, then the other seeds.

Rows go on side by side: what one waits for does not keep the others from a free place.
"""

from __future__ import annotations

import fcntl
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.quality.archive import TRIALS, restore
from benchmarks.quality.cells import Cache, Cell, Result
from benchmarks.quality.data import QualityData
from benchmarks.quality.plan import Scale, seeds
from benchmarks.quality.process import Outcome, Task, run_alone, run_together
from benchmarks.quality.progress import Progress
from benchmarks.quality.protocol import KINDS, Budget, Peer, PeerAbsent, View
from benchmarks.quality.systems import Row, choose_rivals, systems_of, validation_macro
from benchmarks.quality.trials import ABSENT, DONE, FAILED, Trial, Trials
from jobs.code_version import code_version

NOT_TRAINED = "not trained yet"
"""Why a row is absent from a report, which trains nothing."""


class Busy(Exception):
    """Another run works in the same folder."""


@dataclass(frozen=True)
class _Training(Task):
    cell: Cell


class _Plan:
    """What a row still wants: the cells of its next step, and how many of them have not ended."""

    def __init__(self, steps: Iterator[Sequence[Cell]]) -> None:
        self.steps, self.open = steps, 0


class Runner:
    """All rows of one run over one benchmark set. train: False reads what is there and trains nothing.

    jobs: cells that are trained at once, of whichever rows; they share the budget's threads.
    """

    def __init__(
        self, data: QualityData, budget: Budget, folder: Path, peers: Sequence[Peer], scale: Scale,
        progress: Progress, *, train: bool = True, jobs: int = 1,
    ) -> None:  # fmt: skip
        self.data, self.scale, self.progress, self.train, self.jobs = data, scale, progress, train, jobs
        self.budget = replace(budget, threads=max(1, budget.threads // jobs))
        self.peers = {peer.name: peer for peer in peers}
        self.cache = Cache(folder, data, self.budget)
        self.trials = Trials(self.cache.folder / TRIALS)
        self.rows: dict[str, Row] = {}
        self._found: dict[str, Result] = {}  # by the name of the cell

    def restore(self, archived: Path) -> int:
        """Take the finished cells and trials of an archive that are not here; return how many cells."""
        copied = restore(archived, self.cache.folder)
        self.trials = Trials(self.trials.file)
        return copied

    def run(self) -> dict[str, Row]:
        """Return what became of every row, in the order of the peers.

        Raises
        ------
        Busy : another run trains in the same folder.
        """
        with (self.cache.folder / "lock").open("w") as lock:
            if self.train:
                self._take(lock)
            self._expect()
            self.rows = {peer.name: Row(peer) for peer in self.peers.values()}
            self._go_through({name: self._row(row) for name, row in self.rows.items()})
            rivals: set[str] = set()
            while new := self._rivals() - rivals:  # more seeds may choose another rival: ends when none is new
                rivals |= new
                wanted = {name: seeds(self.peers[name], self.peers.values(), self.scale, rivals) for name in new}
                self._go_through({name: self._more_seeds(self.rows[name], wanted[name]) for name in sorted(new)})
        return self.rows

    def incomplete(self) -> list[str]:
        """Return the rows that lack a seed or a setting of this run and have not failed: a report trains none."""
        rivals, found = self._rivals(), []
        for name, row in self.rows.items():
            wanted = set(seeds(row.peer, self.peers.values(), self.scale, rivals))
            tried = all(Cell(name, settings, 0).name in self._found for settings in self.scale.settings(row.peer))
            partial = row.results and not row.errors and (wanted - set(row.results) or not tried)
            if partial or row.absent == NOT_TRAINED:
                found.append(name)
        return found

    def _take(self, lock: TextIO) -> None:
        try:  # a child inherits it: an orphan of a killed run holds it to its end
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"another run, or its last training, works in {self.cache.folder}: wait for it") from None

    def _expect(self) -> None:
        """Tell the progress which cells there will be, and how long their like took."""
        for peer in self.peers.values():
            n_cells = len(self.scale.settings(peer)) + len(seeds(peer, self.peers.values(), self.scale)) - 1
            known = [trial.seconds for trial in self.trials.of(peer.name) if trial.outcome == DONE]
            self.progress.expect(peer.name, n_cells, known)

    def _rivals(self) -> set[str]:
        """Return the rows that validation chooses as single-domain rivals."""
        systems = systems_of(self.rows.values(), self.data)
        return {systems[name].row for name in choose_rivals(systems, self.data).single.values()}

    def _go_through(self, plans: Mapping[str, Iterator[Sequence[Cell]]]) -> None:
        """Train the cells that rows ask for, step by step; a row begins when all that it reads are done.

        Ours begin first: they take the longest, and a long training that begins last keeps one place alone busy.
        """
        rows = sorted(plans, key=lambda name: KINDS.index(self.peers[name].kind))
        todo = {name: _Plan(plans[name]) for name in rows}
        queue: deque[_Training] = deque()

        def begin() -> None:
            for name, plan in list(todo.items()):
                if name in todo and not plan.open and not any(need in todo for need in self.peers[name].needs):
                    go_on(name)

        def go_on(name: str) -> None:
            plan = todo[name]
            for cells in plan.steps:
                missing = self._missing(self.rows[name], cells)
                if missing:
                    plan.open = len(missing)
                    queue.extend(missing)
                    return
            del todo[name]
            begin()

        def over(name: str) -> None:
            todo[name].open -= 1
            if not todo[name].open:
                go_on(name)

        def take() -> _Training | None:
            while queue:
                task = queue.popleft()
                if not self.rows[task.cell.row].absent:
                    self.progress.begin(task.cell)
                    return task
                over(task.cell.row)  # what is absent under one setting is so under all
            return None

        begin()
        with closing(run_together(take, self.jobs, self.progress.tick)) as ended:
            for task, outcome in ended:
                self._ended(task.cell, self._checked(task.cell, outcome))
                over(task.cell.row)

    def _row(self, row: Row) -> Iterator[Sequence[Cell]]:
        """Yield the cells that are wanted next; when they have ended, go on."""
        peer = row.peer
        row.absent = self._missing_need(peer)
        cells = [Cell(peer.name, settings, 0) for settings in self.scale.settings(peer)]
        if not row.absent:
            yield cells
        tried = [self._found[cell.name] for cell in cells if cell.name in self._found]
        if tried:
            best = max(tried, key=lambda result: validation_macro(self.data, result))
            row.results[0] = best
            self._drop_scores([result.cell for result in tried if result is not best])
            if not best.whole:  # it lost where it was archived, among more settings than today
                yield [best.cell]
                row.results = {0: self._found[best.cell.name]}
        if row.results and row.results[0].whole:
            yield from self._more_seeds(row, seeds(peer, self.peers.values(), self.scale))
        elif row.results:
            row.results, row.absent = {}, NOT_TRAINED
        elif not row.absent and not row.errors:
            row.absent = NOT_TRAINED
        self.progress.finish(peer.name)
        row.trials = self.trials.of(peer.name)

    def _more_seeds(self, row: Row, wanted: range) -> Iterator[Sequence[Cell]]:
        settings = row.results[0].cell.settings
        cells = [Cell(row.peer.name, settings, seed) for seed in wanted if seed not in row.results]
        yield cells
        row.results |= {cell.seed: self._found[cell.name] for cell in cells if cell.name in self._found}
        row.trials = self.trials.of(row.peer.name)

    def _missing_need(self, peer: Peer) -> str:
        for need in peer.needs:
            if need not in self.rows:
                return f"reads the scores of {need}, which is no row of this run"
            if not self.rows[need].results:
                return f"reads the scores of {need}: {self.rows[need].absent or 'it failed'}"
        return ""

    def _missing(self, row: Row, cells: Sequence[Cell]) -> list[_Training]:
        """Take cells from the cache, return those to train; of what is not possible the row says why."""
        missing = []
        for cell in [] if row.absent else cells:
            result = self._finished(row.peer, cell)
            if result is not None and row.results and not result.whole:
                result = None  # what is chosen is wanted whole
            if result is not None:
                self._found[cell.name] = result
            if result is not None or not self.train:
                self.progress.read(row.peer.name)
                continue
            try:
                self._restore_needs(row.peer, cell.seed)
            except KeyError as gone:
                self._ended(cell, Outcome(FAILED, f"reads the scores of {gone.args[0]}", 0.0))
            else:
                missing.append(self._task(row.peer, cell))
        return missing

    def _ended(self, cell: Cell, outcome: Outcome) -> None:
        row = self.rows[cell.row]
        result = self.cache.read(cell) if outcome.word == DONE else None
        macro = math.nan
        if result is not None:
            self._found[cell.name], macro = result, validation_macro(self.data, result)
        if outcome.word == ABSENT:
            row.absent = outcome.message
        elif outcome.word == FAILED:
            row.errors.append(f"seed {cell.seed}, {_words(cell.settings)}: {outcome.message}")
        self._keep(row.peer, cell, outcome, macro)
        self.progress.end(cell, outcome, macro)

    def _finished(self, peer: Peer, cell: Cell) -> Result | None:
        """Return a cell from the cache, unless it read the scores of other cells than it would today."""
        found = self.cache.read(cell)
        if found is None or "" not in found.views:
            return None
        known = self.trials.done(cell.name, self.budget.epochs, self.budget.patience)
        if known is None and self.train:  # its line was lost
            outcome = Outcome(DONE, "", float(found.figures["train_s"]))
            self._keep(peer, cell, outcome, validation_macro(self.data, found))
        elif known and list(known.needs) != self._needed_cells(peer, cell.seed):
            return None
        return found

    def _task(self, peer: Peer, cell: Cell) -> _Training:
        """Return what trains a cell, for a process of its own."""

        def work() -> None:
            device = self.budget.device
            if device == "auto":  # asked here: a benchmark that has touched the GPU can fork no child that uses it
                device = "cuda" if torch.cuda.is_available() else "cpu"
            Cache(self.cache.folder.parent, self.data, replace(self.budget, device=device)).run(
                peer, cell, self._kept(peer, cell.seed)
            )

        return _Training(work, self.cache.folder / "logs" / f"{cell.name}.log", cell)

    def _checked(self, cell: Cell, outcome: Outcome) -> Outcome:
        """Return how it ended, its result looked at; seconds: with those of the attempts that it went on from."""
        if outcome.word != DONE:
            return outcome
        found = self.cache.read(cell)
        if found is None or "" not in found.views:
            return replace(outcome, word=FAILED, message='it has no view "", the system itself')
        return replace(outcome, seconds=outcome.seconds + found.figures["earlier_s"])

    def _kept(self, peer: Peer, seed: int) -> Callable[[str], View]:
        def kept(name: str) -> View:
            if name not in peer.needs:
                raise ValueError(f"row {peer.name!r} reads the scores of {name!r}, which its needs do not name")
            if name not in self.rows:
                raise PeerAbsent(f"reads the scores of {name}, which is no row of this run")
            return self.cache.scores(self._needed(name, seed).cell)

        return kept

    def _needed(self, name: str, seed: int) -> Result:
        """Return the needed row's result under a seed; of a row that is not seeded, its only one."""
        row = self.rows[name]
        wanted = seed if row.peer.seeded else 0
        if wanted not in row.results:
            raise KeyError(f"{name}, which has none under seed {wanted}")
        return row.results[wanted]

    def _needed_cells(self, peer: Peer, seed: int) -> list[str]:
        rows = [self.rows[name] for name in peer.needs if name in self.rows]
        wanted = [(row, seed if row.peer.seeded else 0) for row in rows]
        return [row.results[number].cell.name for row, number in wanted if number in row.results]

    def _restore_needs(self, peer: Peer, seed: int) -> None:
        """Train the needed cells anew whose scores somebody removed to save room."""
        for name in peer.needs:
            need = self._needed(name, seed)
            if not self._scores(need.cell).is_dir():
                self.progress.begin(need.cell)
                ended = run_alone(self._task(self.rows[name].peer, need.cell), self.progress.tick)
                outcome = self._checked(need.cell, ended)
                self._keep(self.rows[name].peer, need.cell, outcome, validation_macro(self.data, need))
                if outcome.word != DONE:
                    raise KeyError(f"{name}, which are gone; training it again: {outcome.message}")

    def _keep(self, peer: Peer, cell: Cell, outcome: Outcome, macro: float) -> None:
        self.trials.add(
            Trial(
                cell.name, cell.row, dict(cell.settings), cell.seed, macro if outcome.word == DONE else math.nan,
                outcome.seconds, outcome.word, outcome.message, self._needed_cells(peer, cell.seed),
                self.budget.epochs, self.budget.patience, code_version(),
                datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            )
        )  # fmt: skip

    def _scores(self, cell: Cell) -> Path:
        return self.cache.folder / "scores" / cell.name

    def _drop_scores(self, cells: Sequence[Cell]) -> None:
        """Remove the scores of settings that lost the search: half a gigabyte each, and nobody reads them."""
        for cell in cells if self.train else ():
            shutil.rmtree(self._scores(cell), ignore_errors=True)


def _words(settings: Mapping[str, Any]) -> str:
    """Return settings for a line of text."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "no settings"
