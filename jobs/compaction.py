"""Small data files of one partition merged into few, and many manifests into one; not a row changes.

Tables are partitioned by the value of one column (the day; items: the domain), and an Iceberg data file belongs to
one partition: files of different days stay apart, so that a day can still be replaced by itself and reading one day
opens one day's files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import TableProperties

from jobs.errors import JobError
from jobs.lakehouse import Lakehouse, partition_value
from jobs.maintenance_commit import tidying
from jobs.maintenance_needs import local
from jobs.schemas import TABLES
from jobs.settings import Maintenance
from jobs.sql_views import in_todays_columns

FULL = 0.75
"""A file of this share of the wanted size is left alone: else every run would write the largest ones again."""
MANIFESTS = 10
"""More manifests than that are merged: planning any read opens each of them."""
BYTES_A_MB = 1_000_000
ROWS_A_BATCH = 100_000
MEMORY = "1GB"
ZSTD = 3


@dataclass(frozen=True)
class Merge:
    """Files of one partition that become one."""

    partition: Any
    files: tuple[DataFile, ...]

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(file.file_size_in_bytes for file in self.files)


def find_merges(table: IcebergTable, own: Maintenance, busy: Collection[date]) -> list[Merge]:
    """The files of a table's newest snapshot that should be merged; none of the partitions in `busy`."""
    wanted = own.file_mb * BYTES_A_MB
    small: dict[Any, list[DataFile]] = {}
    for task in table.scan().plan_files():
        partition = partition_value(table.name()[-1], task.file)
        if task.file.file_size_in_bytes < FULL * wanted and partition not in busy:
            small.setdefault(partition, []).append(task.file)
    found = []
    for partition in sorted(small):
        group: list[DataFile] = []
        for file in sorted(small[partition], key=lambda file: (-file.file_size_in_bytes, file.file_path)):
            if group and sum(f.file_size_in_bytes for f in group) + file.file_size_in_bytes > wanted:
                found.append(Merge(partition, tuple(group)))
                group = []
            group.append(file)
        found.append(Merge(partition, tuple(group)))
    return [merge for merge in found if len(merge.files) > 1]


def compact(
    lakehouse: Lakehouse, name: str, own: Maintenance, busy: Collection[date], *, ds: date, run_id: str, dry: bool
) -> list[Merge]:
    """Merge the small files of a table in one commit; returns what was merged.

    Raises
    ------
    Busy
        Another process committed in between: its result stands, nothing of ours does.
    """
    table = lakehouse.table(name)
    merges = find_merges(table, own, busy)
    if dry or not merges:
        return merges
    folder = lakehouse.stage_folder(name, ds, run_id)
    folder.mkdir(parents=True)
    written = [_merged(name, merge, folder / f"part-{n}.parquet") for n, merge in enumerate(merges)]
    added = [parquet_file_to_data_file(table.io, table.metadata, f"file://{path}") for path in written]
    what = f"{sum(len(merge.files) for merge in merges)} files merged into {len(merges)}"
    with (
        tidying(table, what, run_id, folder) as (transaction, summary),
        transaction.update_snapshot(snapshot_properties=summary).overwrite() as overwrite,
    ):
        for merge in merges:
            for file in merge.files:
                overwrite.delete_data_file(file)
        for file in added:
            overwrite.append_data_file(file)
    return merges


def _merged(name: str, merge: Merge, path: Path) -> Path:
    """Write the rows of the files into one, in the order of the columns, and hold the rows against each other.

    DuckDB sorts on disk where memory does not suffice.

    Raises
    ------
    JobError
        The file that was written does not hold the same rows.
    """
    schema, columns = TABLES[name].arrow_schema, ", ".join(TABLES[name].column_names)
    read = f"({in_todays_columns(name, 'read_parquet(?, hive_partitioning = false, union_by_name = true)')})"
    # A dictionary of values that hardly repeat, as scores and event ids, makes a file larger.
    repeating = [c.name for c in TABLES[name].columns if c.type in ("string", "date", "int", "boolean")]
    sources = [str(local(file.file_path)) for file in merge.files]
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as connection:
        connection.execute(f"set timezone = 'UTC'; set memory_limit = '{MEMORY}'; set threads = 2")
        connection.execute("set temp_directory = ?", [spill])
        rows = connection.execute(f"select {columns} from {read} order by all", [sources])
        with pq.ParquetWriter(
            path, schema, compression="zstd", compression_level=ZSTD, use_dictionary=repeating
        ) as writer:
            for batch in rows.to_arrow_reader(ROWS_A_BATCH):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
        count = f"select count(*), sum(hash({columns})::hugeint) from {read}"
        before = connection.execute(count, [sources]).fetchone()
        after = connection.execute(count, [[str(path)]]).fetchone()
    if before != after:
        raise JobError(
            f"{name}: {path} does not hold the rows of the {len(sources)} files that it was to replace; nothing "
            "was changed; look whether the disk is sound, then run maintain again"
        )
    return path


def merge_manifests(lakehouse: Lakehouse, name: str, *, run_id: str, dry: bool) -> int:
    """Merge a table's manifests where they are many; returns how many there were, 0 where they are few."""
    table = lakehouse.table(name)
    snapshot = table.current_snapshot()
    count = len(snapshot.manifests(table.io)) if snapshot else 0
    if count <= MANIFESTS:
        return 0
    if not dry:
        always_merge(table)
        with (
            tidying(table, f"{count} manifests merged", run_id) as (transaction, summary),
            transaction.update_snapshot(snapshot_properties=summary).merge_append(),
        ):
            pass
    return count


def always_merge(table: IcebergTable) -> None:
    """Have the next commit merge all manifests; said to this loaded copy alone, as in never_retry."""
    merging = {TableProperties.MANIFEST_MERGE_ENABLED: "true", TableProperties.MANIFEST_MIN_MERGE_COUNT: "2"}
    properties = {**table.metadata.properties, **merging}
    table.metadata = table.metadata.model_copy(update={"properties": properties})
