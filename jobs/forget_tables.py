"""Take users out of the Iceberg tables, and out of the old snapshots that would still hold them.

Of each table: the data files that hold their rows are written anew without them and take the old ones' place in one
commit; manifests are merged, because they keep the smallest and largest user id of files that are gone; all other
snapshots expire; then every file below the table that still holds an id and that nothing refers to is deleted,
whoever left it there. What is to be done is always found on the disk, so a killed run is finished by the next one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table as IcebergTable

from jobs import expiry
from jobs.compaction import always_merge
from jobs.errors import JobError
from jobs.forget_landing import csv_columns, filter_parquet
from jobs.forget_person import LineTest, People
from jobs.lakehouse import NAMESPACE, Lakehouse
from jobs.maintenance_commit import Busy, tidying
from jobs.maintenance_needs import local
from jobs.schemas import TABLES
from jobs.settings import Settings

RUN = "forget"
BOUND = 15
"""Iceberg keeps the first 16 characters of a file's smallest and largest id, the last one perhaps counted up."""
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a table holds of the users: rows its newest snapshot shows, by file; files of the past; manifests."""

    table: str
    rows: dict[Path, int]
    past: tuple[Path, ...]
    manifests: tuple[Path, ...]

    @property
    def any(self) -> bool:
        """Whether there is something to do."""
        return bool(self.rows or self.past or self.manifests)


class TableSearch:
    """Finds and removes rows of the users.

    Parameters
    ----------
    settings, lakehouse, people
        The project, its tables, whom to forget.
    """

    def __init__(self, settings: Settings, lakehouse: Lakehouse, people: People) -> None:
        self.settings, self.lakehouse, self.people = settings, lakehouse, people
        self._ids = pa.array(sorted(people.ids))
        self._bounds = tuple(user.encode()[:BOUND] for user in people.ids)
        self._tests: dict[tuple[str, str, str], LineTest] = {}

    def find(self) -> list[Found]:
        """Every table that holds something of the users."""
        found = (self._find(name) for name in TABLES if _columns(name))
        return [table for table in found if table.any]

    def _find(self, name: str) -> Found:
        live = expiry.live_files(self.lakehouse.table(name))
        newest = {local(path) for path in self.lakehouse.files(name, self.lakehouse.current_snapshot(name))}
        folder = self.lakehouse.warehouse / NAMESPACE / name
        held = {path: self._count(name, path, path in live) for path in sorted(folder.rglob("*.parquet"))}
        avro = tuple(path for path in sorted(folder.rglob("*.avro")) if self._has_bound(path))
        return Found(
            table=name,
            rows={path: n for path, n in held.items() if n and path in newest},
            past=tuple(path for path, n in held.items() if n and path not in newest),
            # a bound in a live manifest is another user's with a like id once no file holds these users
            manifests=tuple(path for path in avro if path not in live or any(held.values())),
        )

    def _has_bound(self, path: Path) -> bool:
        content = avro_bytes(path)
        return any(bound in content for bound in self._bounds)

    def _count(self, name: str, path: Path, live: bool) -> int:
        """The users' rows in a file; a broken one that nothing refers to counts as one of theirs."""
        try:
            batches = pq.ParquetFile(path).iter_batches(columns=_columns(name))
            return sum(pc.sum(self._theirs(name, batch)).as_py() or 0 for batch in batches)
        except (pa.ArrowInvalid, OSError) as error:
            if live:
                raise JobError(f"{path} cannot be read: {error}; restore it, then run this again") from error
            return 1

    def _theirs(self, name: str, batch: pa.RecordBatch) -> pa.Array:
        if "user_id" in batch.schema.names:
            return pc.fill_null(pc.is_in(batch.column("user_id"), value_set=self._ids), False)
        parts = (batch.column(column).to_pylist() for column in ("content", "source", "file", "arrival_ds"))
        return pa.array([self._is_their_line(*map(str, row)) for row in zip(*parts, strict=True)], pa.bool_())

    def _is_their_line(self, content: str, source: str, file: str, day: str) -> bool:
        key = (source, file, day)
        if key not in self._tests:
            self._tests[key] = self._line_test(*key)
        return self._tests[key](content)

    def _line_test(self, source: str, file: str, day: str) -> LineTest:
        """How a refused line of that file is read: as the source says, if it is still configured."""
        sources = {own.name: own for own in (*self.settings.sources, *self.settings.click_sources)}
        if source not in sources:
            return self.people.mentioned
        own = sources[source]
        return self.people.line_test(own, csv_columns(self.settings.landing_path / day / file, own))

    def forget(self, found: Found) -> None:
        """Remove what was found.

        Raises
        ------
        JobError
            Somebody else kept committing to the table.
        """
        for _ in range(ATTEMPTS):
            try:
                self._replace_files(found.table)
                self._merge_manifests(found.table)
                self._expire(found.table)
                break
            except Busy:
                continue
        else:
            raise JobError(f"{found.table}: another job commits to it: wait for its end, then run this again")
        self._delete(found.table)

    def _replace_files(self, name: str) -> None:
        table = self.lakehouse.table(name)
        files = [task.file for task in table.scan().plan_files()] if table.current_snapshot() else []
        held = [file for file in files if self._count(name, local(file.file_path), live=True)]
        if not held:
            return
        folder = self.lakehouse.stage_folder(name, self.settings.night.bootstrap_through, RUN)
        folder.mkdir(parents=True)
        added = list(self._written(table, name, held, folder))
        with (
            tidying(table, "rows of users were removed", RUN, folder) as (transaction, summary),
            transaction.update_snapshot(snapshot_properties=summary).overwrite() as overwrite,
        ):
            for file in held:
                overwrite.delete_data_file(file)
            for fresh in added:
                overwrite.append_data_file(fresh)

    def _written(self, table: IcebergTable, name: str, held: list[DataFile], folder: Path) -> Iterator[DataFile]:
        for place, file in enumerate(held):
            target, source = folder / f"part-{place}.parquet", local(file.file_path)
            schema = TABLES[name].arrow_schema
            if filter_parquet(source, target, lambda batch: self._theirs(name, batch), schema):
                yield parquet_file_to_data_file(table.io, table.metadata, f"file://{target}")
            else:
                target.unlink()

    def _merge_manifests(self, name: str) -> None:
        table = self.lakehouse.table(name)
        snapshot = table.current_snapshot()
        paths = [local(manifest.manifest_path) for manifest in snapshot.manifests(table.io)] if snapshot else []
        if not any(map(self._has_bound, paths)):
            return
        always_merge(table)
        with (
            tidying(table, "manifests merged after users were removed", RUN) as (transaction, summary),
            transaction.update_snapshot(snapshot_properties=summary).merge_append(),
        ):
            pass

    def _expire(self, name: str) -> None:
        table = self.lakehouse.table(name)
        newest = self.lakehouse.current_snapshot(name)
        expiry.expire(table, [old.snapshot_id for old in table.snapshots() if old.snapshot_id != newest])

    def _delete(self, name: str) -> None:
        live = expiry.live_files(self.lakehouse.table(name))
        found = self._find(name)
        for path in (*found.past, *found.manifests):
            if path not in live:
                path.unlink(missing_ok=True)
                path.with_name(f".{path.name}.crc").unlink(missing_ok=True)


