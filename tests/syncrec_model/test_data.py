"""Sequences from an event log, and the refusal of rows that contradict each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import random_events, random_set

from syncrec_model import SequenceSet, Vocabulary


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), max_length=st.integers(2, 9))
def test_from_events_equals_a_plain_loop(seed, max_length):
    log = random_events(seed)
    built = SequenceSet.from_events(**log, max_length=max_length, window=(20, 35))
    order = np.argsort(log["timestamps"], kind="stable")
    order = order[log["timestamps"][order] < 35]
    n_single = 0
    for row, user in enumerate(built.user_ids):
        events = [e for e in order if log["user_ids"][e] == user]
        kept = events[-max_length:]
        pad = max_length - len(kept)
        assert built.cross_lengths_U[row] == len(events)
        assert built.cross_items_UT[row].tolist() == [0] * pad + log["item_indexes"][kept].tolist()
        assert built.cross_domains_UT[row].tolist() == [0] * pad + log["domain_codes"][kept].tolist()
        assert built.cross_targets_UT[row].tolist() == [False] * pad + (log["timestamps"][kept] >= 20).tolist()
        for code in (1, 2, 3):
            inside = [e for e in events if log["domain_codes"][e] == code]
            n = np.flatnonzero((built.single_users_N == row) & (built.single_domains_N == code))
            assert len(n) == (1 if inside else 0)
            if not inside:
                continue
            n_single += 1
            last = inside[-max_length:]
            places = [pad + kept.index(e) if e in kept else -1 for e in last]
            assert built.single_lengths_N[n[0]] == len(inside)
            assert (
                built.single_items_NT[n[0], max_length - len(last) :].tolist() == log["item_indexes"][last].tolist()
            )
            assert built.single_places_NT[n[0]].tolist() == [-1] * (max_length - len(last)) + places
    assert n_single == len(built.single_users_N)


def test_users_without_events_keep_an_empty_row():
    log = random_events(1)
    built = SequenceSet.from_events(**log, max_length=4, users=np.array(["nobody", "u000"]))
    assert built.cross_lengths_U[0] == 0 and not built.cross_items_UT[0].any()
    assert built.cross_lengths_U[1] == (log["user_ids"] == "u000").sum()


def test_select_keeps_each_users_rows():
    whole = random_set(2)
    part = whole.select([5, 1])
    assert part.user_ids.tolist() == whole.user_ids[[5, 1]].tolist()
    for new, old in enumerate([5, 1]):
        mine, theirs = part.single_users_N == new, whole.single_users_N == old
        assert part.single_items_NT[mine].tolist() == whole.single_items_NT[theirs].tolist()


@pytest.mark.parametrize(
    ("field", "place", "value", "says"),
    [
        ("cross_items_UT", (0, -1), 99, "outside 1..n_items"),
        ("cross_domains_UT", (0, -1), 7, "codes must lie in 0..3"),
        ("cross_items_UT", (0, -1), 0, "outside 1..n_items"),
        ("single_places_NT", (0, -1), 9, "same event"),
        ("single_domains_N", 0, 9, "outside users or domains"),
        ("single_users_N", slice(None), 0, "two single rows for one user and domain"),
        ("single_lengths_N", 0, 0, "outside 1..n_items"),
        ("cross_lengths_U", 0, 1, "last min"),
    ],
)
def test_contradicting_rows_are_refused(field, place, value, says):
    whole = random_set(3, n_users=4, mean_length=9)
    broken = getattr(whole, field).copy()
    broken[place] = value
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(whole, **{field: broken})


def test_vocabulary_round_trip_and_lookups(tmp_path):
    vocabulary = Vocabulary(("books", "toys"), (["b1", "é"], ["b1"]))
    vocabulary.save(tmp_path / "v.json")
    again = Vocabulary.load(tmp_path / "v.json")
    assert again == vocabulary and again.n_items == (2, 1) and again.offsets == (0, 2)
    assert (again.index_of("books", "é"), again.index_of("toys", "b1"), again.index_of("toys", "x")) == (2, 1, 0)
    with pytest.raises(ValueError, match="knows books, toys"):
        again.index_of("cars", "b1")
    with pytest.raises(ValueError, match="lists an item id twice"):
        Vocabulary(("books",), (["a", "a"],))
    (tmp_path / "bad.json").write_text("[1")
    with pytest.raises(ValueError, match="not a vocabulary file"):
        Vocabulary.load(tmp_path / "bad.json")


def test_a_shorter_window_is_the_set_built_with_that_window():
    rng = np.random.default_rng(5)
    log = dict(
        user_ids=rng.integers(0, 6, 90), item_indexes=rng.integers(1, 5, 90), domain_codes=rng.integers(1, 4, 90),
        timestamps=np.sort(rng.integers(0, 50, 90)), domains=("a", "b", "c"), n_items=(4, 4, 4), window=(35, 60),
    )  # fmt: skip
    long, short = SequenceSet.from_events(**log, max_length=9), SequenceSet.from_events(**log, max_length=4)
    for name, values in long.last(4).arrays().items():
        np.testing.assert_array_equal(values, short.arrays()[name], err_msg=name)
    assert long.last(9) is long and long.last(20) is long


@pytest.mark.parametrize(
    ("column", "wrong", "words"),
    [
        (
            "timestamps",
            np.array(["2024-01-01"] * 3, dtype="datetime64[s]"),
            r"finite numbers, such as seconds.*int64",
        ),
        ("timestamps", [1.0, np.nan, 3.0], "timestamps must be finite numbers"),
        ("timestamps", [1, 2], r"timestamps has the shape \(2,\), user_ids \(3,\)"),
        ("item_indexes", [1.0, 1.5, 2.0], "item_indexes must be whole numbers, got float64"),
        ("item_indexes", ["a", "b", "c"], "item_indexes must be whole numbers"),
        ("item_indexes", ["1", "2", "1"], "item_indexes must be whole numbers"),
        ("item_indexes", [1.0, np.nan, 2.0], "item_indexes must be whole numbers"),
        ("item_indexes", np.array([1, 2**63 + 1, 1], np.uint64), "item_indexes must be whole numbers"),
        ("domain_codes", [1, 1], r"domain_codes has the shape \(2,\)"),
        ("domain_codes", [1, 1, 3], "codes must lie in 0..2"),
        ("item_indexes", [1, 9, 1], "outside 1..n_items"),
        ("item_indexes", [1, 0, 1], "outside 1..n_items"),
    ],
)
def test_a_log_with_a_column_that_cannot_be_read_is_refused_in_words(column, wrong, words):
    log = {
        "user_ids": ["a", "a", "b"],
        "item_indexes": [1, 2, 1],
        "domain_codes": [1, 2, 1],
        "timestamps": [1, 2, 3],
        "domains": ("books", "toys"),
        "n_items": (4, 4),
    }
    SequenceSet.from_events(**log, max_length=3)
    with pytest.raises(ValueError, match=words):
        SequenceSet.from_events(**{**log, column: wrong}, max_length=3)
    for kind in (np.float64, np.uint64, object):
        same = SequenceSet.from_events(**{**log, "item_indexes": np.array([1, 2, 1], kind)}, max_length=3)
        assert same.cross_items_UT.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert SequenceSet.from_events(
        **{name: log[name] for name in log if name != "timestamps"}, max_length=3
    ).n_users
