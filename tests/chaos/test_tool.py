"""The tool of `make chaos` itself: it runs what Airflow runs, kills trees where it aims, sees what differs."""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.lakehouse import Lakehouse
from jobs.maintenance_needs import local
from jobs.night_log import BESIDE
from jobs.night_log import STEPS as SEEN
from jobs.orchestrator import REPOSITORY
from jobs.settings import Settings
from tests.chaos import contents
from tests.chaos.kill import CREATED, Happening, Moment, kind_of, watched
from tests.chaos.moments import moments
from tests.chaos.page import PAGE, page
from tests.chaos.project import COMMAND, STEPS
from tests.chaos.results import Outcome, keep
from tests.jobs.small_nights import SmallNights, day


def test_it_runs_the_commands_of_the_dag_and_every_step_that_writes() -> None:
    assert f"bash_command=f'{COMMAND}'" in (REPOSITORY / "dags/syncrec_nightly.py").read_text(encoding="utf-8")
    assert set(STEPS) == {*SEEN, BESIDE} - {"wait_for_landing"}


def start(script: str, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", "-c", script], cwd=home, start_new_session=True)


def test_a_kill_leaves_nobody_of_the_tree_alive(tmp_path: Path) -> None:
    script = "setsid sleep 60 & echo $! > pids; sh -c 'sleep 60 & echo $! >> pids; wait' & wait"
    end = watched(start(script, tmp_path), tmp_path, Moment(0.4))
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert end.killed and len(pids) == 2
    time.sleep(0.1)
    assert [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"] == []


def test_a_kill_can_be_aimed_at_what_happens_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "a/data").mkdir(parents=True)
    script = (
        "until [ -e go ]; do sleep .05; done; for n in 1 2 3 4 5; do echo x > a/data/$n.parquet; sleep .3; done"
    )
    threading.Timer(0.5, (tmp_path / "go").touch).start()  # by then somebody watches
    end = watched(start(script, tmp_path), tmp_path, Moment(0.0, "a/data/*.parquet written", 3))
    assert end.killed and len(list((tmp_path / "a/data").iterdir())) == 3
    assert watched(start("true", tmp_path), tmp_path, Moment(0.0, "no such thing", 1)).code == 0


def test_kinds_of_happenings_hold_nothing_that_no_two_runs_share() -> None:
    found = {
        "warehouse/syncrec/items/metadata/00008-60ce8659-1d38-47ac-80ef.metadata.json": "*.metadata.json",
        "warehouse/catalog.db-journal": "*.db-journal",
        "warehouse/syncrec/items/data/2024-01-11-05e7f3a8dd01/_temporary/0/part-00001.parquet": "#/*.parquet",
        "checkpoints/.tmpNpyEb": "checkpoints/*",
    }
    for path, ending in found.items():
        assert kind_of(path, CREATED).endswith(f"{ending} begun")


def test_moments_are_drawn_from_the_seed_and_half_of_them_are_aimed() -> None:
    seen = [Happening(f"data/{n}.parquet begun", float(n)) for n in range(5)]
    drawn, again = (moments(10.0, seen, random.Random(7)) for _ in range(2))
    first = [next(drawn) for _ in range(40)]
    assert first == [next(again) for _ in range(40)]
    assert sum(bool(moment.kind) for moment in first) == 20
    assert {moment.kind for moment in first} == {"", *(one.kind for one in seen)}


def test_contents_tell_every_change_of_a_table_and_a_file_that_is_gone(settings: Callable[..., Settings]) -> None:
    nights = SmallNights(settings)
    nights.night(day(0))
    before = contents.tables(nights.settings)
    nights.publish(day(0))  # once more: other moments, other snapshots
    assert contents.differences(contents.tables(nights.settings), before) == []
    nights.ingest(day(0), rows=3)
    found = contents.tables(nights.settings)
    assert [line.split(":")[0] for line in contents.differences(found, before)] == ["interactions", "items"]
    assert contents.between(found, before, before) and not contents.between(found, before, found)
    lakehouse = Lakehouse(nights.settings)
    local(lakehouse.files("sequences", lakehouse.current_snapshot("sequences"))[0]).unlink()
    with pytest.raises(contents.Unreadable, match="sequences, snapshot"):
        contents.tables(nights.settings)


def test_figures_of_steps_are_summed_up_beside_what_others_recorded(tmp_path: Path) -> None:
    def figures() -> dict[str, Any]:
        return dict(json.loads((tmp_path / "chaos.json").read_text())["figures"])

    keep(Outcome("train", kills=20, recovered=20), tmp_path)
    keep(Outcome("score", kills=21, recovered=20, differences=1, words=["what"]), tmp_path)
    assert (figures()["kills"], figures()["recovered"], figures()["differences"]) == (41, 40, 1)
    keep(Outcome("score", kills=20, recovered=20), tmp_path)
    assert (figures()["kills"], figures()["recovered"], figures()["differences"]) == (40, 40, 0)


def test_the_page_says_what_was_recorded() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run .venv/jobs/bin/python -m tests.chaos.page"
