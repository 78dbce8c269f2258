"""The graph: its shape, its thin file, and what runs after a failure, tried with a stand-in for the jobs."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from jobs.command import _RUN_ID
from jobs.links import REPORT, RUN
from jobs.night_log import BESIDE, STEPS, NightEnd
from jobs.orchestrator import REPOSITORY, airflow_environment, prepare, run_night
from jobs.settings import Settings

ORCHESTRATOR = REPOSITORY / ".venv/orchestrator/bin/python"
DAG_FILE = REPOSITORY / "dags/syncrec_nightly.py"
HEAVY = {"torch", "pyspark", "mlflow", "great_expectations", "pandas", "numpy", "pyarrow", "syncrec_model", "jobs"}

pytestmark = pytest.mark.skipif(not ORCHESTRATOR.is_file(), reason="no orchestrator environment: run `make setup`")

SHAPE = """
import json, pathlib, sys, time
import airflow.sdk
from airflow.providers.standard.operators import bash, empty
begun = time.monotonic()
import runpy
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))  # as Airflow does with its DAG folder
dag = runpy.run_path(sys.argv[1])["dag"]
parsed = time.monotonic() - begun
heavy = sorted(set(json.loads(sys.argv[2])) & set(sys.modules) - {"numpy", "pandas"})
print("SHAPE" + json.dumps({
    "id": dag.dag_id, "parsed": parsed, "heavy": heavy, "doc": dag.doc_md, "catchup": dag.catchup,
    "deadlines": [{"reference": d.reference.reference_name, "hours": d.interval.total_seconds() / 3600,
                   "callback": d.callback.path} for d in dag.deadline or []],
    "max_active_runs": dag.max_active_runs, "timetable": type(dag.timetable).__name__,
    "tasks": {t.task_id: {
        "down": sorted(t.downstream_task_ids), "rule": str(t.trigger_rule), "retries": t.retries,
        "delay": t.retry_delay.total_seconds(), "backoff": t.retry_exponential_backoff,
        "timeout": t.execution_timeout.total_seconds() if t.execution_timeout else None,
        "pool": t.pool, "queue": t.queue, "doc": t.doc_md, "teardown": t.is_teardown,
        "fails_run": t.on_failure_fail_dagrun,
        "command": getattr(t, "bash_command", None), "env": getattr(t, "env", None),
        "append_env": getattr(t, "append_env", None), "cwd": getattr(t, "cwd", None),
        "skip_code": list(getattr(t, "skip_on_exit_code", [])),
        "failed": [f"{f.__module__}.{f.__name__}" for f in t.on_failure_callback],
        "outlets": {asset.name: asset.uri for asset in t.outlets},
        "shown": t.task_display_name, "group": t.task_group.group_display_name if t.task_group else "",
        "links": [link.name for link in t.operator_extra_links],
    } for t in dag.tasks}}))
