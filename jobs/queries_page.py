"""docs/queries.md, every ready query with a sample answer: made by asking a project's tables.

python -m jobs.queries_page                    after `make nightly` of the sample; tests hold the columns
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb

from jobs.command import one_line
from jobs.errors import JobError
from jobs.query import connect
from jobs.settings import load_settings
from jobs.sql_views import header_of, sql_files

PAGE = Path(__file__).resolve().parents[1] / "docs" / "queries.md"
ROWS = 6
LONGEST = 60
_INTRODUCTION = """# Ready queries, with a sample answer

<!-- Made by `python -m jobs.queries_page` from sql/queries and the sample's tables: change the words there. -->

One file each in [sql/queries](../sql/queries); the same text runs on DuckDB and Spark SQL, and in
`analytics.duckdb` ([how to ask](sql.md)). The answers are those of the sample after its first two nights, cut after
six rows; another machine's model rounds otherwise, so figures differ a little.

    make sql Q=sql/queries/NAME.sql"""


def page(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the page with the answers that a project's tables give."""
    files = [(file, file.read_text(encoding="utf-8")) for file in sql_files("queries")]
    headers = {file.stem: header_of(text) for file, text in files}
    contents = "\n".join(f"- [{header.title}](#{name})" for name, header in headers.items())
    parts = [_INTRODUCTION, contents]
    for file, text in files:
        header = headers[file.stem]
        parts += [f"## {file.stem}", f"**{header.title}** {header.words}", "\n".join(_answer(connection.sql(text)))]
    return "\n\n".join(parts) + "\n"


def _answer(rows: duckdb.DuckDBPyRelation) -> Iterator[str]:
    yield f"| {' | '.join(rows.columns)} |"
    yield f"|{'---|' * len(rows.columns)}"
    found = rows.fetchall()
    for row in found[:ROWS]:
        yield f"| {' | '.join(_cell(value) for value in row)} |"
    if not found:
        yield ""
        yield "No row: the sample runs no experiment; [A/B tests](experiments.md) shows how to start one."
    elif len(found) > ROWS:
        yield ""
        yield f"... and {len(found) - ROWS:,} more rows."


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime | date):
        return str(value)[:19]
    text = str(value).replace("|", r"\|").replace("<", "&lt;")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page: 0 done, 1 a clear error."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.queries_page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parsed = parser.parse_args(argv)
    try:
        with connect(load_settings(parsed.config)) as connection:
            PAGE.write_text(page(connection), encoding="utf-8")
    except JobError as error:
        print(f"error: queries_page: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
