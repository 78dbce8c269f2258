"""Every view and ready query gives the same rows on DuckDB and on Spark SQL, and the planted numbers."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession

from jobs.histories import Histories
from jobs.lakehouse import Lakehouse
from jobs.query import connect, spark_views
from jobs.sequence_nights import past_nights
from jobs.sequence_sets import latest
from jobs.settings import Settings, load_settings
from jobs.splits import split_windows
from jobs.sql_views import SQL, sql_files
from syncrec_model import Vocabulary
from tests.sql.planted import D29, D30, D31, HOSTILE, QUALITY, fill, write_config

VIEWS = [file.stem for file in sql_files("views")]
QUERIES = sql_files("queries")


@pytest.fixture(scope="module")
def duck(planted: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(planted) as connection:
        yield connection


@pytest.fixture(scope="module")
def spark_sql(spark: SparkSession, planted: Settings) -> Iterator[SparkSession]:
    usual = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "1")  # a dozen rows: less waiting
    spark_views(spark, planted)
    yield spark
    spark.conf.set("spark.sql.shuffle.partitions", usual)


def comparable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(round(value, 6) + 0.0 if isinstance(value, float) else value for value in row)


def duck_rows(connection: duckdb.DuckDBPyConnection, text: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    rows = connection.sql(text).to_arrow_table()
    return rows.column_names, [comparable(tuple(row.values())) for row in rows.to_pylist()]


def spark_rows(spark: SparkSession, text: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    rows = spark.sql(text).toArrow()
    return rows.column_names, [comparable(tuple(row.values())) for row in rows.to_pylist()]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_the_same_on_both_engines(
    duck: duckdb.DuckDBPyConnection, spark_sql: SparkSession, view: str
) -> None:
    names, rows = duck_rows(duck, f"select * from {view}")
    spark_names, from_spark = spark_rows(spark_sql, f"select * from {view}")
    assert names == spark_names
    assert rows, "the planted tables leave no view empty"
    assert sorted(rows, key=repr) == sorted(from_spark, key=repr)


def test_the_views_of_sequences_are_what_the_model_reads(
    duck: duckdb.DuckDBPyConnection, planted: Settings
) -> None:
    lakehouse = Lakehouse(planted)
    night = past_nights(lakehouse, lakehouse.current_snapshot("sequences"))[0]
    assert (night.ds, night.base_ds) == (D31, D29)
    histories = Histories.of(latest(lakehouse.read_arrow("sequences", night.snapshot, night.rows())))
    vocabulary = Vocabulary(("books", "toys"), (["b1", "b2", "b3"], ["t1", "t2", "t3"]))
    cross, single, n_truncated = {}, {}, 0
    for window in split_windows(datetime(2024, 2, 1, tzinfo=UTC), 1, 1):
        made = histories.cut(window, vocabulary, planted.domain_names, planted.sequences.max_length)
        n_truncated += int((made.cross_lengths_U > 2).sum())
        for row, user in enumerate(made.user_ids):
            arrays = (made.cross_items_UT[row].tolist(), made.cross_domains_UT[row].tolist())
            cross[user, window.split] = (*arrays, int(made.cross_lengths_U[row]))
        for row, (user, code) in enumerate(zip(made.single_users_N, made.single_domains_N, strict=True)):
            arrays = (made.single_items_NT[row].tolist(), made.single_places_NT[row].tolist())
            key = (made.user_ids[user], vocabulary.domains[code - 1], window.split)
            single[key] = (*arrays, int(made.single_lengths_N[row]))
    assert n_truncated and len({split for _, split in cross}) == 4
    rows = duck.sql("select user_id, split, item_indexes, domain_codes, length from cross_sequences").fetchall()
    assert {row[:2]: row[2:] for row in rows} == cross
    text = "select user_id, domain, split, item_indexes, places, length from single_sequences"
    assert {row[:3]: row[3:] for row in duck.sql(text).fetchall()} == single


@pytest.mark.parametrize("file", QUERIES, ids=lambda file: file.stem)
def test_a_query_is_the_same_on_both_engines(
    duck: duckdb.DuckDBPyConnection, spark_sql: SparkSession, file: Path
) -> None:
    names, rows = duck_rows(duck, file.read_text())
    spark_names, from_spark = spark_rows(spark_sql, file.read_text())
    assert names == spark_names
    assert rows, "the planted tables leave no query empty"
    assert rows == from_spark, "same rows in the same order"


def ready(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    names, rows = duck_rows(connection, (SQL / "queries" / f"{name}.sql").read_text())
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_ntg_by_day_shows_the_planted_gap_of_the_version_trained_that_night(
    duck: duckdb.DuckDBPyConnection,
) -> None:
    rows = {(row["ds"], row["domain"]): row for row in ready(duck, "ntg_by_day")}
    for (night, version, role), domains in QUALITY.items():
        if role != "challenger":
            continue
        for domain, (cross, single, served, weight) in domains.items():
            row = rows[night, domain]
            assert row["model_version"] == version
            assert row["ntg_ndcg"] == pytest.approx(cross - single)
            assert row["ntg_served"] == pytest.approx(served - single)
            assert row["ntg_loss"] == pytest.approx(10 * (cross - single))
            assert row["lambda_weight"] == weight
    assert rows[D29, "toys"]["transfer"] == "hurts"
    assert rows[D29, "books"]["transfer"] == "helps"
    assert all((row["transfer"] is None) == (row["low"] is None) for row in rows.values())
    assert [rows[night, "toys"]["published"] for night in (D29, D30, D31)] == [True, True, False]
    assert [rows[night, "toys"]["decision"] for night in (D29, D30, D31)] == ["promoted", "promoted", None]


def test_ntg_by_night_names_the_served_view_and_what_validation_said_of_every_view(
    duck: duckdb.DuckDBPyConnection,
) -> None:
    columns = (
        "served_view, cross_valid, cross_valid_low, cross_valid_high, blend_valid, blend_valid_high, cases_valid"
    )
    where = f"model_version = '2' and ds = date '{D30}'"
    _, rows = duck_rows(duck, f"select domain, {columns} from ntg_by_night where {where} order by domain")
    assert rows == [
        ("books", "blend", 0.04, 0.03, 0.05, 0.05, 0.06, 100),
        ("macro", *[None] * 7),
        ("min", *[None] * 7),
        ("toys", "single", -0.02, -0.03, -0.01, 0.01, 0.02, 100),
    ]


def test_recommendations_of_the_first_user_come_from_the_published_night(duck: duckdb.DuckDBPyConnection) -> None:
    rows = ready(duck, "top_recommendations_of_a_user")
    assert [(row["user_id"], row["domain"], row["rank"], row["item_id"]) for row in rows] == [
        ("ann", "books", 1, "b1"),
        ("ann", "books", 2, HOSTILE),
        ("ann", "toys", 1, "t2"),
        ("ann", "toys", 2, "t1"),
    ]


def test_the_user_is_chosen_by_editing_one_line(duck: duckdb.DuckDBPyConnection) -> None:
    text = (SQL / "queries" / "top_recommendations_of_a_user.sql").read_text()
    _, rows = duck_rows(duck, text.replace("select '' as user_id", "select 'cai' as user_id"))
    assert [row[0] for row in rows] == ["cai"]


def test_yesterdays_lists_can_be_read_again(duck: duckdb.DuckDBPyConnection) -> None:
    rows = ready(duck, "recommendations_of_a_day")
    assert [(row["ds"], row["domain"], row["item_id"], row["rank_now"]) for row in rows] == [
        (D29, "books", "b1", 1),
        (D29, "books", "b2", None),
        (D29, "toys", "t1", 2),
        (D29, "toys", "t2", 1),
    ]


def test_coverage_counts_only_items_that_the_night_could_know(duck: duckdb.DuckDBPyConnection) -> None:
    books, toys = ready(duck, "coverage_by_domain")
    assert (books["catalogue_items"], books["recommended_items"], books["coverage"]) == (3, 3, 1.0)
    assert books["gini"] == pytest.approx(1 / 6, abs=1e-4)  # users an item: 2, 1, 1
    assert (toys["catalogue_items"], toys["gini"]) == (2, 0.25)  # t3 arrived later; users an item: 3, 1


def test_fallback_share(duck: duckdb.DuckDBPyConnection) -> None:
    shares = {(row["ds"], row["domain"]): row["fallback_share"] for row in ready(duck, "fallback_share")}
    assert shares == {(D30, "books"): 0.0, (D30, "toys"): 0.25, (D29, "books"): 0.25, (D29, "toys"): 0.5}


def test_changes_since_yesterday(duck: duckdb.DuckDBPyConnection) -> None:
    rows = [
        (row["domain"], row["recommendations"], row["kept"], row["kept_share"], row["users_new"])
        for row in ready(duck, "changes_since_yesterday")
    ]
    assert rows == [("books", 4, 2, 0.5, 0), ("toys", 4, 3, 0.75, 1)]


def test_without_a_night_before_no_share_was_kept_is_not_said(tmp_path: Path) -> None:
    settings = load_settings(write_config(tmp_path))
    fill(settings, nights=(D29,))
    with connect(settings) as connection:
        rows = ready(connection, "changes_since_yesterday")
    assert rows and {row["kept_share"] for row in rows} == {None}


def test_metric_trend_follows_a_version_from_challenger_to_champion(duck: duckdb.DuckDBPyConnection) -> None:
    rows = [row for row in ready(duck, "metric_trend_by_version") if row["model_version"] == "1"]
    assert [(row["ds"], row["role"], row["ndcg_10"], row["worst_domain"]) for row in rows] == [
        (D30, "champion", pytest.approx(0.2445), pytest.approx(0.189)),
        (D29, "challenger", pytest.approx(0.2545), pytest.approx(0.199)),
    ]


def test_rejected_lines_are_a_share_of_their_source(duck: duckdb.DuckDBPyConnection) -> None:
    rows = [(row["arrival_ds"], row["reason"], row["lines"], row["share_of_lines"]) for row in
            ready(duck, "rejected_lines")]  # fmt: skip
    assert rows == [(D30, "broken_line", 1, 1.0), (D29, "bad_time", 2, 0.4), (D29, "null_user", 1, 0.2)]


def test_audit_results_show_the_broken_rule_first(duck: duckdb.DuckDBPyConnection) -> None:
    rows = ready(duck, "audit_results")
    assert (rows[0]["ds"], rows[0]["result"], rows[0]["failed"]) == (D31, "BROKEN", 5)
    assert {row["result"] for row in rows[1:]} == {"held"}


def test_data_in_by_day_counts_late_events(duck: duckdb.DuckDBPyConnection) -> None:
    late = {(row["arrival_ds"], row["domain"]): row["late_events"] for row in ready(duck, "data_in_by_day")}
    assert late[D29, "books"] == 1
    assert sum(late.values()) == 1


def test_sample_users_of_the_report_are_long_middle_and_short(duck: duckdb.DuckDBPyConnection) -> None:
    (file,) = (file for file in sql_files("report") if file.stem == "sample_users")
    rows = duck.execute(file.read_text(), {"ds": date(2024, 1, 30)}).fetchall()
    assert rows == [("ann", 4, 2), ("bob", 3, 2), ("cai", 2, 2)]


@pytest.mark.parametrize("file", [*sql_files("views"), *QUERIES], ids=lambda file: file.stem)
def test_the_form_of_a_file(file: Path) -> None:
    lines = file.read_text().splitlines()
    header = [line for line in lines if line.startswith("--")]
    assert lines[-1].startswith("select * from final")
    if file.parent.name == "queries":
        assert header[0].endswith("?"), "a query's title is a question"
        assert header[1].startswith("-- How to read:")
    else:
        assert any(line.startswith("-- Grain:") for line in header)
        assert "-- Columns:" in header
