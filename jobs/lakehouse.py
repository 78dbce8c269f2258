"""The tables: Apache Iceberg through PyIceberg, with data files that Spark writes as plain Parquet.

Write, audit, publish: a job writes Parquet files into a fresh folder of the table (`stage_folder`), the audit
looks at them, and one transaction (`replace`) drops the old rows and adds the files. A reader sees the old day
or the new one. Files that were never committed are invisible to every reader.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError, ValidationException
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import ancestors_of
from pyiceberg.transforms import IdentityTransform
from pyspark.sql import DataFrame, SparkSession

from jobs.code_version import code_version
from jobs.errors import JobError, PublishConflict
from jobs.machine_errors import cause_of
from jobs.private import without_password
from jobs.schemas import TABLES
from jobs.settings import Settings, make_folder
from jobs.spark import frame_of
from jobs.state_version import PROPERTY, STATE_VERSION, is_older, read_version
from jobs.table_form import Table

NAMESPACE = "syncrec"
MAINTENANCE = "syncrec.maintenance"
"""Says of a snapshot that jobs.maintain made it: no row of it is new; none is gone but those past their days."""
COMMIT_ATTEMPTS = 4
EPOCH = date(1970, 1, 1).toordinal()
log = logging.getLogger("syncrec")


def lost_catalog(settings: Settings) -> Path | None:
    """The catalog's file where it is gone and its tables are not: a new one would be empty, and hide them."""
    file = settings.warehouse / "catalog.db"
    if settings.catalog.uri is not None or file.exists():
        return None
    tables = settings.warehouse / NAMESPACE
    return file if tables.is_dir() and any(tables.iterdir()) else None


