"""build_sequences through the tables: which night builds on which, what is read, what the readers get."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo
from pyspark.sql import DataFrame, SparkSession

from jobs import build_sequences, command
from jobs.build_sequences import main
from jobs.command import Run
from jobs.histories import Histories
from jobs.lakehouse import Lakehouse
from jobs.night import Night
from jobs.schemas import INTERACTIONS, ITEMS, SEQUENCES
from jobs.score import read_users
from jobs.sequence_nights import past_nights
from jobs.sequence_rows import merge
from jobs.sequence_sets import count_events, read_sequences, read_vocabulary, state_of
from jobs.settings import Settings
from jobs.splits import split_windows
from syncrec_model import SequenceSet
from tests.jobs.opened_sessions import opened_sessions
from tests.jobs.sequence_oracle import DOMAINS, N_ITEMS, Event, as_rows, expected, expected_seen, random_log, seen

FIRST = date(2024, 1, 1)
D = [FIRST + timedelta(days=n) for n in range(12)]
T = 3
SEQUENCE_SETTINGS = {"max_length": T, "valid_days": 1, "test_days": 1}


class Project:
    """A small project: interactions put in day by day, and the job."""

    def __init__(self, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
        self._settings, self._monkeypatch = settings, monkeypatch
        self._runs = itertools.count()
        self.change()
        self.lakehouse = Lakehouse(self.settings)
        self.lakehouse.create_tables()
        items = [
            {"domain": domain, "item_id": f"{domain}{n}", "item_index": n, "arrival_ds": FIRST}
            for domain in DOMAINS
            for n in range(1, N_ITEMS + 1)
        ]
        for domain in DOMAINS:
            own = pa.Table.from_pylist([i for i in items if i["domain"] == domain], schema=ITEMS.arrow_schema)
            files = self.lakehouse.stage_arrow("items", own, FIRST, "test")
            self.lakehouse.append(
                "items", files, parent=self.lakehouse.current_snapshot("items"), ds=FIRST, run_id="test"
            )

    def change(self, domains: tuple[str, ...] = DOMAINS, **sequences: Any) -> None:
        self.settings = self._settings(
            domains={name: {"repeats": name == "groceries"} for name in domains},
            sequences={**SEQUENCE_SETTINGS, "compact_share": 100, **sequences},
        )
        self._monkeypatch.setattr(command, "load_settings", lambda path: self.settings)

    def land(self, events: list[Event], *days: date) -> None:
        for day in days:
            rows = [
                {
                    "user_id": e.user, "item_id": f"{e.domain}{e.item}", "domain": e.domain, "ts": e.ts,
                    "event_id": e.event_id, "event_day": e.ts.date(), "source": "test", "item_index": e.item,
                    "known_ds": day, "arrival_ds": day,
                }
                for e in events if e.arrival == day
            ]  # fmt: skip
            table = pa.Table.from_pylist(rows, schema=INTERACTIONS.arrow_schema)
            files = self.lakehouse.stage_arrow("interactions", table, day, "test") if rows else []
            where = EqualTo("arrival_ds", day.isoformat())
            self.lakehouse.replace("interactions", where, files, ds=day, run_id="test")

    def build(self, ds: date, *arguments: str) -> Any:
        """A fresh run of one night; what its snapshot says."""
        self.run = Run(ds=ds, run_id=f"run{next(self._runs)}", settings=self.settings, arguments=Namespace())
        assert main(["--ds", ds.isoformat(), "--run-id", self.run.run_id, *arguments]) == 0
        self.night = Night(self.run, self.lakehouse)
        found = past_nights(self.lakehouse, self.night.snapshot("sequences"))[0]
        assert found.ds == ds
        return found

    def sets(self) -> tuple[SequenceSet, ...]:
        vocabulary = read_vocabulary(self.lakehouse, self.night, self.run.ds, self.settings.domain_names)
        splits = ("train", "valid", "test", "serve")
        return read_sequences(self.run, self.lakehouse, self.night, vocabulary, *splits)

    def check(self, spark: SparkSession, log: list[Event]) -> None:
        """All that the night's readers get is what the plain computation says."""
        ds, own = self.run.ds, self.settings.sequences
        known = [e for e in log if e.arrival <= ds]
        windows = split_windows(self.run.cutoff, own.valid_days, own.test_days)
        for made, window in zip(self.sets(), windows, strict=True):
            assert as_rows(made) == expected(known, window, own.max_length), window.split
        state = state_of(self.run, self.lakehouse, self.night)
        users = [row.asDict() for row in read_users(spark, self.lakehouse, state).collect()]
        assert len(users) == len({row["user_id"] for row in users})
        assert seen(users) == expected_seen(known)
        vocabulary = read_vocabulary(self.lakehouse, self.night, ds, self.settings.domain_names)
        since = self.run.cutoff - timedelta(days=3)
        counts = count_events(self.lakehouse, self.night, ds, since, self.run.cutoff, vocabulary)
        for domain, found in zip(vocabulary.domains, counts, strict=True):
            plain = np.zeros(N_ITEMS, int)
            for e in known:
                plain[e.item - 1] += e.domain == domain and since <= e.ts < self.run.cutoff
            assert found.tolist() == plain.tolist()


