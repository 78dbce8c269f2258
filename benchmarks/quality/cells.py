"""One cell: a system under one setting and one seed, trained once, ranked by the harness, kept in a cache.

Shapes: M cases, m cases of a batch, V_d items of a domain, S sampled candidates.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.attempts import Meter, code_mark, prepare
from benchmarks.quality.data import PARTS, Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View
from jobs.code_version import code_version
from syncrec_model.evaluation import mean_tie_ranks
from syncrec_model.measures import case_values

_CASES_AT_ONCE = 512
# The honest one; the same among items that somebody had in training; the two sampled protocols for old tables.
RANKINGS = ("full", "known", "own100", "all100")


CHOSEN_BY = "/valid/full"
"""The ranks by which a search chooses; an archive has only these of settings that lost."""


@dataclass(frozen=True)
class Cell:
    """What is trained."""

    row: str
    settings: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """A file name: the row, a mark of the settings, the seed."""
        mark = hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.row}-{mark}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """A finished cell. figures: JSON. ranks: "VIEW/PART/RANKING" -> [M] ranks in the order of the cases, 1 = best;
    nan where a view cannot be ranked so.
    """

    cell: Cell
    figures: dict[str, Any]
    ranks: dict[str, Array]

    @property
    def whole(self) -> bool:
        """Whether there is more than what a search chooses by."""
        return set(self.ranks) != {CHOSEN_BY}

    @property
    def views(self) -> tuple[str, ...]:
        """The views of the system, "" is the system itself."""
        return tuple(self.figures["views"])

    def values(self, part: str, metric: str = "ndcg@10", view: str = "", ranking: str = "full") -> Array:
        """Return one measure for every case, [M]."""
        return case_values(self.ranks[f"{view}/{part}/{ranking}"])[metric]


class Cache:
    """Finished cells of one benchmark set in a folder: what is there is read, never trained again."""

    def __init__(self, folder: Path, data: QualityData, budget: Budget) -> None:
        self.folder = folder / f"{data.name}-{data.fingerprint()}"
        self.data, self.budget = data, budget
        self.folder.mkdir(parents=True, exist_ok=True)
        self.code = code_mark()  # as it was before a child is forked that may begin hours later

    def file(self, cell: Cell) -> Path:
        """Return where a cell's ranks lie; its figures lie beside them, in .json."""
        return self.folder / f"{cell.name}.npz"

    def read(self, cell: Cell) -> Result | None:
        """Return a finished cell; None where it was not trained, or under another budget of epochs."""
        file = self.file(cell)
        if not file.exists():
            return None
        figures = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        if figures["epochs_at_most"] != self.budget.epochs or figures["patience"] != self.budget.patience:
            return None
        with np.load(file) as found:
            return Result(cell, figures, dict(found))

    def scores(self, cell: Cell, view: str = "") -> View:
        """Return the kept scores of a finished cell as a view, for ensembles."""
        folder = self._score_folder(cell, view)
        tables = {
            part: {
                code: np.load(folder / f"{part}-{code}.npy", mmap_mode="r")
                for code in range(1, len(self.data.domains) + 1)
            }
            for part in PARTS
        }
        places = {part: _places(self.data, part) for part in PARTS}

        def score(part: str, index: Array) -> Array:
            code = int(self.data.cases[part].domain_M[index[0]])
            return np.asarray(tables[part][code][places[part][index]])

        return View(score)

    def _score_folder(self, cell: Cell, view: str) -> Path:
        return self.folder / "scores" / f"{cell.name}{'-' if view else ''}{view}"

    def run(self, peer: Peer, cell: Cell, kept: Callable[[str], View]) -> Result:
        """Train and rank a cell and keep it.

        What a killed or stopped attempt left of it is gone on from where the peer can and nothing has changed, else
        thrown away; an attempt that raises leaves nothing.
        """
        work = self.folder / "work" / cell.name
        prepare(work, self._attempt(cell), resumes=peer.resumes)
        try:
            result = self._ranked(peer, cell, kept, work)
            _write(self.file(cell), result)
        except Exception:
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
        return result

    def _attempt(self, cell: Cell) -> dict[str, Any]:
        """Return what two attempts must have in common; the data are those of this cache's folder."""
        budget = {
            name: value for name, value in asdict(self.budget).items() if name not in ("checkouts", "core_minutes")
        }
        return {"cell": cell.name, "budget": budget, "code": self.code}

    def _ranked(self, peer: Peer, cell: Cell, kept: Callable[[str], View], work: Path) -> Result:
        torch.set_num_threads(self.budget.threads)
        meter = Meter(work)
        fitted = peer.fit(self.data, cell.settings, cell.seed, self.budget, work, kept)
        core_s = meter.spent().core_s
        ranks: dict[str, Array] = {}
        seconds = {}
        for name, view in fitted.views.items():
            folder = self._score_folder(cell, name) if peer.keeps_scores else None
            began = time.perf_counter()
            for part in PARTS:
                for ranking, values in rank(self.data, part, view, folder).items():
                    ranks[f"{name}/{part}/{ranking}"] = values
            seconds[name] = time.perf_counter() - began
        costs = {
            "train_core_s": core_s, "earlier_s": meter.earlier.seconds, "peak_gib": meter.spent().peak_gib
        }  # fmt: skip
        return Result(cell, {**self._figures(peer, cell, fitted, seconds), **costs}, ranks)

    def _figures(self, peer: Peer, cell: Cell, fitted: Fitted, seconds: Mapping[str, float]) -> dict[str, Any]:
        n_cases = sum(len(self.data.cases[part]) for part in PARTS)
        return {
            "row": cell.row, "kind": peer.kind, "source": peer.source, "settings": dict(cell.settings),
            "seed": cell.seed, "views": list(fitted.views), "chosen": fitted.chosen, "notes": list(fitted.notes),
            "parameters": fitted.parameters, "train_s": fitted.train_s,
            "score_ms": {name: 1e3 * value / n_cases for name, value in seconds.items()},
            "epochs_at_most": self.budget.epochs, "patience": self.budget.patience,
            "threads": self.budget.threads, "device": self.budget.device, "code": code_version(),
        }  # fmt: skip


