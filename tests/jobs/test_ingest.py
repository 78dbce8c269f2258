"""Landing days become events, refused lines and items: completely, once, and replaceably."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.expressions import EqualTo
from pyspark.sql import SparkSession

from jobs import command, ingest
from jobs.account import Account, account_of, delivered_again
from jobs.ingest import assign_indexes, day_ranges, earlier_where, main, reject_reason, transform
from jobs.ingest_checks import ReasonCounts, check_accounting, check_shares, check_volume, tell
from jobs.lakehouse import Lakehouse
from jobs.readers import RAW
from jobs.schemas import ANYONE, INTERACTIONS, ITEMS
from jobs.settings import Settings
from tests.jobs.opened_sessions import opened_sessions

D1, D2, D3, D4 = (date(2024, 1, day) for day in range(1, 5))


def noon(day: date, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, 12, minute, tzinfo=UTC)


class Project:
    """A small project: its landing folder, its tables, and the ingest job."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings, self._monkeypatch = settings, monkeypatch
        self.lakehouse = Lakehouse(settings)
        self.lakehouse.create_tables()

    def land(self, day: date, books: list[str] | None = None, **files: str) -> Path:
        folder = self.settings.landing_path / day.isoformat()
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {
            "books_csv": "\n".join([*(books or []), ""]) if books is not None else None,
            **files,
        }.items():
            if text is not None:
                (folder / name.replace("_", ".")).write_text(text)
        (folder / "_SUCCESS").touch()
        return folder

    def ingest(self, ds: date, *arguments: str) -> int:
        self._monkeypatch.setattr(command, "load_settings", lambda path: self.settings)
        return main(["--ds", ds.isoformat(), *arguments])

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        found = self.lakehouse.read_arrow(table, self.lakehouse.current_snapshot(table)).to_pylist()
        return sorted((tuple(row[name] for name in columns) for row in found), key=str)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            "interactions": self.rows("interactions", *INTERACTIONS.column_names),
            "items": self.rows("items", *ITEMS.column_names),
            "rejected": self.rows("rejected_interactions", "reason", "source", "file", "content", "arrival_ds"),
        }


@pytest.fixture
def project(
    spark: SparkSession, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], Project]:
    return lambda name: Project(settings(state_dir=tmp_path / name), monkeypatch)


def line(user: str, item: str, when: datetime) -> str:
    return f"{user},{item},5,{int(when.timestamp())}"


def test_a_day_with_everything_wrong(project: Callable[[str], Project], capsys: pytest.CaptureFixture[str]) -> None:
    one = project("one")
    books = [
        line("a", "x", noon(D1)),
        line("b", "x", noon(D1)),
        line("b", "x", noon(D1)),
        line("late", "x", noon(D1 - timedelta(days=9))),
        line("last", "x", datetime(2024, 1, 1, 23, 59, 59, tzinfo=UTC)),
        line("", "x", noon(D1)),
        line("c", " ", noon(D1)),
        line("c" * 1001, "x", noon(D1)),
        line("c", "x", datetime(2024, 1, 2, tzinfo=UTC)),
        "c,x,5,yesterday",
        "c,x,5,0",
        "c,x,5,-7",
        "c,x,5",
        '"c,x,5,1704110400',
    ]
    at = noon(D1).isoformat()
    mixed = [{"user": "a", "item": "x", "shop": shop, "at": at} for shop in ("books", "toys", "cars", None)]
    one.land(D1, books, mixed_jsonl="\n".join(map(json.dumps, mixed)), notes_txt="not for us")
    assert one.ingest(D1) == 0

    events = one.rows("interactions", "user_id", "domain", "ts", "event_day", "source")
    assert events == sorted(
        [
            ("a", "books", noon(D1), D1, "books"),  # also in mixed.jsonl: one event
            ("a", "toys", noon(D1), D1, "mixed"),
            ("b", "books", noon(D1), D1, "books"),
            ("last", "books", datetime(2024, 1, 1, 23, 59, 59, tzinfo=UTC), D1, "books"),
            ("late", "books", noon(D1 - timedelta(days=9)), date(2023, 12, 23), "books"),
        ],
        key=str,
    )
    rejected = one.rows("rejected_interactions", "reason", "source", "file", "content")
    assert Counter(row[0] for row in rejected) == {
        "null_user": 1,
        "null_item": 1,
        "id_too_long": 1,
        "future_time": 1,
        "bad_time": 3,
        "broken_line": 2,
        "unknown_domain": 2,
    }
    assert ("bad_time", "books", "books.csv", "c,x,5,yesterday") in rejected
    audits = {row[0]: row for row in one.rows("audits", "rule", "success", "checked", "observed")}
    assert all(row[1] for row in audits.values())
    assert audits["lines read = events + rejected lines + duplicates"][2:] == (18, "18 = 5 + 11 + 2")
    assert "notes.txt" in audits["files that belong to no source are left alone"][3]
    told = capsys.readouterr().out
    for fact in ("read from books: 14 lines", "rejected for bad_time: 3", "duplicates: 2", "new items in toys: 1"):
        assert fact in told
    assert "late events (an earlier day than they arrived on): 1" in told
    assert "2024-01-01/notes.txt belongs to no source" in told