class Lakehouse:
    """The catalog of one project; its tables have today's form, older ones are brought to it (jobs.upgrade).

    Parameters
    ----------
    settings
        Gives the catalog address and the warehouse folder; both are made where they are missing.

    Raises
    ------
    JobError
        The catalog cannot be opened, or is gone; a newer version of the project made the tables; or the upgrade
        failed.
    """

    def __init__(self, settings: Settings) -> None:
        self.warehouse = make_folder(
            settings.warehouse, "[catalog] warehouse" if settings.catalog.warehouse else "state_dir"
        )
        if lost := lost_catalog(settings):
            raise JobError(
                f"no catalog at {lost}, though tables lie beside it: put it back, from a backup if need be"
            )
        try:
            self.catalog: Catalog = load_catalog(
                settings.catalog.name, type="sql", uri=settings.catalog_uri, warehouse=f"file://{self.warehouse}"
            )
        except Exception as error:  # SQLAlchemy raises its driver's own errors
            raise JobError(
                f"cannot open the Iceberg catalog {without_password(settings.catalog_uri)}: {cause_of(error)}"
            ) from error
        if is_older(read_version(self.catalog, NAMESPACE), self.warehouse):
            from jobs.upgrade import upgrade  # it works on a Lakehouse itself

            upgrade(self, settings)

    def create_tables(self) -> None:
        """Make the namespace and every table that does not exist yet.

        Raises
        ------
        JobError
            A table that exists lacks a column, whatever its version says.
        """
        with contextlib.suppress(NamespaceAlreadyExistsError):
            self.catalog.create_namespace(NAMESPACE, {"exists": "true", PROPERTY: str(STATE_VERSION)})
        present = {name for _, name in self.catalog.list_tables(NAMESPACE)}
        for table in TABLES.values():
            if table.name in present:
                self._check_columns(table)
            else:
                self._create(table)

    def _check_columns(self, table: Table) -> None:
        known = {field.name for field in self.table(table.name).schema().fields}
        if missing := [name for name in table.column_names if name not in known]:
            raise JobError(
                f"table {table.name} in {self.warehouse} lacks {', '.join(missing)}, though its state has version "
                f"{STATE_VERSION}: restore it, or give the project a new state_dir and ingest its landing days anew"
            )

    def _create(self, table: Table) -> None:
        created = self.catalog.create_table_if_not_exists(
            f"{NAMESPACE}.{table.name}",
            schema=table.arrow_schema,
            properties={
                "comment": table.grain,
                "write.metadata.delete-after-commit.enabled": "true",
                "write.metadata.previous-versions-max": "50",
            },
        )
        if created.spec().is_unpartitioned():
            with created.update_spec() as update:
                update.add_field(table.partition, IdentityTransform(), table.partition)

    def table(self, name: str) -> IcebergTable:
        """Load a table as it is now."""
        return self.catalog.load_table(f"{NAMESPACE}.{name}")

    def current_snapshot(self, name: str) -> int | None:
        """The id of the newest snapshot, or None for a table without rows yet."""
        return self._id(self.table(name))

    def last_writer(self, name: str, ds: date) -> str | None:
        """The run id of the newest commit for a day, or None."""
        for snapshot in reversed(self.table(name).snapshots()):
            summary = snapshot.summary.additional_properties if snapshot.summary else {}
            if summary.get("syncrec.ds") == ds.isoformat():
                return str(summary.get("syncrec.run_id"))
        return None

    def history(self, name: str, snapshot: int | None) -> Iterator[tuple[int, dict[str, str]]]:
        """Ids and summaries (without the prefix `syncrec.`) of a snapshot and those before it, newest first."""
        metadata = self.table(name).metadata
        current = metadata.snapshot_by_id(snapshot) if snapshot is not None else None
        for past in ancestors_of(current, metadata):
            values = past.summary.additional_properties if past.summary else {}
            own = {key: value for key, value in values.items() if key.startswith("syncrec.")}
            yield past.snapshot_id, {key.removeprefix("syncrec."): value for key, value in own.items()}

    def has_snapshot(self, name: str, snapshot: int) -> bool:
        """Whether the snapshot is still kept."""
        return self.table(name).metadata.snapshot_by_id(snapshot) is not None

    def evolved(self, name: str) -> bool:
        """Whether the table ever had other columns: old files, and old snapshots, may lack some of today's."""
        return len(self.table(name).metadata.schemas) > 1

    def metadata_location(self, name: str) -> str:
        """The address of the newest metadata file, which DuckDB's iceberg_scan and others read."""
        return str(self.table(name).metadata_location)

    # --- reading ----------------------------------------------------------------------------------------

    def files(self, name: str, snapshot: int | None, where: BooleanExpression | None = None) -> list[str]:
        """The data files of one snapshot that may hold rows of `where`; none for snapshot None."""
        if snapshot is None:
            return []
        scan = self.table(name).scan(row_filter=where or AlwaysTrue(), snapshot_id=snapshot)
        return sorted(task.file.file_path for task in scan.plan_files())

    def partitions(
        self, name: str, snapshot: int | None, where: BooleanExpression | None = None
    ) -> dict[Any, dict[str, int]]:
        """The data files of one snapshot by the value of the partition column, with their rows; reads no data."""
        found: dict[Any, dict[str, int]] = {}
        if snapshot is not None:
            scan = self.table(name).scan(row_filter=where or AlwaysTrue(), snapshot_id=snapshot)
            for task in scan.plan_files():
                value = partition_value(name, task.file)
                found.setdefault(value, {})[task.file.file_path] = task.file.record_count
        return found

    def read(
        self, spark: SparkSession, name: str, snapshot: int | None, where: BooleanExpression | None = None
    ) -> DataFrame:
        """Read one snapshot in Spark by its file list. `where` prunes files only: filter rows in Spark too."""
        schema = TABLES[name].spark_ddl
        files = self.files(name, snapshot, where)
        return spark.read.schema(schema).parquet(*files) if files else frame_of(spark, [], schema)

    def read_arrow(
        self,
        name: str,
        snapshot: int | None,
        where: BooleanExpression | None = None,
        columns: Sequence[str] = ("*",),
    ) -> pa.Table:
        """Read rows of one snapshot into memory; an empty table for snapshot None."""
        table = self.table(name)
        if snapshot is None:
            empty = TABLES[name].arrow_schema.empty_table()
            return empty if "*" in columns else empty.select(list(columns))
        scan = table.scan(row_filter=where or AlwaysTrue(), snapshot_id=snapshot, selected_fields=tuple(columns))
        return scan.to_arrow()

    # --- writing ----------------------------------------------------------------------------------------

    def stage_folder(self, name: str, ds: date, run_id: str) -> Path:
        """A fresh folder path for one attempt's files; committed files stay there for good."""
        location = self.warehouse / NAMESPACE / name / "data" / f"{ds.isoformat()}-{uuid.uuid4().hex[:12]}"
        log.debug("staging %s of run %s in %s", name, run_id, location)
        return location

    def stage_arrow(self, name: str, rows: pa.Table, ds: date, run_id: str) -> list[str]:
        """Write a small table (metrics, audits, nights) as one staged file."""
        folder = self.stage_folder(name, ds, run_id)
        folder.mkdir(parents=True)
        pq.write_table(rows.cast(TABLES[name].arrow_schema), folder / "part-0.parquet", compression="zstd")
        return data_files(folder)

    def replace(
        self,
        name: str,
        where: BooleanExpression,
        files: Sequence[str],
        *,
        ds: date,
        run_id: str,
        properties: Mapping[str, Any] | None = None,
        even_if_empty: bool = False,
    ) -> int:
        """Drop the rows of `where` and add `files` in one transaction.

        `even_if_empty` makes a snapshot also where there is nothing to drop and nothing to add: its summary counts.

        Returns
        -------
        int
            The id of the snapshot that readers see from now on.

        Raises
        ------
        PublishConflict
            Another process committed to the same rows in between; the table holds its result.
        """
        summary = _summary(ds, run_id, properties)
        for attempt in range(1, COMMIT_ATTEMPTS + 1):
            table = self.table(name)
            before = self._id(table)
            try:
                self._replace(table, where, files, summary, even_if_empty)
                break
            except (CommitFailedException, ValidationException) as error:
                if attempt == COMMIT_ATTEMPTS or not self._only_tidied_since(name, before):
                    raise PublishConflict(self._who_published(name, ds)) from error
        snapshot = self.current_snapshot(name)
        return -1 if snapshot is None else snapshot

    @staticmethod
    def _replace(
        table: IcebergTable,
        where: BooleanExpression,
        files: Sequence[str],
        summary: dict[str, str],
        even_if_empty: bool,
    ) -> None:
        if table.current_snapshot() is None:
            never_retry(table)  # nothing to delete, so only the commit itself can notice another first run
        with table.transaction() as transaction:
            if table.current_snapshot() is not None:
                with warnings.catch_warnings():  # a day without rows yet is the common case
                    warnings.filterwarnings("ignore", message="Delete operation did not match any records")
                    transaction.delete(where, snapshot_properties=summary)
            if files:
                transaction.add_files(list(files), snapshot_properties=summary, check_duplicate_files=False)
            elif even_if_empty:
                with transaction.update_snapshot(snapshot_properties=summary).fast_append():
                    pass

    def append(
        self,
        name: str,
        files: Sequence[str],
        *,
        parent: int | None,
        ds: date,
        run_id: str,
        properties: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Add `files`, which were worked out from the snapshot `parent`, and drop nothing.

        Returns
        -------
        int or None
            The id of the snapshot that readers see from now on; `parent` where there are no files.

        Raises
        ------
        PublishConflict
            The table is no longer at `parent`: what was worked out from it may not fit any more.
        """
        if not files:
            return parent
        summary = _summary(ds, run_id, properties)
        for attempt in range(1, COMMIT_ATTEMPTS + 1):
            table = self.table(name)
            if not self._only_tidied(table, parent):
                raise PublishConflict(self._who_published(name, ds))
            never_retry(table)
            try:
                with table.transaction() as transaction:
                    transaction.add_files(list(files), snapshot_properties=summary, check_duplicate_files=False)
                break
            except (CommitFailedException, ValidationException) as error:
                if attempt == COMMIT_ATTEMPTS:
                    raise PublishConflict(self._who_published(name, ds)) from error
        return self.current_snapshot(name)

    def _only_tidied_since(self, name: str, since: int | None) -> bool:
        """Whether the table has a new snapshot, and maintenance alone made what came after `since`."""
        table = self.table(name)
        return self._id(table) != since and self._only_tidied(table, since)

    @staticmethod
    def _only_tidied(table: IcebergTable, since: int | None) -> bool:
        """Whether maintenance alone has committed since that snapshot: its rows are still the table's."""
        for snapshot in ancestors_of(table.current_snapshot(), table.metadata):
            if snapshot.snapshot_id == since:
                return True
            if not (snapshot.summary and MAINTENANCE in snapshot.summary.additional_properties):
                return False
        return since is None

    @staticmethod
    def _id(table: IcebergTable) -> int | None:
        snapshot = table.current_snapshot()
        return snapshot.snapshot_id if snapshot else None

    def _who_published(self, name: str, ds: date) -> str:
        snapshot = self.table(name).current_snapshot()
        summary = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
        other = summary.get("syncrec.run_id", "unknown")
        return (
            f"table {name}: run '{other}' published day {summary.get('syncrec.ds', '?')} while this run worked "
            f"on {ds}; "
            "its result stands, nothing of ours was published; run this step again"
        )


def _summary(ds: date, run_id: str, properties: Mapping[str, Any] | None) -> dict[str, str]:
    """What a snapshot says about its making."""
    own = {"ds": ds.isoformat(), "run_id": run_id, "code_version": code_version(), **(properties or {})}
    return {f"syncrec.{key}": str(value) for key, value in own.items()}


def never_retry(table: IcebergTable) -> None:
    """PyIceberg repeats a failed commit of added files on top of whatever came in between; here that must fail.

    The property is set on this loaded copy alone: a commit sends its changes, never the copy's properties.
    """
    once = {**table.metadata.properties, "commit.retry.num-retries": "0"}
    table.metadata = table.metadata.model_copy(update={"properties": once})


def partition_value(name: str, file: DataFile) -> Any:
    """The value of the partition column that all rows of a table's data file have: a day, or a domain."""
    value = file.partition[0]
    if TABLES[name].partition == "domain":
        return value
    return date.fromordinal(EPOCH + value)  # Iceberg keeps a day as the number of days since 1970


def data_files(folder: Path) -> list[str]:
    """The Parquet files below a staged folder that hold rows, as absolute addresses."""
    files = sorted(folder.rglob("*.parquet"))
    # No as_uri(): it writes '=' and ' ' as %3D and %20, which Iceberg readers take literally.
    return [f"file://{file}" for file in files if pq.ParquetFile(file).metadata.num_rows > 0]


__all__ = [
    "MAINTENANCE",
    "NAMESPACE",
    "Lakehouse",
    "code_version",
    "data_files",
    "never_retry",
    "partition_value",
]
