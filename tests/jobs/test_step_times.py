"""What a step notes about itself, and what of it reaches the table `steps`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import move_alias
from jobs.lakehouse import Lakehouse
from jobs.report import main as report
from jobs.settings import load_settings
from jobs.step_times import StepClock, record_steps, step_notes
from tests.sql.planted import D29, D30, D31, fill, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = write_config(tmp_path_factory.mktemp("steps"))
    fill(load_settings(file), nights=(D29,))
    return file


def steps(config: Path, **wanted: Any) -> list[dict[str, Any]]:
    lakehouse = Lakehouse(load_settings(config))
    rows = lakehouse.read_arrow("steps", lakehouse.current_snapshot("steps")).to_pylist()
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_a_step_that_fails_and_fails_again_is_a_row_with_its_cause(config: Path) -> None:
    arguments = ["--config", str(config), "--ds", "2024-01-30", "--run-id", "run-x"]
    assert [move_alias.main(arguments), move_alias.main(arguments)] == [1, 1]
    assert steps(config, ds=D30) == [], "only notes so far"
    assert report(["--config", str(config), "--ds", "2024-01-30"]) == 0
    (row,) = steps(config, ds=D30)
    assert (row["run_id"], row["step"], row["attempt"], row["outcome"]) == ("run-x", "move_alias", 2, "failed")
    assert row["message"] == "run gate first: this night has no decision yet"
    assert 0 < row["seconds"] < 600
    assert row["peak_memory"] is None or row["peak_memory"] > 10_000_000  # None: not Linux


def test_a_step_that_is_killed_leaves_its_beginning(config: Path) -> None:
    lakehouse = Lakehouse(load_settings(config))
    StepClock(lakehouse.warehouse, D31, "run-y", "train", age=5.0)
    StepClock(lakehouse.warehouse, D31, "run-y", "gate").end("done", "", 2**30)
    record_steps(lakehouse, D31)
    record_steps(lakehouse, D31)
    gate, train = sorted(steps(config, ds=D31), key=lambda row: row["step"])
    assert (train["outcome"], train["seconds"], train["peak_memory"]) == ("not ended", None, None)
    assert (gate["outcome"], gate["peak_memory"]) == ("done", 2**30)
    assert (gate["started_at"] - train["started_at"]).total_seconds() > 4, "its process was older"
    assert len(steps(config, ds=D29)) == 2, "other days stay"


def test_a_step_by_hand_belongs_to_the_newest_run_of_its_day(tmp_path: Path) -> None:
    (tmp_path / "_nights" / "2024-01-30").mkdir(parents=True)
    (tmp_path / "_nights" / "2024-01-30" / "0123.json").write_text('{"run_id": "run-30", "snapshots": {}}')
    StepClock(tmp_path, D30, "manual", "gate").end("done", "", None)
    assert [(note.run_id, note.step, note.outcome) for note in step_notes(tmp_path, D30)] == [
        ("run-30", "gate", "done")
    ]


def test_noting_makes_no_warehouse_and_never_breaks_a_step(tmp_path: Path) -> None:
    StepClock(tmp_path / "nowhere", D30, "run-30", "gate").end("done", "", None)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "_nights").write_text("a file where a folder should be")
    StepClock(tmp_path, D30, "run-30", "gate").end("done", "", None)
    assert step_notes(tmp_path, D30) == []
    damaged = tmp_path / "other" / "_nights" / "2024-01-30" / "0123.steps"
    damaged.mkdir(parents=True)
    (damaged / "gate.json").write_text("{")
    assert step_notes(tmp_path / "other", D30) == []


def test_the_age_of_a_process_counts_its_imports() -> None:
    code = "import time; time.sleep(1.2); from jobs.step_times import process_age; print(process_age())"
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    age = float(said.stdout)
    if age == 0.0:
        pytest.skip("this system does not tell when a process began")
    assert 1.1 < age < time.monotonic() - began + 0.1


def test_a_defect_is_named_by_its_kind_alone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: argparse.Namespace) -> str:
        raise ValueError("could not convert user A23PWGSVHEAJ2K")

    monkeypatch.setattr(move_alias, "Lakehouse", broken)
    assert move_alias.main(["--config", str(config), "--ds", "2024-01-29", "--run-id", "run-z"]) == 70
    notes = step_notes(load_settings(config).warehouse, D29)
    assert [note.message for note in notes] == ["ValueError; the log says more"]
