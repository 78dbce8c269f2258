"""The lakehouse: a day is replaced whole, snapshots stay readable, races have one winner."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo

from jobs.errors import JobError, PublishConflict
from jobs.lakehouse import Lakehouse, data_files
from jobs.schemas import AUDITS, TABLES
from jobs.settings import Settings

DAY, NEXT = date(2024, 1, 1), date(2024, 1, 2)


def audits(ds: date, run_id: str, n: int = 2) -> pa.Table:
    rows = [
        {"run_id": run_id, "table_name": "t", "rule": f"rule {i}", "success": True, "observed": "", "ds": ds}
        for i in range(n)
    ]
    return pa.Table.from_pylist(rows, schema=AUDITS.arrow_schema)


def put(lakehouse: Lakehouse, ds: date, run_id: str, n: int = 2) -> int:
    files = lakehouse.stage_arrow("audits", audits(ds, run_id, n), ds, run_id)
    return lakehouse.replace("audits", EqualTo("ds", ds.isoformat()), files, ds=ds, run_id=run_id)


@pytest.fixture
def lakehouse(settings: Any) -> Lakehouse:
    made = Lakehouse(settings())
    made.create_tables()
    return made


def runs(lakehouse: Lakehouse, snapshot: int | None) -> list[tuple[date, str]]:
    rows = lakehouse.read_arrow("audits", snapshot, columns=("ds", "run_id"))
    return sorted(zip(rows["ds"].to_pylist(), rows["run_id"].to_pylist(), strict=True))


def test_every_table_exists_and_documents_its_columns(lakehouse: Lakehouse) -> None:
    lakehouse.create_tables()  # again: nothing happens
    for table in TABLES.values():
        schema = lakehouse.table(table.name).schema()
        assert [field.name for field in schema.fields] == table.column_names
        assert all(field.doc for field in schema.fields)
        assert lakehouse.current_snapshot(table.name) is None


def test_replacing_a_day_touches_that_day_only_and_old_snapshots_stay(lakehouse: Lakehouse) -> None:
    put(lakehouse, DAY, "a")
    before = put(lakehouse, NEXT, "b")
    after = put(lakehouse, DAY, "c", n=1)
    assert runs(lakehouse, before) == [(DAY, "a")] * 2 + [(NEXT, "b")] * 2
    assert runs(lakehouse, after) == [(DAY, "c")] + [(NEXT, "b")] * 2


def test_staged_files_are_invisible_until_the_commit(lakehouse: Lakehouse) -> None:
    snapshot = put(lakehouse, DAY, "a")
    lakehouse.stage_arrow("audits", audits(NEXT, "b"), NEXT, "b")
    assert lakehouse.current_snapshot("audits") == snapshot
    assert runs(lakehouse, lakehouse.current_snapshot("audits")) == [(DAY, "a")] * 2


def test_snapshots_say_which_run_and_code_made_them(lakehouse: Lakehouse) -> None:
    put(lakehouse, DAY, "scheduled__1")
    snapshot = lakehouse.table("audits").current_snapshot()
    assert snapshot is not None and snapshot.summary is not None
    assert snapshot.summary["syncrec.run_id"] == "scheduled__1"
    assert snapshot.summary["syncrec.ds"] == "2024-01-01"
    assert snapshot.summary["syncrec.code_version"]


def _race(state: str, run_id: str) -> str:
    from tests.conftest import SMALL

    lakehouse = Lakehouse(Settings(**{"state_dir": state, **SMALL}))
    try:
        put(lakehouse, DAY, run_id)
    except PublishConflict as conflict:
        return str(conflict)
    return "won"


def test_of_processes_that_replace_one_day_at_once_the_last_state_is_one_complete_result(
    lakehouse: Lakehouse, settings: Any
) -> None:
    put(lakehouse, DAY, "first")
    state = str(settings().state_dir)
    with ProcessPoolExecutor(3) as pool:
        ends = list(pool.map(_race, [state] * 3, ["r1", "r2", "r3"]))
    assert ends.count("won") >= 1
    assert all("nothing of ours was published" in end for end in ends if end != "won")
    present = runs(lakehouse, lakehouse.current_snapshot("audits"))
    assert len(present) == 2 and len(set(present)) == 1


def test_empty_files_are_not_published(lakehouse: Lakehouse, tmp_path: Path) -> None:
    assert data_files(tmp_path) == []
    files = lakehouse.stage_arrow("audits", audits(DAY, "a", n=0), DAY, "a")
    assert files == []


def test_a_broken_catalog_address_is_one_clear_line(settings: Any) -> None:
    with pytest.raises(JobError, match="cannot open the Iceberg catalog"):
        Lakehouse(settings(catalog={"uri": "sqlite:////proc/nowhere/catalog.db"}))