def killed_at(table: str) -> Callable[..., int]:
    """Lakehouse.replace, with the process ended when it comes to one table."""
    whole = Lakehouse.replace

    def replace(self: Lakehouse, name: str, *arguments: Any, **named: Any) -> int:
        if name == table:
            raise KeyboardInterrupt
        return whole(self, name, *arguments, **named)

    return replace


def test_bootstrap_equals_day_by_day_and_a_rerun_replaces_its_day_only(
    project: Callable[[str], Project], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    days = {
        D1: [line("a", "m", noon(D1)), line("b", "k", noon(D1)), "broken"],
        D2: [
            line("a", "m", noon(D1)),
            line("a", "b", noon(D1, 5)),
            line("c", "z", noon(D2)),
            line("c", "a", noon(D2)),
        ],
        D3: [
            line("c", "z", noon(D2)),
            line("d", "k", noon(D3)),
            line("d", "c", noon(D3)),
            line("d", "c", noon(D3)),
        ],
    }
    daily, at_once = project("daily"), project("at_once")
    for day, books in days.items():
        daily.land(day, books)
        at_once.land(day, books)
        assert daily.ingest(day) == 0
    with monkeypatch.context() as patch:  # killed between the commits of items and interactions, then tried again
        patch.setattr(Lakehouse, "replace", killed_at("interactions"))
        assert at_once.ingest(D3, "--since", D1.isoformat()) == 130
    assert at_once.rows("items", "item_id") and not at_once.rows("interactions", "user_id")
    assert at_once.ingest(D3, "--since", D1.isoformat()) == 0
    assert daily.tables() == at_once.tables()
    files = at_once.lakehouse.files("interactions", at_once.lakehouse.current_snapshot("interactions"))
    in_file = [set(pq.read_table(file.removeprefix("file://"))["arrival_ds"].to_pylist()) for file in files]
    assert sorted(in_file, key=str) == [{D1}, {D2}, {D3}]
    assert daily.rows("items", "item_index", "item_id", "arrival_ds") == [
        (1, "k", D1),
        (2, "m", D1),
        (3, "a", D2),
        (4, "b", D2),
        (5, "z", D2),
        (6, "c", D3),
    ]
    assert len(daily.tables()["interactions"]) == 7
    indexes = {row[:2]: row[2] for row in daily.rows("items", "domain", "item_id", "item_index")}
    for domain, item, index, known, arrival in daily.rows(
        "interactions", "domain", "item_id", "item_index", "known_ds", "arrival_ds"
    ):
        assert (index, known) == (indexes[domain, item], arrival)

    before = daily.tables()
    daily.land(D2, [line("c", "z", noon(D2)), line("new", "new", noon(D2))])
    assert daily.ingest(D2) == 0
    after = daily.tables()
    kept = [row for row in before["interactions"] if row[-1] != D2]
    assert [row for row in after["interactions"] if row[-1] != D2] == kept
    assert [row[0] for row in after["interactions"] if row[-1] == D2] == ["c", "new"]
    # Known at no day before the items with smaller indexes, though it arrived on the second day.
    assert set(after["items"]) - set(before["items"]) == {("books", "new", 7, D3)}
    assert set(before["items"]) < set(after["items"])
    again = daily.rows("interactions", "item_id", "item_index", "known_ds", "arrival_ds")
    assert ("new", 7, D3, D2) in again and ("z", 5, D2, D2) in again

    daily.land(D4, [])
    capsys.readouterr()
    assert daily.ingest(D4) == 0
    assert "an empty day" in capsys.readouterr().out
    assert daily.tables() == after
    assert ("an empty day is allowed", "empty day: no line in the landing files") in daily.rows(
        "audits", "rule", "observed"
    )

    daily.land(D3, [f"u{n},x,5,{int(noon(D3).timestamp())}000" for n in range(20)] + [line("v", "x", noon(D3))])
    assert daily.ingest(D3) == 1
    printed = capsys.readouterr()
    error = printed.err.strip()
    left = [line.rpartition(" ")[2] for line in printed.out.splitlines() if "staged files left in" in line]
    assert [Path(folder).is_dir() for folder in left] == [True, True], "whole paths, a line each"
    assert error.count("\n") == 0
    assert "interactions: 20 of 21 rows, against the rule" in error
    assert "refused for their time' (on 2024-01-03, future_time 20: is time_unit = 's' right?)" in error
    assert error.endswith("; the log names where the staged files are left")
    assert daily.tables() == after


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda project: None, "no landing folder"),
        (lambda project: (project.land(D1, []) / "_SUCCESS").unlink(), "no marker file _SUCCESS"),
        (lambda project: project.land(D1, toys_csv="user_id,asin\na,b\n"), "no column 'timestamp'"),
    ],
)
def test_what_stops_a_day_is_one_line(
    project: Callable[[str], Project],
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[Project], Any],
    words: str,
) -> None:
    one = project("one")
    prepare(one)
    assert one.ingest(D1) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and "Traceback" not in error


