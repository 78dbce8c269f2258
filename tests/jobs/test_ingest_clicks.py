"""Click logs become impressions: completely, replaceably, with the arm that was shown; and no night needs them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyiceberg.expressions import EqualTo
from pyspark.sql import SparkSession

from jobs import clicks, command
from jobs.clicks import nights_shown
from jobs.command import SKIPPED_EXIT_CODE
from jobs.ingest_clicks import main
from jobs.lakehouse import Lakehouse
from jobs.landing import find_files
from jobs.schemas import ANYONE, TABLES
from jobs.settings import Settings
from tests.jobs.opened_sessions import opened_sessions

D1, D2, D3 = (date(2024, 1, day) for day in (29, 30, 31))
SOURCE = {
    "name": "clicks", "files": "clicks*.csv", "format": "csv",
    "columns": ("user", "shop", "item", "at", "hit", "arm"),
    "domain_column": "shop", "user": "user", "item": "item", "time": "at", "time_unit": "s", "clicked": "hit",
    "arm": "arm",
}  # fmt: skip


class Project:
    """A project with the lists of two nights; ann and bob are in different arms."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        monkeypatch.setattr(command, "load_settings", lambda path: self.settings)
        self.lakehouse = Lakehouse(settings)
        self.lakehouse.create_tables()
        for ds in (D1, D2):
            row = {"domain": "books", "rank": 1, "item_id": "b", "score": 1.0, "source": "model", "ds": ds}
            arms = {"ann": "champion", "bob": "candidate" if ds == D2 else "champion", ANYONE: "champion"}
            self.put("recommendations", ds, [{**row, "user_id": user, "arm": arm} for user, arm in arms.items()])
            self.put("nights", ds, [{"ds": ds, "run_id": "r", "decision": "promoted"}])

    def put(self, name: str, ds: date, rows: list[dict[str, Any]]) -> None:
        table = pa.Table.from_pylist(rows, schema=TABLES[name].arrow_schema)
        files = self.lakehouse.stage_arrow(name, table, ds, "test")
        self.lakehouse.replace(name, EqualTo("ds", ds.isoformat()), files, ds=ds, run_id="test")

    def land(self, day: date, *lines: str) -> Path:
        folder = self.settings.landing_path / day.isoformat()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clicks.csv").write_text("".join(f"{line}\n" for line in lines))
        (folder / "_SUCCESS").touch()
        return folder

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        found = self.lakehouse.read_arrow(table, self.lakehouse.current_snapshot(table)).to_pylist()
        return sorted((tuple(row[name] for name in columns) for row in found), key=str)


