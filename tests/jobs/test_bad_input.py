"""Every kind of bad input that we know of becomes what the tables of kinds say, and every line is accounted for.

By default the readers and the rules judge all kinds; `make bad-input` (SYNCREC_TEST_BAD_INPUT=1) puts them through
a whole ingestion, tries the largest ones besides, and prints how many kinds were tried and what became of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from benchmarks.record import record
from jobs import command, ingest
from jobs.account import Account
from jobs.ingest_checks import check_accounting, count_reasons
from jobs.lakehouse import Lakehouse
from jobs.landing import count_lines, find_files
from jobs.readers import read_landing
from jobs.schemas import INTERACTIONS
from jobs.settings import Settings
from tests.conftest import SMALL
from tests.jobs import bad_input_page
from tests.jobs.bad_days import AUDITED, STOPS, Stop
from tests.jobs.bad_files import ODD, Odd, many, texts
from tests.jobs.bad_lines import LINES, Line

WHOLE = bool(os.environ.get("SYNCREC_TEST_BAD_INPUT"))
whole_only = pytest.mark.skipif(not WHOLE, reason="whole ingestions: make bad-input")
FIRST = date(2020, 1, 1)
FILE = {"csv": "books__csv", "json": "mixed__jsonl"}
SOURCES: tuple[dict[str, Any], ...] = (
    *SMALL["sources"],
    {"name": "numbers", "files": "numbers*.parquet", "format": "parquet", "domain": "groceries", "user": "user",
     "item": "item", "time": "at", "time_unit": "ms"},
    {"name": "semicolon", "files": "semicolon*.csv", "format": "csv", "columns": ("user", "item", "rating", "time"),
     "delimiter": ";", "domain": "books", "user": "user", "item": "item", "time": "time", "time_unit": "timestamp"},
)  # fmt: skip
BOTH = {**SMALL["sources"][0], "name": "both", "files": "*mixed*.csv"}
NEEDED = {**SMALL["sources"][0], "name": "needed", "files": "needed*.csv", "required": True}


def as_file(line: Line) -> Odd:
    """A line as a file of its own."""
    content = line.content if isinstance(line.content, bytes) else line.content.encode("utf-8")
    rejected = {} if line.accepted else {line.becomes: 1}
    files = texts(**{FILE[line.form]: content + b"\n"})
    return Odd(name=line.name, files=files, events=int(line.accepted), rejected=rejected)


KINDS = [*map(as_file, LINES), *ODD]


def land(settings: Settings, day: date, files: Callable[[Path, date], None]) -> None:
    folder = settings.landing_path / day.isoformat()
    folder.mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    files(folder, day)


class Tried:
    """Many kinds read at once, each on its day: the lines, and the events, refused lines and copies they became."""

    def __init__(self, settings: Settings, spark: SparkSession) -> None:
        self.day = {kind.name: kind.day or FIRST + timedelta(days=place) for place, kind in enumerate(KINDS)}
        for kind in KINDS:
            land(settings, self.day[kind.name], kind.files)
        days = sorted(self.day.values())
        files, _ = find_files(settings.landing_path, days, settings.sources, settings.landing.marker)
        self.lines = {day: count_lines([file for file in files if file.day == day]) for day in days}
        raw = read_landing(spark, settings.landing_path, files)
        judged = raw.withColumn("reason", ingest.reject_reason(settings.domain_names)).persist()
        parts = ingest.transform(judged, spark.createDataFrame([], INTERACTIONS.spark_ddl))
        self.events: list[Row] = parts.events.collect()
        refused = parts.rejected.groupBy("arrival_ds", "reason").count().collect()
        self.rejected = {(row.arrival_ds, row.reason): row["count"] for row in refused}
        self.copies = parts.duplicates.agg(F.sum("copies")).collect()[0][0]
        self.sound = count_reasons(judged).sound_by_day()
        spark.catalog.clearCache()

    def account(self, kind: Odd) -> Account:
        day = self.day[kind.name]
        events = sum(event.arrival_ds == day for event in self.events)
        return Account(
            lines=self.lines[day],
            events=events,
            rejected=sum(self.reasons(kind).values()),
            duplicates=self.sound[day] - events,
        )

    def reasons(self, kind: Odd) -> dict[str, int]:
        day = self.day[kind.name]
        return {reason: count for (arrived, reason), count in self.rejected.items() if arrived == day}


@pytest.fixture(scope="module")
def tried(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    state = tmp_path_factory.mktemp("corpus")
    return Tried(Settings(**{**SMALL, "state_dir": state, "sources": SOURCES}), spark)


def test_every_kind_becomes_what_its_table_says(tried: Tried) -> None:
    wrong = {}
    for kind in KINDS:
        account = tried.account(kind)
        if (account.events, tried.reasons(kind), account.duplicates) != (
            kind.events, dict(kind.rejected), kind.duplicates,
        ):  # fmt: skip
            wrong[kind.name] = (account, tried.reasons(kind))
    assert wrong == {}


def test_the_account_balances_for_each_kind(tried: Tried) -> None:
    accounts = {kind.name: tried.account(kind) for kind in KINDS}
    assert [name for name, account in accounts.items() if not check_accounting(account).success] == []
    assert sum(account.duplicates for account in accounts.values()) == tried.copies


def test_what_is_accepted_has_the_right_ids_and_time(tried: Tried) -> None:
    by_day = {event.arrival_ds: event for event in tried.events}
    wrong = []
    for line in LINES:
        if line.accepted:
            event = by_day[tried.day[line.name]]
            time = event.ts.astimezone(UTC) if line.time else None
            wanted = datetime.fromisoformat(line.time).replace(tzinfo=UTC) if line.time else None
            if (event.user_id, event.item_id, time) != (line.becomes, line.item or "i", wanted):
                wrong.append((line.name, event))
    assert wrong == []


# --- what stops a day -----------------------------------------------------------------------------------


class Shop:
    """A project, and its ingest job run from the command line."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        monkeypatch.setattr(command, "load_settings", lambda path: settings)

    def tables(self) -> dict[str, int | None]:
        lakehouse = Lakehouse(self.settings)
        lakehouse.create_tables()
        return {
            name: lakehouse.current_snapshot(name) for name in ("interactions", "items", "rejected_interactions")
        }


