"""Write analytics.duckdb: all tables and views in one small file that DuckDB and every tool that speaks it open.

    python -m jobs.analytics                       anew now; every night does it in its report step

The file holds no data: each table is a view of the Parquet files that the newest snapshot names, so it takes a
second at any size, needs no Iceberg extension, and shows one moment. Tables and columns carry their meanings as
comments. It is written beside the old one and swapped in: who has the old one open goes on reading it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from jobs.command import one_line
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.private import private_files
from jobs.query import open_lakehouse
from jobs.schemas import SEQUENCES, TABLES
from jobs.settings import Settings, load_settings
from jobs.sql_views import (
    NIGHT_COLUMNS,
    SEQUENCES_NIGHT,
    define_views,
    header_of,
    quoted,
    sequences_night,
    sql_files,
    table_select,
)

FILE = "analytics.duckdb"


def analytics_file(settings: Settings) -> Path:
    """Where the file is: one place for good, so that tools can be pointed to it once."""
    return settings.state / FILE


def write_analytics(settings: Settings, lakehouse: Lakehouse | None = None) -> Path:
    """Write the file anew, as the tables are at this moment, and swap it in; `lakehouse` where it is open.

    Raises
    ------
    JobError
        There are no tables yet, or the file cannot be written.
    """
    lakehouse = lakehouse or open_lakehouse(settings)
    file = analytics_file(settings)
    fresh = file.with_name(f".{FILE}.{os.getpid()}")
    fresh.unlink(missing_ok=True)  # of a process that had our number and was killed
    try:
        _fill(fresh, lakehouse)
        os.replace(fresh, file)
    except (duckdb.Error, OSError) as error:
        raise JobError(f"cannot write {file}: {one_line(error, 300)}") from error
    finally:
        fresh.unlink(missing_ok=True)
        fresh.with_name(f"{fresh.name}.wal").unlink(missing_ok=True)
    return file


def refresh(settings: Settings) -> None:
    """Write the file anew where there is one: after whatever moved files or changed what is shown."""
    if analytics_file(settings).exists():
        write_analytics(settings)


def _fill(file: Path, lakehouse: Lakehouse) -> None:
    snapshots = {name: lakehouse.current_snapshot(name) for name in TABLES}
    tables = {
        name: table_select(name, lakehouse.files(name, snapshot), evolved=lakehouse.evolved(name))
        for name, snapshot in snapshots.items()
    }
    with duckdb.connect(str(file)) as connection:
        connection.execute("set timezone = 'UTC'")
        define_views(connection, tables, sequences_night(lakehouse, "list_value", snapshots[SEQUENCES.name]))
        for statement in _comments():
            connection.execute(statement)


def _comments() -> Iterator[str]:
    for table in TABLES.values():
        yield f"comment on view {table.name} is {quoted(f'one row: {table.grain}')}"
        for column in table.columns:
            words = column.doc + (f" [{column.unit}]" if column.unit else "")
            yield f"comment on column {table.name}.{column.name} is {quoted(words)}"
    for name, words in NIGHT_COLUMNS.items():
        yield f"comment on column {SEQUENCES_NIGHT}.{name} is {quoted(words)}"
    for view in sql_files("views"):
        header = header_of(view.read_text(encoding="utf-8"))
        yield f"comment on view {view.stem} is {quoted(f'{header.title} Grain: {header.grain}')}"
        for name, words in header.columns.items():
            yield f"comment on column {view.stem}.{name} is {quoted(words)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: 0 done, 1 a clear error."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.analytics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parsed = parser.parse_args(argv)
    try:
        private_files()
        print(write_analytics(load_settings(parsed.config)))
    except JobError as error:
        print(f"error: analytics: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
