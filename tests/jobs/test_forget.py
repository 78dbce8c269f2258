"""Forgetting a user: afterwards no file holds the id, all else is as it was, and a killed run is finished."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from jobs import expiry, forget, forget_landing, forget_tables
from jobs.analytics import analytics_file
from jobs.errors import JobError
from jobs.forget_landing import filter_parquet
from jobs.forget_person import People
from jobs.forget_tables import avro_bytes
from jobs.lakehouse import Lakehouse
from jobs.query import connect
from jobs.report import main as report
from jobs.schemas import TABLES
from jobs.settings import Settings, Source, load_settings
from tests.sql import planted
from tests.sql.planted import D28, D29, D30, fill, put, write_config

USER = 'forget\'me "4711" ü'
"""Quotes of SQL and of CSV, a blank, and a letter that JSON may escape."""
DAYS = (D28, D29, D30)
MORE_SOURCES = """
[[sources]]
name = "books_gz"
domain = "books"
files = "more*.csv.gz"
format = "csv"
header = true
user = "who"
item = "what"
time = "at"
time_unit = "s"
[[sources]]
name = "toys"
domain = "toys"
files = "toys.jsonl"
format = "jsonl"
user = "who"
item = "what"
time = "at"
time_unit = "s"
[[sources]]
name = "places"
domain = "toys"
files = "places.parquet"
format = "parquet"
user = "who"
item = "what"
time = "at"
time_unit = "s"
"""


def replaced(value: Any) -> Any:
    """The planted rows with bob under the other name."""
    if isinstance(value, str):
        return USER if value == "bob" else value
    if isinstance(value, tuple | list):
        return type(value)(replaced(part) for part in value)
    if isinstance(value, dict):
        return {replaced(key): replaced(part) for key, part in value.items()}
    return value


def deliver(landing: Path) -> None:
    """Landing days of every form; `left` are the bytes and rows that must stay."""
    twice, plain, ascii_ = USER.replace('"', '""'), json.dumps(USER, ensure_ascii=False), json.dumps(USER)
    for day in DAYS:
        folder = landing / str(day)
        folder.mkdir(parents=True)
        (folder / "_SUCCESS").touch()
        lines = ["ann,b1,1706500000\n", f'"{twice}",b1,1706500001\n', '"bob\'s",b2,never\r\n', f'"{twice}",b2,x']
        (folder / "books.csv").write_text("".join(lines), newline="")
        with gzip.open(folder / "more1.csv.gz", "wt", newline="") as out:
            out.write(f'at,who,what\n1,ann,b1\n2,"{twice}",b2\n3,cai,b2\nbroken "{twice}\n4,cai,b1\n')
        rows = [f'{{"who": {plain}, "what": "t1"}}', f'{{"who": {ascii_}}}', '{"who": 5}', f'{{"who": {ascii_}']
        (folder / "toys.jsonl").write_text("\n".join(rows) + "\n")
        table = pa.table({"who": ["ann", USER, None], "what": ["t1", "t2", "t3"], "at": [1, 2, 3]})
        pq.write_table(table, folder / "places.parquet")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two published nights and a failed one, with pages, their MLflow copies, logs, landing files and leftovers."""
    home = tmp_path_factory.mktemp("forget")
    file = write_config(home)
    file.write_text(file.read_text() + MORE_SOURCES)
    settings = load_settings(file)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EVENTS", "REJECTS", "LISTS", "SHOWN"):
            patch.setattr(planted, name, replaced(getattr(planted, name)))
        lakehouse = fill(settings)
    doubled = USER.replace('"', '""')
    refused = [("books", f'"{doubled}",b1,never'), ("books", "ann,b1,never"), ("toys", json.dumps({"who": USER}))]
    refused += [("toys", json.dumps({"who": "ann", "what": "x"})), ("books_gz", f'"{doubled}",2')]
    own = {"reason": "bad_time", "file": "more1.csv.gz", "arrival_ds": D28}
    put(lakehouse, "rejected_interactions", D28, [own | {"source": s, "content": c} for s, c in refused])
    stray = lakehouse.warehouse / "syncrec" / "recommendations" / "data" / "2024-02-01-killed"
    stray.mkdir()
    rows = [{"user_id": USER, "domain": "books", "ds": date(2024, 2, 1)}]
    pq.write_table(pa.Table.from_pylist(rows, TABLES["recommendations"].arrow_schema), stray / "part-0.parquet")
    deliver(settings.landing_path)
    (settings.state / "mlflow").mkdir()
    client = MlflowClient(settings.tracking_uri)
    experiment = client.create_experiment(settings.mlflow.experiment, artifact_location=settings.artifact_root)
    for day in (D29, D30):
        client.create_run(experiment, tags={"ds": str(day), "syncrec.run_id": f"run-{day.day}"})
        assert report(["--config", str(file), "--ds", str(day)]) == 0
    (settings.state / "logs").mkdir()
    (settings.state / "logs" / "night-2024-01-29.log").write_text(f"all well\nerror: user {USER}: no\nend\n")
    (settings.state / "spark" / "local" / "blockmgr-1").mkdir(parents=True)
    return settings


