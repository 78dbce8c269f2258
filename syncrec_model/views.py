"""Section 7: which view serves a domain, and how sure validation is of it. The guard against negative transfer.

A view is served instead of the single view only where it lies above it beyond noise: otherwise chance would choose,
and the best of several noisy views looks better than it is. So no domain is served below its single view on
validation, and on new users seldom.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from .evaluation import CaseRanks
from .measures import metrics, paired_difference

VIEWS = ("blend", "cross", "single")


@dataclass(frozen=True)
class ViewChoice:
    """The view of one domain and what validation said of it.

    values: the metric of every view; gains: of every other view, the metric less that of the single view, with
    its bootstrap interval over users. Both are empty without cases.
    """

    view: str
    metric: str
    cases: int
    users: int
    values: dict[str, float]
    gains: dict[str, tuple[float, float, float]]

    @property
    def gain(self) -> tuple[float, float, float]:
        """The served view's gain over the single view with its interval; zeros where that view is served."""
        return self.gains.get(self.view, (0.0, 0.0, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self) | {"gains": {view: list(gain) for view, gain in self.gains.items()}}


def judge_views(
    case_ranks: CaseRanks,
    *,
    metric: str = "ndcg@10",
    views: Collection[str] = VIEWS,
    confidence: float = 0.95,
) -> dict[str, ViewChoice]:
    """Choose the view of every domain from validation ranks, and keep what the choice stands on.

    Among the views whose paired gain over "single" has an interval above 0 the best one serves (the first of equals
    in `views`); without such a view "single" does. With so few users that even a gain for each of them could be
    chance at this confidence (below 6 at 95 %: a sign test) no view is clear; nor is it without cases.

    Raises
    ------
    ValueError
        "single" is not among the views, or a view has no ranks.
    """
    order = list(views)
    if "single" not in order:
        raise ValueError(
            "choose_views: the single view must be among the views, it is what the guard compares with"
        )
    if missing := [view for view in order if view not in case_ranks.ranks]:
        raise ValueError(f"choose_views: no ranks of view {missing[0]!r}; pass it to rank_cases")
    return {
        domain: _judge(case_ranks, code, order, metric, confidence)
        for code, domain in enumerate(case_ranks.domains, start=1)
    }


def choose_views(
    case_ranks: CaseRanks,
    *,
    metric: str = "ndcg@10",
    views: Collection[str] = VIEWS,
    confidence: float = 0.95,
) -> dict[str, str]:
    """Return per domain the view that `judge_views` chooses: never one below "single" (the guard)."""
    judged = judge_views(case_ranks, metric=metric, views=views, confidence=confidence)
    return {domain: choice.view for domain, choice in judged.items()}


def _judge(case_ranks: CaseRanks, code: int, order: list[str], metric: str, confidence: float) -> ViewChoice:
    inside = case_ranks.domain == code
    if not inside.any():
        return ViewChoice("single", metric, 0, 0, {}, {})
    user = case_ranks.user[inside]
    n_users = len(np.unique(user))
    ranks = {view: case_ranks.ranks[view][inside] for view in order}
    gains = {
        view: paired_difference(found, ranks["single"], user, metric=metric, confidence=confidence)
        for view, found in ranks.items()
        if view != "single"
    }
    k = [int(metric.rsplit("@", 1)[1])] if "@" in metric else []
    values = {view: metrics(found, k)[metric] for view, found in ranks.items()}
    enough = 0.5**n_users <= (1 - confidence) / 2
    clear = [view for view, (gain, low, _) in gains.items() if enough and min(gain, low) > 0]
    chosen = max(clear, key=lambda view: values[view], default="single")
    return ViewChoice(chosen, metric, int(inside.sum()), n_users, values, gains)
