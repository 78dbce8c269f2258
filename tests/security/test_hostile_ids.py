"""Ids are values, never text of a statement or of a path: hostile ones come out of every table as they went in."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import command
from jobs.build_sequences import main as build_sequences
from jobs.lakehouse import Lakehouse
from jobs.query import connect, spark_views
from jobs.schemas import TABLES
from jobs.settings import Settings
from tests.jobs.test_ingest import Project

DAY = date(2024, 1, 5)
HOSTILE = (
    "'; drop table interactions; --",
    "' or '1'='1",
    '"; drop view items; --',
    "x' union select * from nights --",
    "${spark.sql.shuffle.partitions}",
    "{ds}",
    "%s %(id)s ?",
    "../../../etc/passwd",
    "ds=2024-01-01/part-0",
    "\\'; select 1; \\",
    "<script>alert(1)</script>",
    "$(touch touched)",
)


@pytest.fixture
def project(
    spark: SparkSession, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> tuple[Settings, Lakehouse]:
    """One ingested day whose users and items all have hostile ids, with its sequences."""
    made = Project(settings(), monkeypatch)
    at = datetime(2024, 1, 5, 12, tzinfo=UTC)
    lines = [
        json.dumps({"user": user, "item": item, "shop": "books", "at": at.replace(minute=minute).isoformat()})
        for user in HOSTILE
        for minute, item in enumerate(HOSTILE)
    ]
    made.land(DAY, mixed_jsonl="\n".join(lines))
    assert made.ingest(DAY) == 0
    monkeypatch.setattr(command, "load_settings", lambda path: made.settings)
    assert build_sequences([f"--ds={DAY}"]) == 0
    return made.settings, made.lakehouse


def test_hostile_ids_are_values_everywhere(
    project: tuple[Settings, Lakehouse], spark: SparkSession, tmp_path: Path
) -> None:
    settings, lakehouse = project
    read = {
        name: lakehouse.read_arrow(name, lakehouse.current_snapshot(name)).to_pylist()
        for name in ("interactions", "items", "sequences")
    }
    assert {(row["user_id"], row["item_id"]) for row in read["interactions"]} == {
        (user, item) for user in HOSTILE for item in HOSTILE
    }
    assert {row["item_id"] for row in read["items"]} == set(HOSTILE)
    assert {row["user_id"] for row in read["sequences"]} == set(HOSTILE)
    with connect(settings) as connection:
        assert _users(connection.execute("select distinct user_id from interactions").fetchall()) == set(HOSTILE)
        for user in HOSTILE:
            found = connection.execute("select count(*) from interactions where user_id = ?", [user]).fetchone()
            assert found == (len(HOSTILE),)
        there = _users(connection.execute("select distinct table_name from duckdb_columns()").fetchall())
    assert set(TABLES) <= there
    spark_views(spark, settings)
    assert _users(spark.sql("select distinct user_id from interactions").collect()) == set(HOSTILE)
    ids = [name for name in HOSTILE if "/" not in name]
    paths = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert not [path for path in paths if any(name in path for name in ids)], "an id became a file name"
    assert not [path for path in paths if "passwd" in path or path.endswith("touched")]


def _users(rows: list[Any]) -> set[str]:
    return {row[0] for row in rows}
