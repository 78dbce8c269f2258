"""The state of an older version: opened, it is today's; whatever it said is still there. A newer one is refused.

The next night on such a state is in test_upgraded_night.py (`make test-nights`).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.catalog.sql import SqlCatalog

from jobs import analytics, forget, maintain, nightly, pages, publish, query, rollback
from jobs.compaction import compact
from jobs.errors import JobError
from jobs.forget_person import People
from jobs.forget_tables import TableSearch
from jobs.lakehouse import NAMESPACE, Lakehouse
from jobs.list_audit import pieces_of_lists
from jobs.loaded_model import read_version
from jobs.query import connect
from jobs.registry import CHAMPION, PREVIOUS, Registry
from jobs.schemas import TABLES
from jobs.settings import Settings, load_settings
from jobs.sql_views import sql_files
from jobs.state_version import PROPERTY, STATE_VERSION
from jobs.state_version import read_version as version_of
from jobs.upgrade import _numbered
from syncrec_model import Recommender
from tests.upgrade.old_state import HERE, fixtures, tables, unpack

(OLD,) = fixtures()
DAYS = [date(2024, 1, 11), date(2024, 1, 12)]
KEPT = ("interactions", "rejected_interactions", "items", "nights", "recommendations", "domain_metrics", "audits")
Rows = list[dict[str, Any]]


def old_rows(settings: Settings) -> dict[str, Rows]:
    """What the tables hold, read without any code of ours: opening brings nothing to another form."""
    catalog = load_catalog("syncrec", type="sql", uri=settings.catalog_uri)
    return {name: catalog.load_table(f"{NAMESPACE}.{name}").scan().to_arrow().to_pylist() for name in KEPT}


def rows_of(lakehouse: Lakehouse, name: str) -> Rows:
    return list(lakehouse.read_arrow(name, lakehouse.current_snapshot(name)).to_pylist())


def counted(rows: Rows, names: Sequence[str]) -> Counter[str]:
    return Counter(repr([row[name] for name in names]) for row in rows)


def opened(settings: Settings) -> tuple[Lakehouse, str]:
    """The tables, and what opening them said."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        lakehouse = Lakehouse(settings)
    return lakehouse, said.getvalue()


@pytest.fixture
def old(tmp_path: Path) -> Settings:
    """The old project, untouched."""
    return load_settings(unpack(OLD, tmp_path))


class Upgraded:
    """The old project, opened once: what it held before, what was said, what it holds."""

    def __init__(self, home: Path) -> None:
        self.config = unpack(OLD, home)
        self.settings = load_settings(self.config)
        self.before = old_rows(self.settings)
        self.lakehouse, self.said = opened(self.settings)


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Upgraded:
    return Upgraded(tmp_path_factory.mktemp("upgraded"))


# --- an older state ------------------------------------------------------------------------------------------


def test_opening_says_what_was_changed_and_happens_once(upgraded: Upgraded) -> None:
    first, *changes, last = upgraded.said.splitlines()
    assert re.fullmatch(r"the state in \S+ is of version 0: bringing it to version \d+ .*", first)
    assert last == f"the state is of version {STATE_VERSION}"
    for part in (
        "cross_sequences: removed, it is a view of sequences now",
        f"interactions: {len(upgraded.before['interactions'])} events got item_index and known_ds",
        "nights: columns +sequences_snapshot -cross_sequences_snapshot -single_sequences_snapshot",
        "new tables: experiments, gate_checks, impressions, rejected_impressions, sequences",
    ):
        assert any(part in line for line in changes), (part, changes)
    assert opened(upgraded.settings)[1] == ""


def test_the_tables_are_todays_and_the_retired_ones_are_gone_from_the_disk(upgraded: Upgraded) -> None:
    for table in TABLES.values():
        columns = [field.name for field in upgraded.lakehouse.table(table.name).schema().fields]
        assert columns == table.column_names
    assert not list(upgraded.settings.warehouse.rglob("*cross_sequences*"))


def test_nothing_that_the_tables_said_is_lost(upgraded: Upgraded) -> None:
    for name, before in upgraded.before.items():
        assert before, name
        shared = [column for column in TABLES[name].column_names if column in before[0]]
        assert counted(rows_of(upgraded.lakehouse, name), shared) == counted(before, shared)


