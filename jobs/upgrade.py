"""Bring the state of an older version of the project to today's form: whoever opens the tables first does it, once.

Tables get the columns that they lack by Iceberg's schema evolution, which writes no data file anew; what has to be
computed is written anew, file by file. Each table changes in one commit, each step looks at what is there, and the
number comes last: a kill at any moment leaves a state that the next command goes on with.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction
from sqlalchemy.exc import SQLAlchemyError

from jobs.errors import JobError
from jobs.lakehouse import NAMESPACE, Lakehouse
from jobs.maintenance_commit import Busy, tidying
from jobs.maintenance_needs import local
from jobs.night_files import write_whole
from jobs.night_plan import table_days
from jobs.schemas import INTERACTIONS, ITEMS, TABLES
from jobs.settings import Settings
from jobs.state_version import STATE_VERSION, is_older, read_version, write_version

RUN = "upgrade"
MEMORY = "1GB"
ROWS_A_BATCH = 100_000
_VIEWS_NOW = ("cross_sequences", "single_sequences")


def upgrade(lakehouse: Lakehouse, settings: Settings) -> None:
    """Bring an older state to today's form and say on stderr what changed.

    Raises
    ------
    JobError
        A night is in progress, the state may not be written, or its tables contradict each other.
    """
    try:
        with _alone(lakehouse.warehouse):
            found = read_version(lakehouse.catalog, NAMESPACE)
            if found is None or not is_older(found, lakehouse.warehouse):
                return  # another process did it while we waited
            _refuse_while_a_night_runs(settings.state)
            _tell(
                f"the state in {lakehouse.warehouse} is of version {found}: bringing it to version {STATE_VERSION} "
                "(after a kill the next command goes on)"
            )
            end = ", nothing had to change"
            for said in _changes(lakehouse, settings, found):
                _tell(f"  {said}")
                end = ""
            write_version(lakehouse.catalog, NAMESPACE)
            _tell(f"the state is of version {STATE_VERSION}{end}")
    except Busy as error:
        raise JobError("another job commits to the tables: wait for its end, then run this again") from error
    except (OSError, SQLAlchemyError, duckdb.Error) as error:
        raise JobError(
            f"the state in {lakehouse.warehouse} could not be brought to version {STATE_VERSION}: {error}; mend "
            "the cause (it must be yours to write) and run this again"
        ) from error


def _changes(lakehouse: Lakehouse, settings: Settings, found: int) -> Iterator[str]:
    """Make every change; yields in words what was done."""
    for version in range(found, STATE_VERSION):
        yield from STEPS[version](lakehouse, settings)
    yield from _add_and_drop_columns(lakehouse)
    yield from _add_tables(lakehouse)
    yield from _free_nights(lakehouse)
    yield from _views(lakehouse, settings)


# --- the step from each version to the next ----------------------------------------------------------------


def _from_0(lakehouse: Lakehouse, settings: Settings) -> Iterator[str]:
    """2026-11-24: one table of sequences instead of two, and events that hold the indexes of their items."""
    yield from _retire(lakehouse)
    if "item_index" not in _columns(lakehouse, INTERACTIONS.name):
        yield from _number_events(lakehouse, settings)


def _from_1(lakehouse: Lakehouse, settings: Settings) -> Iterator[str]:
    """2026-11-27: the table `steps`, which comes by itself; past nights have no rows in it."""
    return iter(())


STEPS: Mapping[int, Callable[[Lakehouse, Settings], Iterator[str]]] = {0: _from_0, 1: _from_1}
"""By the version of a state: what its tables need besides new columns and new tables, which come by themselves."""


def _retire(lakehouse: Lakehouse) -> Iterator[str]:
    """Remove tables that are views of other tables now; they hold users' rows, which nobody would forget there."""
    present = {name for _, name in lakehouse.catalog.list_tables(NAMESPACE)}
    for name in _VIEWS_NOW:
        folder = lakehouse.warehouse / NAMESPACE / name
        if name not in present and not folder.exists():
            continue
        if name in present:
            lakehouse.catalog.drop_table(f"{NAMESPACE}.{name}")
        if folder.exists():
            shutil.rmtree(folder)
        yield f"{name}: removed, it is a view of sequences now; the next night builds sequences from interactions"


def _number_events(lakehouse: Lakehouse, settings: Settings) -> Iterator[str]:
    """Give every event its item_index and known_ds, as jobs.ingest does."""
    table = lakehouse.table(INTERACTIONS.name)
    files = [task.file for task in table.scan().plan_files()] if table.current_snapshot() else []
    folder = lakehouse.stage_folder(INTERACTIONS.name, settings.night.bootstrap_through, RUN)
    folder.mkdir(parents=True)
    rows = 0
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as connection:
        connection.execute(f"set timezone = 'UTC'; set memory_limit = '{MEMORY}'; set threads = 2")
        connection.execute("set temp_directory = ?", [spill])
        items = [str(local(path)) for path in lakehouse.files(ITEMS.name, lakehouse.current_snapshot(ITEMS.name))]
        if items:
            connection.execute("create table items as from read_parquet(?, hive_partitioning = false)", [items])
        for place, file in enumerate(files):
            target = folder / f"part-{place}.parquet"
            written = _numbered(connection, local(file.file_path), target)
            if written != file.record_count:
                raise JobError(
                    f"{written:,} of {file.record_count:,} events in {file.file_path} name an item of the table "
                    "items: the two do not fit; give the project a new state_dir and ingest its landing days anew"
                )
            rows += written
            if place % 100 == 99:
                _tell(f"  interactions: {place + 1:,} of {len(files):,} files")
    with tidying(table, "events got the indexes of their items", RUN, folder) as (transaction, summary):
        _evolve(transaction, table, INTERACTIONS.arrow_schema)
        if files:
            with transaction.update_snapshot(snapshot_properties=summary).overwrite() as overwrite:
                for file in files:
                    overwrite.delete_data_file(file)
                for place in range(len(files)):
                    address = f"file://{folder}/part-{place}.parquet"
                    fresh = parquet_file_to_data_file(table.io, transaction.table_metadata, address)
                    overwrite.append_data_file(fresh)
    yield f"interactions: {rows:,} events got item_index and known_ds ({len(files):,} files written anew)"


