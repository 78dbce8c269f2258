"""Write a generated log as the Parquet files of `interactions` and `items`, and commit them as ingest would.

    python -m benchmarks.generated_files --millions 20 --folder var/bench-data/logs/20m

Landing days are drawn twice, each time by several processes: once to see on which day every item came first,
which gives the indexes in the order of ingest (arrival day, then id), and once to write. A process holds one day at
a time.
The same seed and size give the same bytes. A folder that holds its manifest is complete and used again.
V items of a domain.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.expressions import And, GreaterThanOrEqual, LessThanOrEqual

from benchmarks.generated_logs import DAY, DOMAINS, HISTORY_DAYS, Array, Day, LogSize, World, landing_day
from jobs.lakehouse import Lakehouse
from jobs.schemas import INTERACTIONS, ITEMS

FORMAT = 1
"""Goes up when the same size and seed give other files: a folder of an older format is written anew."""
_MANIFEST = "log.json"
_NEVER = np.iinfo(np.int16).max


@dataclass(frozen=True, kw_only=True)
class LogFiles:
    """A written log: its folder and how much it holds."""

    folder: Path
    size: LogSize
    events: int
    new_events: int
    bytes: int

    def interactions(self, *, night: bool) -> list[Path]:
        """The event files of the history, or those of the night."""
        days = [HISTORY_DAYS] if night else range(HISTORY_DAYS)
        return [self.folder / "interactions" / f"{landing_day(number)}.parquet" for number in days]

    def items(self, *, night: bool) -> list[Path]:
        """The files of items that came in the history, or on the night for the first time."""
        return sorted((self.folder / "items").glob("night-*.parquet" if night else "history-*.parquet"))


def write_log(
    size: LogSize, folder: Path, *, processes: int = 2, tell: Callable[[str], object] = lambda line: None
) -> LogFiles:
    """Write the files of a log, or find them.

    Parameters
    ----------
    size : how much to draw, and its seed.
    folder : where; what another size left there is removed.
    processes : how many draw and write at once.
    tell : is told a line now and then.
    """
    wanted = {"format": FORMAT, **asdict(size), "columns": INTERACTIONS.column_names}
    manifest = folder / _MANIFEST
    found = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    if {key: found.get(key) for key in wanted} != wanted:
        tell(f"writing {size.events:,} events and {size.new:,} of a night into {folder.name} ...")
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("interactions", "items", "indexes"):
            (folder / part).mkdir(parents=True)
        with _mapping(processes) as each:
            _index_items(size, folder, each, tell)
            rows = _write_days(size, folder, each, tell)
        shutil.rmtree(folder / "indexes")
        written = {"events": sum(rows[:-1]), "new_events": rows[-1], "bytes": _bytes(folder)}
        found = {**wanted, "written": written}
        manifest.with_suffix(".part").write_text(json.dumps(found, indent=1), encoding="utf-8")
        os.replace(manifest.with_suffix(".part"), manifest)
    return read_log(folder)


def read_log(folder: Path) -> LogFiles:
    """Find a log that `write_log` has written."""
    found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    size = LogSize(**{field.name: found[field.name] for field in fields(LogSize)})
    return LogFiles(folder=folder, size=size, **found["written"])


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give a `map` that works in several processes, or here for one."""
    if processes == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield pool.map


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet"))


# --- items --------------------------------------------------------------------------------------------------


def _index_items(
    size: LogSize, folder: Path, each: Callable[..., Iterable[Any]], tell: Callable[[str], object]
) -> None:
    """Find the first landing day of every item; write the items tables and, for the days, the indexes."""
    first_DV = [np.full(count, _NEVER, np.int16) for count in size.n_items]
    days = range(HISTORY_DAYS + 1)
    for number, items_D in enumerate(each(_items_of_day, [size] * len(days), days)):
        for first_V, item in zip(first_DV, items_D, strict=True):
            first_V[item] = np.minimum(first_V[item], number)
        if number % 25 == 0:
            tell(f"  items of landing day {number} of {HISTORY_DAYS} seen")
    for code, first_V in enumerate(first_DV, start=1):
        index_V = item_indexes(first_V)
        np.save(_index_file(folder, code), index_V)
        for name, came_V in (("history", first_V < HISTORY_DAYS), ("night", first_V == HISTORY_DAYS)):
            if came_V.any():
                table = _items_table(code, np.flatnonzero(came_V), index_V, first_V)
                pq.write_table(table, folder / "items" / f"{name}-{code}.parquet", compression="zstd")


def item_indexes(first_V: Array) -> Array:
    """Give items their indexes from 1 by (landing day of first sight, id); 0 where an item never came."""
    order = np.lexsort((np.arange(len(first_V)), first_V))
    order = order[first_V[order] < _NEVER]
    index_V = np.zeros(len(first_V), np.int32)
    index_V[order] = np.arange(1, len(order) + 1)
    return index_V