@pytest.fixture
def project(spark: SparkSession, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(settings, monkeypatch)


def test_nights_with_a_gap_a_rerun_an_empty_night_and_a_compaction(
    spark: SparkSession, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    log = [e for e in random_log(5, FIRST, n_days=9, n_users=15) if e.arrival != D[6]]
    project.land(log, *D[:3])
    first = project.build(D[2])
    assert (first.kind, first.base_ds, first.reason) == ("full", D[2], "no sequences of an earlier night")
    assert "full rebuild: no sequences of an earlier night" in capsys.readouterr().out
    project.check(spark, log)

    project.land(log, *D[3:6])
    second = project.build(D[5])  # two landing days had no night
    assert (second.kind, second.base_ds, second.previous_ds) == ("incremental", D[2], D[2])
    assert "incremental: on the night of 2024-01-03" in capsys.readouterr().out
    project.check(spark, log)
    again = project.build(D[5])  # the same night once more: on the same night before
    assert (again.kind, again.previous_ds, again.events) == ("incremental", D[2], second.events)
    project.check(spark, log)

    empty = project.build(D[6])
    assert (empty.kind, empty.previous_ds, empty.events) == ("incremental", D[5], second.events)
    project.check(spark, log)

    project.change(compact_share=0.1)
    project.land(log, D[7])
    third = project.build(D[7])
    assert (third.kind, third.base_ds) == ("compacted", D[7])
    assert "all rows are written: " in capsys.readouterr().out
    project.check(spark, log)
    project.change()
    project.land(log, D[8])
    assert project.build(D[8]).base_ds == D[7]
    project.check(spark, log)
    assert project.build(D[7]).kind == "compacted", "a later night counts on it to hold every user"
    project.check(spark, log)
    assert project.build(D[8], "--full").reason == "--full asked for it"
    project.check(spark, log)
    audits = project.lakehouse.read_arrow("audits", project.lakehouse.current_snapshot("audits")).to_pylist()
    accounts = [row for row in audits if "n_events of" in row["rule"]]
    assert len(accounts) == 10 and all(row["success"] for row in accounts)


LOG = [
    Event(
        user,
        "books",
        item,
        datetime(2024, 1, day, 12, tzinfo=UTC),
        10 * day + item,
        FIRST + timedelta(days=day - 1),
    )
    for day in range(1, 6)
    for item, user in enumerate(("ann", "bob", "cai")[: 1 + day % 3], 1)
]


def test_another_length_builds_everything_anew_and_says_so(
    spark: SparkSession, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ds", D[0].isoformat()]) == 1
    assert "no event before 2024-01-02 00:00 UTC: ingest a day with events first" in capsys.readouterr().err
    project.land(LOG, *D[:4])
    project.build(D[2])
    project.change(max_length=2)
    assert (project.build(D[3]).kind, project.night.run_id) == ("full", project.run.run_id)
    assert "full rebuild: T changed from 3 to 2\n" in capsys.readouterr().out
    project.check(spark, LOG)


@pytest.mark.parametrize("lost", ["a user's new events", "a user's old row"])
def test_events_that_get_lost_on_the_way_stop_the_night(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    def losing(arrived: DataFrame, old: DataFrame | None, **settings: Any) -> DataFrame:
        assert old is not None
        if lost == "a user's old row":
            return merge(arrived, old.where("user_id <> 'ann'"), **settings)
        return merge(arrived.where("user_id <> 'ann'"), old, **settings)

    project.land(LOG, *D[:4])
    project.build(D[2])
    monkeypatch.setattr("jobs.build_sequences.merge", losing)
    before = project.lakehouse.current_snapshot("sequences")
    assert main(["--ds", D[3].isoformat()]) == 1
    error = capsys.readouterr().err
    assert (
        "against the rule 'n_events of the changed users = those of the night before + the events that arrived'"
        in error
    )
    assert project.lakehouse.current_snapshot("sequences") == before


def test_an_incremental_night_opens_only_the_files_of_new_arrivals(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.land(LOG, *D[:4])
    project.build(D[2])
    opened: list[str] = []
    whole = Lakehouse.files

    def files(self: Lakehouse, name: str, *arguments: Any) -> list[str]:
        found = whole(self, name, *arguments)
        opened.extend(found if name == "interactions" else [])
        return found

    monkeypatch.setattr(Lakehouse, "files", files)
    assert project.build(D[3]).kind == "incremental"
    assert opened and all(f"/{D[3]}-" in file for file in opened)


def test_an_event_of_an_item_that_the_night_does_not_know_counts_when_it_is_known(
    spark: SparkSession, project: Project
) -> None:
    """An old landing day that is ingested again brings an item whose index is newer than the day."""
    project.land(LOG, *D[:3])
    table = project.lakehouse.read_arrow("interactions", project.lakehouse.current_snapshot("interactions"))
    rows = [row for row in table.to_pylist() if row["arrival_ds"] == D[1]]
    rows[0]["known_ds"] = D[2]
    files = project.lakehouse.stage_arrow(
        "interactions", pa.Table.from_pylist(rows, schema=INTERACTIONS.arrow_schema), D[1], "test"
    )
    where = EqualTo("arrival_ds", D[1].isoformat())
    project.lakehouse.replace("interactions", where, files, ds=D[1], run_id="test")
    total = len([e for e in LOG if e.arrival <= D[1]])
    assert project.build(D[1]).events == total - 1
    after = project.build(D[2])
    assert (after.kind, after.events) == ("incremental", len([e for e in LOG if e.arrival <= D[2]]))
    project.check(spark, LOG)


def test_a_table_that_lacks_a_column_of_its_version_is_refused_in_one_line(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with project.lakehouse.table("interactions").update_schema() as update:
        update.delete_column("item_index")
    assert main(["--ds", D[0].isoformat()]) == 1
    error = capsys.readouterr().err.strip()
    assert (
        "item_index, though its state has version" in error
        and "ingest its landing days anew" in error
        and "\n" not in error
    )


def test_histories_of_no_rows_are_empty() -> None:
    histories = Histories.of(SEQUENCES.arrow_schema.empty_table())
    assert len(histories.user_ids) == len(histories.rows_E) == 0


def test_the_quick_compiler_is_for_nights_that_read_few_rows(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(FIRST.year, FIRST.month, FIRST.day, 12, tzinfo=UTC)
    project.land([Event(f"u{n}", "books", 1, noon, n, D[0]) for n in range(3)], D[0])
    asked = opened_sessions(monkeypatch, build_sequences)
    for most in (4, 3):  # three events to read
        monkeypatch.setattr(build_sequences, "QUICK_ROWS", most)
        project.build(D[0])
    project.land([Event("u0", "books", 2, noon, 9, D[1])], D[1])
    for most in (5, 4):  # one event, and the rows of three users
        monkeypatch.setattr(build_sequences, "QUICK_ROWS", most)
        project.build(D[1])
    assert asked == [{"quick": True}, {"quick": False}] * 2
