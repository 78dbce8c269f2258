"""Measures of known ranks, and intervals that resample users."""

from __future__ import annotations

import numpy as np
import pytest

from syncrec_model import CaseRanks, bootstrap_interval, metrics, paired_difference, summarise


def case_ranks(ranks, domain, user=None):
    n = len(domain)
    zeros = np.zeros(n, int)
    return CaseRanks(
        ("books", "toys", "food"), np.arange(n) if user is None else np.asarray(user), np.asarray(domain),
        {view: np.asarray(values, float) for view, values in ranks.items()}, zeros, zeros,
    )  # fmt: skip


def test_measures_of_known_ranks():
    got = metrics([1, 2.5, 7, 30])
    assert got["hr@5"] == 0.5 and got["hr@10"] == 0.75 and got["hr@20"] == 0.75
    assert got["ndcg@5"] == pytest.approx((1 + 1 / np.log2(3.5)) / 4)
    assert got["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3.5) + 1 / 3) / 4)
    assert got["mrr@5"] == pytest.approx((1 + 1 / 2.5) / 4)
    assert got["mrr"] == pytest.approx((1 + 1 / 2.5 + 1 / 7 + 1 / 30) / 4)
    with pytest.raises(ValueError, match="at least 1"):
        metrics([0])


def test_bootstrap_resamples_users_not_cases():
    """Ten cases of one user are one observation: repeating a user's cases must not narrow the interval."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=60)
    once = bootstrap_interval(values, np.arange(60))
    tenfold = bootstrap_interval(np.repeat(values, 10), np.repeat(np.arange(60), 10))
    as_if_independent = bootstrap_interval(np.repeat(values, 10), np.arange(600))
    assert tenfold == pytest.approx(once)
    assert as_if_independent[1] - as_if_independent[0] < 0.5 * (once[1] - once[0])
    assert once == bootstrap_interval(values, np.arange(60))
    assert once[0] == pytest.approx(values.mean() - 1.96 * values.std() / 60**0.5, abs=0.05)


def test_paired_difference_sees_a_constant_gain_that_single_intervals_hide():
    rng = np.random.default_rng(1)
    worse = rng.integers(2, 40, 300).astype(float)
    difference, low, high = paired_difference(worse - 1, worse, np.arange(300), metric="mrr")
    assert 0 < low < difference < high
    assert paired_difference(worse, worse, np.arange(300)) == (0, 0, 0)
    with pytest.raises(ValueError, match="same cases"):
        paired_difference(worse, worse[1:], np.arange(300))
    with pytest.raises(ValueError, match="unknown metric 'auc'"):
        paired_difference(worse, worse, np.arange(300), metric="auc")


def test_summary_rows_with_macro_and_minimum_over_domains():
    rng = np.random.default_rng(2)
    domain = np.array([1] * 40 + [2] * 10)
    ranks = rng.integers(1, 30, 50)
    rows = summarise(case_ranks({"cross": ranks}, domain, user=np.arange(50) % 25), n_resamples=200)
    value = {(r["domain"], r["metric"]): r for r in rows}
    per_domain = [metrics(ranks[domain == d])["ndcg@10"] for d in (1, 2)]
    assert value["books", "ndcg@10"]["value"] == pytest.approx(per_domain[0])
    assert value["macro", "ndcg@10"]["value"] == pytest.approx(np.mean(per_domain))
    assert value["min", "ndcg@10"]["value"] == pytest.approx(min(per_domain))
    assert (value["toys", "hr@5"]["cases"], value["macro", "hr@5"]["cases"]) == (10, 50)
    assert "food" not in {r["domain"] for r in rows}  # no cases, no figure
    assert all(r["low"] <= r["value"] <= r["high"] for r in rows if r["domain"] != "min")
