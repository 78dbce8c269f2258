"""The cases of the quality benchmark: who learns from what, and that no case can see its target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.quality.data import (
    NEWEST_STRATA,
    PARTS,
    TARGET_STRATA,
    TEST,
    TRAIN,
    VALID,
    DataAbsent,
    cut,
    load_a5,
)
from tests.benchmarks.neural_world import DOMAINS, N_ITEMS, planted, walks


def test_the_last_event_is_the_test_case_and_the_one_before_it_validation() -> None:
    data = planted(30)
    for user in range(data.n_users):
        parts = data.part_E[data.events.user_E == user]
        assert parts.tolist() == [TRAIN] * (len(parts) - 2) + [VALID, TEST]
        assert (np.diff(data.events.ts_E[data.events.user_E == user]) >= 0).all()


@pytest.mark.parametrize("split", ["leave-one-out", "time"])
def test_every_case_is_read_with_its_history_and_without_its_target(split: str) -> None:
    data = planted(60, split)
    for part in PARTS:
        cases, rows = data.cases[part], data.case_sequences(part, 6)
        assert rows.n_users == len(cases) and rows.cross_targets_UT.sum() == len(cases)
        for row, (items, domains, ts) in enumerate(data.histories(part)):
            event = cases.event_M[row]
            assert (data.events.user_E[event - len(items) : event] == cases.user_M[row]).all()
            stored = rows.cross_items_UT[row][rows.cross_items_UT[row] > 0]
            assert stored[-1] == cases.target_M[row] and stored[:-1].tolist() == items[-5:].tolist()
            assert (ts <= data.events.ts_E[event]).all()
            assert cases.seen_M[row] == (domains == cases.domain_M[row]).sum()


def test_training_holds_no_case_and_in_time_nobody_learns_from_the_future() -> None:
    data = planted(80, "time")
    first = data.events.ts_E[data.part_E == VALID].min()
    assert data.train.ts_E.max() < first and len(data.outside) and data.outside.ts_E.max() < first
    assert data.events.ts_E[data.part_E == TEST].min() > data.events.ts_E[data.part_E == VALID].max() - 1
    everything = planted(80)
    assert everything.train_sequences(50).cross_lengths_U.sum() == (everything.part_E == TRAIN).sum()


def test_a_targets_training_events_are_those_of_everybody_before_validation() -> None:
    data = planted(80, "time")
    others = data.outside.take(data.outside.item_E <= N_ITEMS)  # further items are no candidates
    logs = (data.train, others)
    for part in PARTS:
        cases, found_M = data.cases[part], data.target_events(part)
        assert len(np.unique(found_M)) > 3
        for domain, target, found in zip(cases.domain_M, cases.target_M, found_M, strict=True):
            assert found == sum(int(((log.domain_E == domain) & (log.item_E == target)).sum()) for log in logs)
    never = replace(data, part_E=np.full_like(data.part_E, TEST), outside=data.outside.take(np.arange(0)))
    assert (never.target_events("test") == 0).all()
    strata = [np.digitize(n, [1, 4, 11, 31]) for n in (0, 1, 3, 4, 10, 11, 30, 31)]
    assert [TARGET_STRATA[place] for place in strata] == [
        "0",
        "1-3",
        "1-3",
        "4-10",
        "4-10",
        "11-30",
        "11-30",
        "31+",
    ]
    assert data.target_stratum("test").tolist() == np.digitize(data.target_events("test"), [1, 4, 11, 31]).tolist()


def test_the_newest_event_before_a_case_is_of_a_new_item_or_of_a_known_one_or_there_is_none() -> None:
    data = planted(80, "time")
    new_E = (data.events.domain_E == 1) & (data.events.item_E <= 5)
    old_O = (data.outside.domain_E != 1) | (data.outside.item_E > 5)
    data = replace(data, part_E=np.where(new_E, TEST, data.part_E), outside=data.outside.take(old_O))
    for part in PARTS:
        cases, targets_M = data.cases[part], data.target_events(part)
        logs = (data.train, data.outside.take(data.outside.item_E <= N_ITEMS))
        wanted = []
        for row, (items, domains, _) in enumerate(data.histories(part)):
            had = len(items) and any(
                ((log.domain_E == domains[-1]) & (log.item_E == items[-1])).any() for log in logs
            )
            place = NEWEST_STRATA.index("known" if had else "new" if len(items) else "none")
            wanted.append(place if targets_M[row] else -1)
        found = data.newest_stratum(part)
        assert found.tolist() == wanted
    assert {-1, *map(NEWEST_STRATA.index, ("new", "known"))} <= set(found)
    alone = replace(data, events=replace(data.events, user_E=np.arange(len(data.events))), n_users=len(data.events))
    cases = replace(data.cases["test"], user_M=data.cases["test"].event_M)
    first = replace(alone, cases={"test": cases}).newest_stratum("test")
    assert set(first) == {-1, NEWEST_STRATA.index("none")}


def test_outside_items_are_numbered_behind_the_candidates() -> None:
    data = planted(200)
    assert data.n_items == (N_ITEMS, N_ITEMS) and data.n_outside_items == (N_ITEMS + 6, N_ITEMS + 6)
    assert data.outside.item_E.max() == N_ITEMS + 6 and data.events.item_E.max() <= N_ITEMS


def test_negatives_are_strangers_to_the_user() -> None:
    data = planted(40)
    offsets = np.array([0, 0, data.n_items[0]])
    for part in PARTS:
        cases = data.cases[part]
        for row, user in enumerate(cases.user_M):
            mine = data.events.user_E == user
            items = offsets[data.events.domain_E[mine]] + data.events.item_E[mine]
            assert not np.isin(cases.negatives_MS[row], items).any()
            code = cases.domain_M[row]
            assert not np.isin(offsets[code] + cases.own_negatives_MS[row], items).any()
            assert cases.own_negatives_MS[row].max() <= data.n_items[code - 1]


def test_the_order_of_a_day_is_neither_the_items_nor_the_files() -> None:
    log = walks(range(40), N_ITEMS, 0).assign(ts=0)
    first = cut("x", log, log.head(0), DOMAINS, split="leave-one-out")
    again = cut("x", log.sample(frac=1, random_state=1), log.head(0), DOMAINS, split="leave-one-out")
    np.testing.assert_array_equal(first.events.item_E, again.events.item_E)
    assert first.fingerprint() == again.fingerprint() != planted(40).fingerprint()
    rising = [np.diff(first.events.item_E[first.events.user_E == user]) > 0 for user in range(40)]
    assert 0.3 < np.concatenate(rising).mean() < 0.7


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    log = pd.DataFrame({"user_id": ["a", "a"], "item_id": ["A1", "A2"], "domain": ["A", "A"], "ts": [1, 2]})
    with pytest.raises(ValueError, match="3 events or more"):
        cut("x", log, log.head(0), DOMAINS, split="leave-one-out")
    with pytest.raises(ValueError, match="split 'weekly': choose one of"):
        cut("x", log, log.head(0), DOMAINS, split="weekly")
    with pytest.raises(DataAbsent, match="absent: give the folder"):
        load_a5(tmp_path)


def test_fewer_users_are_drawn_with_the_same_share_of_the_people_outside(tmp_path: Path) -> None:
    both = [(f"u{user:02}", f"{domain[0]}{(user + step) % 8}", domain, step) for user in range(40)
            for domain in ("Beauty", "Toys_and_Games") for step in range(4)]  # fmt: skip
    one = [(f"x{user:02}", f"B{step}", "Beauty", step) for user in range(20) for step in range(2)]
    log = pd.DataFrame(both + one, columns=["user_id", "item_id", "domain", "ts"])
    log.to_parquet(tmp_path / "interactions.parquet")
    whole, part, again = load_a5(tmp_path), load_a5(tmp_path, users=10), load_a5(tmp_path, users=10)
    assert (whole.n_users, len(np.unique(whole.outside.user_E))) == (40, 20)
    assert (part.n_users, len(np.unique(part.outside.user_E))) == (10, 5)
    assert part.fingerprint() == again.fingerprint() != whole.fingerprint()
