"""Ask the tables in SQL: runs a file, or opens a prompt.

Every table and every view of sql/views is there by its name; no row can be changed from here. FILE.sql is a path,
or the name of a ready query of sql/queries, e.g. ntg_by_day. Without a file: a prompt (or lines from a pipe).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import duckdb
from pyiceberg.exceptions import NoSuchNamespaceError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.command import one_line, parse_day, positive
from jobs.errors import JobError
from jobs.lakehouse import NAMESPACE, Lakehouse, lost_catalog
from jobs.private import hide
from jobs.schemas import SEQUENCES, TABLES
from jobs.settings import Settings, load_settings
from jobs.spark import spark_session
from jobs.sql_views import (
    SEQUENCES_NIGHT,
    SEQUENCES_NIGHT_TITLE,
    SQL,
    define_views,
    header_of,
    in_order,
    in_todays_columns,
    quoted,
    sequences_night,
    sql_files,
    table_select,
)
from jobs.time_travel import snapshots_of

NO_NIGHT = "no night has run yet: make nightly"
MOST_ROWS = 10_000
_ANSWERS = "answers_of_this_prompt"
"""A database of its own, so that `show tables` shows the tables alone."""
_ANSWER = f"{_ANSWERS}.main.answer"
_WIDE = 1_000_000
_CUTS = (48, 32)
"""Texts are cut to so many characters where a table is too wide for the terminal."""
HELP = """\
end a statement with ;   e.g. select * from latest_night;   or   describe nights;
.tables        the tables and views, and what one row of each is
.queries       the ready queries
.read NAME     run a ready query or a file
.quit          leave (also Ctrl-D)"""

Ask = Callable[[str], duckdb.DuckDBPyRelation | None]
"""Runs SQL text and gives its rows, None for a statement without rows."""


def connect(settings: Settings, as_of: date | None = None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB with every table, as committed at this moment, and every view.

    as_of: as the tables were when that night was published.

    Raises
    ------
    JobError
        There are no tables yet, DuckDB's Iceberg extension is not installed, or that night cannot be read any more.
    """
    lakehouse = open_lakehouse(settings)
    snapshots = snapshots_of(lakehouse, as_of)
    locations = {name: lakehouse.metadata_location(name) for name in TABLES}
    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    for extension in ("avro", "iceberg"):
        connection.load_extension(str(_extension(extension)))
    connection.execute("set timezone = 'UTC'")
    scans = {
        name: f"iceberg_scan({quoted(path)}, snapshot_from_id => {snapshots[name]})"
        for name, path in locations.items()
        if snapshots[name] is not None
    }
    tables = {
        name: table_select(name, [])
        if name not in scans
        else in_todays_columns(name, scans[name])
        if lakehouse.evolved(name)
        else f"select * from {scans[name]}"
        for name in locations
    }
    define_views(connection, tables, sequences_night(lakehouse, "list_value", snapshots[SEQUENCES.name]))
    return connection


def spark_views(spark: SparkSession, settings: Settings, as_of: date | None = None) -> None:
    """Register every table and every view, as `connect` does, as temporary views of a Spark session.

    Raises
    ------
    JobError
        There are no tables yet, or that night cannot be read any more.
    """
    lakehouse = open_lakehouse(settings)
    snapshots = snapshots_of(lakehouse, as_of)
    for name in TABLES:
        lakehouse.read(spark, name, snapshots[name]).createOrReplaceTempView(name)
    night = sequences_night(lakehouse, "array", snapshots[SEQUENCES.name])
    spark.sql(night).createOrReplaceTempView(SEQUENCES_NIGHT)
    for view in in_order(sql_files("views")):
        spark.sql(view.read_text(encoding="utf-8")).createOrReplaceTempView(view.stem)


def find_query(name: str) -> Path:
    """The file of a path or of a ready query's name.

    Raises
    ------
    JobError
        There is no such file; the message lists the ready queries.
    """
    for file in (Path(name), SQL / "queries" / name, SQL / "queries" / f"{name}.sql"):
        if file.is_file():
            return file
    own = "; for a statement of your own: the prompt, or pipe it in" if " " in name else ""
    raise JobError(f"no query '{name}'; ready are: {', '.join(file.stem for file in sql_files('queries'))}{own}")


