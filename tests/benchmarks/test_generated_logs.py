"""The laws of generated logs: counts, skew, ties, late events, indexes as ingest gives them, the same bytes."""

import hashlib
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.generated_files import LogFiles, commit, item_indexes, main, write_log
from benchmarks.generated_logs import (
    DOMAINS,
    FIRST_DAY,
    HAS_CLOCK,
    HEAVY_USER,
    HISTORY_DAYS,
    LATEST,
    SHARES,
    LogSize,
    World,
    landing_day,
)
from jobs.lakehouse import Lakehouse
from jobs.schemas import INTERACTIONS, ITEMS
from jobs.settings import load_settings

SIZE = LogSize(events=100_000, seed=3)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> LogFiles:
    return write_log(SIZE, tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def events(log: LogFiles) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in log.interactions(night=False))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.parquet"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_same_seed_and_size_give_the_same_bytes_by_any_number_of_processes(
    log: LogFiles, tmp_path: Path
) -> None:
    again = write_log(SIZE, tmp_path / "again", processes=1)
    assert digest(again.folder) == digest(log.folder) and again.bytes == log.bytes
    before = (again.folder / "log.json").stat().st_mtime_ns
    assert write_log(SIZE, again.folder, processes=1) == again
    assert (again.folder / "log.json").stat().st_mtime_ns == before, "a finished log is used again"
    other = write_log(LogSize(events=1_000, seed=4), again.folder, processes=1)
    assert other.events == 1_000, "another size takes the folder over"


def test_counts_are_exact_and_events_distinct(log: LogFiles, events: pa.Table) -> None:
    assert (log.events, log.new_events) == (len(events), 1_000) == (100_000, 1_000)
    night = pq.read_table(log.interactions(night=True)[0])
    rows = pa.concat_tables([events, night])
    for key in (["user_id", "item_id", "domain", "ts"], ["user_id", "ts", "event_id"]):
        assert len(rows.group_by(key).aggregate([])) == len(rows)
    assert rows.schema.equals(INTERACTIONS.arrow_schema)


def test_the_skew_is_that_of_a_shop(events: pa.Table) -> None:
    users = np.sort(np.unique(events["user_id"].to_numpy(), return_counts=True)[1])[::-1]
    assert 0.015 < users[0] / len(events) < 0.025, "one user has two of a hundred events"
    assert np.median(users) < 0.6 * users[1:].mean(), "most have few, some have many"
    domains = events["domain"].to_numpy()
    for name, share in zip(DOMAINS, SHARES, strict=True):
        assert 0.8 * share < (domains == name).mean() < 1.25 * share
        items = np.sort(np.unique(events["item_id"].to_numpy()[domains == name], return_counts=True)[1])[::-1]
        assert items[0] > 3 * np.median(items)
    pairs = events.group_by(["user_id", "domain"]).aggregate([]).group_by("user_id").aggregate([([], "count_all")])
    assert (pairs["count_all"].to_numpy() > 1).mean() > 0.5, "users are active in several domains"