def test_the_first_reason_counts(spark: SparkSession) -> None:
    sound = ("s", "f", D1, "line", False, "u", "i", "books", noon(D1))
    changes: dict[str | None, dict[int, Any]] = {
        None: {},
        "broken_line": {4: True, 5: None, 6: None, 7: None, 8: None},
        "null_user": {5: None, 6: None},
        "null_item": {6: None, 7: "cars"},
        "reserved_user": {5: ANYONE, 7: "cars"},
        "id_too_long": {6: "i" * 1001, 8: None},
        "unknown_domain": {7: "cars", 8: None},
        "bad_time": {8: datetime(1970, 1, 1, 23, tzinfo=UTC)},
        "future_time": {8: datetime(2024, 1, 2, tzinfo=UTC)},
    }
    rows = [tuple(change.get(place, value) for place, value in enumerate(sound)) for change in changes.values()]
    found = spark.createDataFrame(rows, RAW).select(reject_reason(["books"])).collect()
    assert [row[0] for row in found] == list(changes)


def test_what_came_before_does_not_count_again(spark: SparkSession) -> None:
    rows = [
        ("s", "f", day, "line", False, user, "i", "books", noon(D1), None)
        for user, days in {"old": [D2], "twice": [D3, D2], "once": [D2]}.items()
        for day in days
    ]
    judged = spark.createDataFrame(rows, f"{RAW}, reason string")
    earlier = spark.createDataFrame(
        [("old", "i", "books", noon(D1))], "user_id string, item_id string, domain string, ts timestamp"
    )
    parts = transform(judged, earlier)
    assert {(row.user_id, row.arrival_ds) for row in parts.events.collect()} == {("twice", D2), ("once", D2)}
    assert sum(row.copies for row in parts.duplicates.collect()) == 2