def batches(data: QualityData, part: str, size: int = _CASES_AT_ONCE) -> Iterator[tuple[int, Array]]:
    """Yield (domain code, places of cases), every case once."""
    domain_M = data.cases[part].domain_M
    for code in range(1, len(data.domains) + 1):
        index = np.flatnonzero(domain_M == code)
        for start in range(0, len(index), size):
            yield code, index[start : start + size]


def rank(
    data: QualityData, part: str, view: View, keep: Path | None = None, *, sampled: bool = True
) -> dict[str, Array]:
    """Rank every case among ALL items of its domain, items of its history taken out, ties at their mean rank.

    "known" leaves out the items without an event to learn from, which a catalogue of that day would not have; it is
    nan for such a target. sampled: also among the two samples of 100 negatives, for comparison with published
    tables. keep: a folder for the scores themselves.

    Raises
    ------
    ValueError : a view gave scores of another shape, or something that is not a finite number.
    """
    cases = data.cases[part]
    found = {ranking: np.full(len(cases), np.nan) for ranking in RANKINGS}
    kept: dict[int, list[Array]] = {}
    new = {code: data.item_events(code) == 0 for code in range(1, len(data.domains) + 1)}
    for code, index in batches(data, part):
        scores_mV = torch.from_numpy(np.array(view.score(part, index), dtype=np.float32))
        expected = (len(index), data.n_items[code - 1])
        if tuple(scores_mV.shape) != expected:
            raise ValueError(f"a view scored {tuple(scores_mV.shape)} for {expected} (cases, items) of {part}")
        target_m = torch.from_numpy(cases.target_M[index] - 1)
        removed_mV = torch.zeros(expected, dtype=torch.bool)
        row_s, item_s = data.seen(part, index)
        removed_mV[torch.from_numpy(row_s), torch.from_numpy(item_s - 1)] = True
        removed_mV[torch.arange(len(index)), target_m] = False
        found["full"][index] = mean_tie_ranks(scores_mV, target_m, removed_mV).numpy()
        among_known_m = mean_tie_ranks(scores_mV, target_m, removed_mV | torch.from_numpy(new[code])).numpy()
        found["known"][index] = np.where(new[code][cases.target_M[index] - 1], np.nan, among_known_m)
        if sampled:
            own_mS = torch.from_numpy(cases.own_negatives_MS[index] - 1)
            found["own100"][index] = _first_rank(
                torch.cat([scores_mV.gather(1, target_m[:, None]), scores_mV.gather(1, own_mS)], 1)
            )
        if sampled and view.sampled is not None:
            found["all100"][index] = _first_rank(torch.from_numpy(np.array(view.sampled(part, index), np.float32)))
        if keep is not None:
            kept.setdefault(code, []).append(scores_mV.numpy())
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for code, parts in kept.items():
            np.save(keep / f"{part}-{code}.npy", np.concatenate(parts))
    return found


def _first_rank(scores_mS: torch.Tensor) -> Array:
    """Return the rank of the first column among all."""
    first_m = torch.zeros(len(scores_mS), dtype=torch.int64)
    return mean_tie_ranks(scores_mS, first_m, torch.zeros_like(scores_mS, dtype=torch.bool)).numpy()


def _places(data: QualityData, part: str) -> Array:
    """Return each case's row in the kept scores of its domain."""
    places_M = np.zeros(len(data.cases[part]), dtype=np.int64)
    for code in range(1, len(data.domains) + 1):
        index = np.flatnonzero(data.cases[part].domain_M == code)
        places_M[index] = np.arange(len(index))
    return places_M


def _write(file: Path, result: Result) -> None:
    """The figures first, then the ranks, whose presence says that the cell is whole."""
    partial = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    text = json.dumps(result.figures, indent=1, default=float) + "\n"
    file.with_suffix(".json").write_text(text, encoding="utf-8")
    np.savez_compressed(partial, **result.ranks)
    partial.rename(file)
