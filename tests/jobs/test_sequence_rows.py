"""The law of incremental nights: merged night by night equals built anew, equals the plain computation."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.schemas import INTERACTIONS, SEQUENCES
from jobs.sequence_rows import event_rows, latest_rows, merge, planned, rows_of_users
from jobs.sequence_sets import Histories, latest
from jobs.splits import split_windows
from syncrec_model import Vocabulary
from tests.jobs.sequence_oracle import (
    DOMAINS,
    N_ITEMS,
    Event,
    as_rows,
    expected,
    expected_kept,
    expected_seen,
    random_log,
    seen,
)

FIRST = date(2024, 1, 1)
VOCABULARY = Vocabulary(DOMAINS, tuple([f"{d}{i}" for i in range(N_ITEMS)] for d in DOMAINS))
T, VALID_DAYS, TEST_DAYS = 3, 2, 1


def cutoff(ds: date) -> datetime:
    return datetime(ds.year, ds.month, ds.day, tzinfo=UTC) + timedelta(days=1)


def frame(spark: SparkSession, events: list[Event]) -> DataFrame:
    rows = [
        (e.user, str(e.item), e.domain, e.ts, e.event_id, e.ts.date(), "test", e.item, e.arrival, e.arrival)
        for e in events
    ]
    return spark.createDataFrame(rows, INTERACTIONS.spark_ddl)


def build(spark: SparkSession, events: list[Event], ds: date, state: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One night: the rows it writes, from what arrived and the rows of the earlier nights (none: a full build)."""
    arrived = event_rows(frame(spark, events), DOMAINS, cutoff(ds))
    old = rows_of_users(spark.createDataFrame(state, SEQUENCES.spark_ddl), arrived) if state else None
    start = cutoff(ds) - timedelta(days=VALID_DAYS + TEST_DAYS)
    with planned(spark):
        rows = merge(arrived, old, max_length=T, window_start=start).withColumn("ds", F.lit(ds))
        return [row.asDict() for row in rows.collect()]


def splits(rows: list[dict[str, Any]], ds: date) -> dict[str, Any]:
    histories = Histories.of(latest(pa.Table.from_pylist(rows, schema=SEQUENCES.arrow_schema)))
    windows = split_windows(cutoff(ds), VALID_DAYS, TEST_DAYS)
    return {window.split: as_rows(histories.cut(window, VOCABULARY, DOMAINS, T)) for window in windows}


@pytest.mark.parametrize("seed", [0, 1])
def test_night_by_night_equals_built_anew_equals_the_plain_computation(spark: SparkSession, seed: int) -> None:
    log = random_log(seed, FIRST, n_days=9)
    state: list[dict[str, Any]] = []
    previous = date.min
    n_touched = 0
    for place in (3, 4, 5, 8):  # two days are passed over: their events come with the next night
        ds = FIRST + timedelta(days=place)
        known = [e for e in log if e.arrival <= ds]
        tonight = build(spark, [e for e in known if e.arrival > previous], ds, state)
        assert len({row["user_id"] for row in tonight}) == len(tonight)
        full = build(spark, known, ds, [])
        by_user = {row["user_id"]: row for row in full}
        assert tonight == [
            by_user[row["user_id"]] for row in tonight
        ]  # a row that is written is the row built anew
        state, previous = [*state, *tonight], ds
        n_touched += len(tonight)
        newest = {row["user_id"]: row for row in state}.values()

        windows = split_windows(cutoff(ds), VALID_DAYS, TEST_DAYS)
        plain = {window.split: expected(known, window, T) for window in windows}
        assert splits(state, ds) == splits(full, ds) == plain
        assert seen(list(newest)) == seen(full) == expected_seen(known)
        counts = Counter(e.user for e in known)
        assert {row["user_id"]: row["n_events"] for row in newest} == counts
        kept = expected_kept(known, windows[1].start, T)
        columns = ("times", "event_ids", "domains", "items")
        assert {u: list(zip(*(row[c] for c in columns), strict=True)) for u, row in by_user.items()} == kept
    assert len(state) == n_touched > len({row["user_id"] for row in state}) + 20, "users came back"
    assert any(row["older_items"] for row in state)


def test_events_at_or_after_the_cutoff_and_of_other_domains_change_nothing(spark: SparkSession) -> None:
    log = random_log(2, FIRST, n_days=3, n_users=12)
    ds = FIRST + timedelta(days=2)
    strange = [log[0]._replace(domain="cars"), log[0]._replace(ts=cutoff(ds), event_id=5)]
    assert build(spark, log + strange, ds, []) == build(spark, log, ds, [])


def test_the_latest_row_of_a_user_counts_in_spark_and_in_arrow(spark: SparkSession) -> None:
    blank = {"items": [1], "domains": [1], "times": [5], "event_ids": [7], "older_items": [], "n_events": 1}
    rows = [
        {"user_id": user, **blank, "ds": FIRST + timedelta(days=day)} for user, day in
        (("b", 2), ("a", 1), ("b", 0), ("c", 0), ("a", 0))
    ]  # fmt: skip
    newest = {"a": FIRST + timedelta(days=1), "b": FIRST + timedelta(days=2), "c": FIRST}
    in_spark = latest_rows(spark.createDataFrame(rows, SEQUENCES.spark_ddl)).collect()
    assert {row.user_id: row.ds for row in in_spark} == newest
    in_arrow = latest(pa.Table.from_pylist(rows, schema=SEQUENCES.arrow_schema))
    assert list(zip(in_arrow["user_id"].to_pylist(), in_arrow["ds"].to_pylist(), strict=True)) == [*newest.items()]


def test_the_plan_shuffles_each_input_once_and_never_broadcasts_users(spark: SparkSession, tmp_path: Any) -> None:
    log = random_log(3, FIRST, n_days=3, n_users=12)
    ds = FIRST + timedelta(days=2)
    for name, table in (
        ("new", event_rows(frame(spark, log), DOMAINS, cutoff(ds))),
        ("old", spark.createDataFrame(build(spark, log, ds, []), SEQUENCES.spark_ddl)),
    ):
        table.write.parquet(str(tmp_path / name))
    arrived, state = (spark.read.parquet(str(tmp_path / name)) for name in ("new", "old"))
    with planned(spark):
        full = plan(merge(arrived, None, max_length=T, window_start=cutoff(ds)))
        night = plan(
            merge(arrived, rows_of_users(state, arrived.where("time > 0")), max_length=T, window_start=cutoff(ds))
        )
    assert full.count("Exchange hashpartitioning(user_id") == full.count("Exchange") == 1
    assert night.count("Exchange hashpartitioning(user_id") == 3  # new events, their users, the old rows
    assert "might_contain" in night and "bloom_filter_agg" in night
    assert "Broadcast" not in full + night
    assert "ObjectHashAggregate" not in full + night


def plan(made: DataFrame) -> str:
    return made._jdf.queryExecution().executedPlan().toString()