def test_days_tie_and_clocks_are_late(events: pa.Table) -> None:
    day = events["event_day"].to_numpy()
    lag = (events["arrival_ds"].to_numpy() - day).astype(int)
    micros = events["ts"].cast(pa.int64()).to_numpy()
    clock = np.isin(events["domain"].to_numpy(), np.array(DOMAINS)[list(HAS_CLOCK)])
    assert (micros // 86_400_000_000 == day.astype(int)).all()
    assert (micros[~clock] % 86_400_000_000 == 0).all() and (lag[~clock] == 0).all()
    assert lag.min() == 0 and lag.max() == LATEST and 0.05 < (lag[clock] > 0).mean() < 0.15
    assert (micros[clock] // 1_000 % 1_000 == 1 + lag[clock]).all(), "no two landing days draw the same time"
    ties = events.group_by(["user_id", "ts"]).aggregate([([], "count_all")])["count_all"].to_numpy()
    assert (ties > 1).mean() > 0.1, "events of one user share a timestamp"
    arrived = np.unique(events["arrival_ds"].to_numpy())
    assert len(arrived) == HISTORY_DAYS and arrived[0] == np.datetime64(FIRST_DAY)


def test_items_have_the_indexes_that_ingest_gives(log: LogFiles, events: pa.Table) -> None:
    night = pq.read_table(log.interactions(night=True)[0])
    seen = pa.concat_tables([events, night]).select(["domain", "item_id", "item_index", "arrival_ds"])
    first = seen.group_by(["domain", "item_id"]).aggregate(
        [("arrival_ds", "min"), ("item_index", "min"), ("item_index", "max")]
    )
    names = ("domain", "arrival_ds_min", "item_id", "item_index_min", "item_index_max")
    rows = sorted(zip(*(first[name].to_pylist() for name in names), strict=True))
    expected = []
    for name in sorted(DOMAINS):
        of_domain = [row for row in rows if row[0] == name]
        assert [row[3:] for row in of_domain] == [(i, i) for i in range(1, len(of_domain) + 1)]
        expected += [(name, row[2], row[3], row[1]) for row in of_domain]
    files = [*log.items(night=False), *log.items(night=True)]
    table = pa.concat_tables(pq.read_table(file) for file in files)
    assert table.schema.equals(ITEMS.arrow_schema)
    assert sorted(zip(*table.to_pydict().values(), strict=True)) == sorted(expected)
    new = pa.concat_tables(pq.read_table(file) for file in log.items(night=True))["arrival_ds"].to_pylist()
    assert new and set(new) == {landing_day(HISTORY_DAYS)}


def test_an_item_that_never_came_has_no_index() -> None:
    never = np.iinfo(np.int16).max
    assert item_indexes(np.array([3, never, 0, 3, 1], np.int16)).tolist() == [3, 0, 1, 4, 2]


def test_a_day_alone_equals_the_day_among_others_and_the_heavy_user_can_be_left_out() -> None:
    world = World(SIZE)
    world.day(1)
    assert all((a == b).all() for a, b in zip(world.day(40), World(SIZE).day(40), strict=True))
    heavy = world.user_number_U[HEAVY_USER]
    without = World(LogSize(events=100_000, seed=3, heavy_share=0)).day(40)
    assert (
        len(without.user_E) == 1_000
        and (without.user_E == heavy).sum() < 10 < (world.day(40).user_E == heavy).sum()
    )


def test_it_is_committed_as_ingest_would(log: LogFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCREC_STATE_DIR", str(tmp_path))
    lakehouse = Lakehouse(load_settings(Path(__file__).resolve().parents[2] / "syncrec.toml"))
    lakehouse.create_tables()
    commit(log, lakehouse, night=False)
    before = lakehouse.current_snapshot("interactions")
    history = lakehouse.read_arrow("interactions", before, columns=["arrival_ds"])
    items = lakehouse.read_arrow("items", lakehouse.current_snapshot("items"))
    assert len(history) == log.events
    assert max(history["arrival_ds"].to_pylist()) == landing_day(HISTORY_DAYS) - timedelta(days=1)
    assert max(items["arrival_ds"].to_pylist()) < landing_day(HISTORY_DAYS)
    commit(log, lakehouse, night=True)
    both = lakehouse.current_snapshot("interactions")
    assert len(lakehouse.read_arrow("interactions", both, columns=["arrival_ds"])) == log.events + log.new_events
    assert len(lakehouse.files("interactions", both)) == HISTORY_DAYS + 1
    assert len(lakehouse.read_arrow("items", lakehouse.current_snapshot("items"))) > len(items)


def test_sizes_that_make_no_sense_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--millions", "0.0001", "--folder", str(tmp_path)]) == 1
    assert "1000 events or more, not 100" in capsys.readouterr().err
    with pytest.raises(ValueError, match="share below 1"):
        LogSize(events=1_000, heavy_share=1)
