"""Past nights run again, for real: exactly their days are rewritten, no alias moves, late events are not lost.

`make test-backfill` (SYNCREC_TEST_BACKFILL=1): three nights of a tiny sample, then the middle one again, and a day
before the first one: minutes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.lakehouse import Lakehouse
from jobs.night_log import NightEnd
from jobs.orchestrator import REPOSITORY, airflow_environment, airflow_program, run_night
from jobs.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from jobs.schemas import TABLES
from jobs.settings import load_settings
from tests.night.test_whole_night import TINY, nightly, without_domains

pytestmark = pytest.mark.skipif(not os.environ.get("SYNCREC_TEST_BACKFILL"), reason="minutes: make test-backfill")
BEFORE, FIRST, MIDDLE, LAST = (date(2024, 1, day) for day in (10, 11, 12, 13))
BY_DAY = [name for name in TABLES if name != "items"]
CONTENT = ("interactions", "rejected_interactions", "sequences", "recommendations")
Days = dict[str, dict[Any, dict[str, str]]]


class Project:
    """Three nights of the tiny sample, and what changes them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = home / "syncrec.toml"
        self.config.write_text(without_domains((REPOSITORY / "syncrec.toml").read_text(), "toys", "groceries"))
        for _ in (FIRST, MIDDLE, LAST):
            ended = nightly(home)
            assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-2000:]}"
        self.settings = load_settings(self.config)
        self.lakehouse, self.registry = Lakehouse(self.settings), Registry(self.settings)

    def again(self, ds: date) -> NightEnd:
        environment = airflow_environment(self.settings, self.config) | TINY | {"SYNCREC_RETRIES": "0"}
        return run_night(ds, environment, self.home / f"again-{ds}.log", tell=lambda line: None)

    def days(self) -> Days:
        """Of every table and day the data files, with the hash of their bytes."""
        found: Days = {}
        for name in BY_DAY:
            parts = self.lakehouse.partitions(name, self.lakehouse.current_snapshot(name))
            found[name] = {
                day: {
                    file: hashlib.sha256(Path(file.removeprefix("file://")).read_bytes()).hexdigest()
                    for file in files
                }
                for day, files in parts.items()
            }
        return found

    def rows(self, name: str, ds: date) -> list[str]:
        column = TABLES[name].partition
        table = self.lakehouse.read_arrow(name, self.lakehouse.current_snapshot(name))
        return sorted(str(row) for row in table.to_pylist() if row[column] == ds)

    def aliases(self) -> dict[str, str | None]:
        found = {alias: self.registry.at_alias(alias) for alias in (CHAMPION, CHALLENGER, PREVIOUS)}
        return {alias: version.number if version else None for alias, version in found.items()}

    def night(self, ds: date) -> dict[str, Any]:
        rows = self.lakehouse.read_arrow("nights", self.lakehouse.current_snapshot("nights")).to_pylist()
        return next(row for row in rows if row["ds"] == ds)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        for key, value in {**TINY, "SYNCREC_HOME": str(home)}.items():
            patch.setenv(key, value)
        yield Project(home)


def others(days: Days, ds: date) -> Days:
    return {name: {day: files for day, files in own.items() if day != ds} for name, own in days.items()}


def test_a_past_night_again_rewrites_its_day_and_nothing_else(project: Project) -> None:
    before, aliases, night = project.days(), project.aliases(), project.night(MIDDLE)
    content = {name: project.rows(name, MIDDLE) for name in CONTENT}
    items = project.rows("items", MIDDLE)
    end = project.again(MIDDLE)
    assert end.succeeded, end.failed
    assert end.steps["train"].state == "skipped", "the champion of that day scores"
    after = project.days()
    assert others(after, MIDDLE) == others(before, MIDDLE), "to the byte"
    for name in ("interactions", "sequences", "recommendations", "nights"):
        assert after[name][MIDDLE].keys() != before[name][MIDDLE].keys(), f"{name} was not rewritten"
    assert {name: project.rows(name, MIDDLE) for name in CONTENT} == content, "the same data give the same rows"
    assert project.rows("items", MIDDLE) == items
    assert project.aliases() == aliases
    assert project.night(MIDDLE)["served_version"] == night["served_version"]
    assert project.night(MIDDLE)["run_id"] != night["run_id"]


def test_a_day_without_a_champion_trains_one_of_its_own(project: Project) -> None:
    before, aliases = project.days(), project.aliases()
    end = project.again(BEFORE)
    assert end.succeeded, end.failed
    assert end.steps["train"].state == "success"
    night = project.night(BEFORE)
    version = project.registry.version(night["served_version"])
    assert version.tags["ds"] == str(BEFORE) and version.tags["start"] == "cold"
    assert version.tags["trained_to"] <= str(BEFORE)
    assert version.number not in project.aliases().values()
    assert project.aliases() == aliases
    assert others(project.days(), BEFORE) == others(before, BEFORE)


def test_airflow_backfills_the_days_that_it_is_given(project: Project) -> None:
    environment = airflow_environment(project.settings, project.config)
    done = subprocess.run(
        [airflow_program(), "backfill", "create", "--dag-id", "syncrec_nightly", "--from-date", str(FIRST),
         "--to-date", str(MIDDLE), "--reprocess-behavior", "completed", "--max-active-runs", "1", "--dry-run"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for ds in (FIRST, MIDDLE):
        assert f"{ds}" in done.stdout
    assert str(LAST) not in done.stdout and str(BEFORE) not in done.stdout


def test_late_events_outlive_an_arrival_day_that_is_run_again(project: Project) -> None:
    noon = int(datetime(FIRST.year, FIRST.month, FIRST.day, 12, tzinfo=UTC).timestamp())
    with (project.settings.landing_path / str(LAST) / "books.csv").open("a") as out:
        out.write(f"late-user,late-item,5,{noon}\n")

    def late() -> list[tuple[date, date, date]]:
        table = project.lakehouse.read_arrow("interactions", project.lakehouse.current_snapshot("interactions"))
        own = [row for row in table.to_pylist() if row["user_id"] == "late-user"]
        return [(row["event_day"], row["arrival_ds"], row["known_ds"]) for row in own]

    # The day it arrived on, the day it happened on, and the day it arrived on once more.
    for ds in (LAST, FIRST, LAST):
        done = subprocess.run(
            [sys.executable, "-m", "jobs.ingest", f"--ds={ds}", f"--config={project.config}", "--run-id=again"],
            cwd=REPOSITORY, env=os.environ | TINY, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert late() == [(FIRST, LAST, LAST)], "it counts from the night of the day it arrived on"
