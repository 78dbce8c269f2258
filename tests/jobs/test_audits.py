"""The audits find what they must find, say it in words, and leave it in the table `audits`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.arms import Split
from jobs.audits import (
    AuditResult,
    RowRule,
    SetRule,
    UniqueRule,
    count_broken,
    interactions_suite,
    items_suite,
    judge,
    recommendations_suite,
    record_audits,
    require,
    run_suite,
    sequences_suite,
)
from jobs.errors import AuditFailed
from jobs.lakehouse import Lakehouse
from jobs.list_audit import lists_in
from jobs.schemas import ANYONE, ITEMS, RECOMMENDATIONS, SEQUENCES, Table
from jobs.settings import Settings

DS = date(2024, 1, 5)
CUTOFF = datetime(2024, 1, 6, tzinfo=UTC)
TWO = {"domains": {"books": {}, "toys": {}}, "sequences": {"max_length": 4}, "scoring": {"top_n": 3}}
DAY = 86_400_000_000
NOON = int(datetime(2024, 1, 5, 12, tzinfo=UTC).timestamp()) * 1_000_000


def broken(results: list[AuditResult]) -> dict[str, int | None]:
    return {result.rule: result.failed for result in results if not result.success}


def rule(results: list[AuditResult], words: str) -> AuditResult:
    return next(result for result in results if words in result.rule)


def events(spark: SparkSession, rows: list[tuple[str | None, str | None, str, datetime]]) -> DataFrame:
    frame = spark.createDataFrame(rows, "user_id string, item_id string, domain string, ts timestamp")
    return frame.withColumns(
        {
            "event_id": F.xxhash64("user_id", "item_id", "domain", "ts"),
            "event_day": F.to_date("ts"),
            "source": F.lit("test"),
            "item_index": F.lit(1),
            "known_ds": F.lit(DS),
            "arrival_ds": F.lit(DS),
        }
    )


@pytest.fixture
def two(settings: Callable[..., Settings]) -> Settings:
    """Two domains, sequences of four, lists of three."""
    source = {"name": "books", "files": "*.csv", "format": "jsonl", "domain": "books", "time_unit": "s"}
    return settings(**TWO, sources=({**source, "user": "u", "item": "i", "time": "t"},))


def test_interactions_that_keep_every_rule_pass(spark: SparkSession, two: Settings) -> None:
    noon = datetime(2024, 1, 5, 12, tzinfo=UTC)
    frame = events(spark, [("a", "x", "books", noon), ("a", "x", "toys", noon), ("b", "x", "books", noon)])
    results = run_suite("interactions", frame, interactions_suite(two, DS, DS))
    assert broken(results) == {}
    assert {result.checked for result in results} == {3}
    require(results)


def test_each_broken_rule_of_interactions_is_named_and_counted(
    spark: SparkSession, two: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    noon = datetime(2024, 1, 5, 12, tzinfo=UTC)
    rows = [
        (None, "x", "books", noon),
        ("b", None, "books", noon),
        ("c", "x", "cars", noon),
        ("d", "x", "books", CUTOFF),
        ("e", "x", "books", datetime(1970, 1, 1, 9, tzinfo=UTC)),
        ("f", "x", "books", noon),
        ("f", "x", "books", noon),
        ("g", "y" * 1001, "books", noon),
    ]
    early = DS - timedelta(days=2)
    results = run_suite("interactions", events(spark, rows), interactions_suite(two, early, DS))
    assert broken(results) == {
        "user_id is never null": 1,
        "item_id is never null": 1,
        "domain is one of books, toys": 1,
        "ids have 1 to 1,000 characters": 3,
        "ts lies before the midnight after the arrival day": 1,
        "ts lies on or after 1971-01-01": 1,
        "(user_id, item_id, domain, ts) is unique": 2,
    }
    with (
        caplog.at_level("INFO", logger="syncrec"),
        pytest.raises(AuditFailed, match=r"interactions: 1 of 8 rows, against the rule 'user_id is never null'"),
    ):
        require(results, staged=[Path("/staged/x"), Path("/staged/y")])
    assert caplog.messages[-2:] == ["staged files left in /staged/x", "staged files left in /staged/y"]


def test_an_audit_of_recommendations_counts_lists(caplog: pytest.LogCaptureFixture) -> None:
    whole = AuditResult(table_name="recommendations", rule="r", success=True, checked=14740, failed=0)
    with caplog.at_level("INFO", logger="syncrec"):
        require([whole])
    assert caplog.messages == ["audit of recommendations: 1 rules hold, 14,740 lists checked"]
    with pytest.raises(AuditFailed, match="5 of 14,740 lists, against the rule 'r'"):
        require([replace(whole, success=False, failed=5)])


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("ts is never null", {"ts": "cast(null as timestamp)"}),
        ("domain is never null", {"domain": "cast(null as string)"}),
        ("event_id is never null", {"event_id": "cast(null as bigint)"}),
        ("event_id is the hash", {"event_id": "5L"}),
        ("event_day is the day of ts", {"event_day": "date '2024-01-04'"}),
        ("item_index is at least 1", {"item_index": "0"}),
        ("known_ds is arrival_ds or later", {"known_ds": "date '2024-01-04'"}),
        ("arrival_ds is", {"arrival_ds": "date '2024-01-06'", "known_ds": "date '2024-01-06'"}),
    ],
)
def test_one_wrong_event_breaks_its_rule(
    spark: SparkSession, two: Settings, words: str, change: dict[str, str]
) -> None:
    noon = datetime(2024, 1, 5, 12, tzinfo=UTC)
    wrong = events(spark, [("b", "x", "books", noon)])
    wrong = wrong.withColumns({name: F.expr(value) for name, value in change.items()})
    counted = count_broken(
        events(spark, [("a", "x", "books", noon)]).unionByName(wrong), rules := interactions_suite(two, DS, DS)
    )
    broken = [own.words for own, failed in zip(rules, counted.broken, strict=True) if failed == 1]
    assert any(said.startswith(words) for said in broken)


def test_the_vocabulary_has_no_gap_no_repetition_and_one_index_an_item(spark: SparkSession) -> None:
    def audit(*rows: tuple[str, str, int]) -> dict[str, int | None]:
        items = spark.createDataFrame(rows, "domain string, item_id string, item_index int")
        return broken(run_suite("items", *items_suite(items)))

    gapless, once = "item indexes of a domain are 1, 2, 3, ... without gap or repetition", "no item of a domain"
    assert audit(("books", "x", 1), ("books", "y", 2), ("toys", "x", 1)) == {}
    assert audit(("books", "x", 1), ("books", "y", 3), ("toys", "x", 1)) == {gapless: 1}
    assert audit(("books", "x", 1), ("books", "y", 1), ("toys", "x", 2)) == {gapless: 2}
    assert audit(("books", "x", 1), ("books", "x", 2)) == {f"{once} has two indexes": 1}


def test_a_suite_is_one_pass_and_says_what_it_added_up(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("a", 1), ("a", 5), (None, 7)], "name string, n bigint")
    rules = [RowRule("n is small", F.col("n") < 6), SetRule("a and b", "name", ("a", "b"))]
    counted = count_broken(frame, rules, sums=["n"])
    assert (counted.rows, list(counted.broken), counted.sums) == (3, [1, 1], {"n": 13})
    assert [result.success for result in judge("t", rules, counted)] == [False, False]
    assert count_broken(frame.where("n > 9"), rules, sums=["n"]).sums == {"n": 0}
    assert list(count_broken(frame, [UniqueRule("names", ("name",))]).broken) == [2]


ROW = {
    "user_id": "a",
    "items": [3, 1, 2],
    "domains": [1, 2, 2],
    "times": [NOON - DAY, NOON, NOON],
    "event_ids": [9, -4, 7],
    "older_items": [(1 << 32) + 5, (2 << 32) + 1],
    "n_events": 6,
    "ds": DS,
}
ROW_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("one length", {"items": [3, 1]}),
    ("one length", {"items": [], "domains": [], "times": [], "event_ids": []}),
    ("in order", {"times": [NOON, NOON - DAY, NOON]}),
    ("in order", {"event_ids": [9, 7, -4]}),
    ("before the cutoff", {"times": [NOON - DAY, NOON, NOON + DAY]}),
    ("domain codes lie", {"domains": [1, 2, 3]}),
    ("domain codes lie", {"domains": [0, 1, 2]}),
    ("item indexes", {"items": [3, 0, 2]}),
    ("item indexes", {"items": [3, None, 2]}),
    ("domain codes lie", {"domains": [1, None, 2]}),
    ("before the cutoff", {"times": [NOON - DAY, None, NOON]}),
    ("ascending", {"older_items": [(2 << 32) + 1, (1 << 32) + 5]}),
    ("ascending", {"older_items": [(1 << 32) + 5, (1 << 32) + 5]}),
    ("older items have", {"older_items": [(3 << 32) + 5]}),
    ("at least the events kept", {"n_events": 2}),
    ("ds is", {"ds": DS - timedelta(days=1)}),
    ("user_id is never null", {"user_id": None}),
    ("in order", {"times": None}),
]


def test_sequences(spark: SparkSession, two: Settings) -> None:
    def audit(rows: list[dict[str, Any]]) -> list[AuditResult]:
        frame = spark.createDataFrame(rows, SEQUENCES.spark_ddl)
        return run_suite("sequences", frame, sequences_suite(two, CUTOFF))

    assert broken(audit([ROW, {**ROW, "user_id": "b", "older_items": [], "n_events": 3}])) == {}
    bad = [{**ROW, "user_id": f"u{n}", **fault} for n, (_, fault) in enumerate(ROW_FAULTS)]
    results = audit([ROW, *bad])
    for words, _ in ROW_FAULTS:
        assert not rule(results, words).success, words
    assert rule(results, "at least the events kept").failed == 1
    assert rule(results, "domain codes lie").failed == 3
    assert rule(audit([ROW, ROW]), "is unique").failed == 2


Row = tuple[str | None, str, int, str, float | None, str]


def write(file: Path, table: Table, rows: list[Any]) -> str:
    values = [dict(zip(table.column_names, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(values, schema=table.arrow_schema), file)
    return f"file://{file}"


def test_recommendations(spark: SparkSession, two: Settings, tmp_path: Path) -> None:
    known = [(domain, item, 1, DS) for domain in ("books", "toys") for item in "xyz"]
    later = ("books", "q", 4, DS + timedelta(days=1))
    items = write(tmp_path / "items.parquet", ITEMS, [*known, later])

    def audit(*files: list[Row]) -> list[AuditResult]:
        staged = [
            write(tmp_path / f"{n}.parquet", RECOMMENDATIONS, [(*row, "1", "champion", DS) for row in rows])
            for n, rows in enumerate(files)
        ]
        lists = lists_in(spark, staged, [items], DS)
        rules = recommendations_suite(two.domain_names, two.scoring.top_n, {"champion": "1"})
        return run_suite("recommendations", lists, rules)

    good = [
        ("a", "books", 1, "x", 0.5, "model"),
        ("a", "books", 2, "y", 0.1, "popularity"),
        ("a", "toys", 1, "x", 0.5, "model"),
    ]
    assert broken(audit(good)) == {}
    results = audit(
        [
            *good,
            ("gap", "books", 1, "x", 0.5, "model"),
            ("gap", "books", 3, "y", 0.5, "model"),
            ("twice", "books", 1, "x", 0.5, "model"),
            ("twice", "books", 2, "y", 0.5, "model"),
            ("twice", "books", 3, "x", 0.5, "model"),
            ("unknown", "books", 1, "q", 0.5, "model"),
            ("nan", "books", 1, "x", float("nan"), "model"),
            ("null", "books", 1, "x", None, "model"),
            ("source", "books", 1, "x", 0.5, "magic"),
            (None, "books", 1, "x", 0.5, "model"),
        ]
    )
    assert rule(results, "ranks are").failed == 1
    assert rule(results, "no item twice").failed == 1
    assert rule(results, "in the vocabulary").failed == 1
    assert rule(results, "score is a number").failed == 2
    assert rule(results, "model or popularity").failed == 1
    assert rule(results, "never null").failed == 1
    assert not rule(audit(good[:2]), "every domain").success
    for split in (audit(good[:1], good[1:]), audit([good[0], good[2], good[1]])):
        assert rule(split, "in one piece").failed == 1


def test_lists_are_of_the_arm_of_their_user_and_of_its_version(
    spark: SparkSession, two: Settings, tmp_path: Path
) -> None:
    split = Split(name="x", share=0.5)
    assert [split.is_candidate(user) for user in ("u1", "u2")] == [True, False]
    items = write(tmp_path / "items.parquet", ITEMS, [(domain, "x", 1, DS) for domain in ("books", "toys")])

    def audit(*rows: tuple[str, str, str]) -> dict[str, int | None]:
        lists = [(user, domain, 1, "x", 0.5, "model", version, arm, DS) for user, version, arm in rows
                 for domain in ("books", "toys")]  # fmt: skip
        staged = write(tmp_path / "lists.parquet", RECOMMENDATIONS, lists)
        rules = recommendations_suite(("books", "toys"), 20, {"champion": "1", "candidate": "2"}, split)
        return broken(run_suite("recommendations", lists_in(spark, [staged], [items], DS), rules))

    good = [("u1", "2", "candidate"), ("u2", "1", "champion"), (ANYONE, "1", "champion")]
    assert audit(*good) == {}
    arm, version = "every list is of the arm that its user is in", "the model version is that of the arm"
    assert audit(*good, ("u1", "1", "champion")) == {arm: 2}
    assert audit(("u1", "1", "candidate"), *good[1:]) == {version: 2}
    assert audit(*good, ("u3", "3", "green"))[arm] == 2


def test_results_are_recorded_once_per_run_and_table(settings: Callable[..., Settings]) -> None:
    lakehouse = Lakehouse(settings())
    lakehouse.create_tables()
    first = AuditResult(table_name="interactions", rule="r", success=False, checked=4, failed=3, observed="o")
    again = AuditResult(table_name="interactions", rule="r", success=True, checked=4, failed=0, observed="o")
    other = AuditResult(table_name="sequences", rule="s", success=True)
    record_audits(lakehouse, [first, other], DS, "manual")
    record_audits(lakehouse, [again], DS, "manual")
    record_audits(lakehouse, [first], DS, "manual-2")
    rows = lakehouse.read_arrow("audits", lakehouse.current_snapshot("audits")).to_pylist()
    found = sorted((row["run_id"], row["table_name"], row["success"], row["failed"]) for row in rows)
    assert found == [
        ("manual", "interactions", True, 0),
        ("manual", "sequences", True, None),
        ("manual-2", "interactions", False, 3),
    ]
