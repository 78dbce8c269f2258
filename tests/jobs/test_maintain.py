"""Maintenance: what goes, and that nothing goes that a reader, a night in progress or a kept night needs."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from pyiceberg.expressions import EqualTo

from jobs import compaction, expiry, maintain
from jobs.errors import JobError, NothingToDo, PublishConflict
from jobs.lakehouse import Lakehouse
from jobs.maintenance_commit import Busy
from jobs.night import Night
from jobs.schemas import TABLES
from jobs.sequence_nights import find_previous, night_of, shape_of
from jobs.settings import Settings
from tests.conftest import SMALL
from tests.jobs.small_nights import LATER, SmallNights, day

KEEP_ALL: dict[str, Any] = {"nights": 99, "snapshot_days": 99, "keep_days": {}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight nights, all users' rows written by nights 0 and 4; every test gets them anew at the same place."""
    folder = tmp_path_factory.mktemp("nights")
    nights = SmallNights(lambda **own: Settings(**{"state_dir": folder / "state", **SMALL, **own}))
    for n in range(8):
        nights.night(day(n), full=n == 4)
    shutil.copytree(folder / "state", folder / "saved")
    return folder


@pytest.fixture
def make(home: Path) -> Callable[..., SmallNights]:
    shutil.rmtree(home / "state")
    shutil.copytree(home / "saved", home / "state")

    def nights(**maintenance: Any) -> SmallNights:
        return SmallNights(lambda **own: Settings(**{"state_dir": home / "state", **SMALL, **own}), **maintenance)

    return nights


def test_small_files_of_a_day_become_one_and_not_a_row_changes(make: Callable[..., SmallNights]) -> None:
    nights = make(**KEEP_ALL)
    before, live = nights.contents(), nights.live_files()
    pins = {(name, number): nights.rows(name, number) for name, _, number in nights.pinned()}
    said = nights.maintain(day(7))
    assert nights.contents() == before
    # eight days of 2 files of events and 3 of recommendations, eight files of items in one domain
    assert nights.live_files() == live - 8 * (1 + 2) - 7
    assert said.startswith(f"{8 * (2 + 3) + 8} small files merged, 0 snapshots expired, 0 files (0.0 MB) removed")
    for (name, number), rows in pins.items():
        assert nights.rows(name, number) == rows, "a pinned snapshot reads as before"
    for name, column in (("interactions", "arrival_ds"), ("recommendations", "ds")):
        number = nights.lakehouse.current_snapshot(name)
        one = nights.lakehouse.files(name, number, EqualTo(column, day(2).isoformat()))
        assert len(one) == 1, "one day is still one file: reading it opens no other"
    assert nights.maintain(day(7)).startswith("0 small files merged")