def holding(folder: Path, text: str) -> list[str]:
    """Every file below that holds a text, unpacked, in any form of writing it."""
    forms = {text.encode(), json.dumps(text)[1:-1].encode(), text.replace('"', '""').encode()}
    forms |= {text.replace('"', r"\"").encode(), text.replace("'", "&#39;").replace('"', "&#34;").encode()}
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        elif file.suffix == ".avro":
            data = avro_bytes(file)
        elif data[:4] == b"PAR1":
            data += repr(pq.read_table(file).to_pylist()).encode() + repr(pq.ParquetFile(file).metadata).encode()
            data += (
                text.encode() if any(text in str(row.values()) for row in pq.read_table(file).to_pylist()) else b""
            )
        elif data[:16] == b"SQLite format 3\0":
            with closing(sqlite3.connect(file)) as database:
                data += "\n".join(database.iterdump()).encode()
        if any(form in data for form in forms):
            found.append(str(file.relative_to(folder)))
    return found


def contents(settings: Settings) -> dict[str, str]:
    """By table a hash of everything that is not the user's."""
    lakehouse = Lakehouse(settings)
    found = {}
    for name in TABLES:
        rows = lakehouse.read_arrow(name, lakehouse.current_snapshot(name))
        if "user_id" in rows.column_names:
            rows = rows.filter(pc.not_equal(rows["user_id"], USER))
        kept = sorted(repr(sorted(row.items())) for row in rows.to_pylist())
        if name == "rejected_interactions":
            kept = [row for row in kept if "4711" not in row]
        found[name] = hashlib.sha256("\n".join(kept).encode()).hexdigest()
    return found


def command(settings: Settings, *arguments: str) -> int:
    config = settings.state.parent / "syncrec.toml"
    return forget.main(["--config", str(config), *arguments])


@pytest.fixture(scope="module")
def before(project: Settings) -> dict[str, str]:
    return contents(project)


def test_without_yes_it_lists_and_changes_nothing(
    project: Settings, before: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        path: path.read_bytes() for path in project.state.rglob("*") if path.is_file() and ".db" not in path.name
    }
    assert command(project, "--user-id", USER) == 0
    said = capsys.readouterr().out
    for part in (
        "landing 2024-01-28: 8 lines in books.csv, more1.csv.gz, places.parquet, toys.jsonl would be removed",
        "table interactions: 4 rows in",
        "table sequences:",
        "table recommendations: 5 rows in 2 files, 1 file that only earlier nights read",
        "table impressions:",
        "table rejected_interactions: 3 rows in",
        "report 2024-01-30.html",
        "MLflow run",
        "log night-2024-01-29.log",
        "nothing was removed: --yes removes it",
        "Trained models hold no user id",
    ):
        assert part in said, f"{part}\n{said}"
    assert USER not in said, "a log of the command must not bring the id back"
    assert all(path.read_bytes() == data for path, data in files.items() if path.name != "nightly.lock")


class Killed(BaseException):
    """As a kill: nothing catches it."""