@pytest.fixture
def project(spark: SparkSession, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(settings(click_sources=(SOURCE,)), monkeypatch)


def at(day: date, hour: int = 12) -> int:
    return int(datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp())


def test_a_day_of_clicks_with_everything_wrong(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.land(
        D3,
        f"ann,books,b,{at(D3)},0,",
        f"ann,books,b,{at(D3)},1,",  # its click, as a line of its own
        f"bob,toys,t,{at(D3)},FALSE,",
        f"bob,toys,t,{at(D3, 13)},yes,champion",  # the log says what was shown
        f"bob,books,b,{at(D2)},0,",  # late: from the lists of the night before
        f"cyd,books,b,{at(D3)},1,",  # a stranger
        f"dan,books,b,{at(D3)},maybe,",
        f"dan,books,b,{at(D3)},,",
        f"dan,books,b,{at(D3)},1,green",
        f"dan,cars,b,{at(D3)},1,",
        f",books,b,{at(D3)},1,",
        f"dan,books,b,{at(D3) + 86400},1,",
        "dan,books",
    )
    (folder / "books.csv").write_text("a line of events, which is not read here\n")
    (folder / "notes.txt").write_text("a stranger")
    asked = opened_sessions(monkeypatch, clicks)
    monkeypatch.setattr(clicks, "QUICK_ROWS", 14)  # of its lines there are 13
    assert main(["--ds", D3.isoformat()]) == 0
    assert asked == [{"quick": True}]
    columns = ("user_id", "domain", "clicked", "arm", "listed_arm", "night_ds", "event_day", "arrival_ds")
    assert project.rows("impressions", *columns) == [
        ("ann", "books", True, "champion", "champion", D2, D3, D3),
        ("bob", "books", False, "champion", "champion", D1, D2, D3),
        ("bob", "toys", False, "candidate", "candidate", D2, D3, D3),
        ("bob", "toys", True, "champion", "candidate", D2, D3, D3),
        ("cyd", "books", True, None, None, D2, D3, D3),
    ]
    refused = Counter(row[0] for row in project.rows("rejected_impressions", "reason", "source"))
    assert refused == {
        "bad_clicked": 2, "unknown_arm": 1, "unknown_domain": 1, "null_user": 1, "future_time": 1, "broken_line": 1,
    }  # fmt: skip
    audits = {row[0]: row[1:] for row in project.rows("audits", "rule", "success", "observed", "table_name")}
    assert all(row[0] and row[2] == "impressions" for row in audits.values())
    assert audits["lines read = impressions + rejected lines + duplicates"][1] == "13 = 5 + 7 + 1"
    told = capsys.readouterr().out
    assert "2024-01-31/notes.txt belongs to no source" in told and "books.csv belongs" not in told
    files, strangers = find_files(
        folder.parent, [D3], project.settings.sources, None, project.settings.click_sources
    )
    assert [file.path.name for file in files] == ["books.csv"] and strangers == ["2024-01-31/notes.txt"]

    project.land(D3, f"ann,books,b,{at(D3)},0,")
    assert main(["--ds", D3.isoformat()]) == 0
    assert project.rows("impressions", "user_id", "clicked") == [("ann", False)], "a day run again replaces its day"
    assert project.rows("rejected_impressions", "reason") == []

    project.land(D3, *[f"ann,books,b,{at(D3, n)},perhaps," for n in range(12)])
    assert main(["--ds", D3.isoformat()]) == 1
    error = capsys.readouterr().err
    assert "12 of 12 rows, against the rule" in error and "clicked = 'hit'" in error
    assert project.rows("impressions", "user_id", "clicked") == [("ann", False)], "nothing was published"


def test_without_click_sources_there_is_nothing_to_do(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command, "load_settings", lambda path: settings())
    monkeypatch.setattr(command, "start_logging", lambda: None)
    caplog.set_level(logging.INFO, logger="syncrec")
    assert main(["--ds", D3.isoformat()]) == SKIPPED_EXIT_CODE
    assert "nothing to do: the settings have no [[click_sources]]" in caplog.text


def test_a_file_of_two_kinds_is_refused(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = settings(click_sources=({**SOURCE, "files": "*.csv"},))
    monkeypatch.setattr(command, "load_settings", lambda path: own)
    folder = own.landing_path / D3.isoformat()
    folder.mkdir(parents=True)
    for name in ("books.csv", "_SUCCESS"):
        (folder / name).write_text("x\n")
    assert main(["--ds", D3.isoformat()]) == 1
    assert "books.csv (source 'clicks') is a file of [[sources]] 'books', too" in capsys.readouterr().err


def test_settings_of_click_sources_are_checked(settings: Callable[..., Settings]) -> None:
    for change, words in (
        ({"clicked": "absent"}, "'absent'"),
        ({"arm": "absent"}, "'absent'"),
        ({"name": "books"}, "two sources are named 'books'"),
        ({"domain_column": None, "domain": "cars"}, "no \\[domains.cars\\]"),
    ):
        with pytest.raises(ValidationError, match=words):
            settings(click_sources=({**SOURCE, **change},))
    for change, words in (({"share": 1.5}, "share"), ({"name": "a:b"}, "name"), ({"candidate": ""}, "candidate")):
        with pytest.raises(ValidationError, match=words):
            settings(experiment={"name": "x", "candidate": "2", **change})


def test_the_lists_that_were_shown_are_those_of_the_newest_night_before() -> None:
    nights = [{"ds": D1, "decision": "promoted"}, {"ds": D2, "decision": "rolled_back"}]
    assert nights_shown(nights, [D1, D2, D3]) == {D2: D1, D3: D1}
