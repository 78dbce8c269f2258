"""What goes: rows past their days, snapshots that nothing needs, files that no snapshot and no night knows.

Nothing is deleted because a list says so. Snapshots and rows go by commits; then every file below the tables'
folders goes that no kept snapshot of any table refers to, that no night in progress has noted, and that is old
enough: whatever was left by a kill, here or anywhere, is found by the next run.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import LessThan
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Snapshot, ancestors_of

from jobs.errors import JobError
from jobs.lakehouse import NAMESPACE, Lakehouse
from jobs.maintenance_commit import Busy, tidying
from jobs.maintenance_needs import Needs, local
from jobs.schemas import SEQUENCES, TABLES
from jobs.sequence_nights import SequenceNight
from jobs.settings import Maintenance


@dataclass(frozen=True)
class Orphan:
    """A file that nothing refers to."""

    table: str
    path: Path
    bytes: int


# --- snapshots --------------------------------------------------------------------------------------------


def old_snapshots(table: IcebergTable, own: Maintenance, needs: Needs, now: datetime) -> list[int]:
    """The snapshots before the oldest one that must stay: what stays is one unbroken history.

    A snapshot stays that a kept night or a night in progress pins, that is of the last `snapshot_days` days, or
    that was the newest one at some moment of the last `young_hours`.
    """
    pinned = needs.snapshots.get(table.name()[-1], frozenset())
    recent = needs.newest - timedelta(days=own.snapshot_days - 1)
    young = now - timedelta(hours=own.young_hours)
    history = list(ancestors_of(table.current_snapshot(), table.metadata))[::-1]
    latest = date.min
    for place, snapshot in enumerate(history):
        latest = max(latest, _day(snapshot))
        replaced = history[place + 1].timestamp_ms if place + 1 < len(history) else None
        in_use = replaced is None or datetime.fromtimestamp(replaced / 1000, UTC) > young
        if snapshot.snapshot_id in pinned or latest >= recent or in_use:
            return [old.snapshot_id for old in history[:place]]
    return []


def _day(snapshot: Snapshot) -> date:
    said = snapshot.summary.additional_properties if snapshot.summary else {}
    return date.fromisoformat(said["syncrec.ds"]) if "syncrec.ds" in said else date.min


def expire(table: IcebergTable, snapshots: Collection[int]) -> None:
    """Take snapshots out of a table's metadata.

    Raises
    ------
    Busy
        Another process committed in between.
    """
    if not snapshots:
        return
    try:
        table.maintenance.expire_snapshots().by_ids(list(snapshots)).commit()
    except (CommitFailedException, ValueError) as error:  # ValueError: another maintenance was quicker
        raise Busy(str(error)) from error


# --- rows -------------------------------------------------------------------------------------------------


def first_day(table: IcebergTable, own: Maintenance, needs: Needs, gone: Collection[int]) -> date | None:
    """The first day whose rows a table keeps; None keeps all.

    The rows of `sequences` before the base of the oldest night in its history go: no state holds them any more.
    `gone` are snapshots that expire at the same time.
    """
    name = table.name()[-1]
    if name != SEQUENCES.name:
        days = own.keep_days.get(name)
        return needs.newest - timedelta(days=days - 1) if days else None
    bases = [
        SequenceNight.read(snapshot.snapshot_id, said).base_ds
        for snapshot in table.snapshots()
        if snapshot.snapshot_id not in gone and "base_ds" in (said := _own(snapshot))
    ]
    return min(bases, default=None)


def _own(snapshot: Snapshot) -> Mapping[str, str]:
    said = snapshot.summary.additional_properties if snapshot.summary else {}
    return {key.removeprefix("syncrec."): value for key, value in said.items() if key.startswith("syncrec.")}


def drop_rows(table: IcebergTable, before: date | None, *, run_id: str, dry: bool) -> tuple[int, int]:
    """Drop the rows of days before that one; returns how many files and rows.

    Raises
    ------
    Busy
        Another process committed in between.
    """
    snapshot = table.current_snapshot()
    if before is None or snapshot is None:
        return 0, 0
    where = LessThan(TABLES[table.name()[-1]].partition, before.isoformat())
    files = [task.file for task in table.scan(row_filter=where).plan_files()]
    if files and not dry:
        with tidying(table, f"rows before {before} dropped", run_id) as (transaction, summary):
            transaction.delete(where, snapshot_properties=summary)
    return len(files), sum(file.record_count for file in files)


# --- files ------------------------------------------------------------------------------------------------


def orphans(
    lakehouse: Lakehouse, own: Maintenance, needs: Needs, now: datetime, gone: Mapping[str, Collection[int]]
) -> list[Orphan]:
    """The files that nothing refers to. The folders are listed first: what is committed meanwhile is seen as live.

    Parameters
    ----------
    lakehouse, own, needs
        The tables, the settings, what nights in progress noted.
    now
        The time by the clock.
    gone
        Snapshots, by table, that count as expired (of a dry run).

    Raises
    ------
    JobError
        A table's files do not lie where they are looked for: its own would look as if nothing referred to them.
    """
    old = (now - timedelta(hours=own.young_hours)).timestamp()
    listed = {name: list(_old_files(lakehouse.warehouse / NAMESPACE / name, old)) for name in TABLES}
    live = {local(address) for address in needs.files}
    for _, name in lakehouse.catalog.list_tables(NAMESPACE):
        own_files = live_files(lakehouse.table(name), gone.get(name, ()))
        _require_below(lakehouse.warehouse / NAMESPACE, name, own_files)
        live |= own_files
    return [
        Orphan(name, path, size)
        for name, files in listed.items()
        for path, size in files
        if not _is_live(path, live)
    ]


def _require_below(folder: Path, name: str, files: Collection[Path]) -> None:
    if stranger := next((path for path in files if not path.is_relative_to(folder)), None):
        raise JobError(
            f"table {name} refers to {stranger}, which is not below {folder}: no file was removed; give [catalog] "
            "warehouse (or state_dir) as it was when the tables were made"
        )


def _old_files(folder: Path, before: float) -> Iterator[tuple[Path, int]]:
    for place in ("data", "metadata"):
        for parent, _, names in os.walk(folder / place):
            for name in names:
                path = Path(parent, name)
                with suppress(FileNotFoundError):
                    found = path.lstat()
                    if found.st_mtime < before:
                        yield path, found.st_size


def _is_live(path: Path, live: Collection[Path]) -> bool:
    """Besides what is referred to: the checksum that Spark wrote beside it."""
    if path in live:
        return True
    return path.name.startswith(".") and path.suffix == ".crc" and path.with_name(path.name[1:-4]) in live


def live_files(table: IcebergTable, gone: Collection[int] = ()) -> set[Path]:
    """Every file that a table's metadata refers to: data, manifests, their lists, and metadata files themselves."""
    metadata = table.metadata
    found = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    found |= {statistics.statistics_path for statistics in metadata.statistics}
    read: set[str] = set()
    for snapshot in metadata.snapshots:
        if snapshot.snapshot_id in gone:
            continue
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in read:
                read.add(manifest.manifest_path)
                found |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
    return {local(address) for address in found | read}


def remove(files: Collection[Orphan]) -> None:
    """Delete files, and the folders that they leave empty."""
    for file in files:
        file.path.unlink(missing_ok=True)
    for folder in sorted({file.path.parent for file in files}, key=lambda path: -len(path.parts)):
        while folder.name not in ("data", "metadata"):
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone already
                break
            folder = folder.parent