def test_indexes_only_ever_grow(spark: SparkSession) -> None:
    items = spark.createDataFrame([("books", "m", 1, D1), ("books", "z", 2, D3)], ITEMS.spark_ddl)
    events = spark.createDataFrame(
        [("books", "z", D1), ("books", "b", D2), ("books", "a", D4), ("toys", "q", D2), ("toys", "q", D4)],
        "domain string, item_id string, arrival_ds date",
    )
    assert {tuple(row) for row in assign_indexes(events, items).collect()} == {
        ("books", "b", 3, D3),
        ("books", "a", 4, D4),
        ("toys", "q", 1, D2),
    }


def test_one_very_late_day_opens_its_own_files_alone(settings: Callable[..., Settings]) -> None:
    long_ago, d5 = date(2019, 7, 1), date(2024, 1, 5)
    assert day_ranges([D4, long_ago, D3, D1, D3]) == [(long_ago, long_ago), (D1, D1), (D3, D4)]
    assert day_ranges([D4, long_ago, D3, D1], most=2) == [(long_ago, long_ago), (D1, D4)]
    assert day_ranges([D2]) == [(D2, D2)]
    lakehouse = Lakehouse(settings())
    lakehouse.create_tables()
    for day in (long_ago, date(2022, 1, 1), D3, D4):
        rows = {field.name: pa.nulls(2, field.type) for field in INTERACTIONS.arrow_schema}
        days = pa.array([day] * 2, pa.date32())
        table = pa.table({**rows, "arrival_ds": days, "event_day": days})
        files = lakehouse.stage_arrow("interactions", table, day, "test")
        lakehouse.replace("interactions", EqualTo(term="arrival_ds", value=day), files, ds=day, run_id="test")
    snapshot = lakehouse.current_snapshot("interactions")

    def opened(*days: date) -> set[str]:
        return {file.split("/data/")[1][:10] for file in lakehouse.files(
            "interactions", snapshot, earlier_where(days, d5)
        )}  # fmt: skip

    assert opened(D4, long_ago) == {str(D4), str(long_ago)}
    assert opened(D3) == {str(D3)}
    assert opened(d5) == set()


def test_an_account_that_does_not_balance_is_found() -> None:
    assert check_accounting(Account(lines=10, events=6, rejected=3, duplicates=1)).success
    lost = check_accounting(Account(lines=10, events=6, rejected=2, duplicates=1))
    assert (lost.success, lost.failed) == (False, 1)
    assert account_of(lost.observed) == Account(lines=10, events=6, rejected=2, duplicates=1)
    assert account_of("0 of 12 rows break it") is None


def test_a_day_that_is_delivered_again_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def told(lines: int, events: int, rejected: int, duplicates: int) -> str:
        caplog.clear()
        account = Account(lines=lines, events=events, rejected=rejected, duplicates=duplicates)
        with caplog.at_level("WARNING", logger="syncrec"):
            tell(ReasonCounts({}), account, [])
        return caplog.messages[-1] if caplog.messages else ""

    again = "warning: 1,090 lines came, all of them duplicates of earlier days: was a day delivered again?"
    assert told(1090, 0, 0, 1090) == again
    assert told(1100, 0, 10, 1090) == again.replace("1,090 lines", "1,100 lines").replace("all of", "1,090 of")
    assert "1,000 of them duplicates: was a day or a file delivered again?" in told(2000, 1000, 0, 1000)
    assert told(2000, 1100, 0, 900) == told(9, 0, 0, 9) == "", "duplicates are common, a few of them nothing"
    assert "an empty day" in told(0, 0, 0, 0)


def test_shares_ask_the_right_question(settings: Callable[..., Settings]) -> None:
    def broken(rows: dict[tuple[str, date, str | None], int]) -> list[str]:
        return [r.hint for r in check_shares(ReasonCounts(rows), settings().sources) if not r.success]

    assert broken({("books", D1, "bad_time"): 9}) == []  # too few to say
    assert broken({("books", D1, "bad_time"): 10, ("books", D1, None): 10}) == []
    assert broken({("books", D1, "unknown_domain"): 100}) == []  # a log may hold more domains than we use
    assert "time_unit = 's'" in broken({("books", D1, "bad_time"): 10, ("books", D1, "future_time"): 10})[0]
    assert "delimiter" in broken({("toys", D2, "broken_line"): 50, ("toys", D1, None): 500})[0]
    assert "user = 'user'" in broken({("books", D1, "null_user"): 50})[0]


