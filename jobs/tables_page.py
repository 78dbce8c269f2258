"""docs/tables.md, every table, view and column: made from jobs/schemas.py and the headers of sql/views.

python -m jobs.tables_page             writes the page
python -m jobs.tables_page --check     says whether the one that is there is current
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from jobs.page_command import run_page
from jobs.schemas import TABLES
from jobs.sql_views import (
    NIGHT_COLUMNS,
    SEQUENCES_NIGHT,
    SEQUENCES_NIGHT_TITLE,
    Header,
    define_views,
    header_of,
    no_sequences_night,
    sql_files,
    table_select,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tables.md"
_INTRODUCTION = """# Tables and views, column by column

<!-- Made by `python -m jobs.tables_page` from jobs/schemas.py and the headers of sql/views: change words there. -->

How to open them: [Ask the tables in SQL](sql.md). All days and times are UTC. `ds` is the logical day of a night,
`arrival_ds` the landing day that brought a row. The same words are comments in `analytics.duckdb`
(`select column_name, comment from duckdb_columns() where table_name = 'nights'`) and, of tables, in Iceberg.

## Tables"""
_VIEWS = """## Views

One file each in [sql/views](../sql/views). Filter views of sequences on `user_id`: they are worked out for the
users asked for."""


def empty_database() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with every table and view, and no row."""
    connection = duckdb.connect()
    define_views(connection, {name: table_select(name, []) for name in TABLES}, no_sequences_night("list_value"))
    return connection


def page() -> str:
    """Return the page."""
    parts = [_INTRODUCTION, *_tables(), _VIEWS]
    with empty_database() as connection:
        parts += _views(connection)
    return "\n\n".join(parts) + "\n"


def _tables() -> Iterator[str]:
    for table in TABLES.values():
        yield f"### {table.name}\n\nOne row: {table.grain}. Partitioned by `{table.partition}`."
        rows = (
            (f"`{c.name}`", c.type, c.doc + (" (may be null)" if c.optional else ""), c.unit, f"`{c.example}`")
            for c in table.columns
        )
        yield _markdown(("column", "type", "what it is", "unit", "example"), rows)


def _views(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    night = Header(
        title=SEQUENCES_NIGHT_TITLE, words="", grain="one row, none before the first night.", columns=NIGHT_COLUMNS
    )
    headers = {file.stem: header_of(file.read_text(encoding="utf-8")) for file in sql_files("views")}
    for name, header in sorted((headers | {SEQUENCES_NIGHT: night}).items()):
        words = f" {header.words}" if header.words else ""
        yield f"### {name}\n\n{header.title}{words} Grain: {header.grain}"
        yield _columns(connection, name, header.columns)


def _columns(connection: duckdb.DuckDBPyConnection, view: str, meanings: Mapping[str, str]) -> str:
    types = connection.sql(f"describe {view}").fetchall()
    rows = ((f"`{name}`", str(kind).lower(), meanings[name]) for name, kind, *_ in types)
    return _markdown(("column", "type (DuckDB)", "what it is"), rows)


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = (cell.replace("|", r"\|") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or compare it."""
    return run_page(PAGE, page, "jobs.tables_page", __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
