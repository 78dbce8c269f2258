"""What all tests share: one Spark session, a project with filled tables, settings of a small one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from sqlalchemy import event
from sqlalchemy.engine import Engine

from jobs.settings import Settings, load_settings
from jobs.spark import spark_session

SettingsFactory = Callable[..., Settings]

SMALL: dict[str, Any] = {
    "night": {"bootstrap_through": "2024-01-05"},
    "domains": {"books": {}, "toys": {}, "groceries": {"repeats": True}},
    "sources": (
        {
            "name": "books",
            "files": "books*.csv",
            "format": "csv",
            "columns": ("user", "item", "rating", "time"),
            "domain": "books",
            "user": "user",
            "item": "item",
            "time": "time",
            "time_unit": "s",
        },
        {
            "name": "toys",
            "files": "toys*.csv*",
            "format": "csv",
            "header": True,
            "domain": "toys",
            "user": "user_id",
            "item": "asin",
            "time": "timestamp",
            "time_unit": "ms",
        },
        {
            "name": "mixed",
            "files": "mixed*.jsonl*",
            "format": "jsonl",
            "domain_column": "shop",
            "user": "user",
            "item": "item",
            "time": "at",
            "time_unit": "timestamp",
        },
        {
            "name": "groceries",
            "files": "groceries*.parquet",
            "format": "parquet",
            "domain": "groceries",
            "user": "user",
            "item": "item",
            "time": "at",
            "time_unit": "timestamp",
        },
    ),
    "sequences": {"max_length": 8, "valid_days": 1, "test_days": 1},
    "spark": {"shuffle_partitions": 2, "driver_memory": "1g"},
}
# On frames of ten rows Spark spends its time on compiling, not on running: let it interpret.
INTERPRET = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}

SLOWEST = ("tests/night", "tests/jobs/test_score_reuse.py", "tests/dags", "tests/jobs/test_maintain.py")
"""What takes longest goes first, so that two processes end at about the same time (`make test`)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(SLOWEST) if item.nodeid.startswith(start)), len(SLOWEST))

    items.sort(key=place)


@event.listens_for(Engine, "connect")
def no_waiting_for_the_disk(connection: Any, record: Any) -> None:
    """Tests kill processes, never the machine: SQLite need not wait until a commit is on the disk."""
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture
def settings(tmp_path: Path) -> SettingsFactory:
    """Make settings: `settings()` is the small project, `settings(landing={"marker": None})` changes a section."""

    def make(**changes: Any) -> Settings:
        return Settings(**{"state_dir": tmp_path / "state", **SMALL, **changes})

    return make


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One Spark session for all tests; starting one takes seconds."""
    options = {**SMALL["spark"], "options": INTERPRET}
    small = Settings(**{"state_dir": tmp_path_factory.mktemp("spark"), **SMALL, "spark": options})
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")  # quick to start
    with spark_session(small, "tests") as session:
        yield session


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A small project whose tables are filled with the numbers of tests/sql/planted.py; read only."""
    from tests.sql.planted import fill, write_config

    settings = load_settings(write_config(tmp_path_factory.mktemp("planted")))
    fill(settings)
    return settings


@pytest.fixture(scope="session")
def reported(planted: Settings) -> Path:
    """The configuration file of the planted project, once the page of each of its nights is written."""
    from jobs.report import main
    from tests.sql.planted import RUNS

    config = planted.state.parent / "syncrec.toml"
    for day in RUNS:
        assert main(["--config", str(config), "--ds", day.isoformat()]) == 0
    return config