def _items_of_day(size: LogSize, number: int) -> list[Array]:
    day = _world(size).day(number)
    return [np.unique(day.item_E[day.code_E == code]) for code in range(1, len(DOMAINS) + 1)]


def _items_table(code: int, items: Array, index_V: Array, first_V: Array) -> pa.Table:
    columns = {
        "domain": pa.array([DOMAINS[code - 1]]).take(pa.array(np.zeros(len(items), np.int32))),
        "item_id": _named("B", items),
        "item_index": pa.array(index_V[items]),
        "arrival_ds": pa.array((np.datetime64(landing_day(0)) + first_V[items]).astype("datetime64[D]")),
    }
    return _as_table(columns, ITEMS.arrow_schema)


# --- events -------------------------------------------------------------------------------------------------


def _write_days(
    size: LogSize, folder: Path, each: Callable[..., Iterable[Any]], tell: Callable[[str], object]
) -> list[int]:
    rows = []
    days = range(HISTORY_DAYS + 1)
    for number, count in enumerate(each(_write_day, [size] * len(days), [folder] * len(days), days)):
        rows.append(count)
        if number % 25 == 0:
            tell(f"  landing day {number} of {HISTORY_DAYS} written")
    return rows


def _write_day(size: LogSize, folder: Path, number: int) -> int:
    day = _world(size).day(number)
    codes = range(1, len(DOMAINS) + 1)
    table = events_table(day, number, [np.load(_index_file(folder, code), mmap_mode="r") for code in codes])
    pq.write_table(table, folder / "interactions" / f"{landing_day(number)}.parquet", compression="zstd")
    return len(table)


def events_table(day: Day, number: int, indexes_DV: Sequence[Array]) -> pa.Table:
    """Return one landing day as rows of the table `interactions`."""
    index_E = np.zeros(len(day.item_E), np.int32)
    for code, index_V in enumerate(indexes_DV, start=1):
        index_E[day.code_E == code] = index_V[day.item_E[day.code_E == code]]
    place_E = pa.array(day.code_E - 1)
    arrived = pa.array(np.full(len(day.user_E), landing_day(number), "datetime64[D]"))
    columns = {
        "user_id": _named("U", day.user_E),
        "item_id": _named("B", day.item_E),
        "item_index": pa.array(index_E),
        "domain": pa.array(DOMAINS).take(place_E),
        "ts": pa.array(day.micros_E).cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC")),
        "event_id": pa.array(day.event_id_E),
        "event_day": pa.array((day.micros_E // DAY).astype("datetime64[D]")),
        "source": pa.array([f"{name}_log" for name in DOMAINS]).take(place_E),
        "known_ds": arrived,
        "arrival_ds": arrived,
    }
    return _as_table(columns, INTERACTIONS.arrow_schema)


def _as_table(columns: dict[str, pa.Array], schema: pa.Schema) -> pa.Table:
    return pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)


def _named(letter: str, numbers: Array) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise(letter, digits, "")


def _index_file(folder: Path, code: int) -> Path:
    return folder / "indexes" / f"{code}.npy"


@cache
def _world(size: LogSize) -> World:
    """The world of a log, made once a process."""
    return World(size)


# --- the lakehouse ------------------------------------------------------------------------------------------


def commit(log: LogFiles, lakehouse: Lakehouse, *, night: bool) -> None:
    """Publish the history, or the night, as ingest does: items first, then events, each in one transaction.

    The tables point to the files where they lie; nothing is copied.
    """
    first, last = (HISTORY_DAYS, HISTORY_DAYS) if night else (0, HISTORY_DAYS - 1)
    ds: date = landing_day(last)
    days = And(
        GreaterThanOrEqual("arrival_ds", landing_day(first).isoformat()),
        LessThanOrEqual("arrival_ds", ds.isoformat()),
    )
    named: dict[str, Any] = {"ds": ds, "run_id": "generated"}
    parent = lakehouse.current_snapshot(ITEMS.name)
    lakehouse.append(ITEMS.name, _addresses(log.items(night=night)), parent=parent, **named)
    lakehouse.replace(INTERACTIONS.name, days, _addresses(log.interactions(night=night)), **named)


def _addresses(files: Sequence[Path]) -> list[str]:
    return [f"file://{file.resolve()}" for file in files]


def main(argv: Sequence[str] | None = None) -> int:
    """Write one log and say what it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--millions", type=float, required=True, help="events of the history, in millions")
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    parser.add_argument("--seed", type=int, default=LogSize(events=1_000).seed)
    parser.add_argument("--processes", type=int, default=2)
    a = parser.parse_args(argv)
    try:
        size = LogSize(events=round(a.millions * 1e6), seed=a.seed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    log = write_log(size, a.folder, processes=a.processes, tell=print)
    mib = log.bytes / 2**20
    print(f"{log.events:,} events and {log.new_events:,} of the night in {log.folder}, {mib:,.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