def test_a_file_that_is_large_enough_is_left_alone(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = make(**KEEP_ALL)
    table = nights.lakehouse.table("recommendations")
    size = max(task.file.file_size_in_bytes for task in table.scan().plan_files())
    own = nights.settings.maintenance
    monkeypatch.setattr(compaction, "BYTES_A_MB", 1.2 * size / own.file_mb)
    assert compaction.find_merges(table, own, ()) == []
    monkeypatch.setattr(compaction, "BYTES_A_MB", 2.2 * size / own.file_mb)
    merges = compaction.find_merges(table, own, [day(3)])  # two of a day's three fit into one
    assert [(merge.partition, len(merge.files)) for merge in merges] == [(day(n), 2) for n in (0, 1, 2, 4, 5, 6, 7)]


def test_many_manifests_become_one(make: Callable[..., SmallNights]) -> None:
    nights = make(**KEEP_ALL)
    for n in range(8, compaction.MANIFESTS + 2):
        nights.build(day(n))
    before = nights.rows("sequences")
    had = [nights.manifests(name) for name in TABLES]
    merged = sum(count for count in had if count > compaction.MANIFESTS)
    assert merged > compaction.MANIFESTS and f" and {merged} manifests merged, " in nights.maintain(day(7))
    table = nights.lakehouse.table("sequences")
    snapshot = table.current_snapshot()
    assert snapshot is not None and len(snapshot.manifests(table.io)) == 1
    assert nights.rows("sequences") == before


def test_merged_landing_days_do_not_look_as_if_they_were_ingested_again(make: Callable[..., SmallNights]) -> None:
    nights = make(**KEEP_ALL)
    assert not nights.maintain(day(7)).startswith("0 ")
    nights.ingest(day(8))
    assert nights.build(day(8)).kind == "incremental"
    nights.ingest(day(1), "again", rows=3)
    nights.maintain(day(8))
    made = nights.build(day(9))
    assert (made.kind, made.reason) == ("full", "the landing day 2024-01-02 was ingested again")


def test_nights_build_on_after_every_maintenance(make: Callable[..., SmallNights]) -> None:
    nights = make()
    for n in range(8, 13):
        nights.night(day(n), full=n == 9)
        nights.maintain(day(n))
        number = Night(nights.run(day(n)), nights.lakehouse).snapshot("sequences")
        assert night_of(nights.lakehouse, number, day(n)).kind == ("full" if n == 9 else "incremental")
        assert night_of(nights.lakehouse, nights.lakehouse.current_snapshot("sequences"), day(n)).ds == day(n)
    assert {row["ds"] for row in nights.rows("sequences")} == {day(n) for n in range(9, 13)}, "old bases are gone"
    again = find_previous(
        nights.lakehouse, nights.lakehouse.current_snapshot("sequences"), day(11), shape_of(nights.settings),
        nights.lakehouse.current_snapshot("interactions"),
    )  # fmt: skip
    assert again[0] is not None and again[0].ds == day(10), "a night of the last three can be built again"


def test_a_night_whose_base_is_gone_says_so_instead_of_forgetting_users(make: Callable[..., SmallNights]) -> None:
    nights = make(**KEEP_ALL)
    plan = nights.build(day(3), "again")  # builds on night 0
    assert plan.base_ds == day(0)
    table = nights.lakehouse.table("sequences")
    expiry.drop_rows(table, day(2), run_id="m", dry=False)
    number = nights.lakehouse.current_snapshot("sequences")
    with pytest.raises(JobError, match=r"the rows of 2024-01-01, on which .* no longer kept: run build_sequences"):
        night_of(nights.lakehouse, number, day(3))


def test_what_is_past_its_days_goes_and_files_stay_bounded(make: Callable[..., SmallNights]) -> None:
    nights = make()
    counts = []
    for n in range(7, 20):
        if n > 7:
            nights.night(day(n), full=n % 4 == 0)
        if n % 4 == 3:
            nights.maintain(day(n))
            counts.append((len(nights.files()), len(nights.files("*/metadata/*.avro"))))
    assert {row["ds"] for row in nights.rows("recommendations")} == {day(n) for n in range(15, 20)}
    assert len(nights.rows("interactions")) == 2 * 20, "events are never dropped unless the settings say so"
    kept = [pin for pin in nights.pinned() if pin[1] >= day(17)]
    assert len(kept) == 3 * 4
    for name, ds, number in kept:
        assert any(ds in row.values() for row in nights.rows(name, number)), f"{name} of {ds} stays readable"
    for name, _, number in (pin for pin in nights.pinned() if pin[1] < day(16)):
        assert not nights.lakehouse.has_snapshot(name, number)
    # a day brings two files that stay for good, events and its row in nights; all others come and go
    growth = [later[0] - sooner[0] for sooner, later in itertools.pairwise(counts[1:])]
    assert growth == [2 * 4] * len(growth)
    written = 4 * 5 * 2  # in four nights, five tables get a manifest and a list of them each
    assert counts[-1][1] - counts[1][1] < written / 2, f"manifests are bounded: {counts}"


def test_a_day_that_is_wrong_drops_nothing_that_the_newest_night_would_keep(
    make: Callable[..., SmallNights],
) -> None:
    nights = make()
    nights.maintain(day(0) - timedelta(days=400))
    assert len(nights.rows("recommendations")) == 3 * 8
    nights.maintain(date(2099, 1, 1))
    assert len(nights.rows("recommendations")) == 3 * 5


def test_dry_run_says_the_same_and_does_nothing(
    make: Callable[..., SmallNights], caplog: pytest.LogCaptureFixture
) -> None:
    nights = make()
    stray = Path(nights.stage("audits", day(7), [{"run_id": "killed", "ds": day(7)}])[0].removeprefix("file://"))
    files = set(nights.lakehouse.warehouse.rglob("*"))
    pointers = {name: nights.lakehouse.metadata_location(name) for name in TABLES}
    with caplog.at_level(logging.INFO, "syncrec"):
        dry = nights.maintain(day(7), dry_run=True)
    assert set(nights.lakehouse.warehouse.rglob("*")) == files
    assert {name: nights.lakehouse.metadata_location(name) for name in TABLES} == pointers
    assert "recommendations: 9 rows of days before 2024-01-04 would be dropped (9 files)" in caplog.messages
    assert "audits: 1 files (0.0 MB) that nothing refers to would be removed" in caplog.messages
    said = nights.maintain(day(7))
    assert dry.split(",")[1].replace("would be ", "") == said.split(",")[1]
    assert "would" in dry and "would" not in said and not stray.exists()


# --- what must stay ---------------------------------------------------------------------------------------


def test_staged_files_stay_while_young_and_go_when_nobody_wants_them(make: Callable[..., SmallNights]) -> None:
    nights = make(**KEEP_ALL)
    live = nights.files()
    (stray,) = map(local, nights.stage("interactions", day(1), [{"user_id": "u", "arrival_ds": day(1)}]))
    crc, success = stray.with_name(f".{stray.name}.crc"), stray.with_name("_SUCCESS")
    keeper = next(path for path in live if "/recommendations/" in str(path))
    kept_crc = keeper.with_name(f".{keeper.name}.crc")
    for path in (crc, success, kept_crc):
        path.write_bytes(b"1")
    nights.maintain(day(7), later=timedelta(hours=47))
    assert stray.exists() and crc.exists()
    nights.maintain(day(7), later=timedelta(hours=49))
    assert not stray.parent.exists(), "the files and their folder are gone"
    assert kept_crc.exists() and live <= nights.files()


def local(address: str) -> Path:
    return Path(address.removeprefix("file://"))


def steps(nights: SmallNights, ds: date) -> dict[str, Callable[[], Any]]:
    """A night cut at every place where something is staged or pinned and not yet committed."""
    return {
        "ingest": lambda: nights.ingest(ds),
        "build_sequences": lambda: nights.build(ds),
        "score": lambda: nights.score(ds),
        "publish": lambda: nights.publish(ds),
    }


@pytest.mark.parametrize("place", ["ingest", "build_sequences", "score", "publish"])
def test_a_night_that_stands_still_for_weeks_goes_on_where_it_was(
    make: Callable[..., SmallNights], place: str
) -> None:
    nights, alone = make(nights=1, snapshot_days=1), None
    stopped = day(8)
    for name, step in steps(nights, stopped).items():
        if name == place:
            for n in (9, 10, 11):  # other nights go by, each with its maintenance; the clock as well
                nights.night(day(n), full=n == 10)
                nights.maintain(day(n), later=timedelta(days=10))
            alone = nights.contents()
        step()
    assert alone is not None
    (row,) = (row for row in nights.rows("nights") if row["ds"] == stopped)
    for name in ("interactions", "items", "sequences", "recommendations"):
        rows = nights.rows(name, row[f"{name}_snapshot"])
        assert any(stopped in own.values() for own in rows), name
    for name in ("recommendations", "interactions"):
        others = [own for own in nights.rows(name) if stopped not in own.values()]
        assert others == [own for own in alone[name] if stopped not in own.values()]
    number = Night(nights.run(stopped), nights.lakehouse).snapshot("sequences")
    found = night_of(nights.lakehouse, number, stopped)
    assert any(own["ds"] == found.base_ds for own in nights.rows("sequences", number)), "its base is there"


@pytest.mark.parametrize("name", ["interactions", "items", "sequences", "recommendations", "audits"])
def test_maintenance_between_staging_and_commit_of_a_table(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    nights, quiet = make(), []
    nights.stage("audits", day(7), [{"run_id": "a", "ds": day(7)}])
    for method in ("replace", "append"):
        whole = getattr(Lakehouse, method)

        def between(self: Lakehouse, table: str, *arguments: Any, whole: Any = whole, **named: Any) -> Any:
            if table == name and not quiet:
                quiet.append(table)
                nights.maintain(day(8), later=timedelta(0))
            return whole(self, table, *arguments, **named)

        monkeypatch.setattr(Lakehouse, method, between)
    nights.night(day(8))
    files = nights.stage("audits", day(8), [{"run_id": "a", "ds": day(8)}])
    nights.lakehouse.replace("audits", EqualTo("ds", day(8).isoformat()), files, ds=day(8), run_id="a")
    assert quiet == [name]
    for table in ("interactions", "items", "recommendations", "nights", "sequences"):
        assert any(day(8) in row.values() for row in nights.rows(table)), table
    assert len(nights.rows("interactions")) == 2 * 9
    assert len(nights.rows("audits")) == 1


def test_what_a_night_builds_on_stays_while_it_builds(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = make(nights=1, snapshot_days=1)
    whole = Lakehouse.replace

    def between(self: Lakehouse, table: str, where: Any, files: list[str], **named: Any) -> int:
        for file in files:  # staged just now, by the clock that maintenance is given
            os.utime(local(file), (time.time() + LATER.total_seconds(),) * 2)
        assert nights.maintain(day(7)).count(" 0 snapshots") == 0
        return whole(self, table, where, files, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Lakehouse, "replace", between)
        made = nights.build(day(2), "again")  # a night long past, on the night before it
    assert (made.kind, made.base_ds) == ("incremental", day(0))
    assert night_of(nights.lakehouse, nights.lakehouse.current_snapshot("sequences"), day(2)).base_ds == day(0)


def test_a_day_that_is_published_while_its_files_are_merged_is_published_once(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maintenance commits after the night has planned its own commit: the night plans anew, nothing is twice."""
    nights = make(**KEEP_ALL)
    whole, met = Lakehouse._replace, []

    def meanwhile(table: Any, *arguments: Any) -> None:
        if not met:
            met.append(nights.maintain(day(7), later=timedelta(0)))
        whole(table, *arguments)  # with the table as it was before

    monkeypatch.setattr(Lakehouse, "_replace", staticmethod(meanwhile))
    files = nights.stage("interactions", day(0), [{"user_id": "new", "arrival_ds": day(0)}])
    where = EqualTo("arrival_ds", day(0).isoformat())
    nights.lakehouse.replace("interactions", where, files, ds=day(0), run_id="again")
    assert met and not met[0].startswith("0 small files")
    assert [row["user_id"] for row in nights.rows("interactions") if row["arrival_ds"] == day(0)] == ["new"]


def test_another_writer_is_still_a_conflict(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = make(**KEEP_ALL)
    parent = nights.lakehouse.current_snapshot("items")
    nights.maintain(day(7))
    nights.ingest(day(8))
    files = nights.stage("items", day(8), [{"domain": "books", "item_id": "x", "arrival_ds": day(8)}])
    with pytest.raises(PublishConflict, match="published day 2024-01-09"):
        nights.lakehouse.append("items", files, parent=parent, ds=day(8), run_id="b")


def test_maintenance_gives_way_to_a_commit_that_came_in_between(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = make(**KEEP_ALL)
    whole, met = compaction._merged, []

    def slow(name: str, *arguments: Any) -> Path:
        if name == "interactions" and not met:
            met.append(nights.night(day(8)))
        return whole(name, *arguments)

    monkeypatch.setattr(compaction, "_merged", slow)
    said = nights.maintain(day(7), later=timedelta(0))
    assert said.endswith("left to the next time: interactions")
    assert len(nights.rows("interactions")) == 2 * 9
    before = nights.contents()
    assert nights.maintain(day(8)).startswith("18 small files merged")
    assert nights.contents() == before


def test_merging_manifests_gives_way_too(make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch) -> None:
    """On top of another commit its snapshot would repeat what an older one says."""
    nights = make(**KEEP_ALL)
    monkeypatch.setattr(compaction, "MANIFESTS", 2)
    whole = compaction.always_merge

    def meanwhile(table: Any) -> None:
        whole(table)
        nights.build(day(8))

    monkeypatch.setattr(compaction, "always_merge", meanwhile)
    with pytest.raises(Busy):
        compaction.merge_manifests(nights.lakehouse, "sequences", run_id="m", dry=False)
    newest = nights.lakehouse.table("sequences").current_snapshot()
    assert newest is not None and newest.summary is not None and newest.summary["syncrec.ds"] == str(day(8))


def test_a_merged_file_that_lost_a_row_is_not_published(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = make(**KEEP_ALL)
    before = nights.contents()

    class Lossy(pq.ParquetWriter):  # type: ignore[misc]
        def write_table(self, table: Any, *more: Any) -> None:
            super().write_table(table.slice(1), *more)

    monkeypatch.setattr(compaction.pq, "ParquetWriter", Lossy)
    with pytest.raises(JobError, match="does not hold the rows of the 2 files that it was to replace; nothing was"):
        nights.maintain(day(7))
    assert nights.contents() == before


def test_two_at_once_do_the_work_once(make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch) -> None:
    nights = make()
    expected = nights.contents()
    expected["recommendations"] = [row for row in expected["recommendations"] if row["ds"] >= day(3)]
    expected["sequences"] = [row for row in expected["sequences"] if row["ds"] >= day(4)]
    for module, name in ((compaction, "_merged"), (expiry, "remove"), (expiry, "expire"), (expiry, "drop_rows")):
        whole, inside = getattr(module, name), []

        def twice(*arguments: Any, whole: Any = whole, inside: list[str] = inside, **named: Any) -> Any:
            if not inside:
                inside.append("another one")
                nights.maintain(day(7))
            return whole(*arguments, **named)

        monkeypatch.setattr(module, name, twice)
    nights.maintain(day(7))
    assert nights.contents() == expected
    for name, ds, number in nights.pinned():
        if ds >= day(5):
            assert nights.rows(name, number)


@pytest.mark.parametrize("place", ["commit of the merge", "after expiry", "while removing"])
def test_a_kill_in_the_middle_loses_nothing_and_the_next_run_finishes(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    nights = make()
    kept = {(name, number): nights.rows(name, number) for name, ds, number in nights.pinned() if ds >= day(5)}
    with monkeypatch.context() as patch:
        if place == "while removing":
            unlink, seen = Path.unlink, []

            def some(path: Path, missing_ok: bool = False) -> None:
                seen.append(path)
                if len(seen) > 5:
                    raise KeyboardInterrupt
                unlink(path, missing_ok)

            patch.setattr(Path, "unlink", some)
        else:
            module, name = {"after expiry": (maintain, "compact"), "commit of the merge": (compaction, "tidying")}[
                place
            ]
            patch.setattr(module, name, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            nights.maintain(day(7))
    for (name, number), rows in kept.items():
        assert nights.rows(name, number) == rows
    nights.maintain(day(7))
    first = nights.files(), nights.files("*/metadata/*")
    said = nights.maintain(day(7))
    assert (nights.files(), nights.files("*/metadata/*")) == first
    assert said.startswith("0 small files merged, 0 snapshots expired, 0 files")
    for (name, number), rows in kept.items():
        assert nights.rows(name, number) == rows


def test_a_reader_with_a_table_open_reads_on(make: Callable[..., SmallNights]) -> None:
    """DuckDB reads the metadata file that it was given; its files stay for the hours that [maintenance] says."""
    nights = make()
    lakehouse, name = nights.lakehouse, "recommendations"
    number = lakehouse.current_snapshot(name)
    files = [str(local(file)) for file in lakehouse.files(name, number)]
    before = duckdb.sql("select count(*), sum(hash(f)) from read_parquet(?) f", params=[files]).fetchone()
    for n in range(8, 12):
        nights.night(day(n))
    nights.maintain(day(11), later=timedelta(hours=47))  # many nights later by their days, not by the clock
    assert duckdb.sql("select count(*), sum(hash(f)) from read_parquet(?) f", params=[files]).fetchone() == before
    assert number is not None and lakehouse.has_snapshot(name, number)
    nights.maintain(day(11))
    assert not lakehouse.has_snapshot(name, number)


def test_tables_of_another_warehouse_are_not_mistaken_for_orphans(
    make: Callable[..., SmallNights], home: Path, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    make()
    moved = tmp_path / "moved"
    shutil.copytree(home / "state", moved)  # as if the folder were mounted at another place
    own = {"catalog": {"uri": f"sqlite:///{moved}/warehouse/catalog.db", "warehouse": str(moved / "warehouse")}}
    other = SmallNights(lambda **more: settings(**own, **more), **KEEP_ALL)
    files = other.files()
    with pytest.raises(
        JobError, match=r"which is not below .*moved.*: no file was removed; give \[catalog\] wareh"
    ):
        other.maintain(day(7))
    assert other.files() >= files


def test_a_catalog_without_a_night_removes_nothing(
    make: Callable[..., SmallNights], settings: Callable[..., Settings], tmp_path: Path
) -> None:
    nights = make()
    files = nights.files("**/*")
    wrong = SmallNights.__new__(SmallNights)
    wrong.settings = settings(state_dir=nights.settings.state_dir, catalog={"uri": f"sqlite:///{tmp_path}/new.db"})
    with pytest.raises(NothingToDo, match="no night is published"):
        wrong.maintain(day(0))
    assert nights.files("**/*") == files


def test_unreadable_notes_of_a_night_stop_everything(make: Callable[..., SmallNights]) -> None:
    nights = make()
    nights.stage("audits", day(0), [{"run_id": "x", "ds": day(0)}])
    broken = nights.lakehouse.warehouse / "_nights" / "2024-01-05" / "abc.json"
    broken.write_text("{")
    files = nights.files()
    with pytest.raises(JobError, match=r"cannot read the notes of a night, .*abc\.json"):
        nights.maintain(day(7))
    assert nights.files() == files


# --- beside the tables ------------------------------------------------------------------------------------


class FakeRegistry:
    """A registry whose champion is version 2."""

    def __init__(self, settings: Settings) -> None:
        pass

    def at_alias(self, alias: str) -> Any:
        number = {"champion": "2", "previous_champion": "1"}.get(alias)
        return type("Version", (), {"number": number}) if number else None


def test_what_nights_leave_beside_the_tables(
    make: Callable[..., SmallNights], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.leftovers.Registry", FakeRegistry)
    nights = make(nights=5)
    nights.score(day(4), "in progress")
    note = Night(nights.run(day(4), "in progress"), nights.lakehouse)
    note.note(served_version="7")
    models, checkpoints = nights.lakehouse.warehouse / "_models", nights.settings.state / "checkpoints"
    checkpoints.mkdir(parents=True)
    for number in (1, 2, 3, 7):
        (models / f"syncrec-{number}-run{number}" / "deep").mkdir(parents=True)
    (models / ".syncrec-2-run2.4711").mkdir()
    for n in (2, 4):
        (models / f"vocabulary-{day(n)}-1.json").write_text("{}")
        (checkpoints / f"{day(n)}-from-cold").write_text("x")
    (checkpoints / f"{day(2)}-from-cold.partial").write_text("x")
    (checkpoints / ".tmpNpyEb").write_text("x")  # safetensors' name of a file that it has not written to its end
    (checkpoints / f"{day(9)}-from-version-2").write_text("x")  # a night that is not published
    (models / "something-else").write_text("x")
    scratch = nights.settings.state / "spark/local"
    (scratch / "blockmgr-of-a-killed-job" / "0e").mkdir(parents=True)
    (scratch / "blockmgr-of-a-killed-job" / "0e" / "shuffle_0.data").write_text("x")
    nights.maintain(day(7), later=timedelta(0))
    assert len(list(models.iterdir())) == 8 and len(list(checkpoints.iterdir())) == 5, "too young"
    assert len(list(scratch.iterdir())) == 1, "too young"
    nights.maintain(day(7))
    assert sorted(path.name for path in models.iterdir()) == [
        "something-else", "syncrec-1-run1", "syncrec-2-run2", "syncrec-7-run7", "vocabulary-2024-01-05-1.json",
    ]  # fmt: skip
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "2024-01-05-from-cold",
        "2024-01-10-from-version-2",
    ]
    assert list(scratch.iterdir()) == []
    days = sorted(path.name for path in (nights.lakehouse.warehouse / "_nights").iterdir())
    assert days == [str(day(n)) for n in range(3, 8)]
    assert json.loads(note._file.read_text())["served_version"] == "7"


def test_maintenance_leaves_last_writers_and_says_who_is_in_the_way(make: Callable[..., SmallNights]) -> None:
    nights = make(**KEEP_ALL)
    nights.maintain(day(7))
    assert nights.lakehouse.last_writer("recommendations", day(0)) == f"run-{day(0)}"
    nights.publish(day(0))  # a retry of the task finds its own work
    assert len(nights.rows("recommendations")) == 3 * 8


@pytest.mark.parametrize(
    ("keep", "message"),
    [({"items": 9}, "'items': rows can be dropped by day of"), ({"audits": 0}, "audits = 0: at least 1 day")],
)
def test_retention_that_would_break_nights_is_refused(
    settings: Callable[..., Settings], keep: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(maintenance={"keep_days": keep})
