"""The query command: files, ready queries, the prompt, and what it says when something is wrong."""

import io
import re
from pathlib import Path

import pytest

from jobs.lakehouse import Lakehouse
from jobs.query import connect, main
from jobs.schemas import TABLES
from jobs.settings import load_settings
from jobs.sql_views import SEQUENCES_NIGHT, sql_files
from tests.sql.planted import fill, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = write_config(tmp_path_factory.mktemp("query"))
    fill(load_settings(file))
    return file


def test_a_ready_query_prints_an_aligned_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "promotions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "served_version" in lines[1]
    assert "served ndcg@10 rose in every domain" in lines[4]
    assert len({len(line) for line in lines[:7]}) == 1, "columns are aligned"


def test_of_a_long_answer_the_first_rows_are_shown_and_all_counted(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = tmp_path / "all.sql"
    query.write_text("select range as n from range(1000, 1100) order by n desc")
    assert main(["--config", str(config), "--rows", "10", str(query)]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"\b1\d{3}\b", printed) == [str(n) for n in range(1099, 1089, -1)]
    assert "100 rows (the first 10 shown; jobs.query --rows N shows more)" in printed


def test_a_query_runs_once_however_its_answer_is_looked_at(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["create temp sequence n", "select nextval('n') from range(70)", "select 'next is ' || nextval('n')"]
    monkeypatch.setattr("sys.stdin", io.StringIO(";\n".join(typed)))
    assert main(["--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "70 rows (the first 60 shown" in printed
    for rows in ("-3", "0", "x"):
        with pytest.raises(SystemExit):
            main(["--config", str(config), "--rows", rows])
        assert f"'{rows}' is no whole number from 1 on" in capsys.readouterr().err
    assert "next is 71" in printed


def test_a_wrong_name_lists_the_ready_queries(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "ntg_by_week"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no query 'ntg_by_week'" in line
    assert "ntg_by_day" in line


def test_a_wrong_statement_is_one_line(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = tmp_path / "wrong.sql"
    query.write_text("select * from recommendation")
    assert main(["--config", str(config), str(query)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error:")
    assert "recommendation" in line


def test_of_a_wrong_word_the_place_is_shown(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = tmp_path / "wrong.sql"
    query.write_text("select ds\nfrom nights wher ds before 3")
    assert main(["--config", str(config), str(query)]) == 1
    said, line, place = capsys.readouterr().err.splitlines()
    assert said.startswith("error: Parser Error") and line == "LINE 2: from nights wher ds before 3"
    assert line[place.index("^") :].startswith("ds")


def test_each_statement_of_a_file_is_answered(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = tmp_path / "two.sql"
    query.write_text("select 'first of two' as a;\n-- and then; so to say\nselect 'the second' as b;\n")
    assert main(["--config", str(config), str(query)]) == 0
    printed = capsys.readouterr().out
    assert "first of two" in printed and "the second" in printed


def test_a_narrow_terminal_shows_the_leading_columns_and_names_the_others(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = tmp_path / "wide.sql"
    query.write_text("select " + ", ".join(f"'{'x' * 20}' as \"column {n}\"" for n in range(12)))
    assert main(["--config", str(config), str(query)]) == 0
    assert "column 11" in capsys.readouterr().out, "no terminal: everything"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--config", str(config), str(query)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(f"column {n}" in lines[1] for n in range(3)) and "column 3" not in lines[1]
    assert lines[-2].startswith("no room for column 3, column 4, ") and lines[-2].count("column ") == 9


def test_long_texts_are_cut_where_that_makes_room_for_a_column(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = tmp_path / "long.sql"
    query.write_text(
        f"select 'why {'x' * 60}' as reason, repeat('ä', 48) as \"a \"\"b\", 12345678901 as n, null as nothing"
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["--config", str(config), str(query)]) == 0
    whole = capsys.readouterr().out
    assert "x" * 43 + "…" in whole and "x" * 44 not in whole and "ä" * 48 in whole and "12345678901" in whole
    assert (
        "long texts are cut: select fewer columns, widen the terminal, or | less -S" in whole
        and "no room" not in whole
    )
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--config", str(config), str(query)]) == 0
    assert "are cut" not in capsys.readouterr().out


def test_a_ready_query_says_its_question_to_a_person_and_not_into_a_pipe(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "Which version served each night, and why was the challenger promoted or refused?"
    assert main(["--config", str(config), "sql/queries/promotions.sql"]) == 0
    assert question not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--config", str(config), "sql/queries/promotions.sql"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == question and lines[1].startswith("How to read: ") and max(map(len, lines[1:4])) <= 80


def test_before_the_first_night_it_says_so_and_creates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(write_config(tmp_path)), "promotions"]) == 1
    assert "no night has run yet: make nightly" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_catalog_that_is_gone_is_said_and_none_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    Lakehouse(load_settings(config)).create_tables()
    catalog = load_settings(config).warehouse / "catalog.db"
    catalog.rename(tmp_path / "elsewhere.db")
    assert main(["--config", str(config), "promotions"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no catalog at {catalog}, though tables lie beside it: put it back" in line
    assert not catalog.exists()


def test_empty_tables_answer_with_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    Lakehouse(load_settings(config)).create_tables()
    assert main(["--config", str(config), "top_recommendations_of_a_user"]) == 0
    assert "0 rows" in capsys.readouterr().out


def test_the_prompt_reads_a_pipe(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ".tables\n.queries\nselect 41\n + 1 as answer; -- of two lines\nselect 'no semicolon' as last_one"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "one user, domain and rank" in printed
    assert "Do the other domains help or hurt each domain, night by night?" in printed
    assert "42" in printed
    assert "no semicolon" in printed


def test_show_tables_shows_the_tables_alone(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("select 'an answer' as kept;\nshow tables;\nshow tables;"))
    assert main(["--config", str(config), "--rows", "100"]) == 0
    found = re.findall(r"│ (\w+) +│", capsys.readouterr().out.partition("an answer")[2])
    names = [name for name in found if name not in ("name", "varchar")]
    assert names == 2 * sorted([*TABLES, *(view.stem for view in sql_files("views")), SEQUENCES_NIGHT])


def test_a_persons_mistakes_at_the_prompt_do_not_make_the_command_fail(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["select nonsense;", ".foo", ".quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    for person in (True, False):
        typed = iter(["select nonsense;", ".foo", ".quit"])
        monkeypatch.setattr("sys.stdin.isatty", lambda person=person: person)
        assert main(["--config", str(config)]) == (0 if person else 1)
        error = capsys.readouterr().err
        assert "nonsense" in error and "error: there is no command .foo" in error


def test_the_prompt_goes_on_after_an_error_and_reports_it(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "select nothing;\n.read promotions\n.quit\nselect 'not reached';"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["--config", str(config)]) == 1
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert "first champion" in printed.out
    assert "not reached" not in printed.out


def test_a_connection_reads_one_state_while_nights_go_on(tmp_path: Path) -> None:
    from tests.sql.planted import D29, D30

    settings = load_settings(write_config(tmp_path))
    fill(settings, nights=(D29,))
    with connect(settings) as before:
        fill(settings, nights=(D29, D30))
        assert before.sql("select max(ds) from nights").fetchone() == (D29,)
        with connect(settings) as after:
            assert after.sql("select max(ds) from nights").fetchone() == (D30,)