"""


def shape(home: Path, file: Path = DAG_FILE, **variables: str) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "SYNCREC_"))}
    environment |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **variables}
    done = subprocess.run(
        [ORCHESTRATOR, "-c", SHAPE, file, json.dumps(sorted(HEAVY))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.split("SHAPE")[1])
    return found


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return shape(tmp_path_factory.mktemp("airflow"))


def test_schedule_is_daily_without_catching_up(dag: dict[str, Any]) -> None:
    assert dag["id"] == "syncrec_nightly"
    assert dag["timetable"] == "CronDataIntervalTimetable"
    assert dag["catchup"] is False
    assert dag["max_active_runs"] == 1
    assert "Green" in dag["doc"]


def test_parsing_is_quick_and_light(dag: dict[str, Any]) -> None:
    assert dag["parsed"] < 2
    assert dag["heavy"] == []


def test_steps_and_their_order(dag: dict[str, Any]) -> None:
    tasks = dag["tasks"]
    assert set(tasks) == {*STEPS, "training_over", BESIDE, "clicks_over"}
    down = {name: task["down"] for name, task in tasks.items()}
    assert down == {
        "wait_for_landing": ["ingest", "ingest_clicks"],
        "ingest_clicks": ["clicks_over"],
        "clicks_over": ["report"],
        "ingest": ["build_sequences"],
        "build_sequences": ["gate", "train"],
        "train": ["evaluate"],
        "evaluate": ["training_over"],
        "training_over": ["gate"],
        "gate": ["score"],
        "score": ["publish"],
        "publish": ["move_alias"],
        "move_alias": ["report"],
        "report": [],
    }
    assert tasks["report"]["teardown"] and not tasks["report"]["fails_run"]


def test_every_task_has_a_timeout_retries_with_backoff_and_a_text(dag: dict[str, Any]) -> None:
    for name, task in dag["tasks"].items():
        assert task["timeout"], name
        assert task["retries"] == 2, name
        assert task["delay"] > 0 and task["backoff"] > 1, name
        assert task["doc"], name


def test_people_read_names_groups_what_red_means_and_where_to_look(dag: dict[str, Any]) -> None:
    tasks = dag["tasks"]
    shown = [task["shown"] for task in tasks.values()]
    assert "Build sequences" in shown and "Training is over" in shown and not any("_" in name for name in shown)
    groups = {label: [name for name in tasks if tasks[name]["group"] == label] for label in ("Data", "Model")}
    assert groups["Data"] == ["wait_for_landing", "ingest", "ingest_clicks", "clicks_over", "build_sequences"]
    assert groups["Model"] == ["train", "evaluate", "training_over", "gate"]
    assert {tasks[name]["group"] for name in ("score", "publish", "move_alias")} == {"Recommendations"}
    for name in (*STEPS, BESIDE):
        assert "**Red**: " in tasks[name]["doc"] and f"jobs.{name}" in tasks[name]["doc"]
    links = {name: task["links"] for name, task in tasks.items() if task["links"]}
    assert links == {"train": [RUN], "evaluate": [RUN], "gate": [RUN], "report": [REPORT, RUN]}


def test_training_takes_the_gpu_slot_and_a_queue_only_where_one_is_named(
    dag: dict[str, Any], tmp_path: Path
) -> None:
    assert {name for name, task in dag["tasks"].items() if task["pool"] == "gpu"} == {"train"}
    assert {task["queue"] for task in dag["tasks"].values()} == {"default"}
    with_queue = shape(tmp_path, SYNCREC_GPU_QUEUE="gpu", SYNCREC_RETRIES="0")
    assert {name for name, task in with_queue["tasks"].items() if task["queue"] == "gpu"} == {"train"}
    assert {task["retries"] for task in with_queue["tasks"].values()} == {0}


def test_every_task_tells_of_its_failure_and_the_night_of_its_lateness(dag: dict[str, Any], tmp_path: Path) -> None:
    assert {tuple(task["failed"]) for task in dag["tasks"].values()} == {("syncrec_job.failed",)}
    deadline = {"reference": "DagRunQueuedAtDeadline", "hours": 6, "callback": "syncrec_job.late"}
    assert dag["deadlines"] == [deadline]
    other = shape(tmp_path, SYNCREC_DEADLINE_HOURS="2.5")
    assert other["deadlines"] == [deadline | {"hours": 2.5}]
    assert shape(tmp_path, SYNCREC_DEADLINE_HOURS="0")["deadlines"] == []


def test_the_tables_of_a_night_are_assets_of_the_steps_that_publish_them(dag: dict[str, Any]) -> None:
    outlets = {name: task["outlets"] for name, task in dag["tasks"].items() if task["outlets"]}
    assert outlets == {
        step: {f"syncrec_{table}": f"syncrec://tables/{table}"}
        for step, table in {
            "ingest": "interactions", "build_sequences": "sequences", "publish": "recommendations",
        }.items()
    }  # fmt: skip
    assert "syncrec_recommendations" in dag["doc"] and "backfill" in dag["doc"]


def test_no_value_is_templated_into_a_shell_line(dag: dict[str, Any]) -> None:
    for name in (*STEPS, BESIDE):
        task = dag["tasks"][name]
        assert "{" not in task["command"], name
        assert re.findall(r"\$\w+", re.sub(r'"\$\w+"', "", task["command"])) == [], f"{name}: an unquoted variable"
        assert f"-m jobs.{name} " in task["command"]
        assert task["env"]["SYNCREC_DS"] == "{{ data_interval_start | ds }}"
        assert task["env"]["SYNCREC_RUN_ID"] == "{{ run_id }}"
        assert task["append_env"] is True
        assert task["cwd"] == str(REPOSITORY)
        assert task["skip_code"] == [99]


def test_dag_files_import_nothing_heavy_and_nothing_of_ours() -> None:
    for file in (REPOSITORY / "dags").glob("**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            assert not {name.split(".")[0] for name in names} & HEAVY, f"{file.name}: {names}"


# --- what runs after what, with a stand-in for the jobs -------------------------------------------------

STAND_IN = """#!{python}
import json, os, sys
name = sys.argv[2].removeprefix("jobs.")
with open(os.environ["STAND_IN_LOG"], "a") as out:
    out.write(json.dumps([name, os.environ["SYNCREC_DS"], os.environ["SYNCREC_RUN_ID"], sys.argv[3:],
                          os.getcwd(), os.environ["SYNCREC_CONFIG"]]) + "\\n")
print("WARNING: Using incubator modules: jdk.incubator.vector")
print("12:00:00 " + name + " was here")
with open(os.environ["SYNCREC_LINKS"], "w") as out:
    out.write(json.dumps({{"MLflow run": "http://mlflow/" + name}}))