def open_lakehouse(settings: Settings) -> Lakehouse:
    """The tables of a project; looking creates nothing.

    Raises
    ------
    JobError
        There are none yet, or some are missing.
    """
    file = settings.warehouse / "catalog.db"
    if settings.catalog.uri is None and not file.exists() and not lost_catalog(settings):
        raise JobError(f"{NO_NIGHT} (there is no {file})")  # looking must not create anything
    lakehouse = Lakehouse(settings)
    try:
        present = {name for _, name in lakehouse.catalog.list_tables(NAMESPACE)}
    except NoSuchNamespaceError:
        present = set()
    if missing := sorted(set(TABLES) - present):
        lost = f"the tables {', '.join(missing)} are missing in {lakehouse.warehouse}: make nightly makes them"
        raise JobError(lost if present else NO_NIGHT)
    return lakehouse


def _extension(name: str) -> Path:
    """The extension file inside its wheel: DuckDB need not download it."""
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    folder = Path(package.origin).parent if package and package.origin else Path()
    file = folder / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not file.is_file():
        raise JobError(
            f"DuckDB {duckdb.__version__} lacks its {name} extension: "
            f"pip install duckdb-extension-{name}=={duckdb.__version__}"
        )
    return file


@contextlib.contextmanager
def _open(settings: Settings, engine: str, as_of: date | None, most: int) -> Iterator[Ask]:
    """Ask one of the engines; an answer is worked out once, and its first `most` rows are kept."""
    if engine == "duckdb":
        with connect(settings, as_of) as connection:
            connection.execute(f"attach ':memory:' as {_ANSWERS}")

            def ask_duckdb(text: str) -> duckdb.DuckDBPyRelation | None:
                rows = connection.sql(text)
                if rows is None:
                    return None
                # a relation would be run again by each look at it; DuckDB finds `rows` by its name here
                connection.execute(f"create or replace table {_ANSWER} as from rows limit {most}")
                return connection.sql(f"from {_ANSWER}")

            yield ask_duckdb
        return
    open_lakehouse(settings)  # a clear answer before Spark's slow start
    with spark_session(settings, "query") as spark, duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        spark_views(spark, settings, as_of)

        def ask(text: str) -> duckdb.DuckDBPyRelation | None:
            rows = spark.sql(text).limit(most).toArrow()
            return connection.from_arrow(rows) if rows.column_names else None

        yield ask


