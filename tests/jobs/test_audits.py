"""The audits find what they must find, say it in words, and leave it in the table `audits`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.audits import (
    AuditResult,
    interactions_suite,
    recommendations_suite,
    record_audits,
    require,
    run_suite,
    sequences_suites,
)
from jobs.errors import AuditFailed
from jobs.lakehouse import Lakehouse
from jobs.schemas import CROSS_SEQUENCES, ITEMS, RECOMMENDATIONS, SINGLE_SEQUENCES
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


def test_each_broken_rule_of_interactions_is_named_and_counted(spark: SparkSession, two: Settings) -> None:
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
        "ts lies on or after 1970-01-02": 1,
        "(user_id, item_id, domain, ts) is unique": 2,
    }
    with pytest.raises(
        AuditFailed, match=r"interactions: 'user_id is never null' broken by 1 of 8 rows.*/staged/x"
    ):
        require(results, staged=Path("/staged/x"))


CROSS = {
    "user_id": "a",
    "split": "serve",
    "item_indexes": [0, 0, 3, 1],
    "domain_codes": [0, 0, 1, 2],
    "times": [0, 0, NOON - DAY, NOON],
    "length": 2,
    "ds": DS,
}
CROSS_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("entries each", {"item_indexes": [0, 3, 1]}),
    ("padding comes first", {"item_indexes": [0, 3, 0, 1]}),
    ("padding comes first", {"domain_codes": [0, 1, 1, 2], "length": 3}),
    ("domain codes lie", {"domain_codes": [0, 0, 1, 3]}),
    ("never decrease", {"times": [0, 0, NOON, NOON - DAY]}),
    ("before the cutoff", {"times": [0, 0, NOON, NOON + DAY]}),
    ("length counts", {"length": 1}),
    ("ds is", {"ds": DS - timedelta(days=1)}),
    ("split is one of", {"split": "holdout"}),
    ("user_id is never null", {"user_id": None}),
    ("padding comes first", {"times": None}),
]


def test_cross_sequences(spark: SparkSession, two: Settings) -> None:
    full = {
        **CROSS,
        "user_id": "f",
        "item_indexes": [1] * 4,
        "domain_codes": [1] * 4,
        "times": [NOON] * 4,
        "length": 9,
    }
    good = [CROSS, {**CROSS, "split": "test"}, full]
    bad = [
        {"user_id": f"u{n}", **{**CROSS, "user_id": f"u{n}"}, **fault} for n, (_, fault) in enumerate(CROSS_FAULTS)
    ]

    def audit(rows: list[dict[str, Any]]) -> list[AuditResult]:
        frame = spark.createDataFrame(rows, CROSS_SEQUENCES.spark_ddl)
        return run_suite("cross_sequences", frame, sequences_suites(two, CUTOFF)["cross_sequences"])

    assert broken(audit(good)) == {}
    results = audit([*good, *bad])
    for words, _ in CROSS_FAULTS:
        assert not rule(results, words).success, words
    assert rule(results, "length counts").failed == 1
    assert rule(audit([CROSS, CROSS]), "is unique").failed == 2


SINGLE = {
    "user_id": "a",
    "domain": "books",
    "split": "serve",
    "item_indexes": [0, 2, 3, 1],
    "places": [-1, -1, 0, 3],
    "times": [0, NOON - DAY, NOON, NOON],
    "length": 3,
    "ds": DS,
}
SINGLE_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("entries each", {"places": [-1, 0, 3]}),
    ("padding comes first", {"times": [0, 0, NOON, NOON]}),
    ("never decrease", {"times": [0, NOON, NOON - DAY, NOON]}),
    ("before the cutoff", {"times": [0, NOON, NOON, NOON + DAY]}),
    ("places lie within", {"places": [-1, -1, 0, 4]}),
    ("places increase", {"places": [-1, -1, 3, 0]}),
    ("places increase", {"places": [-1, -1, 1, 1]}),
    ("places increase", {"places": [0, 1, 2, 3]}),
    ("domain is one of", {"domain": "cars"}),
]


def test_single_sequences(spark: SparkSession, two: Settings) -> None:
    bad = [{**SINGLE, "user_id": f"u{n}", **fault} for n, (_, fault) in enumerate(SINGLE_FAULTS)]

    def audit(rows: list[dict[str, Any]]) -> list[AuditResult]:
        frame = spark.createDataFrame(rows, SINGLE_SEQUENCES.spark_ddl)
        return run_suite("single_sequences", frame, sequences_suites(two, CUTOFF)["single_sequences"])

    assert broken(audit([SINGLE, {**SINGLE, "domain": "toys"}])) == {}
    results = audit([SINGLE, *bad])
    for words, _ in SINGLE_FAULTS:
        assert not rule(results, words).success, words
    assert rule(results, "places increase").failed == 3


def lists(spark: SparkSession, rows: list[tuple[str, str, int, str, float | None, str]]) -> DataFrame:
    return spark.createDataFrame([(*row, "1", "champion", DS) for row in rows], RECOMMENDATIONS.spark_ddl)


def test_recommendations(spark: SparkSession, two: Settings) -> None:
    items = spark.createDataFrame(
        [(domain, item, 1, DS) for domain in ("books", "toys") for item in "xyz"], ITEMS.spark_ddl
    )

    def audit(rows: list[tuple[str, str, int, str, float | None, str]]) -> list[AuditResult]:
        return run_suite(
            "recommendations",
            *recommendations_suite(two.domain_names, two.scoring.top_n, lists(spark, rows), items),
        )

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
            ("twice", "books", 2, "x", 0.5, "model"),
            ("unknown", "books", 1, "q", 0.5, "model"),
            ("nan", "books", 1, "x", float("nan"), "model"),
            ("null", "books", 1, "x", None, "model"),
            ("source", "books", 1, "x", 0.5, "magic"),
        ]
    )
    assert rule(results, "ranks are").failed == 1
    assert rule(results, "no item twice").failed == 1
    assert rule(results, "in the vocabulary").failed == 1
    assert rule(results, "score is a number").failed == 2
    assert rule(results, "model or popularity").failed == 1
    assert not rule(audit(good[:2]), "every domain").success


def test_results_are_recorded_once_per_run_and_table(settings: Callable[..., Settings]) -> None:
    lakehouse = Lakehouse(settings())
    lakehouse.create_tables()
    first = AuditResult(table_name="interactions", rule="r", success=False, checked=4, failed=3, observed="o")
    again = AuditResult(table_name="interactions", rule="r", success=True, checked=4, failed=0, observed="o")
    other = AuditResult(table_name="cross_sequences", rule="s", success=True)
    record_audits(lakehouse, [first, other], DS, "manual")
    record_audits(lakehouse, [again], DS, "manual")
    record_audits(lakehouse, [first], DS, "manual-2")
    rows = lakehouse.read_arrow("audits", lakehouse.current_snapshot("audits")).to_pylist()
    found = sorted((row["run_id"], row["table_name"], row["success"], row["failed"]) for row in rows)
    assert found == [
        ("manual", "cross_sequences", True, None),
        ("manual", "interactions", True, 0),
        ("manual-2", "interactions", False, 3),
    ]