code = json.loads(os.environ["STAND_IN_CODES"]).get(name, 0)
if code not in (0, 99):
    print("error: " + name + ": made to fail", file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[NightEnd, list[Any], list[str]]]:
    """Run one night in which the named steps end with the given exit codes."""
    home = tmp_path_factory.mktemp("night with a space")
    stand_in = home / "python"
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    settings = Settings(
        state_dir=home / "state",
        night={"bootstrap_through": "2024-01-05"},
        domains={"books": {}},
        sources=[
            {"name": "b", "files": "*.csv", "format": "csv", "header": True, "domain": "books"}
            | {"user": "u", "item": "i", "time": "t", "time_unit": "s"}
        ],
    )
    environment = airflow_environment(settings, home / "syncrec.toml") | {
        "SYNCREC_JOBS_PYTHON": str(stand_in),
        "SYNCREC_HOME": str(home),
        "STAND_IN_LOG": str(home / "calls"),
        "SYNCREC_RETRIES": "0",
        "SYNCREC_ALERT_COMMAND": f"tee -a {shlex.quote(str(home / 'alerts'))}",
    }
    prepare(environment)

    def run(ds: date, **codes: int) -> tuple[NightEnd, list[Any], list[str]]:
        (home / "calls").write_text("")
        told: list[str] = []
        end = run_night(ds, environment | {"STAND_IN_CODES": json.dumps(codes)}, home / "log", tell=told.append)
        calls = [json.loads(line) for line in (home / "calls").read_text().splitlines()]
        return end, calls, told

    return run


def test_a_failed_training_leaves_the_night_to_the_champion(
    night: Callable[..., tuple[NightEnd, list[Any], list[str]]],
) -> None:
    end, calls, told = night(date(2024, 2, 29), train=1, move_alias=99, ingest_clicks=99)
    log = (Path(calls[0][4]) / "log").read_text()
    assert "incubator" not in log and "12:00:00 train was here" in log, "a line a fact, none of the JVM's"
    assert [call[0] for call in calls if call[0] != BESIDE] == [step for step in STEPS if step != "evaluate"]
    assert end.succeeded
    assert [(step.name, step.cause) for step in end.failed] == [("train", "train: made to fail")]
    assert end.steps["move_alias"].state == end.steps[BESIDE].state == "skipped"
    assert not any(BESIDE in line for line in told), "who has no click log need not hear of it"
    assert "[ 4/10] train ..." in told and "[ 5/10] evaluate left out" in told
    assert any(re.match(r"\[ 4/10\] train FAILED, [\d.]+ s", line) for line in told)
    # each step got the day and the run
    (run_id,) = {call[2] for call in calls}
    home = Path(calls[0][4])
    alerts = (home / "alerts").read_text().splitlines()
    assert alerts == [f"syncrec_nightly.train failed: error: train: made to fail (run {run_id}, attempt 1)"], (
        "one line, with the cause that the job gave"
    )
    with sqlite3.connect(home / "state/airflow/airflow.db") as database:
        events = database.execute(
            "select asset.name, asset_event.extra from asset_event join asset on asset.id = asset_event.asset_id"
        ).fetchall()
        links = database.execute("select task_id, value from xcom where key = 'link MLflow run'").fetchall()
    assert {task: json.loads(value) for task, value in links} == {
        name: f"http://mlflow/{name}" for name in ("train", "gate", "report")
    }, "also of a task that failed"
    assert {(name, json.loads(extra)["ds"]) for name, extra in events} == {
        (f"syncrec_{table}", "2024-02-29") for table in ("interactions", "sequences", "recommendations")
    }, "for the DAGs downstream"
    assert _RUN_ID.match(run_id)
    for name, ds, _, arguments, folder, config in calls:
        assert ds == "2024-02-29", name
        assert arguments == ["--ds=2024-02-29", f"--run-id={run_id}"]
        assert "night with a space" in folder and config.endswith("syncrec.toml")


def test_a_training_that_is_not_due_leaves_the_night_to_the_champion(
    night: Callable[..., tuple[NightEnd, list[Any], list[str]]],
) -> None:
    end, calls, told = night(date(2024, 3, 1), train=99, report=1, ingest_clicks=1)
    assert [call[0] for call in calls if call[0] != BESIDE] == [step for step in STEPS if step != "evaluate"]
    assert end.steps["train"].state == "skipped"
    assert end.succeeded, "a report that failed does not make a published night red"
    assert {step.name: step.cause for step in end.failed} == {
        name: f"{name}: made to fail" for name in ("report", BESIDE)
    }, "nor do click logs"
    assert any(line.startswith(f"[beside] {BESIDE} FAILED") for line in told)


def test_nothing_but_the_report_runs_after_failed_sequences(
    night: Callable[..., tuple[NightEnd, list[Any], list[str]]],
) -> None:
    end, calls, _ = night(date(2024, 3, 2), build_sequences=70)
    called = [call[0] for call in calls if call[0] != BESIDE]
    assert called == ["wait_for_landing", "ingest", "build_sequences", "report"]
    assert BESIDE in [call[0] for call in calls]
    assert not end.succeeded, "the report must not turn a failed night green"
    assert [(step.name, step.cause) for step in end.failed] == [
        ("build_sequences", "build_sequences: made to fail")
    ]
