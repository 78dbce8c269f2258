"""Plain histories: order, duplicates, unknown items, and the sentences that refuse what cannot be ordered."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncrec_model import Vocabulary
from syncrec_model.histories import known_events

VOCABULARY = Vocabulary(("books", "toys"), (["a", "b", "c"], ["a", "z"]))


def order(*times: object, items: str = "abc") -> list[int]:
    history = [(item, "books", ts) for item, ts in zip(items, times, strict=False)]
    return known_events([history], VOCABULARY).item_E.tolist()


@pytest.mark.parametrize(
    "times",
    [
        (3, 1, 2),
        (0.3, -0.1, 0.2),
        (np.int64(3), np.float32(1), 2),
        (2**60 + 2, 2**60, 2**60 + 1),  # as float64 the three are one
        (datetime(2024, 1, 3), datetime(2024, 1, 1), datetime(2024, 1, 2)),
        ("2024-01-03T00:00:00Z", "2024-01-01", "2024-01-02 12:00"),
        (np.datetime64("2024-01-03"), date(2024, 1, 1), datetime(2024, 1, 2, tzinfo=UTC)),
    ],
)
def test_every_kind_of_time_orders(times):
    assert order(*times) == [2, 3, 1]


def test_a_time_without_a_zone_is_utc():
    east = timezone(timedelta(hours=5))
    assert order(datetime(2024, 1, 1, 12, tzinfo=east), datetime(2024, 1, 1, 8), "2024-01-01T06:59Z") == [3, 1, 2]


def test_ties_and_histories_without_times_keep_their_order():
    assert order(1, 1, 0) == [3, 1, 2]
    for missing in (None, float("nan"), np.datetime64("NaT")):
        assert order(missing, missing, missing, items="cab") == [3, 1, 2]


def test_the_same_item_at_the_same_time_is_one_event():
    history = [("a", "books", 1), ("a", "toys", 1), ("a", "books", 1), ("a", "books", 2)]
    found = known_events([history], VOCABULARY)
    assert list(zip(found.domain_E.tolist(), found.item_E.tolist(), strict=True)) == [(1, 1), (2, 1), (1, 1)]
    untimed = [(item, domain, None) for item, domain, _ in history]
    assert len(known_events([untimed], VOCABULARY).item_E) == 4


def test_unknown_items_are_ignored_and_counted_for_their_history():
    found = known_events(
        [[("a", "books", 2), ("q", "books", 1), ("c", "toys", 0)], [], [("z", "toys", 1)]], VOCABULARY
    )
    assert found.ignored_U.tolist() == [2, 0, 0]
    assert found.user_E.tolist() == [0, 2] and found.item_E.tolist() == [1, 2]
    assert known_events([], VOCABULARY).item_E.tolist() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=8), st.randoms())
def test_the_order_of_events_with_different_times_does_not_matter(pairs, random):
    history = [("abc"[item], "books", 100 * time + place) for place, (time, item) in enumerate(pairs)]
    shuffled = random.sample(history, len(history))
    expected = known_events([history], VOCABULARY).item_E.tolist()
    assert known_events([shuffled], VOCABULARY).item_E.tolist() == expected


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ([("a", "cars", 1)], "history 1: unknown domain 'cars'; this model knows books, toys"),
        ([("a", None, 1)], "history 1: unknown domain None; this model knows"),
        (
            [("a", "books", 1), ("b", "books", None)],
            "history 1, event 1: ts is missing while other events have one",
        ),
        ([("a", "books", float("nan")), ("b", "books", 1)], "history 1, event 0: ts is missing"),
        ([("a", "books", float("inf"))], "ts = inf; give a finite number"),
        ([("a", "books", True)], "ts = True; give a finite number"),
        ([("a", "books", "yesterday")], "ts = 'yesterday' is no ISO 8601 time"),
        ([("a", "books", 1), ("b", "books", "2024-01-01")], "history 1: ts mixes numbers with dates"),
        ([("a", "books")], "history 1, event 0: .*give \\(item_id, domain, ts\\)"),
        ("abc", "history 1 is 'abc'; give a list of events"),
        (None, "history 1 is None; give a list of events, an empty one for a user without any"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(history, sentence):
    with pytest.raises(ValueError, match=sentence):
        known_events([[], history], VOCABULARY)


def test_a_refusal_names_the_user_where_the_caller_named_them():
    with pytest.raises(ValueError, match=r"history of user 'eve' \(row 1\): unknown domain 'cars'"):
        known_events([[], [("a", "cars", 1)]], VOCABULARY, users=["adam", "eve"])
