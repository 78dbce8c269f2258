"""analytics.duckdb: any DuckDB reads it without an extension, swapped whole, with the meaning of everything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo

from jobs.analytics import FILE, main, write_analytics
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.query import connect
from jobs.schemas import TABLES
from jobs.settings import Settings, load_settings
from jobs.sql_views import header_of, sql_files
from tests.sql.planted import D29, D30, fill, write_config
from tests.sql.test_sql import comparable

EVERYTHING = [*TABLES, "sequences_night", *(view.stem for view in sql_files("views"))]


@pytest.fixture(scope="module")
def file(planted: Settings) -> Path:
    return write_analytics(planted)


def opened(file: Path) -> duckdb.DuckDBPyConnection:
    """As a tool opens it: read only, and without any extension that would have to be fetched."""
    options = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    connection = duckdb.connect(str(file), read_only=True, config=options)
    connection.execute("set timezone = 'UTC'")
    return connection


@pytest.fixture(scope="module")
def ours(planted: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(planted) as connection:
        yield connection


@pytest.fixture(scope="module")
def tool(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with opened(file) as connection:
        yield connection


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_table_and_view_holds_what_iceberg_says(
    tool: duckdb.DuckDBPyConnection, ours: duckdb.DuckDBPyConnection, name: str
) -> None:
    theirs, mine = (c.sql(f"select * from {name}").to_arrow_table() for c in (tool, ours))
    assert theirs.schema.equals(mine.schema)
    rows = [sorted(map(repr, (comparable(tuple(r.values())) for r in t.to_pylist()))) for t in (theirs, mine)]
    assert rows[0] == rows[1]
    assert rows[0] or name == "rejected_impressions"


@pytest.mark.parametrize("query", sql_files("queries"), ids=lambda query: query.stem)
def test_every_ready_query_runs_there(
    tool: duckdb.DuckDBPyConnection, ours: duckdb.DuckDBPyConnection, query: Path
) -> None:
    answers = [[comparable(row) for row in c.sql(query.read_text()).fetchall()] for c in (tool, ours)]
    assert answers[0] == answers[1]


def test_attached_beside_others_the_views_still_find_their_tables(file: Path) -> None:
    with duckdb.connect() as tool:
        tool.execute(f"attach '{file}' as nightly (read_only)")
        assert tool.sql("select ds from nightly.latest_night").fetchall() == [(D30,)]
        assert tool.sql("select count(*) from nightly.cross_sequences").fetchone() != (0,)


def test_tables_and_columns_carry_their_meaning(tool: duckdb.DuckDBPyConnection) -> None:
    said = tool.sql("select comment from duckdb_views() where view_name = 'recommendations'").fetchone()
    columns = tool.sql(
        "select column_name, comment from duckdb_columns() where table_name = 'sequences'"
    ).fetchall()
    assert said == ("one row: one user, domain and rank",)
    assert "microseconds" in dict(columns)["times"]


def test_who_has_it_open_keeps_reading_the_old_state_and_the_next_one_sees_the_new(tmp_path: Path) -> None:
    settings = load_settings(write_config(tmp_path))
    fill(settings, nights=(D29,))
    file = write_analytics(settings)
    newest = "select max(ds) from latest_recommendations"
    with opened(file) as before:
        assert before.sql(newest).fetchone() == (D29,)
        fill(settings, nights=(D29, D30))
        write_analytics(settings)
        assert before.sql(newest).fetchone() == (D29,)
        code = f"import duckdb; print(duckdb.connect({str(file)!r}, read_only=True).sql({newest!r}).fetchone()[0])"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # DuckDB shares in one
        assert (said.stdout.strip(), said.stderr) == (str(D30), "")
    assert [path.name for path in settings.state.glob("*analytics*")] == [FILE], "nothing is left beside it"


def test_empty_tables_are_there_with_their_columns(tmp_path: Path) -> None:
    settings = load_settings(write_config(tmp_path))
    Lakehouse(settings).create_tables()
    with opened(write_analytics(settings)) as tool:
        for name in EVERYTHING:
            assert tool.sql(f"select * from {name}").fetchall() == []


def test_before_the_first_night_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(write_config(tmp_path))]) == 1
    assert "no night has run yet: make nightly" in capsys.readouterr().err


# --- time travel ----------------------------------------------------------------------------------------


def test_the_tables_of_a_past_night_are_those_it_was_published_with(
    planted: Settings, ours: duckdb.DuckDBPyConnection
) -> None:
    with connect(planted, as_of=D29) as then:
        assert then.sql("select max(ds) from nights").fetchone() == (D29,)
        assert then.sql("select ds from latest_night").fetchall() == [(D29,)]
        assert then.sql("select count(distinct ds) from recommendations").fetchone() == (1,)
    assert ours.sql("select max(ds) from nights").fetchone() == (D30,)


def test_a_night_that_was_run_again_stands_at_its_newest_run(tmp_path: Path) -> None:
    settings = load_settings(write_config(tmp_path))
    fill(settings)
    lakehouse, day = Lakehouse(settings), EqualTo("ds", D29.isoformat())
    rows = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights"), day).to_pylist()
    rows[0] |= {"run_id": "again", "published_at": datetime.now(UTC)}
    files = lakehouse.stage_arrow("nights", pa.Table.from_pylist(rows, TABLES["nights"].arrow_schema), D29, "again")
    lakehouse.replace("nights", day, files, ds=D29, run_id="again")
    with connect(settings, as_of=D29) as then:
        assert then.sql("select ds, run_id = 'again' from nights order by ds").fetchall() == [
            (D29, True),
            (D30, False),
        ]


def test_a_night_that_is_not_published_cannot_be_read(planted: Settings) -> None:
    with pytest.raises(JobError, match=r"no night of 2024-02-05 is published; .* are 2024-01-29 to 2024-01-30"):
        connect(planted, as_of=date(2024, 2, 5))


def test_the_header_of_a_view_is_read() -> None:
    header = header_of(
        "-- What?\n-- More of it.\n-- Grain: one night.\n-- Columns:\n--   ds    the  night\nwith\n-- code"
    )
    assert (header.title, header.words, header.grain) == ("What?", "More of it.", "one night.")
    assert header.columns == {"ds": "the  night"}