def _columns(name: str) -> list[str]:
    """The columns that say whose a row is; none where rows are nobody's."""
    names = TABLES[name].column_names
    if "user_id" in names:
        return ["user_id"]
    return ["content", "source", "file", "arrival_ds"] if "content" in names else []


def avro_bytes(path: Path) -> bytes:
    """The content of an Avro file (Iceberg's manifests and their lists), unpacked.

    Raises
    ------
    JobError
        It is packed in another way than PyIceberg packs.
    """
    data = path.read_bytes()
    if data[:4] != b"Obj\x01":
        return data
    head, place = _avro_map(data, 4)
    codec = head.get("avro.codec", b"null")
    if codec not in (b"null", b"deflate"):
        raise JobError(f"{path}: Avro packed with {codec.decode()}, which is not read here")
    sync, place = data[place : place + 16], place + 16
    parts = []
    while place < len(data):
        _, place = avro_long(data, place)
        size, place = avro_long(data, place)
        block = data[place : place + size]
        parts.append(zlib.decompress(block, -15) if codec == b"deflate" else block)
        place += size + len(sync)
    return b"".join(parts)


def avro_long(data: bytes, place: int) -> tuple[int, int]:
    """A whole number as Avro writes it (zigzag, 7 bits a byte), and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), place


def _avro_map(data: bytes, place: int) -> tuple[dict[str, bytes], int]:
    found: dict[str, bytes] = {}
    while True:
        count, place = avro_long(data, place)
        if count == 0:
            return found, place
        if count < 0:
            count = -count
            _, place = avro_long(data, place)
        for _ in range(count):
            size, place = avro_long(data, place)
            key, place = data[place : place + size].decode(), place + size
            size, place = avro_long(data, place)
            found[key], place = data[place : place + size], place + size