Shops = Callable[..., Shop]


@pytest.fixture
def shop(spark: SparkSession, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Shops:
    return lambda *more: Shop(settings(sources=(*SOURCES, *more)), monkeypatch)


def stopped(kind: Stop, day: date, said: str) -> list[str]:
    """What is wrong with the words of a refusal; they must be one line that names the day."""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    wanted = (*kind.words, day.isoformat())
    faults = [f"{kind.name}: no '{word}' in {lines}" for word in wanted if not any(word in line for line in lines)]
    return faults + ([f"{kind.name}: not one line: {said}"] if len(lines) != 1 or "Traceback" in said else [])


def test_what_stops_a_day_says_what_where_and_what_to_do(shop: Shops, capsys: pytest.CaptureFixture[str]) -> None:
    one = shop(BOTH)
    wrong = []
    for place, kind in enumerate(STOPS):
        day = FIRST + timedelta(days=place)
        land(one.settings, day, kind.files)
        if kind.name == "no file of a required source":
            shop(NEEDED)
        code = ingest.main(["--ds", str(day)])
        shop(BOTH)
        wrong += stopped(kind, day, capsys.readouterr().err)
        wrong += [f"{kind.name}: exit code {code}"] if code != 1 else []
    assert not wrong, "\n".join(wrong)
    assert set(one.tables().values()) == {None}


def test_a_folder_named_after_no_day_is_left_alone(shop: Shops) -> None:
    one = shop()
    land(one.settings, FIRST, texts())
    (one.settings.landing_path / "2020-02-30").mkdir()
    assert ingest.landing_days(one.settings.landing_path, FIRST, FIRST) == [FIRST]


@whole_only
def test_a_whole_ingestion_finds_the_same_and_its_audits_hold(shop: Shops, tried: Tried) -> None:
    one = shop()
    days = {kind.name: kind.day or FIRST + timedelta(days=place) for place, kind in enumerate(KINDS)}
    for kind in KINDS:
        land(one.settings, days[kind.name], kind.files)
    assert ingest.main(["--ds", str(max(days.values())), "--since", str(min(days.values()))]) == 0
    lakehouse = Lakehouse(one.settings)
    tables = ("interactions", "rejected_interactions", "audits")
    events, rejected, audits = (
        lakehouse.read_arrow(name, lakehouse.current_snapshot(name)).to_pylist() for name in tables
    )
    assert Counter(row["arrival_ds"] for row in events) == Counter(event.arrival_ds for event in tried.events)
    assert Counter((row["arrival_ds"], row["reason"]) for row in rejected) == tried.rejected
    assert [row for row in audits if not row["success"]] == []


@whole_only
@pytest.mark.parametrize("kinds", [AUDITED[:2], AUDITED[2:]], ids=["time", "form"])
def test_days_that_can_be_read_and_are_not_believed(
    shop: Shops, capsys: pytest.CaptureFixture[str], kinds: list[Stop]
) -> None:
    one = shop()
    for place, kind in enumerate(kinds):
        land(one.settings, FIRST + timedelta(days=place), kind.files)
    last = FIRST + timedelta(days=len(kinds) - 1)
    assert ingest.main(["--ds", str(last), "--since", str(FIRST)]) == 1
    said = capsys.readouterr().err
    assert [fault for n, kind in enumerate(kinds) for fault in stopped(kind, FIRST + timedelta(days=n), said)] == []
    assert set(one.tables().values()) == {None}


@whole_only
def test_a_file_that_grows_while_it_is_read(
    shop: Shops, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = shop()
    land(one.settings, FIRST, many(100, "u{n}", "i"))

    def count_and_grow(files: Any) -> int:
        lines = count_lines(files)
        with (one.settings.landing_path / FIRST.isoformat() / "books.csv").open("a") as out:
            out.write("late,i,5,820454400\n")
        return lines

    monkeypatch.setattr(ingest, "count_lines", count_and_grow)
    assert ingest.main(["--ds", str(FIRST)]) == 1
    said = capsys.readouterr().err
    assert "lines read = events + rejected lines + duplicates" in said and "1 of 100 rows" in said
    assert set(one.tables().values()) == {None}


# --- the page, the count --------------------------------------------------------------------------------


def test_the_page_names_every_kind_and_what_becomes_of_it() -> None:
    names = [kind.name for kind in (*LINES, *ODD, *STOPS, *AUDITED)]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert bad_input_page.PAGE.read_text(encoding="utf-8") == bad_input_page.page(), (
        "run .venv/jobs/bin/python -m tests.jobs.bad_input_page"
    )


def test_the_count_of_kinds(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    accounts = [tried.account(kind) for kind in KINDS]
    unaccounted = sum(abs(a.lines - a.events - a.rejected - a.duplicates) for a in accounts)
    counts, lines = bad_input_page.counts(), sum(account.lines for account in accounts)
    with capsys.disabled():
        print(f"\nbad input: {bad_input_page.in_words(counts)}; {unaccounted} of {lines:,} lines unaccounted for")
    assert unaccounted == 0 and counts["kinds"] >= 80
    if WHOLE:
        figures = {"bad_inputs": counts["kinds"], "bad_inputs_unaccounted": unaccounted}
        record("chaos", figures, part="bad_inputs", details={**counts, "lines": lines})
