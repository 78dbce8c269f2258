"""What is compared: a row under its chosen settings and all its seeds, by one of its views; and who the rivals are.

Whatever is chosen (settings, rivals) is chosen on validation; test is for figures only.

Shapes: S seeds, M cases, D domains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.quality.bootstrap import mean_over_domains
from benchmarks.quality.cells import Result
from benchmarks.quality.data import Array, QualityData
from benchmarks.quality.protocol import Peer
from benchmarks.quality.trials import Trial
from syncrec_model.measures import case_values

METRIC = "ndcg@10"
DEFAULT, PLAIN, EQUIPPED, RELEASED = "default", "ensemble.plain", "ensemble.equipped", "released"
SINGLE_KINDS, MULTI_KINDS = ("single-domain", "trivial"), ("multi-domain", "ensemble")


@dataclass
class Row:
    """What became of one peer. results: by seed, under the settings that validation chose.

    absent: why it did not run here, "" where it ran. errors: the last line of every crash. trials: all attempts.
    """

    peer: Peer
    results: dict[int, Result] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    absent: str = ""
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class System:
    """One line of the tables. name: "ROW", or "ROW.VIEW" for another view of the same trained model."""

    name: str
    row: str
    view: str
    kind: str
    source: str
    runs: tuple[Result, ...]
    data: QualityData

    def values(self, part: str, metric: str = METRIC, ranking: str = "full") -> Array:
        """Return a measure for each seed and case, [S, M]; nan where the view or the case cannot be ranked so."""
        return np.stack([self._values(run, part, metric, ranking) for run in self.runs])

    def by_domain(
        self, part: str, metric: str = METRIC, ranking: str = "full", where_M: Array | None = None
    ) -> Array:
        """Return the mean over seeds and cases in each domain, [D]; nan without cases. where_M: of these cases."""
        values_M = self.values(part, metric, ranking).mean(0)
        return domain_means(self.data, part, values_M, where_M)

    def macro(self, part: str, metric: str = METRIC, ranking: str = "full") -> float:
        """Return the mean over domains."""
        return float(mean_over_domains(self.by_domain(part, metric, ranking)))

    def _values(self, run: Result, part: str, metric: str, ranking: str) -> Array:
        ranks_M = run.ranks.get(f"{self.view}/{part}/{ranking}")  # cells of before a ranking was kept lack it
        if ranks_M is None:
            return np.full(len(self.data.cases[part]), np.nan)
        there_M = np.isfinite(ranks_M)
        return np.where(there_M, case_values(np.where(there_M, ranks_M, 1))[metric], np.nan)


@dataclass(frozen=True)
class Rivals:
    """Names of systems, chosen on validation. single: domain -> the best that knows one domain; multi: the best
    of those that learn from all; None and missing domains where no such row is there. The equipped ensemble is
    never `multi`: it holds our own start, neighbours and blend, asks what the architecture adds to them, and has
    a comparison of its own.
    """

    single: Mapping[str, str]
    multi: str | None


def domain_means(data: QualityData, part: str, values_M: Array, where_M: Array | None = None) -> Array:
    """Return the mean of the cases' values in each domain, [D]; nan where there is none."""
    domain_M = data.cases[part].domain_M
    here_M = np.ones(len(domain_M), dtype=bool) if where_M is None else where_M
    own = [values_M[here_M & (domain_M == code)] for code in range(1, len(data.domains) + 1)]
    return np.array([values.mean() if len(values) else np.nan for values in own])


def validation_macro(data: QualityData, result: Result) -> float:
    """Return what validation judges a cell by: the mean over domains of NDCG@10 of the system itself."""
    return float(mean_over_domains(domain_means(data, "valid", result.values("valid", METRIC))))


def systems_of(rows: Iterable[Row], data: QualityData) -> dict[str, System]:
    """Return every view of every row that has a finished seed."""
    found = {}
    for row in rows:
        runs = tuple(row.results[seed] for seed in sorted(row.results))
        for view in runs[0].views if runs else ():
            name = f"{row.peer.name}.{view}" if view else row.peer.name
            peer = row.peer
            found[name] = System(name, peer.name, view, peer.kind, peer.source, runs, data)
    return found


def choose_rivals(systems: Mapping[str, System], data: QualityData) -> Rivals:
    """Return the rivals. Single: per domain the best of one-domain and trivial systems, of equals the first."""
    single = [system for system in systems.values() if system.kind in SINGLE_KINDS]
    valid = {system.name: system.by_domain("valid") for system in single}
    chosen = {}
    for place, domain in enumerate(data.domains):
        known = [system.name for system in single if np.isfinite(valid[system.name][place])]
        if known:
            chosen[domain] = max(known, key=lambda name: valid[name][place])
    multi = [system for system in systems.values() if system.kind in MULTI_KINDS and system.row != EQUIPPED]
    best = max(multi, key=lambda system: system.macro("valid"), default=None)
    return Rivals(chosen, best.name if best else None)