def _show(rows: duckdb.DuckDBPyRelation | None, most: int) -> None:
    """Print an aligned table of the first rows; where it leaves some out it says how many there are.

    rows: the answer, cut at MOST_ROWS (or at `most`, where that is more).
    """
    if rows is None:
        return
    _print_fitting(rows.limit(most), most, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    ((count,),) = rows.aggregate("count(*)").fetchall()
    if count > most:
        found = f"{count:,} rows" if count < MOST_ROWS else f"{count:,} rows or more"
        print(f"{found} (the first {most} shown; jobs.query --rows N shows more)\n")


def _print_fitting(rows: duckdb.DuckDBPyRelation, most: int, width: int | None) -> None:
    """Print as many leading columns as fit, long texts cut where that makes room, and name the others.

    DuckDB would leave out those in the middle.
    """
    names = rows.columns
    for shown, longest in itertools.product(range(len(names), 0, -1), (None, *_CUTS)):
        columns = zip(names[:shown], rows.types, strict=False)
        kept = rows.project(", ".join(_column(name, str(kind), longest) for name, kind in columns))
        with contextlib.redirect_stdout(io.StringIO()) as drawn:
            kept.show(max_rows=most, max_width=_WIDE)
        text = drawn.getvalue()
        if width is None or (shown, longest) == (1, _CUTS[-1]) or len(text.partition("\n")[0]) <= width:
            break
    print(text, end="")
    told = [f"no room for {', '.join(names[shown:])}"] if shown < len(names) else []
    told += ["long texts are cut"] if longest else []
    if told:
        print(f"{'; '.join(told)}: select fewer columns, widen the terminal, or | less -S\n")


def _column(name: str, kind: str, longest: int | None) -> str:
    """A column in SQL, its texts cut to `longest` characters."""
    quoted_name = '"' + name.replace('"', '""') + '"'
    if kind != "VARCHAR" or longest is None:
        return quoted_name
    cut = f"left({quoted_name}, {longest - 1}) || '…'"
    return f"case when length({quoted_name}) > {longest} then {cut} else {quoted_name} end as {quoted_name}"


def _statements(text: str) -> list[str]:
    """The statements of a text; the text itself where it is one, or not of DuckDB's dialect."""
    try:
        found = duckdb.extract_statements(text)
    except duckdb.Error:
        return [text]
    return [one.query for one in found] if len(found) > 1 else [text]


def _one_answer(ask: Ask, text: str, most: int) -> bool:
    """Run the statements of a text; an error becomes a line, and the place where it is. Tells whether all ran."""
    try:
        for statement in _statements(text):
            _show(ask(statement), most)
    except (duckdb.Error, PySparkException) as error:
        # the engine's own first line says what is wrong; Spark's next ones are its plan
        reason, _, rest = str(error).partition("\n\n")
        print(f"error: {one_line(Exception(reason))}", file=sys.stderr, flush=True)
        if rest.startswith("LINE "):
            print(hide(rest.rstrip()), file=sys.stderr, flush=True)
        return False
    return True


def _print_tables() -> None:
    titles = {SEQUENCES_NIGHT: SEQUENCES_NIGHT_TITLE} | {
        view.stem: header_of(view.read_text(encoding="utf-8")).title for view in sql_files("views")
    }
    width = max(map(len, [*TABLES, *titles]))
    for table in TABLES.values():
        print(f"{table.name:{width}}  one row: {table.grain}")
    for name, title in sorted(titles.items()):
        print(f"{name:{width}}  {title}")


def _print_queries() -> None:
    files = sql_files("queries")
    width = max(len(file.stem) for file in files)
    for file in files:
        print(f"{file.stem:{width}}  {header_of(file.read_text(encoding='utf-8')).title}")


def _command(ask: Ask, line: str, most: int) -> bool:
    """Do one dot command; tells whether it was understood and ran."""
    word, _, rest = line.rstrip(" ;").partition(" ")
    if word == ".tables":
        _print_tables()
    elif word == ".queries":
        _print_queries()
    elif word == ".read":
        try:
            return _one_answer(ask, find_query(rest.strip()).read_text(encoding="utf-8"), most)
        except (JobError, OSError, UnicodeDecodeError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
            return False
    else:
        if word != ".help":
            print(f"error: there is no command {word}:", file=sys.stderr, flush=True)
        print(HELP)
        return word == ".help"
    return True


def prompt(ask: Ask, most: int) -> int:
    """Read statements from standard input until its end; 1 if one of them failed, 0 otherwise."""
    person = sys.stdin.isatty()
    if person:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys and history in input())
        print("Tables and views in SQL; .tables lists them, .help says more, .quit leaves.")
    failed = False
    text = ""
    while True:
        try:
            line = input((" ...> " if text else "sql> ") if person else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            print()
            text = ""
            continue
        if not text and line.startswith("."):
            if line.strip() in (".quit", ".exit"):
                return int(failed and not person)
            failed |= not _command(ask, line.strip(), most)
            continue
        text = f"{text}{line}\n" if text or line.strip() else ""
        if line.split("--")[0].rstrip().endswith(";"):
            failed |= not _one_answer(ask, text, most)
            text = ""
    if text.strip():
        failed |= not _one_answer(ask, text, most)
    return int(failed and not person)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, answer, and give the exit code: 0 answered, 1 a clear error."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.query", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", help="an SQL file or the name of a ready query; default: a prompt")
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb", help="default: duckdb")
    parser.add_argument(
        "--as-of", type=parse_day, metavar="DAY", help="read the tables as the night of that day was published"
    )
    parser.add_argument("--rows", type=positive, default=60, help="print the first so many rows; default 60")
    parsed = parser.parse_args(argv)
    try:
        text = find_query(parsed.file).read_text(encoding="utf-8") if parsed.file else None
        most = max(MOST_ROWS, parsed.rows)
        if text and sys.stdout.isatty() and find_query(parsed.file).resolve().parent == SQL / "queries":
            header = header_of(text)
            print(f"{header.title}\n{textwrap.fill(header.words, shutil.get_terminal_size().columns)}")
        with _open(load_settings(parsed.config), parsed.engine, parsed.as_of, most) as ask:
            code = prompt(ask, parsed.rows) if text is None else int(not _one_answer(ask, text, parsed.rows))
            sys.stdout.flush()
            return code
    except JobError as error:
        print(f"error: query: {one_line(error)}", file=sys.stderr, flush=True)
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: query: {parsed.file}: {one_line(error)}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
