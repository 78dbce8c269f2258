"""Bootstrap over users AND seeds: the same drawn users for every system, each system's seeds drawn on their own.

A gain that holds for these users may be the luck of a seed, and a gain of every seed the luck of these users: an
interval that draws only one of the two is too narrow.

Shapes: R resamples, U users that have cases, D domains, S seeds of a system, M cases.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.quality.data import Array, QualityData

if TYPE_CHECKING:
    from benchmarks.quality.systems import System

CONFIDENCE = 0.95
_AT_ONCE = 250


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; nan where it is not defined."""

    value: float
    low: float
    high: float

    @property
    def word(self) -> str:
        """What the interval says of a gain: better, worse, or nothing clear."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


@dataclass(frozen=True)
class Gain:
    """Ours against a rival: the difference of NDCG@10 and the same as a fraction of the rival's."""

    difference: Interval
    ratio: Interval


class Bootstrap:
    """The resamples of one part's cases. Every system is measured on the same drawn users, so gains are paired.

    where_M: of these cases alone, [M] bool; None: of all. ranking: among which items (cells.RANKINGS).
    """

    def __init__(
        self,
        data: QualityData,
        part: str = "test",
        n_resamples: int = 2_000,
        seed: int = 0,
        where_M: Array | None = None,
        ranking: str = "full",
    ) -> None:
        self.data, self.part, self.ranking = data, part, ranking
        cases = data.cases[part]
        self.domain_M = cases.domain_M
        self.where_M = np.ones(len(cases), dtype=bool) if where_M is None else where_M
        users, self.row_M = np.unique(cases.user_M, return_inverse=True)
        rng = np.random.default_rng(seed)
        self.drawn_RU = np.stack([_draw(rng, len(users)) for _ in range(n_resamples)])
        self.counts_UD = self._sums(self.where_M.astype(np.float64))
        self.counts_RD = self._drawn(self.counts_UD)
        self._known: dict[str, Array] = {}

    def by_domain(self, system: System) -> Array:
        """Return NDCG@10 of the system by domain, of the cases themselves, [D]."""
        return system.by_domain(self.part, ranking=self.ranking, where_M=self.where_M)

    def means(self, system: System) -> Array:
        """Return NDCG@10 of the system by resample and domain, [R, D]; nan where no drawn user has a case."""
        if system.name not in self._known:
            self._known[system.name] = self._means(system)
        return self._known[system.name]

    def _means(self, system: System) -> Array:
        values_SM = np.where(self.where_M, system.values(self.part, ranking=self.ranking), 0)
        n_seeds = len(values_SM)
        with np.errstate(invalid="ignore", divide="ignore"):
            means_SRD = np.stack([self._drawn(self._sums(values_M)) / self.counts_RD for values_M in values_SM])
        middle_RD: Array = means_SRD.mean(0)
        if n_seeds == 1:
            return middle_RD
        # By the row's name: two views of one model share its seeds, two models do not.
        rng = np.random.default_rng(zlib.crc32(system.row.encode()))
        drawn_RS = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=len(middle_RD)) / n_seeds
        # S seeds drawn from S vary less than their mean does, by (S - 1) / S: a third too little with three.
        wider = np.sqrt(n_seeds / (n_seeds - 1))
        resampled_RD: Array = middle_RD + wider * np.einsum("rs,srd->rd", drawn_RS, means_SRD - middle_RD)
        return resampled_RD

    def _sums(self, values_M: Array) -> Array:
        """Return per user and domain the sum of the cases' values, [U, D]."""
        n_users, n_domains = self.drawn_RU.shape[1], len(self.data.domains)
        place_M = self.row_M * n_domains + self.domain_M - 1
        sums_UD: Array = np.bincount(place_M, values_M, n_users * n_domains).reshape(n_users, n_domains)
        return sums_UD

    def _drawn(self, values_UD: Array) -> Array:
        """Return the sums over the users of each resample, [R, D]."""
        blocks = range(0, len(self.drawn_RU), _AT_ONCE)
        return np.concatenate([self.drawn_RU[at : at + _AT_ONCE].astype(np.float64) @ values_UD for at in blocks])


def _draw(rng: np.random.Generator, n_users: int) -> Array:
    """Return how often each user is drawn, [U]."""
    return np.bincount(rng.integers(0, n_users, n_users), minlength=n_users).astype(np.uint8)


def interval(value: float, resampled_R: Array) -> Interval:
    """Return the percentile interval; resamples where the figure is not defined do not count."""
    known = resampled_R[np.isfinite(resampled_R)]
    if not len(known) or not np.isfinite(value):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(value), float(low), float(high))


def macro_interval(bootstrap: Bootstrap, system: System) -> Interval:
    """Return the system's mean over domains of NDCG@10 with its interval."""
    return interval(system.macro(bootstrap.part), mean_over_domains(bootstrap.means(system)))


def gains(bootstrap: Bootstrap, ours: System, rivals: Sequence[System]) -> tuple[tuple[Gain, ...], Gain]:
    """Return the gain of a system in each domain, and of its macro mean. rivals: the rival in each domain."""
    value_D = bootstrap.by_domain(ours)
    rival_D = np.array([bootstrap.by_domain(rival)[d] for d, rival in enumerate(rivals)])
    value_RD = bootstrap.means(ours)
    rival_RD = np.stack([bootstrap.means(rival)[:, d] for d, rival in enumerate(rivals)], 1)
    domains = tuple(_gain(value_D[d], rival_D[d], value_RD[:, d], rival_RD[:, d]) for d in range(len(rivals)))
    pairs = [mean_over_domains(each) for each in (value_D, rival_D, value_RD, rival_RD)]
    return domains, _gain(float(pairs[0]), float(pairs[1]), pairs[2], pairs[3])


def mean_over_domains(values_D: Array) -> Array:
    """Return the mean of the last axis over domains that have cases; nan where none has."""
    known_D = np.isfinite(values_D)
    count = known_D.sum(-1)
    total: Array = np.where(known_D, values_D, 0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _gain(value: float, rival: float, value_R: Array, rival_R: Array) -> Gain:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio_R = value_R / rival_R - 1
    ratio = value / rival - 1 if rival else float("nan")
    return Gain(interval(value - rival, value_R - rival_R), interval(ratio, ratio_R))
