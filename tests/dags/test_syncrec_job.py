"""Alerts, called as Airflow calls them: one line each, to the log and to the command that was named."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.orchestrator import REPOSITORY
from tests.dags.test_syncrec_nightly import ORCHESTRATOR

pytestmark = pytest.mark.skipif(not ORCHESTRATOR.is_file(), reason="no orchestrator environment: run `make setup`")

CALL = """
import json, logging, sys
from types import SimpleNamespace
from airflow.sdk.execution_time.callback_supervisor import execute_callback
sys.path.append(sys.argv[1])
logging.basicConfig(level="INFO", stream=sys.stderr)
import structlog
for name, context in json.loads(sys.argv[2]):
    if "task_instance" in context:
        context["task_instance"] = SimpleNamespace(**context["task_instance"])
    print("ENDED", execute_callback(f"syncrec_job.{name}", {"context": context}, "syncrec_nightly.py", sys.argv[1],
                                    structlog.get_logger()))
"""
RUN = {"dag_id": "syncrec_nightly", "dag_run_id": "scheduled__2024-01-29", "state": "running"}
DEADLINE = {"id": "1", "deadline_time": "2024-01-30 06:00:00+00:00"}
TASK = {"dag_id": "syncrec_nightly", "task_id": "score", "run_id": "r1", "try_number": 3}


def called(home: Path, command: str, calls: list[tuple[str, dict[str, Any]]]) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "SYNCREC_"))}
    environment |= {"AIRFLOW_HOME": str(home), "SYNCREC_ALERT_COMMAND": command}
    done = subprocess.run(
        [ORCHESTRATOR, "-c", CALL, REPOSITORY / "dags", json.dumps(calls)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("ENDED (True, None)") == len(calls), done.stderr[-2000:]
    return done


def test_what_is_told_of_a_late_night_and_of_a_failed_task(tmp_path: Path) -> None:
    alerts = tmp_path / "alerts of the night"
    called(
        tmp_path,
        f"tee -a {shlex.quote(str(alerts))}",
        [
            ("late", {"dag_run": RUN | {"run_type": "scheduled"}, "deadline": DEADLINE}),
            ("late", {"dag_run": RUN | {"run_type": "backfill"}, "deadline": DEADLINE}),
            ("failed", {"task_instance": TASK, "exception": "error: score: $(touch x)\n; no model"}),
            ("failed", {"task_instance": TASK}),
        ],
    )
    assert alerts.read_text().splitlines() == [
        "syncrec_nightly is late: run scheduled__2024-01-29 is running and was needed by 2024-01-30 06:00:00+00:00"
        "; yesterday's recommendations stand until it is over",
        "syncrec_nightly.score failed: error: score: $(touch x) ; no model (run r1, attempt 3)",
        "syncrec_nightly.score failed: its process ended without a word: killed, or out of memory? "
        "(run r1, attempt 3)",
    ]


def test_an_alert_that_cannot_be_sent_is_in_the_log_and_breaks_nothing(tmp_path: Path) -> None:
    done = called(tmp_path, "/absent/alert --token=hunter22", [("failed", {"task_instance": TASK})])
    assert "score failed" in done.stderr + done.stdout
    assert "the alert command failed: FileNotFoundError" in done.stderr + done.stdout
    assert "hunter22" not in done.stderr + done.stdout


KILLED = """
import sys
sys.path.append(sys.argv[1])
from syncrec_job import JobSubprocessHook
for command in sys.argv[2:]:
    hook = JobSubprocessHook()
    hook.run_command(["bash", "-c", command])
    print("CAUSE", hook.cause)
"""


def test_of_a_killed_job_the_cause_says_so_and_of_another_end_what_the_job_said(tmp_path: Path) -> None:
    commands = ["kill -9 $$", "bash -c 'kill -15 $$'; exit $?", "echo error: score: no model; exit 1", "exit 70"]
    done = subprocess.run(
        [ORCHESTRATOR, "-c", KILLED, REPOSITORY / "dags", *commands],
        env=os.environ | {"AIRFLOW_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    causes = [line.removeprefix("CAUSE").strip() for line in done.stdout.splitlines() if line.startswith("CAUSE")]
    assert causes == [
        "error: the process was killed by signal 9, SIGKILL, most often for want of memory (dmesg); run it again",
        "error: the process was killed by signal 15, SIGTERM; run it again",
        "error: score: no model",
        "",
    ], done.stderr[-2000:]