def kill_after(patch: pytest.MonkeyPatch, place: object, name: str, calls: int) -> None:
    """End the process, as it were, right after the so-manieth call of a step."""
    real, counted = getattr(place, name), iter(range(1, 1000))

    def step(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        if next(counted) == calls:
            raise Killed(name)
        return result

    patch.setattr(place, name, step)


STEPS: list[tuple[object, str, int]] = [
    (forget_landing, "filter_parquet", 1),
    (os, "replace", 3),
    (forget_tables.TableSearch, "_written", 1),
    (forget_tables.TableSearch, "_replace_files", 1),
    (forget_tables.TableSearch, "_merge_manifests", 2),
    (expiry, "expire", 2),
    (Path, "unlink", 30),
    (forget, "forget_page", 1),
]


def test_a_run_that_is_killed_anywhere_is_finished_by_the_next_one(
    project: Settings, before: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(holding(project.state, USER)) > 20
    killed = []
    for place, name, calls in STEPS:
        with monkeypatch.context() as patch:
            kill_after(patch, place, name, calls)
            try:
                command(project, "--user-id", USER, "--yes")
            except Killed as step:
                killed.append(str(step))
        assert contents(project) == before, f"after a kill in {name}"
    assert len(killed) >= 6, killed
    assert command(project, "--user-id", USER, "--yes") == 0
    assert "nothing is left" in capsys.readouterr().out
    assert holding(project.state, USER) == []
    assert contents(project) == before
    assert [path.name for path in project.state.rglob("*.forget")] == []


@pytest.fixture(scope="module")
def forgotten(project: Settings) -> Settings:
    """The project without the user; after the test of the kills there is nothing left to do."""
    assert command(project, "--user-id", USER, "--yes") == 0
    return project


def test_afterwards_everything_else_is_byte_for_byte_what_it_was(forgotten: Settings) -> None:
    for day in DAYS:
        folder = forgotten.landing_path / str(day)
        assert (folder / "books.csv").read_bytes() == b'ann,b1,1706500000\n"bob\'s",b2,never\r\n'
        with gzip.open(folder / "more1.csv.gz", "rt") as lines:
            assert [line for line in lines if "cai" not in line] == ["at,who,what\n", "1,ann,b1\n"]
        assert (folder / "toys.jsonl").read_text() == '{"who": 5}\n'
        assert pq.read_table(folder / "places.parquet").to_pylist() == [
            {"who": "ann", "what": "t1", "at": 1},
            {"who": None, "what": "t3", "at": 3},
        ]
        assert (folder / "_SUCCESS").exists()
    page = (forgotten.state / "reports" / f"{D30}.html").read_text()
    assert "This user was removed on request." in page and "<h3>ann <small>" in page
    assert (forgotten.state / "logs" / "night-2024-01-29.log").read_text() == "all well\nend\n"
    assert list((forgotten.state / "spark" / "local").iterdir()) == []


def test_afterwards_nights_pages_and_tools_read_on(forgotten: Settings) -> None:
    with connect(forgotten) as connection:
        assert connection.sql("select count(distinct user_id) from latest_recommendations").fetchone() == (3,)
    assert analytics_file(forgotten).exists()
    with pytest.raises(JobError, match="no longer kept"):
        connect(forgotten, as_of=D29)
    config = forgotten.state.parent / "syncrec.toml"
    assert report(["--config", str(config), "--ds", str(D30)]) == 0


def test_a_second_run_finds_nothing(forgotten: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command(forgotten, "--user-id", USER, "--yes") == 0
    said = capsys.readouterr().out
    assert (
        "nothing holds them: is the id written as in the landing files? If they were forgotten before" in said
        and "builds all" not in said
    )


def test_of_several_ids_those_of_whom_nothing_is_known_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(write_config(tmp_path))
    lakehouse = fill(settings)
    events = lakehouse.read_arrow("interactions", lakehouse.current_snapshot("interactions"))
    known = events["user_id"].to_pylist()[0]
    requests = tmp_path / "requests.txt"
    requests.write_text(f'{known}\nNOBODY12345\n"{known}"\n')
    unknown = ", ".join(map(repr, [f'"{known}"', "NOBODY12345"]))
    for arguments in ([], ["--yes"]):
        assert command(settings, "--users-from", str(requests), *arguments) == 0
        said = capsys.readouterr().out
        assert (
            f"NO EVENT of 2 of the ids in interactions, {unknown}: forgotten before, not ingested yet, or not"
            in said
        )
        assert ("nothing is left" in said) == bool(arguments)
    assert forget.without_events(lakehouse, People(frozenset({known, "x"}))) == sorted({known, "x"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name at least one user"),
        (["--user-id", "__anyone__"], "is no user id"),
        (["--user-id", " ann"], "without blanks"),
        (["--users-from", "/absent/file"], "no such file"),
    ],
)
def test_a_wrong_call_is_one_line(
    project: Settings, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(project, *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_night_in_progress_stops_it_and_may_be_made_to_begin_anew(
    project: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = project.warehouse / "_nights" / "2024-02-01" / "x.json"
    notes.parent.mkdir(parents=True)
    notes.write_text(json.dumps({"run_id": "r", "snapshots": {}}))
    assert command(project, "--user-id", "ann", "--yes") == 1
    assert "the night of 2024-02-01 is not finished" in capsys.readouterr().err
    assert command(project, "--user-id", "ann") == 0
    assert "the night of 2024-02-01 is not finished: end it first, or --yes --even-so" in capsys.readouterr().out
    assert command(project, "--user-id", "nobody-at-all", "--yes", "--even-so") == 0
    assert not notes.exists()


# --- whose line is it -----------------------------------------------------------------------------------


@pytest.fixture
def numbers() -> Iterator[People]:
    yield People(frozenset({"5"}))


def test_an_id_that_is_an_ordinary_number_takes_nobody_elses_lines(numbers: People) -> None:
    csv_source = Source(
        name="s", files="x", format="csv", domain="d", columns=("u", "i", "r"), user="u", item="i", time="r",
        time_unit="s",
    )  # fmt: skip
    theirs = numbers.line_test(csv_source, csv_source.columns)
    assert theirs("5,1,5\n") and theirs('"5",1,5')
    assert not theirs("7,5,5\n") and not theirs("55,1,5\n") and not theirs("-5,1,5")
    json_source = csv_source.model_copy(update={"format": "jsonl", "columns": ()})
    theirs = numbers.line_test(json_source, None)
    assert theirs('{"u": 5, "i": 1}') and theirs('{"u": "\\u0035"}')
    assert not theirs('{"u": 7, "i": 5}')
    assert not numbers.mentioned_freely("5 files were read"), "logs say 5 of many things"


def test_rows_keep_their_order_in_a_filtered_file(tmp_path: Path) -> None:
    names = [f"u{n % 7}" for n in range(5000)]
    pq.write_table(pa.table({"user_id": names, "n": range(5000)}), tmp_path / "a.parquet", row_group_size=512)
    kept = filter_parquet(
        tmp_path / "a.parquet", tmp_path / "b.parquet", lambda batch: pc.equal(batch.column("user_id"), "u3")
    )
    rows = pq.read_table(tmp_path / "b.parquet")
    assert kept == len(rows) == sum(name != "u3" for name in names)
    assert rows["n"].to_pylist() == [n for n in range(5000) if n % 7 != 3]


@pytest.mark.parametrize(
    ("rows", "past", "words"),
    [
        ({"a": 1}, 0, "1 row in 1 file"),
        ({"a": 1200, "b": 1}, 2, "1,201 rows in 2 files, 2 files that only earlier nights read"),
        ({}, 1, "1 file that only earlier nights read"),
        ({}, 0, "the id in 1 manifest"),
    ],
)
def test_what_a_table_holds_is_said_without_zeros(rows: dict[str, int], past: int, words: str) -> None:
    found = forget_tables.Found(
        table="interactions",
        rows={Path(name): count for name, count in rows.items()},
        past=tuple(map(Path, "xyz"[:past])),
        manifests=(Path("m.avro"),),
    )
    assert forget.in_words(found) == words