def test_every_event_has_the_index_of_its_item(upgraded: Upgraded) -> None:
    with connect(upgraded.settings) as sql:
        wrong = sql.sql(
            "select * from interactions as e left join items as i using (domain, item_id) where e.item_index is "
            "distinct from i.item_index or e.known_ds is distinct from greatest(e.arrival_ds, i.arrival_ds)"
        ).fetchall()
    assert wrong == []


def test_an_event_counts_from_the_night_that_knows_its_item(tmp_path: Path) -> None:
    """As in jobs.ingest: an old day that was ingested again brought an item that its nights do not know."""
    event = {"user_id": "ann", "item_id": "b1", "domain": "books", "arrival_ds": DAYS[0]}
    known = {"domain": "books", "item_id": "b1", "item_index": 7, "arrival_ds": DAYS[1]}
    old_columns = [
        field for field in TABLES["interactions"].arrow_schema if field.name not in ("item_index", "known_ds")
    ]
    pq.write_table(pa.Table.from_pylist([event], pa.schema(old_columns)), tmp_path / "old.parquet")
    with duckdb.connect() as connection:
        connection.register("items", pa.Table.from_pylist([known], TABLES["items"].arrow_schema))
        assert _numbered(connection, tmp_path / "old.parquet", tmp_path / "new.parquet") == 1
    (row,) = pq.read_table(tmp_path / "new.parquet").to_pylist()
    assert (row["item_index"], row["known_ds"], row["arrival_ds"]) == (7, DAYS[1], DAYS[0])


def test_every_query_runs_on_it(upgraded: Upgraded) -> None:
    with connect(upgraded.settings) as sql:
        for file in sql_files("queries"):
            assert sql.sql(file.read_text()).columns, file


def test_lists_measurements_and_decisions_of_its_nights_are_in_the_views(upgraded: Upgraded) -> None:
    analytics.write_analytics(upgraded.settings)
    file = str(analytics.analytics_file(upgraded.settings))
    with connect(upgraded.settings) as live, duckdb.connect(file, read_only=True) as kept:
        for sql in (live, kept):
            assert [ds for (ds,) in sql.sql("select ds from nights order by ds").fetchall()] == DAYS
            assert sql.sql("select count(*) from nights where sequences_snapshot is null").fetchone() == (2,)
            for name in ("recommendations", "domain_metrics"):
                days = sql.sql(f"select distinct ds from {name} order by ds").fetchall()
                assert [ds for (ds,) in days] == DAYS
            newest = [row for row in upgraded.before["recommendations"] if row["ds"] == DAYS[-1]]
            assert sql.sql("select count(*) from latest_recommendations").fetchone() == (len(newest),)


def test_a_past_night_that_cannot_be_read_as_it_was_says_so(upgraded: Upgraded) -> None:
    with pytest.raises(JobError, match=r"sequences .* or an upgrade since.*where ds = date '2024-01-12'"):
        connect(upgraded.settings, DAYS[-1])


def test_its_champion_still_scores(upgraded: Upgraded, tmp_path: Path) -> None:
    registry = Registry(upgraded.settings)
    champion = registry.at_alias(CHAMPION)
    assert champion
    assert '"format": 1' in (registry.download(champion.number, tmp_path) / "config.json").read_text()
    model, vocabulary, views, _ = read_version(registry, champion.number)
    history = [(vocabulary.item_ids[0][0], vocabulary.domains[0], 1704396573)]
    top, unknown = Recommender(model, vocabulary, views).top_n_of_histories([history], 3)
    assert set(top.domain.tolist()) == {1, 2, 3} and unknown.tolist() == [0]


def test_old_and_new_files_of_items_are_one_vocabulary_for_the_audit(upgraded: Upgraded, tmp_path: Path) -> None:
    """Spark calls `domain` a column that may be NULL, or one that may not: the version and the sources decide."""
    schema = TABLES["items"].arrow_schema
    schema = schema.set(0, schema.field("domain").with_nullable(False))
    row = rows_of(upgraded.lakehouse, "items")[0]
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "fresh.parquet")
    files = upgraded.lakehouse.files("items", upgraded.lakehouse.current_snapshot("items"))
    schemas = {pq.read_schema(file.removeprefix("file://")).field("domain").nullable for file in files}
    assert schemas == {True}, "else this test shows nothing"
    assert list(pieces_of_lists(iter(()), [*files, f"file://{tmp_path}/fresh.parquet"], DAYS[0])) == []