def _numbered(connection: duckdb.DuckDBPyConnection, source: Path, target: Path) -> int:
    """Write a file of events anew with the indexes of their items; returns how many events have one."""
    rows = connection.execute(
        "select events.*, items.item_index, greatest(events.arrival_ds, items.arrival_ds) as known_ds "
        "from read_parquet(?, hive_partitioning = false) as events join items using (domain, item_id)",
        [str(source)],
    )
    reader = rows.to_arrow_reader(ROWS_A_BATCH)
    schema = pa.schema([field for field in INTERACTIONS.arrow_schema if field.name in reader.schema.names])
    count = 0
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
            count += len(batch)
    return count


# --- what every step ends with -----------------------------------------------------------------------------


def _columns(lakehouse: Lakehouse, name: str) -> list[str]:
    return [field.name for field in lakehouse.table(name).schema().fields]


def _add_and_drop_columns(lakehouse: Lakehouse) -> Iterator[str]:
    """Give every table that is there today's columns: new ones are NULL in old rows, columns of the past go."""
    present = {name for _, name in lakehouse.catalog.list_tables(NAMESPACE)}
    for name in present & TABLES.keys():
        before, now = _columns(lakehouse, name), TABLES[name].column_names
        if before == now:
            continue
        table = lakehouse.table(name)
        with tidying(table, "columns of a newer version", RUN) as (transaction, summary):
            _evolve(transaction, table, TABLES[name].arrow_schema)
            if table.current_snapshot():  # readers take the columns of the newest snapshot
                with transaction.update_snapshot(snapshot_properties=summary).fast_append():
                    pass
        signs = [f"+{c}" for c in now if c not in before] + [f"-{c}" for c in before if c not in now]
        yield f"{name}: columns {' '.join(signs) or 'in another order'}"


def _evolve(transaction: Transaction, table: IcebergTable, schema: pa.Schema) -> None:
    """Columns of that schema, in its order, and no other."""
    with transaction.update_schema(allow_incompatible_changes=True) as update:
        update.union_by_name(schema)
        for field in table.schema().fields:
            if field.name not in schema.names:
                update.delete_column(field.name)
        update.move_first(schema.names[0])
        for before, name in zip(schema.names[:-1], schema.names[1:], strict=True):
            update.move_after(name, before)


def _add_tables(lakehouse: Lakehouse) -> Iterator[str]:
    before = {name for _, name in lakehouse.catalog.list_tables(NAMESPACE)}
    lakehouse.create_tables()
    if added := sorted(TABLES.keys() - before):
        yield f"new tables: {', '.join(added)}"


def _free_nights(lakehouse: Lakehouse) -> Iterator[str]:
    """Let nights pin anew: what they pinned is of the older form. Those that are not published begin anew."""
    newest = max(table_days(lakehouse, "nights", "ds"), default=date.min)
    for folder in sorted((lakehouse.warehouse / "_nights").glob("*-*-*")):
        begun = date.fromisoformat(folder.name) > newest
        notes = sorted(folder.glob("*.json"))
        for file in notes:
            values = json.loads(file.read_text(encoding="utf-8"))
            if begun:
                file.unlink()
            elif values.get("snapshots"):
                write_whole(file, json.dumps(values | {"snapshots": {}}, indent=1, sort_keys=True))
        if notes and begun:
            yield f"night {folder.name}: it was begun and not published, and begins anew"


def _views(lakehouse: Lakehouse, settings: Settings) -> Iterator[str]:
    from jobs.analytics import FILE, analytics_file, write_analytics  # it opens lakehouses, which may come here

    if analytics_file(settings).exists():
        write_analytics(settings, lakehouse)
        yield f"{FILE}: written anew"


# --- alone -------------------------------------------------------------------------------------------------


@contextmanager
def _alone(warehouse: Path) -> Iterator[None]:
    """Wait for another process that upgrades the same state."""
    with (warehouse / "upgrade.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(f"another process brings the state in {warehouse} to another version: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_while_a_night_runs(state: Path) -> None:
    """A night of the older code would go on writing the older form."""
    try:
        descriptor = os.open(state / "nightly.lock", os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 40).decode(errors="replace").strip()
        if holder != str(os.getpid()):
            raise JobError(
                f"a night of an older version is in progress in {state} (process {holder or 'unknown'}): wait for "
                "its end, or end it, then run this again"
            ) from None
    finally:
        os.close(descriptor)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
