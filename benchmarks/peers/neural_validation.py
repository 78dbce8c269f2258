"""How the neural peers choose an epoch: NDCG@10 of the validation cases, ranked as the harness ranks them.

numpy alone: workers in other environments read this file too.

Shapes: M cases, m cases of one domain, V_d items of that domain, s items seen, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from benchmarks.quality.data import QualityData

Array = NDArray[Any]
UNKNOWN = -1e4  # score of items that training never showed: below all others, and a number
_CASES_AT_ONCE = 512
_FIELDS = ("index_m", "target_m", "case_s", "item_s")


@dataclass(frozen=True)
class DomainCases:
    """The cases of one domain. index_m: places in `QualityData.cases`; target_m: the target, 0-based; case_s,
    item_s: the items that a case has seen (place in m, item 0-based), which are no candidates.
    """

    index_m: Array
    target_m: Array
    case_s: Array
    item_s: Array

    def batches(self) -> Iterator[DomainCases]:
        """Yield the cases in parts."""
        for start in range(0, len(self.index_m), _CASES_AT_ONCE):
            part = slice(start, start + _CASES_AT_ONCE)
            own_s = (self.case_s >= start) & (self.case_s < start + _CASES_AT_ONCE)
            yield DomainCases(
                self.index_m[part], self.target_m[part], self.case_s[own_s] - start, self.item_s[own_s]
            )

    def ndcg(self, score: Callable[[Array], Array]) -> float:
        """Return the mean NDCG@10. score: places of cases -> scores [m, V_d]. nan without cases."""
        values = [
            ndcg_at_10(score(part.index_m), part.target_m, part.case_s, part.item_s) for part in self.batches()
        ]
        return float(np.concatenate(values).mean()) if values else float("nan")


def ndcg_at_10(scores_mV: Array, target_m: Array, case_s: Array, item_s: Array) -> Array:
    """Return each case's NDCG@10 among all items but those seen; equal scores share their mean rank. [m]

    Raises
    ------
    FloatingPointError : a score is not a finite number.
    """
    if not np.isfinite(scores_mV).all():
        raise FloatingPointError("a peer's validation scores are not finite; lower its learning rate")
    own_m = np.arange(len(target_m))
    target_score_m = scores_mV[own_m, target_m]
    scores_mV = scores_mV.copy()
    scores_mV[case_s, item_s] = -np.inf
    scores_mV[own_m, target_m] = target_score_m
    better_m = (scores_mV > target_score_m[:, None]).sum(1)
    equal_m = (scores_mV == target_score_m[:, None]).sum(1) - 1
    rank_m = 1 + better_m + equal_m / 2
    return np.asarray(np.where(rank_m <= 10, 1 / np.log2(1 + rank_m), 0.0))


def domain_cases(data: QualityData, code: int, part: str = "valid") -> DomainCases:
    """Return the cases of a domain."""
    cases = data.cases[part]
    index_m = np.flatnonzero(cases.domain_M == code)
    if not len(index_m):
        return DomainCases(*(np.zeros(0, dtype=np.int64) for _ in _FIELDS))
    case_s, item_s = data.seen(part, index_m)
    return DomainCases(index_m, cases.target_M[index_m] - 1, case_s, item_s - 1)


def macro(domains: Mapping[int, DomainCases], score: Callable[[int, Array], Array]) -> float:
    """Return the mean over domains with cases of NDCG@10; nan without any. score: (domain, cases) -> [m, V_d]."""
    values = [
        cases.ndcg(lambda index_m, code=code: score(code, index_m))  # type: ignore[misc]
        for code, cases in domains.items()
        if len(cases.index_m)
    ]
    return float(np.mean(values)) if values else float("nan")


def write_cases(file: Path, domains: Mapping[int, DomainCases]) -> None:
    """Write cases for a worker."""
    np.savez(
        file, **{f"{name}_{code}": getattr(cases, name) for code, cases in domains.items() for name in _FIELDS}
    )


def read_cases(file: Path) -> dict[int, DomainCases]:
    """Read what `write_cases` wrote."""
    with np.load(file) as found:
        codes = sorted({int(name.rpartition("_")[2]) for name in found})
        return {code: DomainCases(*(found[f"{name}_{code}"] for name in _FIELDS)) for code in codes}


@dataclass
class Epochs:
    """What validation gave after each epoch. Best is the highest; without validation (nan) it is the last."""

    most: int
    patience: int
    values: list[float] = field(default_factory=list)
    best: int = 0

    @property
    def finished(self) -> bool:
        """Whether the last epoch was trained or patience has run out."""
        waited = len(self.values) - self.best
        return len(self.values) >= self.most or (self.best > 0 and waited >= self.patience)

    def add(self, value: float) -> bool:
        """Note an epoch; return whether it is the best so far."""
        self.values.append(value)
        is_best = self.best == 0 or np.isnan(value) or value > self.values[self.best - 1]
        if is_best:
            self.best = len(self.values)
        return bool(is_best)

    def figures(self) -> dict[str, Any]:
        """Return what is kept of it, plain JSON."""
        value = self.values[self.best - 1] if self.best else float("nan")
        return {"epoch": self.best, "epochs": len(self.values), "valid_ndcg10": None if np.isnan(value) else value}