def test_its_reports_are_still_there(upgraded: Upgraded) -> None:
    for ds in DAYS:
        assert str(ds) in (upgraded.settings.state / f"reports/{ds}.html").read_text()


def test_maintenance_and_forgetting_work_on_it(old: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(old.state.parent / "syncrec.toml")
    assert maintain.main(["--ds", "2024-01-12", "--config", config]) == 0
    user = next(row["user_id"] for row in rows_of(Lakehouse(old), "interactions"))
    assert forget.main(["--user-id", user, "--yes", "--config", config]) == 0
    assert user not in {row["user_id"] for row in rows_of(Lakehouse(old), "recommendations")}
    capsys.readouterr()
    assert forget.main(["--user-id", user, "--config", config]) == 0
    assert "nothing holds them" in capsys.readouterr().out


def test_a_rollback_works_on_it(old: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(old)
    previous = registry.at_alias(PREVIOUS)
    assert previous
    config = str(old.state.parent / "syncrec.toml")
    assert rollback.main(["--reason", "trial", "--config", config]) == 0
    champion = registry.at_alias(CHAMPION)
    assert champion and champion.number == previous.number


# --- kills, others -------------------------------------------------------------------------------------------

CHANGES = ("commit_table", "drop_table", "create_table", "update_namespace_properties")


class Killed(BaseException):
    """As a kill: nothing catches it."""


def killed_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """Die after so many changes of the catalog."""
    left = [count]

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **named: Any) -> Any:
            result = change(*arguments, **named)
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return result

        return made

    for name in CHANGES:
        patch.setattr(SqlCatalog, name, dying(getattr(SqlCatalog, name)))


def test_killed_after_any_change_the_next_command_goes_on(old: Settings, upgraded: Upgraded) -> None:
    kills = 0
    while True:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
            killed_after(1, patch)
            try:
                lakehouse = Lakehouse(old)
                break
            except Killed:
                kills += 1
    assert kills > 8, "retired tables, events, a table with other columns, new tables, the number"
    for name in TABLES:
        columns = TABLES[name].column_names
        assert counted(rows_of(lakehouse, name), columns) == counted(rows_of(upgraded.lakehouse, name), columns)
    assert opened(old)[1] == ""


def test_two_at_once_do_it_once(old: Settings) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said, ThreadPoolExecutor(2) as pool:
        list(pool.map(Lakehouse, [old, old]))
    assert said.getvalue().count("bringing it to version") == 1


@contextlib.contextmanager
def night_of_process(number: str, state: Path) -> Iterator[None]:
    with (state / "nightly.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(number)
        lock.flush()
        yield


def test_not_while_a_night_of_the_older_version_runs(old: Settings) -> None:
    with night_of_process("1", old.state), pytest.raises(JobError, match=r"in progress .* \(process 1\): wait"):
        Lakehouse(old)
    with night_of_process(str(os.getpid()), old.state):
        assert "bringing it to version" in opened(old)[1], "the launcher itself holds the lock"


def test_a_night_that_was_begun_forgets_what_it_read(old: Settings) -> None:
    notes = old.warehouse / "_nights/2024-01-13/0123456789abcdef.json"
    notes.parent.mkdir()
    notes.write_text('{"run_id": "manual", "snapshots": {"interactions": 1}}')
    assert "night 2024-01-13: it was begun and not published, and begins anew" in opened(old)[1]
    assert not notes.exists()
    for file in (old.warehouse / "_nights/2024-01-12").glob("*.json"):
        assert json.loads(file.read_text())["snapshots"] == {}, "a step that is run again reads today's form"
        assert "decision" in file.read_text(), "and what the night decided"


def test_a_database_of_another_mlflow_is_said_with_the_command_that_mends_it(old: Settings) -> None:
    with sqlite3.connect(old.tracking_uri.removeprefix("sqlite:///")) as database:
        database.execute("update alembic_version set version_num = 'cfd24bdc0731'")  # one of MLflow 1.20
    with pytest.raises(JobError, match=r"another version of MLflow .* -m mlflow db upgrade sqlite:///"):
        Registry(old)


# --- columns that come later -----------------------------------------------------------------------------------


def test_columns_that_old_files_lack_are_null_for_every_reader(settings: Any) -> None:
    """A state as an older version would have made it: `recommendations` without a column of today."""
    made: Settings = settings()
    whole = TABLES["recommendations"]
    narrow = whole.arrow_schema.remove(whole.column_names.index("arm"))
    lakehouse = Lakehouse(made)
    lakehouse.create_tables()
    with lakehouse.table("recommendations").update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("arm")
    for place, user in enumerate(("ann", "bob")):
        row = {"user_id": user, "rank": 1, "item_id": "b1", "ds": DAYS[0]}
        folder = lakehouse.stage_folder("recommendations", DAYS[0], "t")
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row], narrow), folder / "part-0.parquet")
        parent = lakehouse.current_snapshot("recommendations")
        lakehouse.append(
            "recommendations", [f"file://{folder}/part-0.parquet"], parent=parent, ds=DAYS[0], run_id=str(place)
        )
    old_snapshot = lakehouse.current_snapshot("recommendations")
    lakehouse.catalog.update_namespace_properties(NAMESPACE, removals={PROPERTY})

    lakehouse, said = opened(made)
    assert "recommendations: columns +arm" in said
    expected = [("ann", None), ("bob", None)]
    assert lakehouse.current_snapshot("recommendations") != old_snapshot
    assert sorted((row["user_id"], row["arm"]) for row in rows_of(lakehouse, "recommendations")) == expected
    text = "select user_id, arm from recommendations order by user_id"
    with connect(made) as sql:
        assert sql.sql(text).fetchall() == expected
    then = dict.fromkeys(TABLES) | {"recommendations": old_snapshot}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.query.snapshots_of", lambda *_: then)
        with connect(made) as sql:
            assert sql.sql(text).fetchall() == expected, "also as of a day before the upgrade"
    search = TableSearch(made, lakehouse, People(frozenset({"bob"})))
    (found,) = search.find()
    search.forget(found)
    assert [row["user_id"] for row in rows_of(lakehouse, "recommendations")] == ["ann"]
    with duckdb.connect(str(analytics.write_analytics(made)), read_only=True) as kept:
        assert kept.sql(text).fetchall() == [("ann", None)]
    compact(lakehouse, "recommendations", made.maintenance, (), ds=DAYS[0], run_id="t", dry=False)


