"""The guard of the served view: the best view that is clearly above the single view, otherwise the single view."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import laws

from syncrec_model import CaseRanks, choose_views, judge_views
from syncrec_model.measures import metrics


def case_ranks(ranks, domain=None, user=None):
    n = len(next(iter(ranks.values())))
    zeros = np.zeros(n, int)
    return CaseRanks(
        ("books", "toys", "food"), np.arange(n) if user is None else np.asarray(user),
        np.ones(n, int) if domain is None else np.asarray(domain),
        {view: np.asarray(values, float) for view, values in ranks.items()}, zeros, zeros,
    )  # fmt: skip


def test_the_best_clear_view_serves_and_the_single_view_where_none_is() -> None:
    good, middle, bad = [1] * 8, [5] * 8, [30] * 8
    ranks = case_ranks(
        {"cross": good + bad, "single": bad + middle, "blend": middle + bad}, [1] * 8 + [2] * 8
    )  # fmt: skip
    views = choose_views(ranks)
    assert views == {"books": "cross", "toys": "single", "food": "single"}, "food has no cases"
    assert ranks.with_served(views).ranks["served"].tolist() == good + middle
    with pytest.raises(ValueError, match="single view must be among"):
        choose_views(ranks, views=("cross", "blend"))
    with pytest.raises(ValueError, match="no ranks of view 'sum'"):
        choose_views(ranks, views=("sum", "single"))
    with pytest.raises(ValueError, match="unknown metric 'auc'"):
        choose_views(ranks, metric="auc")


def test_a_gain_within_noise_is_not_served_and_a_smaller_clear_one_is() -> None:
    single = np.full(60, 4.0)
    lucky = np.where(np.arange(60) % 2, 1.0, 30.0)  # right or lost: a larger mean gain than `steady`, but unclear
    steady = np.full(60, 3.5)
    choice = judge_views(case_ranks({"blend": lucky, "cross": lucky, "single": single}))["books"]
    gain, low, high = choice.gains["blend"]
    assert low < 0 < gain < high and choice.view == "single" and choice.gain == (0, 0, 0)
    choice = judge_views(case_ranks({"blend": lucky, "cross": steady, "single": single}))["books"]
    assert choice.view == "cross" and choice.gain == choice.gains["cross"] and choice.gain[1] > 0
    assert choice.values["blend"] > choice.values["cross"], "the better mean is that of noise"


def test_a_few_users_prove_nothing() -> None:
    def chosen(users: int) -> str:
        ranks = {"blend": np.ones(40), "cross": np.ones(40), "single": np.full(40, 9.0)}
        return choose_views(case_ranks(ranks, user=np.arange(40) % users))["books"]

    assert [chosen(users) for users in (1, 5, 6, 40)] == ["single", "single", "blend", "blend"]


def test_the_choice_is_kept_as_plain_values() -> None:
    ranks = case_ranks({"blend": [1.0] * 9, "cross": [9.0] * 9, "single": [2.0] * 9})
    judged = {domain: choice.to_dict() for domain, choice in judge_views(ranks).items()}
    assert json.loads(json.dumps(judged, allow_nan=False)) == judged
    assert judged["books"]["view"] == "blend" and judged["books"]["cases"] == judged["books"]["users"] == 9
    assert judged["toys"] == {
        "view": "single", "metric": "ndcg@10", "cases": 0, "users": 0, "values": {}, "gains": {}
    }  # fmt: skip


@laws(40)
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_ranks_no_domain_is_served_below_its_single_view(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    ranks = {view: rng.integers(1, int(rng.integers(2, 30)), n) for view in ("cross", "single", "blend")}
    found = case_ranks(ranks, rng.integers(1, 4, n), rng.integers(0, int(rng.integers(1, 40)), n))
    for code, (domain, choice) in enumerate(judge_views(found).items(), start=1):
        own = found.domain == code
        if own.any():
            assert choice.values["single"] == metrics(found.ranks["single"][own])["ndcg@10"]
            assert choice.values[choice.view] >= choice.values["single"]
            assert choice.view == "single" or choice.gain[1] > 0, domain
