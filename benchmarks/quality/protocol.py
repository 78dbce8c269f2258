"""What a system of the quality benchmark is: an adapter that trains on `QualityData` and scores its cases.

The harness, not the adapter, ranks (cells.py): no adapter can choose its own candidates or ties. To add a system:
one file in benchmarks/peers/ with a `Peer` subclass, and its line in benchmarks/peers/__init__.py.

Shapes: m cases of ONE domain, V_d candidates of that domain, S the sampled candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality.data import Array, QualityData

KINDS = ("ours", "single-domain", "multi-domain", "ensemble", "trivial")
Scorer = Callable[[str, Array], Array]


class PeerAbsent(Exception):
    """A system cannot run here (its library or checkout is not there); the message says what to do."""


@dataclass(frozen=True)
class View:
    """One way to rank. score(part, index): scores [m, V_d], float32, of cases `index` (places in
    `QualityData.cases[part]`, all of one domain) over the items 1..V_d of that domain; higher is better.

    sampled(part, index): [m, 1 + S] scores of the target and of `Cases.negatives_MS` (stacked items of all
    domains); None where a system cannot compare items of different domains.
    """

    score: Scorer
    sampled: Scorer | None = None


@dataclass(frozen=True)
class Fitted:
    """A trained system. views: name -> View; "" is the system itself. train_s: seconds of training, in all attempts
    that it went on from.

    chosen: what validation chose (settings, epochs, weights), plain JSON. notes: what a reader must know.
    """

    views: Mapping[str, View]
    parameters: int
    train_s: float
    chosen: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Budget:
    """What all systems share. epochs: at most as many; patience: epochs without a better validation (macro
    NDCG@10, as for ours). checkouts: the folder that holds public repositories by name (SyNCRec, C2DSR, ...).
    core_minutes: processor minutes after which a published system starts no further epoch; None: no such limit.
    """

    threads: int = 2
    epochs: int = 30
    patience: int = 3
    device: str = "cpu"
    checkouts: Path | None = None
    core_minutes: float | None = None


class Peer(ABC):
    """A system. name: its row. kind: one of KINDS. source: library and version, or repository, or paper.

    search: settings that are tried with seed 0 on validation; the best (macro NDCG@10) is then trained under
    every seed. keeps_scores: whether ensembles read this system's scores (they take half a gigabyte a seed). needs:
    names of rows whose kept scores this system reads. slow: left out of QUICK. seeded: whether the seed matters.
    resumes: whether fit goes on from what a killed fit left in its folder, and ends as if it had never been killed.
    """

    name: str
    kind: str
    source: str
    search: Sequence[Mapping[str, Any]] = ({},)
    keeps_scores: bool = False
    needs: Sequence[str] = ()
    slow: bool = False
    seeded: bool = True
    resumes: bool = False

    def quick(self) -> Peer | None:
        """Return what stands for this row in QUICK: itself, something smaller, None where it is slow."""
        return None if self.slow else self

    @abstractmethod
    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Train under one seed. folder: an empty folder of this cell for whatever the system writes. That of a
        system that resumes holds what a killed attempt wrote, where there was one of the same code and budget, and
        attempts.py's note of what that cost: its `Meter` gives train_s.

        kept(row): the kept scores of another row under the same seed and its best settings; `needs` names them.

        Validation cases may choose epochs and weights; test cases only ever give their histories.

        Raises
        ------
        PeerAbsent : the system cannot run here.
        """