def test_a_history_without_a_domain_is_not_published_by_the_first_nightly(
    project: Callable[[str], Project], capsys: pytest.CaptureFixture[str]
) -> None:
    """Events that a wrong name left out of the history would stay missing: no later night reads its days again."""
    one = project("one")
    for day in (D1, D2):
        toys = {"toys_csv": f"user_id,asin,timestamp\na,b,{int(noon(day).timestamp() * 1000)}\n"}
        shop = {
            "mixed_jsonl": f'{{"shop": "Groceries", "user": "a", "item": "b", "at": "{noon(day).isoformat()}"}}\n'
        }
        one.land(day, [line("a", "m", noon(day))], **toys, **shop)
    history = (D2, "--since", D1.isoformat(), "--run-id", "bootstrap")
    assert one.ingest(*history) == 1
    said = capsys.readouterr()
    assert "warning: no domain is called 'Groceries' in 2 lines" in said.err + said.out
    for words in (
        "no event in groceries, against the rule 'every domain has an event in the history'",
        "no file of source groceries (groceries*.parquet); no domain is called 'Groceries' in 2 lines; correct",
    ):
        assert words in said.err
    assert not one.rows("interactions", "user_id")
    for day in (D1, D2):
        file = one.settings.landing_path / day.isoformat() / "mixed.jsonl"
        file.write_text(file.read_text().replace("Groceries", "groceries"))
    assert one.ingest(*history) == 0
    assert {row[0] for row in one.rows("interactions", "domain")} == {"books", "toys", "groceries"}


def test_by_hand_a_history_without_a_domain_is_a_warning(
    project: Callable[[str], Project], capsys: pytest.CaptureFixture[str]
) -> None:
    one = project("one")
    one.land(D1, [line("a", "m", noon(D1))])
    assert one.ingest(D1, "--since", D1.isoformat()) == 0
    said = capsys.readouterr()
    assert "warning: no event in toys, groceries: no file of source toys" in said.err + said.out
    assert len(one.rows("interactions", "domain")) == 1


def test_volume_is_held_against_recent_days(settings: Callable[..., Settings]) -> None:
    lakehouse = Lakehouse(settings())
    lakehouse.create_tables()

    def success(events: int, *, lines: int = 1) -> list[bool]:
        account = Account(lines=lines, events=events, rejected=0, duplicates=0)
        return [result.success for result in check_volume(lakehouse, account, day, day)]

    day = D1
    for rows_that_day in (50_000, *[20] * 6):  # history first, in one day
        assert success(0) == []
        rows = {field.name: pa.nulls(rows_that_day, field.type) for field in INTERACTIONS.arrow_schema}
        table = pa.table({**rows, "arrival_ds": pa.array([day] * rows_that_day, pa.date32())})
        files = lakehouse.stage_arrow("interactions", table, day, "test")
        lakehouse.replace("interactions", EqualTo(term="arrival_ds", value=day), files, ds=day, run_id="test")
        day += timedelta(days=1)
    assert [success(n) for n in (1, 2, 200, 201)] == [[False], [True], [True], [False]]
    assert success(0, lines=0) == []  # an empty day is allowed
    again = Account(lines=20, events=0, rejected=0, duplicates=20)
    assert [found.hint for found in check_volume(lakehouse, again, day, day)] == [delivered_again(again)]


def test_the_quick_compiler_is_for_days_of_few_lines(
    project: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = project("few")
    own.land(D1, [line("ann", f"b{n}", noon(D1)) for n in range(3)])
    asked = opened_sessions(monkeypatch, ingest)
    for most in (4, 3):
        monkeypatch.setattr(ingest, "QUICK_ROWS", most)
        assert own.ingest(D1) == 0
    assert asked == [{"quick": True}, {"quick": False}]
