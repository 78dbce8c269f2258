"""The SQL files and their headers; what views stand on: tables, the newest night's cuts, functions of one name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from jobs.lakehouse import Lakehouse
from jobs.schemas import TABLES
from jobs.sequence_nights import past_nights
from jobs.splits import micros, split_windows

SQL = Path(__file__).resolve().parent.parent / "sql"
SEQUENCES_NIGHT = "sequences_night"
SEQUENCES_NIGHT_TITLE = (
    "What the newest night's sequences were made with, out of the summaries of `sequences`' snapshots."
)

# Views that unfold lists are written with Spark's names of these functions; DuckDB gets them as macros.
SPARK_NAMES = (
    "explode(list) as unnest(list)",
    "sequence(low, high) as generate_series(low, high)",
    "size(list) as len(list)",
    "try_element_at(list, place) as list_extract(list, place)",
)
_NO_NIGHT = (
    "select date '1970-01-01' as ds, date '1970-01-01' as base_ds, 1 as max_length, {list_of}('') as domains, "
    "cast(0 as bigint) as valid_start, cast(0 as bigint) as test_start, cast(0 as bigint) as cutoff where false"
)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the comment at the top of an SQL file says: title, the words after it, grain and columns of a view."""

    title: str
    words: str
    grain: str
    columns: Mapping[str, str]


def sql_files(kind: str) -> list[Path]:
    """The SQL files of one kind (views, queries, report) by name."""
    return sorted((SQL / kind).glob("*.sql"))


def header_of(text: str) -> Header:
    """Read the comment at the top of a view or query."""
    top = itertools.takewhile(lambda line: line.startswith("--"), text.splitlines())
    lines = [line.removeprefix("--").removeprefix(" ") for line in top]
    place = lines.index("Columns:") if "Columns:" in lines else len(lines)
    columns = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines[place + 1 :])
    words, _, grain = " ".join(lines[1:place]).partition("Grain: ")
    return Header(title=lines[0], words=words.strip(), grain=grain.strip(), columns=columns)


def define_views(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, str], night: str) -> None:
    """Give a DuckDB every table and view under its plain name.

    Parameters
    ----------
    connection
        An empty database.
    tables
        By name the SELECT that a table is.
    night
        The SELECT of `sequences_night`.
    """
    for name, text in tables.items():
        connection.execute(f"create view {name} as {text}")
    for macro in SPARK_NAMES:
        connection.execute(f"create macro {macro}")
    connection.execute(f"create view {SEQUENCES_NIGHT} as {night}")
    for view in in_order(sql_files("views")):
        connection.execute(f"create view {view.stem} as {view.read_text(encoding='utf-8')}")


def quoted(text: str) -> str:
    """A text as an SQL literal: for paths, which cannot be parameters of a view."""
    return "'" + text.replace("'", "''") + "'"


def table_select(name: str, files: Iterable[str], *, evolved: bool = False) -> str:
    """The SELECT that reads a table out of its data files; without files one that has its columns and no row.

    evolved: some files may be of an older version and lack columns.
    """
    paths = ", ".join(quoted(file.removeprefix("file://")) for file in files)
    if not paths:
        return _no_rows(name)
    if evolved:
        return in_todays_columns(name, f"read_parquet([{paths}], hive_partitioning = false, union_by_name = true)")
    names = ", ".join(TABLES[name].column_names)
    return f"select {names} from read_parquet([{paths}], hive_partitioning = false)"


def _no_rows(name: str) -> str:
    empty = ", ".join(f"cast(null as {column.duckdb_type}) as {column.name}" for column in TABLES[name].columns)
    return f"select {empty} where false"


def in_todays_columns(name: str, source: str) -> str:
    """The SELECT of a table's columns out of a source of an older version: NULL where it lacks one."""
    names = ", ".join(TABLES[name].column_names)
    return f"select {names} from ({_no_rows(name)} union all by name select * from {source})"


def in_order(files: Sequence[Path]) -> list[Path]:
    """The files of views, each after those that it reads."""
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    ordered: list[Path] = []
    while waiting := [file for file in files if file not in ordered]:
        names = "|".join(file.stem for file in waiting)
        ready = [file for file in waiting if not re.search(rf"\b(from|join) ({names})\b", texts[file])]
        if not ready:
            raise ValueError(f"views that read each other: {names}")
        ordered += ready
    return ordered


NIGHT_COLUMNS = {
    "ds": "the newest night of `sequences`",
    "base_ds": "the night that last wrote every user",
    "max_length": "T, the events that a sequence shows",
    "domains": "names of the domains by code, from 1",
    "valid_start": "first moment of the validation window, microseconds since 1970 UTC",
    "test_start": "first moment of the test window, microseconds since 1970 UTC",
    "cutoff": "end of the night's day, microseconds since 1970 UTC",
}


def no_sequences_night(list_of: str) -> str:
    """SQL of the view `sequences_night` before the first night."""
    return _NO_NIGHT.format(list_of=list_of)


def sequences_night(lakehouse: Lakehouse, list_of: str, snapshot: int | None) -> str:
    """SQL of the view `sequences_night` (NIGHT_COLUMNS), one row out of the summaries of a snapshot of `sequences`.

    `list_of` is the engine's function that makes a list.
    """
    nights = past_nights(lakehouse, snapshot)
    night = max(nights, key=lambda night: night.ds, default=None)  # the first of equals: the newest commit
    if night is None:
        return no_sequences_night(list_of)
    shape, ds = night.shape, night.ds
    cutoff = datetime(ds.year, ds.month, ds.day, tzinfo=UTC) + timedelta(days=1)
    _, valid, test, serve = split_windows(cutoff, shape["valid_days"], shape["test_days"])
    domains = ", ".join(f"'{name}'" for name in shape["domains"])
    return (
        f"select date '{ds}' as ds, date '{night.base_ds}' as base_ds, {shape['max_length']} as max_length, "
        f"{list_of}({domains}) as domains, cast({micros(valid.start)} as bigint) as valid_start, "
        f"cast({micros(test.start)} as bigint) as test_start, cast({micros(serve.cut)} as bigint) as cutoff"
    )
