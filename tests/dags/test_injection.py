"""Whoever may trigger a run cannot make it run a command: hostile values, the DAG's own rendering, a real shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.command import _RUN_ID
from jobs.orchestrator import REPOSITORY
from tests.dags.test_syncrec_nightly import DAG_FILE, ORCHESTRATOR

pytestmark = pytest.mark.skipif(not ORCHESTRATOR.is_file(), reason="no orchestrator environment: run `make setup`")
MAINTENANCE = REPOSITORY / "dags/syncrec_maintenance.py"

# Renders every task with the run id and conf of argv[2]; says for each conf of argv[3] whether the schema takes it.
RENDER = """
import json, pathlib, runpy, sys
from datetime import datetime, timezone
from types import SimpleNamespace
from airflow.sdk.definitions.param import process_params
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))  # as Airflow does with its DAG folder
dag = runpy.run_path(sys.argv[1])["dag"]
run_id, conf = json.loads(sys.argv[2])
day = datetime(2024, 1, 29, tzinfo=timezone.utc)
tasks = {}
for task in dag.tasks:
    params = process_params(dag, task, conf, suppress_exception=False)
    run = SimpleNamespace(run_id=run_id, conf=conf)
    context = {"data_interval_start": day, "data_interval_end": day, "run_id": run_id, "params": params,
               "dag_run": run, "dag": dag, "task": task}
    task.render_template_fields(context)
    tasks[task.task_id] = {"command": getattr(task, "bash_command", None), "env": getattr(task, "env", None),
                           "cwd": getattr(task, "cwd", None)}
taken = []
for conf in json.loads(sys.argv[3]):
    try:
        process_params(dag, dag.tasks[0], conf, suppress_exception=False)
        taken.append(True)
    except Exception as error:
        taken.append(type(error).__name__)
print("RENDERED" + json.dumps({"tasks": tasks, "taken": taken}))
"""


def render(
    home: Path, file: Path, run_id: str, conf: dict[str, Any], confs: list[Any] | None = None
) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "SYNCREC_"))}
    environment |= {"AIRFLOW_HOME": str(home / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    environment |= {"SYNCREC_JOBS_PYTHON": str(stand_in(home)), "SYNCREC_HOME": str(home)}
    done = subprocess.run(
        [ORCHESTRATOR, "-c", RENDER, file, json.dumps([run_id, conf]), json.dumps(confs or [])],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.split("RENDERED")[1])
    return found


def stand_in(home: Path) -> Path:
    """A python that writes down how it was called."""
    file = home / "python"
    note = f"open({str(home / 'calls')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
    file.write_text(f"#!{sys.executable}\nimport json, sys\n{note}\n")
    file.chmod(0o755)
    return file


def hostile(mark: Path) -> list[str]:
    return [
        f'"; touch {mark}; "',
        f"$(touch {mark})",
        f"`touch {mark}`",
        f"'; touch {mark} #",
        f"x\ntouch {mark}\n",
        f"{{{{ ''.__class__.__mro__ }}}} $(touch {mark})",
        f"--config={mark} && touch {mark}",
    ]


@pytest.mark.parametrize("file", [DAG_FILE, MAINTENANCE], ids=["nightly", "maintenance"])
def test_no_value_of_a_run_becomes_a_command(tmp_path: Path, file: Path) -> None:
    mark = tmp_path / "touched"
    texts = hostile(mark)
    names = ["ds", "run_id", "bash_command", "SYNCREC_JOBS_PYTHON", "PATH", "BASH_ENV", "env", "cwd", *texts]
    conf = {name: texts[place % len(texts)] for place, name in enumerate(names)}
    run_id = "".join(texts)
    clean = render(tmp_path, file, "manual", {})["tasks"]
    dirty = render(tmp_path, file, run_id, conf)["tasks"]
    assert any(task["command"] for task in clean.values())
    for name, task in dirty.items():
        if task["command"] is None:
            continue
        assert task["command"] == clean[name]["command"], name
        assert {**task["env"], "SYNCREC_RUN_ID": "manual"} == clean[name]["env"], name
        assert task["cwd"] == clean[name]["cwd"]
        subprocess.run(
            ["bash", "-c", task["command"]], env={"PATH": os.defpath} | task["env"], cwd=tmp_path, check=True
        )
    assert not mark.exists(), mark.read_text()
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert {tuple(call[2:]) for call in calls} == {("--ds=2024-01-29", f"--run-id={run_id}")}
    assert not _RUN_ID.match(run_id), "the job itself refuses such a run id, too"


def test_the_one_parameter_of_a_night_is_checked_by_its_schema(tmp_path: Path) -> None:
    good = [{}, {"full": True}, {"full": False}]
    bad = [{"full": value} for value in ("True", "$(touch x)", 1, None, [], {"a": 1})]
    found = render(tmp_path, DAG_FILE, "manual", {"full": True}, [*good, *bad])
    assert found["taken"] == [True] * len(good) + ["ParamValidationError"] * len(bad)
    environments = [task["env"] for task in found["tasks"].values() if task["env"]]
    assert {env["SYNCREC_FULL"] for env in environments} == {"True"}
    assert "SYNCREC_FULL" not in os.environ


@pytest.mark.parametrize(("value", "full"), [("True", True), ("False", False), ("true; x", False), ("", False)])
def test_the_parameter_reaches_the_job(monkeypatch: pytest.MonkeyPatch, value: str, full: bool) -> None:
    import argparse

    from jobs.command import add_full

    monkeypatch.setenv("SYNCREC_FULL", value)
    parser = argparse.ArgumentParser()
    add_full(parser, "all")
    assert parser.parse_args([]).full is full
