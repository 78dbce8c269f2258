"""build_sequences against a plain Python reading of MODEL.md section 1, row for row."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.build_sequences import cross_sequences, single_sequences, split_histories, split_windows, user_histories
from jobs.schemas import CROSS_SEQUENCES, INTERACTIONS, ITEMS, SINGLE_SEQUENCES

DOMAINS = ("books", "toys", "groceries")
CUTOFF = datetime(2024, 1, 11, tzinfo=UTC)
T = 5


def random_log(seed: int, n_events: int = 400, n_users: int = 25) -> list[tuple[str, str, str, datetime, int]]:
    """Events with many ties in time, exact duplicates, and some at or after the cutoff."""
    rng = np.random.default_rng(seed)
    events = []
    for _ in range(n_events):
        user = f"u{rng.zipf(1.5) % n_users}"
        domain = DOMAINS[rng.integers(3)]
        item = f"{domain[0]}{rng.integers(9)}"
        day = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=int(rng.integers(0, 12)))
        ts = day if rng.random() < 0.6 else day + timedelta(seconds=int(rng.integers(86_400)))
        events.append((user, item, domain, ts, hash((user, item, domain, ts)) % 2**60))
    return events + events[:20]


def micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


def expected_rows(events: list[Any], index: dict[tuple[str, str], int]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The two tables by loops: (user, split) -> row and (user, domain, split) -> row."""
    windows = {
        "train": (None, datetime(2024, 1, 6, tzinfo=UTC)),
        "valid": (datetime(2024, 1, 6, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC)),
        "test": (datetime(2024, 1, 9, tzinfo=UTC), CUTOFF),
        "serve": (None, CUTOFF),
    }
    by_user: dict[str, list[Any]] = defaultdict(list)
    for event in set(events):
        by_user[event[0]].append(event)
    cross, single = {}, {}
    for user, own in by_user.items():
        own.sort(key=lambda e: (e[3], e[4]))
        for split, (start, cut) in windows.items():
            past = [e for e in own if e[3] < cut]
            if not past or (start is not None and past[-1][3] < start):
                continue
            kept = past[-T:]
            blank = T - len(kept)
            cross[user, split] = (
                [0] * blank + [index[e[2], e[1]] for e in kept],
                [0] * blank + [DOMAINS.index(e[2]) + 1 for e in kept],
                [0] * blank + [micros(e[3]) for e in kept],
                len(past),
            )
            place = {id(e): blank + i for i, e in enumerate(kept)}
            for domain in DOMAINS:
                mine = [e for e in past if e[2] == domain]
                if mine:
                    last = mine[-T:]
                    pad = T - len(last)
                    single[user, domain, split] = (
                        [0] * pad + [index[domain, e[1]] for e in last],
                        [-1] * pad + [place.get(id(e), -1) for e in last],
                        [0] * pad + [micros(e[3]) for e in last],
                        len(mine),
                    )
    return cross, single


def build(spark: SparkSession, events: list[Any], index: dict[tuple[str, str], int]) -> tuple[Any, Any]:
    arrival = date(2024, 1, 10)
    rows = [(u, i, d, ts, e, ts.date(), "test", arrival) for u, i, d, ts, e in events]
    items = [(domain, item, number, arrival) for (domain, item), number in index.items()]
    histories = user_histories(
        spark.createDataFrame(rows, INTERACTIONS.spark_ddl),
        spark.createDataFrame(items, ITEMS.spark_ddl),
        DOMAINS,
        CUTOFF,
    )
    splits = split_histories(histories, split_windows(CUTOFF, valid_days=3, test_days=2), T)
    return cross_sequences(splits, T), single_sequences(splits, DOMAINS, T)


@pytest.fixture(scope="module")
def index() -> dict[tuple[str, str], int]:
    return {(d, f"{d[0]}{n}"): n + 1 for d in DOMAINS for n in range(9)}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_equals_the_plain_computation(
    spark: SparkSession, index: dict[tuple[str, str], int], seed: int
) -> None:
    events = random_log(seed)
    cross, single = build(spark, events, index)
    expected_cross, expected_single = expected_rows(events, index)
    columns = CROSS_SEQUENCES.column_names[2:-1]
    assert {(r.user_id, r.split): tuple(r[c] for c in columns) for r in cross.collect()} == expected_cross
    columns = SINGLE_SEQUENCES.column_names[3:-1]
    found = {(r.user_id, r.domain, r.split): tuple(r[c] for c in columns) for r in single.collect()}
    assert found == expected_single


def test_events_at_or_after_the_cutoff_change_nothing(
    spark: SparkSession, index: dict[tuple[str, str], int]
) -> None:
    events = random_log(2)
    kept = [e for e in events if e[3] < CUTOFF]
    assert len(kept) < len(events)
    with_future, without = build(spark, events, index), build(spark, kept, index)
    for one, other in zip(with_future, without, strict=True):
        assert sorted(map(str, one.collect())) == sorted(map(str, other.collect()))


def test_a_place_points_to_the_same_event_of_the_cross_row(
    spark: SparkSession, index: dict[tuple[str, str], int]
) -> None:
    cross, single = build(spark, random_log(3), index)
    rows = {(r.user_id, r.split): r for r in cross.collect()}
    pointed = 0
    for row in single.collect():
        whole = rows[row.user_id, row.split]
        for place, item, time in zip(row.places, row.item_indexes, row.times, strict=True):
            if place >= 0:
                pointed += 1
                assert (whole.item_indexes[place], whole.times[place]) == (item, time)
                assert DOMAINS[whole.domain_codes[place] - 1] == row.domain
    assert pointed > 100


def test_windows_are_adjacent_and_end_with_the_night() -> None:
    train, valid, test, serve = split_windows(CUTOFF, valid_days=3, test_days=2)
    assert train.cut == valid.start and valid.cut == test.start
    assert test.cut == serve.cut == CUTOFF
    assert (test.cut - test.start).days == 2 and (valid.cut - valid.start).days == 3
