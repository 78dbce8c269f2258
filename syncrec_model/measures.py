"""Section 8: from ranks to measures and their bootstrap intervals.

Shapes: n cases, U users that have cases, D domains, M measures, S resamples, E entries: the domains,
their macro mean and their minimum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .evaluation import CaseRanks

Array = NDArray[Any]
KS = (5, 10, 20)
_WEIGHTS_AT_ONCE = 20_000_000


def case_values(ranks: ArrayLike, ks: Sequence[int] = KS) -> dict[str, Array]:
    """Return each measure's value for each case; its mean over cases is the measure. Names like "ndcg@10"."""
    rank = np.asarray(ranks, dtype=np.float64)
    if rank.size and (not np.isfinite(rank).all() or rank.min() < 1):
        raise ValueError("ranks must be finite and at least 1 (1 = best)")
    values: dict[str, Array] = {}
    for k in ks:
        hit = rank <= k
        values[f"hr@{k}"] = hit.astype(np.float64)
        values[f"ndcg@{k}"] = hit / np.log2(1 + rank)
        values[f"mrr@{k}"] = hit / rank
    values["mrr"] = 1 / rank
    return values


def metrics(ranks: ArrayLike, ks: Sequence[int] = KS) -> dict[str, float]:
    """Return hr@k, ndcg@k, mrr@k for each k, and mrr: means over the cases, nan without cases."""
    return {
        name: float(values.mean()) if len(values) else float("nan")
        for name, values in case_values(ranks, ks).items()
    }


def _user_draws(n_users: int, n_resamples: int, seed: int) -> Iterator[Array]:
    """Yield blocks [S, U]: how often each user was drawn in each resample."""
    rng = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_AT_ONCE // max(n_users, 1))
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = rng.integers(0, n_users, size=(size, n_users)) + np.arange(size)[:, None] * n_users
        yield np.bincount(drawn.ravel(), minlength=size * n_users).reshape(size, n_users).astype(np.float64)


def _user_sums(values_nM: Array, users: ArrayLike) -> tuple[Array, Array]:
    """Return per user the sum of the values, [U, M], and the number of cases, [U]."""
    _, row_n = np.unique(np.asarray(users), return_inverse=True)
    counts_U = np.bincount(row_n).astype(np.float64)
    columns = [np.bincount(row_n, weights=column, minlength=len(counts_U)) for column in values_nM.T]
    return np.stack(columns, axis=1), counts_U


def bootstrap_interval(
    values: ArrayLike, users: ArrayLike, *, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the mean of the cases' values. Users are resampled, not cases."""
    values_n1 = np.asarray(values, dtype=np.float64)[:, None]
    if len(values_n1) == 0:
        return float("nan"), float("nan")
    sums_U1, counts_U = _user_sums(values_n1, users)
    means = np.concatenate(
        [(draw @ sums_U1)[:, 0] / (draw @ counts_U) for draw in _user_draws(len(counts_U), n_resamples, seed)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_difference(
    ranks_a: ArrayLike,
    ranks_b: ArrayLike,
    users: ArrayLike,
    *,
    metric: str = "ndcg@10",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return mean(a) - mean(b) of a measure over the same cases, and its bootstrap interval over users."""
    if np.shape(ranks_a) != np.shape(ranks_b):
        raise ValueError(
            f"paired_difference: {np.shape(ranks_a)} against {np.shape(ranks_b)} ranks; rank the same cases"
        )
    gap = _named_values(ranks_a, metric) - _named_values(ranks_b, metric)
    low, high = bootstrap_interval(gap, users, n_resamples=n_resamples, confidence=confidence, seed=seed)
    return (float(gap.mean()) if len(gap) else float("nan")), low, high


def _named_values(ranks: ArrayLike, metric: str) -> Array:
    ks = [int(metric.rsplit("@", 1)[1])] if "@" in metric else []
    values = case_values(ranks, ks)
    if metric not in values:
        raise ValueError(f"unknown metric {metric!r}; use hr@k, ndcg@k, mrr@k or mrr")
    return values[metric]


def summarise(
    case_ranks: CaseRanks,
    *,
    ks: Sequence[int] = KS,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return one row per domain, view and metric: domain, view, metric, value, low, high, cases.

    Besides the domains with cases there are "macro" (mean over them) and "min" (the worst of them). low and high
    bound the percentile bootstrap over users; every figure of a resample comes from the same drawn users.
    """
    if len(case_ranks) == 0:
        return []
    present = np.unique(case_ranks.domain)
    names = [(view, metric) for view in case_ranks.ranks for metric in case_values(np.ones(0), ks)]
    value_nM = np.stack([case_values(case_ranks.ranks[v], ks)[m] for v, m in names], axis=1)
    sums, counts = [], []
    for code in present:
        inside = (case_ranks.domain == code).astype(np.float64)
        sums_UM, _ = _user_sums(
            np.concatenate([value_nM * inside[:, None], inside[:, None]], axis=1), case_ranks.user
        )
        sums.append(sums_UM[:, :-1])
        counts.append(sums_UM[:, -1])
    point_DM = np.stack([s.sum(0) / c.sum() for s, c in zip(sums, counts, strict=True)])
    resampled = [_resampled_means(draw, sums, counts) for draw in _user_draws(len(counts[0]), n_resamples, seed)]
    low_EM, high_EM = np.nanquantile(
        _with_overall(np.concatenate(resampled)), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0
    )
    point_EM = _with_overall(point_DM[None])[0]
    labels = [case_ranks.domains[code - 1] for code in present] + ["macro", "min"]
    cases = [int(c.sum()) for c in counts] + [len(case_ranks)] * 2
    return [
        {
            "domain": label,
            "view": view,
            "metric": metric,
            "value": float(point_EM[e, m]),
            "low": float(low_EM[e, m]),
            "high": float(high_EM[e, m]),
            "cases": cases[e],
        }
        for e, label in enumerate(labels)
        for m, (view, metric) in enumerate(names)
    ]


def _resampled_means(draw_SU: Array, sums: list[Array], counts: list[Array]) -> Array:
    """Return [S, D, M]; nan where no drawn user has a case of the domain."""
    means = []
    for sums_UM, counts_U in zip(sums, counts, strict=True):
        drawn_S1 = (draw_SU @ counts_U)[:, None]
        means.append(np.where(drawn_S1 > 0, draw_SU @ sums_UM / np.maximum(drawn_S1, 1), np.nan))
    return np.stack(means, axis=1)


def _with_overall(values_SDM: Array) -> Array:
    """Append the macro mean and the minimum over domains."""
    macro = np.nanmean(values_SDM, axis=1, keepdims=True)
    return np.concatenate([values_SDM, macro, np.nanmin(values_SDM, axis=1, keepdims=True)], axis=1)