# --- newer states, the number ------------------------------------------------------------------------------------

Command = Callable[[list[str]], int]
COMMANDS: dict[str, tuple[Command, list[str]]] = {
    "nightly": (nightly.main, []),
    "make up": (pages.main, ["up"]),
    "make sql": (query.main, ["promotions"]),
    "analytics": (analytics.main, []),
    "rollback": (rollback.main, ["--reason", "trial"]),
    "forget": (forget.main, ["--user-id", "ann"]),
    "maintain": (maintain.main, ["--ds", "2024-01-12"]),
    "a step of a night": (publish.main, ["--ds", "2024-01-12"]),
}


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = unpack(OLD, tmp_path_factory.mktemp("newer"))
    catalog = load_catalog("syncrec", type="sql", uri=load_settings(config).catalog_uri)
    catalog.update_namespace_properties(NAMESPACE, updates={PROPERTY: str(STATE_VERSION + 1)})
    return config


@pytest.mark.parametrize("name", COMMANDS)
def test_a_newer_state_is_refused_in_a_line_that_says_what_to_do(
    name: str, newer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, arguments = COMMANDS[name]
    assert command([*arguments, "--config", str(newer)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"has version {STATE_VERSION + 1}, this code knows versions up to {STATE_VERSION}: use the" in line


def test_a_new_state_has_todays_number_from_the_start(settings: Any) -> None:
    lakehouse = Lakehouse(settings())
    assert version_of(lakehouse.catalog, NAMESPACE) is None
    lakehouse.create_tables()
    assert version_of(lakehouse.catalog, NAMESPACE) == STATE_VERSION
    lakehouse.catalog.update_namespace_properties(NAMESPACE, removals={PROPERTY})
    assert "nothing had to change" in opened(settings())[1], "tables of before the number, yet of today's form"


def test_whoever_changes_a_table_raises_the_number() -> None:
    assert (HERE / "tables.json").read_text() == tables(), (
        "the tables have changed: raise STATE_VERSION (jobs/state_version.py), give the version before it a step "
        "(jobs/upgrade.py), then run python -m tests.upgrade.old_state tables; CONTRIBUTING.md says more"
    )
