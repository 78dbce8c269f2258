"""The best N against a brute-force sort, seen items out, plain histories by id."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import DOMAINS, N_ITEMS, random_set, small_model

from syncrec_model import Recommender, SequenceSet, Vocabulary

VOCABULARY = Vocabulary(
    DOMAINS, tuple([f"{d[0]}{i}" for i in range(1, n + 1)] for d, n in zip(DOMAINS, N_ITEMS, strict=True))
)
VIEWS = {"books": "cross", "toys": "single", "food": "blend"}


def recommender():
    return Recommender(small_model(), VOCABULARY, VIEWS)


def brute_force(served, data, user, code, n, known):
    part = data.select([user])
    scores = served.score(served.encode(part), DOMAINS[code - 1])[0].tolist()
    order = sorted((-score, index) for index, score in enumerate(scores, start=1) if index not in known)
    return [(index, -score) for score, index in order[:n]]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_top_n_equals_brute_force_and_leaves_out_seen_items(batch_size):
    data, served = random_set(3, n_users=7), recommender()
    found = served.top_n(data, 4, repeats=["toys"], batch_size=batch_size)
    rows_UD = data.single_rows_UD()
    for user in range(data.n_users):
        for code in (1, 2, 3):
            row = rows_UD[user, code - 1]
            known = set(data.single_items_NT[row].tolist()) if row >= 0 and code != 2 else set()
            expected = brute_force(served, data, user, code, 4, known)
            mine = (found.user == user) & (found.domain == code)
            assert found.rank[mine].tolist() == list(range(1, len(expected) + 1))
            assert found.item[mine].tolist() == [item for item, _ in expected]
            assert found.score[mine] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert found.score.dtype == np.float32


def test_given_seen_lists_win_and_short_domains_give_fewer():
    data, served = random_set(3, n_users=2), recommender()
    nothing = np.zeros(0, int)
    seen = [[nothing, np.array([1, 2, 3, 4]), nothing], [np.arange(1, 8), nothing, nothing]]
    found = served.top_n(data, 50, seen=seen)
    of = {(u, d): found.item[(found.user == u) & (found.domain == d)].tolist() for u in (0, 1) for d in (1, 2, 3)}
    assert of[0, 2] == [5] and of[1, 1] == []
    assert sorted(of[0, 1]) == list(range(1, 8)) and sorted(of[1, 3]) == list(range(1, 10))


def test_batches_come_one_after_the_other():
    data, served = random_set(3, n_users=7), recommender()
    parts = list(served.top_n_batches(data, 2, batch_size=3))
    assert [sorted(set(part.user.tolist())) for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]


def test_plain_histories_by_id_equal_the_sequences():
    served = recommender()
    history = [("b2", "books", 5.0), ("f1", "food", 1.0), ("zzz", "food", 2.0), ("b7", "books", 3.0)]
    found = served.recommend([history, [], [("t1", "toys", 1.0)]], 3)
    assert found.ignored_items == [1, 0, 0]
    data = SequenceSet.from_events(
        user_ids=[0, 0, 0],
        item_indexes=[1, 7, 2],
        domain_codes=[3, 1, 1],
        domains=DOMAINS,
        n_items=N_ITEMS,
        max_length=5,
    )
    expected = served.top_n(data, 3)
    for code, domain in enumerate(DOMAINS, start=1):
        ids = [VOCABULARY.item_id(domain, i) for i in expected.item[expected.domain == code].tolist()]
        assert [item_id for item_id, _ in found.items[0][domain]] == ids
    assert [len(found.items[1][domain]) for domain in DOMAINS] == [3, 3, 3]  # a cold user gets [SOS] alone
    assert "t1" not in [item_id for item_id, _ in found.items[2]["toys"]]
    assert served.recommend([], 3).items == []


def test_impossible_calls_are_refused():
    data, served = random_set(3, n_users=2), recommender()
    with pytest.raises(ValueError, match=r"'cars'.*knows books, toys, food"):
        served.recommend([[("c1", "cars", 1.0)]], 3)
    with pytest.raises(ValueError, match="n = 0"):
        served.top_n(data, 0)
    with pytest.raises(ValueError, match="seen lists 1 users"):
        served.top_n(data, 1, seen=[[]])
    with pytest.raises(ValueError, match=r"outside 1\.\.7"):
        served.top_n(data, 1, seen=[[np.array([8]), [], []], [[], [], []]])
    with pytest.raises(ValueError, match="view None of domain 'toys'"):
        Recommender(small_model(), VOCABULARY, {"books": "cross"})
    with pytest.raises(ValueError, match="different domains or item counts"):
        Recommender(small_model(n_items=(7, 5)), VOCABULARY, VIEWS)
