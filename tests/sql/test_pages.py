"""docs/tables.md and docs/queries.md: current, complete, and true to the schemas that there really are."""

from __future__ import annotations

import re
from datetime import date, datetime

import duckdb
import pytest

from jobs import queries_page, tables_page
from jobs.lakehouse import Lakehouse
from jobs.schemas import TABLES
from jobs.settings import Settings
from jobs.sql_views import NIGHT_COLUMNS, SEQUENCES_NIGHT, header_of, sql_files

WORDS = ("string", "boolean")
COLUMNS = [(table.name, column) for table in TABLES.values() for column in table.columns]


def test_the_page_of_tables_is_current() -> None:
    assert tables_page.main(["--check"]) == 0


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda value: getattr(value, "name", value))
def test_a_column_says_its_meaning_its_unit_and_an_example_of_its_type(table: str, column: object) -> None:
    assert column.doc and column.example  # type: ignore[attr-defined]
    assert (column.type in WORDS) or column.unit, "what a number or a time counts in"  # type: ignore[attr-defined]
    kind, example = column.duckdb_type, column.example  # type: ignore[attr-defined]
    value = duckdb.execute(f"select try_cast(? as {kind})", [example]).fetchone()
    assert value is not None and value[0] is not None, f"{example} is no {kind}"


def test_the_documented_columns_are_those_of_the_iceberg_tables(planted: Settings) -> None:
    lakehouse = Lakehouse(planted)
    for table in TABLES.values():
        fields = lakehouse.table(table.name).schema().fields
        assert [(f.name, f.doc) for f in fields] == [(c.name, c.doc) for c in table.columns]
        spec = lakehouse.table(table.name).spec()
        assert [field.name for field in spec.fields] == [table.partition]


def test_the_headers_of_views_name_exactly_their_columns() -> None:
    with tables_page.empty_database() as connection:
        for file in sql_files("views"):
            header = header_of(file.read_text())
            assert list(header.columns) == connection.sql(f"select * from {file.stem}").columns, file.stem
            assert header.grain and all(header.columns.values())
        assert list(NIGHT_COLUMNS) == connection.sql(f"select * from {SEQUENCES_NIGHT}").columns


def test_every_ready_query_has_its_question_and_a_sample_answer_with_its_columns() -> None:
    text = queries_page.PAGE.read_text()
    sections = dict(part.split("\n", 1) for part in re.split(r"^## ", text, flags=re.M)[1:])
    assert list(sections) == [file.stem for file in sql_files("queries")]
    assert len(sections) >= 15
    with tables_page.empty_database() as connection:
        for file in sql_files("queries"):
            body, header = sections[file.stem], header_of(file.read_text())
            assert f"**{header.title}** {header.words}" in body, "python -m jobs.queries_page"
            heads = next(line for line in body.splitlines() if line.startswith("|")).strip("| ").split(" | ")
            assert heads == connection.sql(file.read_text()).columns, f"{file.stem}: python -m jobs.queries_page"
            answered = body.count("\n| ") > 1
            assert answered or "experiment" in file.stem


def test_cells_are_short_and_never_markup() -> None:
    cells = [queries_page._cell(value) for value in (None, 0.123456, date(2024, 1, 2), "<b>|", "x" * 80)]
    assert cells == ["", "0.1235", "2024-01-02", "&lt;b>\\|", "x" * 60 + " ..."]
    assert queries_page._cell(datetime(2024, 1, 2, 3, 4, 5, 6)) == "2024-01-02 03:04:05"
