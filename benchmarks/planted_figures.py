"""The figures of the planted-transfer benchmark: differences of NDCG@10 and of losses, per domain, over the seeds.

Within a seed a difference is paired: the same cases, the interval by bootstrap over users. Over seeds the mean has
Student's interval of the seeds' values: it holds the chance of the sample and of the training, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.planted_cells import Result
from syncrec_model import CaseRanks, metrics, paired_difference

METRIC = "ndcg@10"
MEAN = "mean"
CONFIDENCE = 0.95
Gap = Callable[[Result], float]


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds with its 95 % interval; nan where it is not defined (no seed; one seed: no bounds)."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        """Return plain values."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "seeds": self.n}

    @property
    def word(self) -> str:
        """What the interval says of a gap: helps, hurts, or nothing clear."""
        return "helps" if self.low > 0 else "hurts" if self.high < 0 else "unclear"


def across_seeds(values: Sequence[float]) -> Interval:
    """Return the mean of the seeds' values and Student's interval; a seed without cases (nan) does not count."""
    known = np.array([value for value in values if math.isfinite(value)])
    if len(known) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    if len(known) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Interval(mean, mean - half, mean + half, len(known))


def served(result: Result, split: str) -> CaseRanks:
    """Return a split's ranks with the view "served": per domain the one that validation chose."""
    return result.ranks(split).with_served(result.views)


def view_gap(
    result: Result, split: str, domain: str, view: str, rival: str = "single"
) -> tuple[float, float, float]:
    """Return NDCG@10 of `view` less that of `rival` on a domain's cases, with the bootstrap interval over users."""
    ranks = served(result, split)
    own = ranks.domain == result.domains.index(domain) + 1
    return paired_difference(ranks.ranks[view][own], ranks.ranks[rival][own], ranks.user[own], metric=METRIC)


def loss_gap(result: Result, split: str, domain: str) -> float:
    """Return phi: single less cross loss, in nats a target, of the cases of a split."""
    own = result.arrays[f"{split}.domain"] == result.domains.index(domain) + 1
    gap = result.arrays[f"{split}.loss.single"][own] - result.arrays[f"{split}.loss.cross"][own]
    return float(gap.mean()) if own.any() else math.nan


def rival_gap(result: Result, other: Result, domain: str, view: str, split: str = "test") -> float:
    """Return NDCG@10 of a model's view less that of another model's, on the same cases of a domain."""
    values = []
    for each in (result, other):
        own = each.arrays[f"{split}.domain"] == each.domains.index(domain) + 1
        events = np.stack([each.arrays[f"{split}.user"][own], each.arrays[f"{split}.item"][own]])
        values.append((events, served(each, split).ranks[view][own]))
    (events, ranks), (other_events, other_ranks) = values
    if not np.array_equal(events, other_events):
        raise ValueError(f"{result.cell.name} and {other.cell.name} have different cases: train both from one log")
    return metrics(ranks)[METRIC] - metrics(other_ranks)[METRIC]


def quality(result: Result, split: str, domain: str, view: str) -> float:
    """Return NDCG@10 of a view."""
    ranks = served(result, split)
    return metrics(ranks.ranks[view][ranks.domain == result.domains.index(domain) + 1])[METRIC]


def transfer(joint: Sequence[Result], twins: Mapping[tuple[str, int], Result], domain: str) -> dict[str, Any]:
    """What the other domains do to one, over the seeds of `joint`. twins: by (domain, seed), as far as trained.

    ntg, served: that view less the single view on test. twin: cross view less the twin's; twin_served: each model
    in its served view.
    *_valid: the same on validation. phi_*: the loss form.
    """
    paired = [(each, twins[domain, each.cell.seed]) for each in joint if (domain, each.cell.seed) in twins]
    figures = {
        "single": across_seeds([quality(each, "test", domain, "single") for each in joint]),
        "ntg": across_seeds([view_gap(each, "test", domain, "cross")[0] for each in joint]),
        "ntg_valid": across_seeds([view_gap(each, "valid", domain, "cross")[0] for each in joint]),
        "served": across_seeds([view_gap(each, "test", domain, "served")[0] for each in joint]),
        "served_valid": across_seeds([view_gap(each, "valid", domain, "served")[0] for each in joint]),
        "phi_train": across_seeds([each.figures["train"][domain]["ntg_loss"] for each in joint]),
        "phi_valid": across_seeds([loss_gap(each, "valid", domain) for each in joint]),
        "phi_test": across_seeds([loss_gap(each, "test", domain) for each in joint]),
        "twin": across_seeds([rival_gap(a, b, domain, "cross") for a, b in paired]),
        "twin_alone": across_seeds([quality(twin, "test", domain, "cross") for _, twin in paired]),
        "twin_served": across_seeds([rival_gap(a, b, domain, "served") for a, b in paired]),
    }
    return {**figures, "cases": sum(int(_own(each, domain).sum()) for each in joint)}


def _own(result: Result, domain: str) -> NDArray[np.bool_]:
    own: NDArray[np.bool_] = result.arrays["test.domain"] == result.domains.index(domain) + 1
    return own


def guard(joint: Sequence[Result]) -> list[dict[str, Any]]:
    """Return per seed and domain the served view, what it is above the single view on validation and on test."""
    rows = []
    for result in joint:
        for domain, view in result.views.items():
            test, low, high = view_gap(result, "test", domain, "served")
            row = {"seed": result.cell.seed, "domain": domain, "view": view, "test": test, "low": low, "high": high}
            rows.append({**row, "valid": view_gap(result, "valid", domain, "served")[0]})
    return rows


def correction(
    corrected: Sequence[Result], uniform: Mapping[int, Result], domain: str
) -> dict[str, Interval | tuple[float, ...]]:
    """Return what a correction changes on test against uniform weights under the same seeds, and its lambdas."""
    pairs = [(each, uniform[each.cell.seed]) for each in corrected if each.cell.seed in uniform]
    return {
        "cross": across_seeds([rival_gap(a, b, domain, "cross") for a, b in pairs]),
        "served": across_seeds([rival_gap(a, b, domain, "served") for a, b in pairs]),
        "lambda": across_seeds([a.figures["train"][domain]["lambda"] for a, _ in pairs]),
        "lambdas": tuple(a.figures["train"][domain]["lambda"] for a, _ in pairs),
        "weight": across_seeds([a.figures["train"][domain]["weight"] for a, _ in pairs]),
    }


def ablation(parts: Sequence[Result], whole: Mapping[int, Result], domains: Sequence[str]) -> dict[str, Any]:
    """Return per domain, and as their mean, NDCG@10 on test of every view, and what it is above the whole model's.

    whole: by seed; only seeds that both have are compared. Of the whole model itself every difference is 0.
    """
    pairs = [(each, whole[each.cell.seed]) for each in parts if each.cell.seed in whole]
    rows: dict[str, Any] = {}
    for domain in (*domains, MEAN):
        own = domains if domain == MEAN else (domain,)
        rows[domain] = {"seeds": len(parts)}
        for view in ("cross", "single", "served"):
            values = [float(np.mean([quality(each, "test", d, view) for d in own])) for each in parts]
            gaps = [float(np.mean([rival_gap(a, b, d, view) for d in own])) for a, b in pairs]
            rows[domain] |= {view: across_seeds(values), f"{view}_gap": across_seeds(gaps)}
    return rows
