"""DuckDB's sequences are those of an oracle in plain Python, in both forms; digests see a row that differs."""

import json
from collections import defaultdict
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import data_peers
from benchmarks.generated_files import LogFiles, write_log
from benchmarks.generated_logs import DOMAINS, LogSize

T = 4


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> LogFiles:
    return write_log(LogSize(events=3_000), tmp_path_factory.mktemp("log"), processes=1)


def histories(log: LogFiles, *, night: bool = False) -> dict[str, list[tuple[int, int, int, int]]]:
    """Of each user (time, event_id, code, item), oldest first."""
    files = log.interactions(night=False) + (log.interactions(night=True) if night else [])
    found = defaultdict(list)
    for row in pa.concat_tables(pq.read_table(file) for file in files).to_pylist():
        time = int(row["ts"].timestamp() * 1_000_000 + 0.5)
        found[row["user_id"]].append((time, row["event_id"], DOMAINS.index(row["domain"]) + 1, row["item_index"]))
    return {user: sorted(events) for user, events in found.items()}


def made(log: LogFiles, out: Path, form: str, *, night: bool = False) -> dict[str, list[str]]:
    with data_peers.connect(out, threads=1, memory_gib=1) as connection:
        data_peers.events_of(connection, log, night=night, length=T)
        data_peers.make_sequences(connection, out, form)
        return data_peers.digests_of_folder(connection, out)


@pytest.mark.parametrize("form", data_peers.FORMS)
def test_sequences_are_the_last_events_in_the_total_order(log: LogFiles, tmp_path: Path, form: str) -> None:
    made(log, tmp_path, form)
    users = histories(log)
    cross = pq.read_table(tmp_path / "cross.parquet").to_pylist()
    assert {row["user_id"] for row in cross} == set(users) and len(cross) == len(users)
    assert any(len(events) > T for events in users.values())
    for row in cross:
        kept = users[row["user_id"]][-T:]
        columns = (row["times"], row["domains"], row["items"])
        assert list(zip(*columns, strict=True)) == [(time, code, item) for time, _, code, item in kept]
    single = pq.read_table(tmp_path / "single.parquet").to_pylist()
    assert len(single) == len({(user, event[2]) for user, events in users.items() for event in events})
    for row in single:
        kept = [event for event in users[row["user_id"]] if event[2] == row["code"]][-T:]
        assert list(zip(row["times"], row["items"], strict=True)) == [(time, item) for time, _, _, item in kept]


def kept_rows(log: LogFiles, *, night: bool) -> pa.Table:
    """The rows of a table `sequences` that keeps every event of a user."""
    users = histories(log, night=night)
    return pa.table(
        {
            "user_id": list(users),
            "items": pa.array([[e[3] for e in events] for events in users.values()], pa.list_(pa.int32())),
            "domains": pa.array([[e[2] for e in events] for events in users.values()], pa.list_(pa.int32())),
            "times": pa.array([[e[0] for e in events] for events in users.values()], pa.list_(pa.int64())),
            "ds": pa.array([100 + night] * len(users), pa.int32()).cast(pa.date32()),
        }
    )


def test_the_table_sequences_has_the_same_digest_by_its_latest_rows(log: LogFiles, tmp_path: Path) -> None:
    expected = made(log, tmp_path / "history", "separate")
    assert made(log, tmp_path / "history2", "derived") == expected
    after = made(log, tmp_path / "all", "derived", night=True)
    assert after != expected
    pq.write_table(kept_rows(log, night=False), tmp_path / "base.parquet")
    everyone = kept_rows(log, night=True)
    before = {row["user_id"]: row["items"] for row in kept_rows(log, night=False).to_pylist()}
    changed = np.array([row["items"] != before.get(row["user_id"]) for row in everyone.to_pylist()])
    assert 0 < changed.sum() < len(everyone)
    pq.write_table(everyone.filter(pa.array(changed)), tmp_path / "night.parquet")
    files = [f"file://{tmp_path / name}.parquet" for name in ("base", "night")]
    with data_peers.connect(tmp_path) as connection:
        assert data_peers.digests_of_table(connection, files[:1], length=T) == expected
        assert data_peers.digests_of_table(connection, files, length=T) == after
        rows = everyone.to_pylist()
        rows[0]["times"][-1] += 1
        pq.write_table(pa.Table.from_pylist(rows, schema=everyone.schema), tmp_path / "wrong.parquet")
        wrong = data_peers.digests_of_table(connection, [str(tmp_path / "wrong.parquet")], length=T)
        assert wrong["cross"][0] == after["cross"][0] and wrong["cross"] != after["cross"]
        assert wrong["single"] != after["single"]


def test_other_peers_read_the_same_events(log: LogFiles, tmp_path: Path) -> None:
    with data_peers.connect(tmp_path) as connection:
        data_peers.events_of(connection, log, night=False)
        data_peers.write_arrays(connection, tmp_path)
        data_peers.write_text(connection, tmp_path)
    users = histories(log)
    arrays = [np.load(tmp_path / f"{name}.npy") for name in ("user", "time", "code", "item")]
    drawn = sorted(
        (f"U{user:09d}", time, code, item & 0xFFFFFFFF) for user, time, code, item in zip(*arrays, strict=True)
    )
    assert drawn == sorted((user, time, code, item) for user in users for time, _, code, item in users[user])
    head, *lines = (tmp_path / "amazon_seq.txt").read_text().splitlines()
    assert head.split("\t") == ["", "user_id", "item", "type", "unix_time", "list_len"]
    read = {line.split("\t")[1]: line.split("\t")[2:] for line in lines}
    assert set(read) == set(users) and len(lines) == len(users)
    for user, (items, types, times, length) in read.items():
        assert items.split(",") == [f"{code}-{item}" for _, _, code, item in users[user]]
        assert types.split(",") == [DOMAINS[code - 1] for _, _, code, _ in users[user]]
        assert times.split(",") == [str(time // 1_000_000) for time, _, _, _ in users[user]]
        assert int(length) == len(users[user])
    counts = [line.split("\t") for line in (tmp_path / "voca_type.txt").read_text().splitlines()]
    assert counts[0] == ["", "type", "cnt"] and sum(int(row[2]) for row in counts[1:]) == log.events


def test_the_command_says_in_a_line_that_memory_ran_out(
    log: LogFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ["--log", str(log.folder), "--out", str(tmp_path)]
    assert data_peers.main(["duckdb", *folder, "--threads", "1", "--memory-gib", "1"]) == 0
    assert data_peers.main(["digest", "--out", str(tmp_path)]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"cross", "single"}

    def out_of_memory(*_: object) -> None:
        raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate\nmore words")

    monkeypatch.setattr(data_peers, "make_sequences", out_of_memory)
    assert data_peers.main(["duckdb", *folder]) == 1
    assert capsys.readouterr().err == "OutOfMemoryException: Out of Memory Error: could not allocate\n"
