"""Ranks against a brute-force loop: one case at a time, all items of the domain, mean ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import DOMAINS, N_ITEMS, random_set, small_model

from syncrec_model import SequenceSet, popularity_ranks, rank_cases
from syncrec_model.batches import SequenceReader
from syncrec_model.evaluation import mean_tie_ranks

EVALUATION = {"max_length": 5, "window": (20, 40), "n_users": 12, "mean_length": 5}


def history_set(data, user, column):
    """Return a serving set of one user that holds exactly the stored events before the column."""
    items, codes = data.cross_items_UT[user, :column], data.cross_domains_UT[user, :column]
    return items[items > 0], codes[items > 0]


@pytest.mark.parametrize("gate", ["step", "sequence"])
def test_ranks_equal_a_loop_over_cases(gate):
    """Each case again as a serving row of its own history, scored and ranked by plain comparison."""
    data = random_set(7, **EVALUATION)
    model = small_model(gate=gate).eval()
    model.blend.weights_DF[:, :2] = torch.tensor([[0.4, 1.6], [1.0, 1.0], [1.8, 0.2]])
    ranked = rank_cases(model, data, repeats=["toys"], batch_size=3)
    assert len(ranked) > 8 and set(ranked.domain) == {1, 2, 3}
    reader = SequenceReader(data)
    cases = reader.cases()
    checked = 0
    for m in range(len(ranked)):
        user, code = int(ranked.user[m]), int(ranked.domain[m])
        if data.cross_lengths_U[user] > 5:
            continue  # the older events are not stored: no independent way to rebuild the row
        checked += 1
        items, codes = history_set(data, user, cases.column_M[m])
        alone = SequenceReader(
            SequenceSet.from_events(
                user_ids=np.zeros(len(items), int), item_indexes=items, domain_codes=codes, domains=DOMAINS,
                n_items=N_ITEMS, max_length=5, users=np.zeros(1, int),
            )
        )  # fmt: skip
        zero = np.zeros(1, int)
        with torch.no_grad():
            cross = model.scores(model.encode(alone.serving_cross(zero)), code)[0]
            single = model.scores(model.encode(alone.serving_single(zero))[code - 1 : code], code)[0]
        share, other = model.blend.weights_DF[code - 1, :2]
        known = set(items[codes == code].tolist()) if code != 2 else set()
        target = int(cases.target_M[m])
        candidates = [i for i in range(1, N_ITEMS[code - 1] + 1) if i == target or i not in known]
        assert ranked.n_candidates[m] == len(candidates)
        assert ranked.history_length[m] == (codes == code).sum()
        for view, scores in (
            ("cross", cross), ("single", single), ("blend", share * cross + other * single),
        ):  # fmt: skip
            better = sum(bool(scores[i - 1] > scores[target - 1]) for i in candidates)
            assert ranked.ranks[view][m] == 1 + better, (m, view)
    assert checked > 4


def test_cases_of_a_truncated_row_read_exactly_the_stored_events_before_them():
    """The first event is out of sight, so no [SOS]; the target and what follows it are not read."""
    data = random_set(8, **(EVALUATION | {"mean_length": 9}))
    reader = SequenceReader(data)
    cases = reader.cases()
    truncated = np.flatnonzero((data.cross_lengths_U[cases.user_M] > 5) & (cases.column_M > 0))
    assert len(truncated)
    packed = reader.case_cross(cases.take(truncated))
    assert (packed.items_N > 0).all()
    assert len(packed.items_N) == cases.column_M[truncated].sum()
    assert (packed.columns_N.numpy() < cases.column_M[truncated][packed.rows_N.numpy()]).all()


def test_the_batch_size_changes_nothing():
    data, model = random_set(9, **EVALUATION), small_model()
    one, many = rank_cases(model, data, batch_size=1), rank_cases(model, data, batch_size=100)
    for view in ("cross", "single", "blend"):
        assert one.ranks[view].tolist() == many.ranks[view].tolist()
    assert model.training  # left as it was


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_ties_get_their_mean_rank(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    removed = [data.draw(st.booleans()) and i != target for i in range(len(scores))]
    kept = sorted((-s for s, r in zip(scores, removed, strict=True) if not r))
    places = [place for place, s in enumerate(kept, start=1) if -s == scores[target]]
    got = mean_tie_ranks(torch.tensor([scores]).float(), torch.tensor([target]), torch.tensor([removed]))
    assert got.item() == np.mean(places)


def test_scores_that_are_no_numbers_are_refused():
    model = small_model()
    with torch.no_grad():
        model.embedding.items_VC[1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        rank_cases(model, random_set(7, **EVALUATION))


@pytest.mark.parametrize("model_changes", [{"n_items": (7, 5)}, {"max_length": 4}])
def test_sequences_of_another_vocabulary_or_length_are_refused(model_changes):
    with pytest.raises(ValueError, match="build"):
        rank_cases(small_model(**model_changes), random_set(7, **EVALUATION))


def test_unknown_views_and_domains_are_refused():
    data, model = random_set(7, **EVALUATION), small_model()
    with pytest.raises(ValueError, match="unknown view 'best'"):
        rank_cases(model, data, views=["best"])
    with pytest.raises(ValueError, match="unknown domain 'cars'"):
        rank_cases(model, data, repeats=["cars"])
    with pytest.raises(ValueError, match="collection"):
        rank_cases(model, data, repeats="toys")


def test_popularity_ranks_the_same_cases():
    data = random_set(7, **EVALUATION)
    counts = {"books": [5, 5, 1, 9, 0, 0, 2], "toys": np.arange(5), "food": np.zeros(9)}
    ranked = popularity_ranks(counts, data, repeats=["books", "toys", "food"])
    model_ranks = rank_cases(small_model(), data, repeats=["books", "toys", "food"])
    assert ranked.user.tolist() == model_ranks.user.tolist()
    assert ranked.domain.tolist() == model_ranks.domain.tolist()
    cases = SequenceReader(data).cases()
    for m, (code, target) in enumerate(zip(cases.domain_M, cases.target_M, strict=True)):
        column = np.asarray(counts[DOMAINS[code - 1]])
        mine = column[target - 1]
        expected = 1 + (column > mine).sum() + 0.5 * ((column == mine).sum() - 1)
        assert ranked.ranks["popularity"][m] == expected
    with pytest.raises(ValueError, match="2 counts for 7 items of 'books'"):
        popularity_ranks(counts | {"books": [1, 2]}, data)


def test_no_cases_give_empty_ranks():
    ranked = rank_cases(small_model(), random_set(7))
    assert len(ranked) == 0 and ranked.ranks["blend"].shape == (0,)


def test_items_newer_than_the_model_share_the_last_place_and_leave_the_others_alone():
    data = random_set(7, **EVALUATION)
    model = small_model().eval()
    known = tuple(n - 2 for n in N_ITEMS)
    free, limited = rank_cases(model, data), rank_cases(model, data, known_items=known)
    target = SequenceReader(data).cases().target_M
    limit = np.array([0, *known])[free.domain]
    assert (target > limit).any() and (target <= limit).any()
    for view in free.ranks:
        old = target <= limit
        assert (limited.ranks[view][old] <= free.ranks[view][old]).all()
        # The two newest items are the last two, in whatever order: mean rank half a place before the end.
        newest_left = limited.n_candidates[~old] - limited.ranks[view][~old]
        assert set(newest_left) <= {0.0, 0.5}
    with pytest.raises(ValueError, match="counts of known items"):
        rank_cases(model, data, known_items=(1,))
