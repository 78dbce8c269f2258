"""The command line of every job: help, one-line errors, exit codes."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.command import Run, one_line, peak_memory, run_job, start_logging
from jobs.errors import JobError, NothingToDo

HOME = Path(__file__).parents[2]
STEPS = (
    "wait_for_landing", "ingest", "build_sequences", "train", "evaluate", "gate", "score", "publish", "move_alias",
    "report",
)  # fmt: skip
ARGV = ["--ds", "2024-01-05", "--config", str(HOME / "syncrec.toml")]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_refuses_a_wrong_day_and_says_which_step_it_is(
    step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"jobs.{step}").main(["--ds", "yesterday"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "'yesterday' is not a day like 2024-03-01" in said
    assert f"python -m jobs.{step}" in said


def test_a_step_ends_with_the_code_of_its_main() -> None:
    command = [sys.executable, "-m", "jobs.wait_for_landing", "--ds", "yesterday"]
    env = {**os.environ, "SYNCREC_HOME": str(HOME)}
    wrong = subprocess.run(command, cwd=HOME, env=env, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2
    assert "python -m jobs.wait_for_landing: error: argument --ds: 'yesterday' is not a day" in wrong.stderr


def test_a_job_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def job(run: Run) -> str:
        raise JobError("the landing folder is\nempty")

    assert run_job(job, ARGV) == 1
    captured = capsys.readouterr().err.strip()
    assert captured.endswith("2024-01-05: the landing folder is empty") and "\n" not in captured


def test_nothing_to_do_is_exit_code_99() -> None:
    def job(run: Run) -> str:
        raise NothingToDo("not due")

    assert run_job(job, ARGV) == 99


def test_a_defect_ends_with_its_cause_in_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    def job(run: Run) -> str:
        raise KeyError("lost")

    assert run_job(job, ARGV) == 70
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")


def test_the_cause_of_a_workers_traceback_is_its_last_line() -> None:
    error = RuntimeError("worker failed\nTraceback (most recent call last):\n  File x\nValueError: the cause\n\n")
    assert one_line(error) == "ValueError: the cause"


@pytest.mark.parametrize("run_id", ["a b", "a;rm -rf x", "$(x)", "", "x" * 300])
def test_a_run_id_that_is_no_plain_name_is_refused(run_id: str) -> None:
    with pytest.raises(SystemExit) as stop:
        run_job(lambda run: None, [*ARGV, "--run-id", run_id])
    assert stop.value.code == 2


def test_the_peak_counts_children_that_live() -> None:
    before = peak_memory()
    if before is None:
        pytest.skip("needs Linux's /proc")
    hungry = "import time; x = bytearray(300_000_000); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hungry], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        grown = peak_memory()
        child.kill()
    assert grown is not None and grown - before > 290_000_000


def test_the_cutoff_is_midnight_after_the_day() -> None:
    seen: list[Run] = []
    run_job(lambda run: seen.append(run), [*ARGV, "--run-id", "manual__2024-01-05T00:00:00+00:00"])
    assert seen[0].cutoff.isoformat() == "2024-01-06T00:00:00+00:00"


def test_traces_that_py4j_logs_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """It logs on the root logger; a job says the same in its one line."""
    start_logging()
    for file in ("/site-packages/py4j/java_gateway.py", "/jobs/score.py"):
        logging.getLogger().handle(logging.LogRecord("root", logging.ERROR, file, 1, f"said in {file}", (), None))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("said in /jobs/score.py")
