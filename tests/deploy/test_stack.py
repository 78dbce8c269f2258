"""`make stack-test`: the services of docker-compose.yml as processes of this machine, and one night through them.

PostgreSQL, Redis, MLflow, six parts of Airflow with two Celery workers, a Spark cluster; the night is triggered by
Airflow's REST API. Minutes, and 6 GB of memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.expressions import EqualTo

from jobs.night_log import BESIDE, STEPS
from jobs.orchestrator import DAG_ID, REPOSITORY, logical_date
from jobs.sample import SampleSettings, write_days
from tests.deploy.compose_file import read, read_env
from tests.deploy.native_stack import HOST, Stack, StackError, as_environment, missing_programs, running, tail
from tests.deploy.test_compose import SECRET_NAME

pytestmark = pytest.mark.skipif(
    os.environ.get("SYNCREC_TEST_STACK") != "1", reason="many minutes; run `make stack-test`"
)

HISTORY, NIGHT = date(2024, 1, 10), date(2024, 1, 11)
RUN, RUNS = "stack-test", f"/api/v2/dags/{DAG_ID}/dagRuns"
PATIENCE, NIGHT_SECONDS = 900.0, 3600.0
SMALL = (  # of the sample project
    (r"users = 3000", "users = 120"),
    (r"bootstrap_through = \S+", f"bootstrap_through = {HISTORY}"),
    (r"max_length = 50\nvalid_days = 2\ntest_days = 2", "max_length = 16\nvalid_days = 2\ntest_days = 2"),
    (r"channels = 48", "channels = 16"),
    (r"epochs = 12", "min_cases = 5\nepochs = 2"),
    (r"top_n = 20", "top_n = 5"),
    (r"\[spark\].*\n", '[spark]\nshuffle_partitions = 2\ndriver_memory = "1g"\n'),
)


class Api:
    """Airflow's REST API, as a person's script uses it."""

    def __init__(self, address: str, password: str) -> None:
        self.address = address
        self.token = ""
        self.token = self.ask("POST", "/auth/token", {"username": "admin", "password": password})["access_token"]

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(self.address + path, method=method, headers={"Accept": "application/json"})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=180) as answer:
            return json.loads(answer.read() or b"{}")

    def night(self) -> None:
        """Switch the DAG on, end the run that the clock starts at once, trigger the night and wait for its end."""
        self.ask("PATCH", f"/api/v2/dags/{DAG_ID}", {"is_paused": False})
        by_clock = self.until(lambda: next((run["dag_run_id"] for run in self.ask("GET", RUNS)["dag_runs"]), None))
        # Not while a task of it starts: then both wait for the same row, and nothing of the API answers.
        self.until(lambda: self.states(by_clock).get("wait_for_landing") == "running")
        self.ask("PATCH", f"{RUNS}/{by_clock}", {"state": "failed"})
        # Its report still runs, and Airflow may call the run a success after that: over is over.
        self.until(lambda: self.ask("GET", f"{RUNS}/{by_clock}")["state"] in ("failed", "success"))
        self.until(lambda: self.states(by_clock)["report"] not in ("none", "scheduled", "queued", "running"))
        self.ask("POST", RUNS, {"dag_run_id": RUN, "logical_date": logical_date(NIGHT)})
        seen: dict[str, str] = {}

        def over() -> bool:
            for task, state in self.states(RUN).items():
                if seen.get(task) != state:
                    seen[task] = state
                    print(f"{time.strftime('%H:%M:%S')} {task}: {state}", flush=True)
                if state in ("failed", "up_for_retry"):
                    raise StackError(f"{task} failed: {self.log(task)[-4000:]}")
            return self.ask("GET", f"{RUNS}/{RUN}")["state"] in ("success", "failed")

        self.until(over, NIGHT_SECONDS)

    @staticmethod
    def until(holds: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := holds():
                return found
            time.sleep(3)
        raise StackError(f"not within {seconds:.0f} s")

    def tasks(self, run: str = RUN) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", f"{RUNS}/{run}/taskInstances")["task_instances"]
        return found

    def states(self, run: str = RUN) -> dict[str, str]:
        return {task["task_id"]: task["state"] or "none" for task in self.tasks(run)}

    def log(self, task: str) -> str:
        return json.dumps(self.ask("GET", f"{RUNS}/{RUN}/taskInstances/{task}/logs/1"))


def small_project(folder: Path) -> Path:
    text = (REPOSITORY / "syncrec.toml").read_text()
    for pattern, replacement in SMALL:
        text, count = re.subn(pattern, replacement, text, count=1)
        assert count == 1, pattern
    for name in ("toys", "groceries"):
        text = re.sub(rf"\[domains\.{name}\]\n(repeats.*\n)?", "", text)
        text = re.sub(rf"\[\[sources\]\].*\nname = \"{name}\"\n(.+\n)*", "", text)
    file = folder / "syncrec.toml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The whole stack, after one night."""
    if lacking := missing_programs():
        pytest.fail(f"stack-test needs {'; '.join(lacking)}")
    with tempfile.TemporaryDirectory(prefix="syncrec-stack-") as name:
        folder = Path(name)
        made = folder / "made/deploy/make_env.py"
        made.parent.mkdir(parents=True)
        made.write_text((REPOSITORY / "deploy/make_env.py").read_text())
        subprocess.run([sys.executable, made], check=True, capture_output=True)
        landing = folder / "landing"
        sample = SampleSettings(seed=7, n_users=120, start=date(2024, 1, 1))
        write_days(landing, date(2024, 1, 1), NIGHT, settings=sample)
        variables = as_environment(read_env((folder / "made/.env").read_text()))
        variables |= {"LANDING_FOLDER": str(landing), "CONFIG_FILE": str(small_project(folder)), "GPU_QUEUE": "gpu"}
        stack = Stack(read(REPOSITORY / "docker-compose.yml"), variables, folder)
        begun = time.monotonic()
        with running(stack, PATIENCE) as took:
            print(f"all services are healthy after {time.monotonic() - begun:.0f} s: {took}", flush=True)
            python = f"{REPOSITORY}/.venv/jobs/bin/python"
            history = stack.run(
                "airflow-worker", python, "-m", "jobs.ingest", f"--ds={HISTORY}", "--since=2024-01-01",
                "--run-id=bootstrap",
            )  # fmt: skip
            (folder / "logs/bootstrap.log").write_text(history.stdout + history.stderr)
            assert history.returncode == 0, history.stdout[-3000:] + history.stderr[-3000:]
            print(f"history after {time.monotonic() - begun:.0f} s", flush=True)
            api = Api(stack.address("airflow-api-server", "8080"), variables["AIRFLOW_ADMIN_PASSWORD"])
            try:
                api.night()
            except BaseException:
                for process in stack.processes:
                    print(f"--- {process.name}\n{tail(process.log, 15)}", flush=True)
                raise
            print(f"night over after {time.monotonic() - begun:.0f} s", flush=True)
            yield stack
        left = stack.family()
        assert not left, f"processes are left: {left}"


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack.address("airflow-api-server", "8080"), stack.variables["AIRFLOW_ADMIN_PASSWORD"])


@pytest.fixture(scope="module")
def catalog(stack: Stack) -> SqlCatalog:
    environment = stack.environment("airflow-worker", "airflow-worker")
    warehouse = f"file://{stack.folder}/volumes/state/warehouse"
    return SqlCatalog("syncrec", uri=environment["SYNCREC_CATALOG__URI"], warehouse=warehouse)


def code_of(address: str, headers: dict[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers or {}), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_every_step_ended_well_and_training_ran_on_the_gpu_queue(api: Api) -> None:
    states = api.states()
    expected = dict.fromkeys([*STEPS, "training_over", "clicks_over"], "success")
    assert states == expected | {BESIDE: "skipped"}, "without click logs there is nothing to do"
    queues = {task["task_id"]: task["queue"] for task in api.tasks()}
    assert {name for name, queue in queues.items() if queue == "gpu"} == {"train"}


def test_the_page_shows_the_log_of_a_task_that_another_process_wrote(api: Api) -> None:
    assert "registered as challenger" in api.log("train")


def test_each_worker_did_tasks_and_the_one_of_the_gpu_a_single_one(stack: Stack) -> None:
    done = {p.service: len(re.findall(r"succeeded in", p.log.read_text(errors="replace"))) for p in stack.processes}
    assert done["airflow-gpu-worker"] == 1 and done["airflow-worker"] >= len(STEPS) - 1


def test_the_tables_are_in_the_catalog_of_postgres(catalog: SqlCatalog) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (
            catalog.load_table(("syncrec", name)).scan(EqualTo("ds", NIGHT.isoformat())).to_arrow().to_pylist()
        )
        return found

    (night,) = rows("nights")
    assert night["decision"] == "promoted" and night["run_id"] == RUN
    recommendations = rows("recommendations")
    assert {row["domain"] for row in recommendations} == {"books", "coupons", "navigation"}
    assert {row["model_version"] for row in recommendations} == {night["served_version"]}
    assert [row["rule"] for row in rows("audits") if not row["success"]] == []


def test_the_champion_is_in_the_registry_and_its_files_behind_the_server(stack: Stack) -> None:
    from mlflow import MlflowClient

    address = stack.address("mlflow", "5000")
    client = MlflowClient(address, address)
    champion = client.get_model_version_by_alias("syncrec", "champion")
    assert champion.tags["ds"] == NIGHT.isoformat()
    assert any((stack.folder / "volumes/mlflow/artifacts").rglob("model.safetensors"))


def test_pages_answer(stack: Stack) -> None:
    assert code_of(stack.address("airflow-api-server", "8080")) == 200
    assert code_of(stack.address("mlflow", "5000")) == 200
    assert code_of(stack.address("spark-master", "8080")) == 200
    health = json.load(
        urllib.request.urlopen(stack.address("airflow-api-server", "8080") + "/api/v2/monitor/health", timeout=30)
    )
    assert {part: state["status"] for part, state in health.items()} == dict.fromkeys(
        ("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy"
    )


def test_strangers_are_turned_away(stack: Stack) -> None:
    assert code_of(stack.address("airflow-api-server", "8080") + "/api/v2/dags") == 401
    with pytest.raises(urllib.error.HTTPError):
        Api(stack.address("airflow-api-server", "8080"), "admin")
    assert code_of(stack.address("mlflow", "5000") + "/api/2.0/mlflow/experiments/search?max_results=1",
                   {"Host": "evil.example"}) == 403  # fmt: skip
    assert code_of(stack.address("mlflow", "5000") + "/ajax-api/3.0/mlflow/assistant/config") == 404
    redis = subprocess.run(
        ["redis-cli", "-p", str(stack.ports["redis", "6379"]), "ping"], capture_output=True, text=True
    )
    assert "NOAUTH" in redis.stdout + redis.stderr
    for user, database in (("catalog", "airflow"), ("mlflow", "catalog"), ("postgres", "postgres")):
        asked = of_postgres(stack, "psql", user, stack.variables["CATALOG_DB_PASSWORD"], database, "-c", "select 1")
        assert asked.returncode != 0, f"{user} is let into {database}"


def of_postgres(
    stack: Stack, program: str, user: str, password: str, database: str, *words: str
) -> subprocess.CompletedProcess[bytes]:
    port = stack.ports["postgres", "5432"]
    return subprocess.run(
        [program, f"--host={HOST}", f"--port={port}", f"--username={user}", f"--dbname={database}", *words],
        env={"PATH": os.environ["PATH"], "PGPASSWORD": password}, capture_output=True,
    )  # fmt: skip


def files_by_day(catalog: SqlCatalog, table: str, day: str) -> dict[Any, dict[str, str]]:
    """The data files of each day, with the hash of their bytes."""
    found: dict[Any, dict[str, str]] = {}
    for task in catalog.load_table(("syncrec", table)).scan().plan_files():
        file = task.file.file_path.removeprefix("file://")
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        part = task.file.partition[0]  # PyIceberg gives days since 1970 where Spark wrote the manifest
        own = date(1970, 1, 1) + timedelta(days=part) if isinstance(part, int) else part
        found.setdefault(own, {})[file] = digest
    assert found, f"{table} has no files by {day}"
    return found


def test_a_backfill_writes_its_days_again_and_no_other_and_moves_no_alias(
    stack: Stack, api: Api, catalog: SqlCatalog
) -> None:
    """`airflow backfill create`, as docs/operating.md tells: before the first champion, and the newest night."""
    from mlflow import MlflowClient

    address = stack.address("mlflow", "5000")
    client = MlflowClient(address, address)
    aliases = client.get_registered_model("syncrec").aliases
    days = {HISTORY, NIGHT}
    tables = {"interactions": "arrival_ds", "sequences": "ds", "recommendations": "ds", "nights": "ds"}
    before = {name: files_by_day(catalog, name, day) for name, day in tables.items()}
    made = stack.run(
        "airflow-scheduler", f"{REPOSITORY}/.venv/production/bin/airflow", "backfill", "create",
        "--dag-id", DAG_ID, "--from-date", str(HISTORY), "--to-date", str(NIGHT),
        "--reprocess-behavior", "completed", "--max-active-runs", "1",
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]

    def over() -> list[str]:
        runs = backfilled(api)
        done = [run["state"] for run in runs if run["state"] in ("success", "failed")]
        return done if len(runs) == len(days) == len(done) else []

    assert set(api.until(over, NIGHT_SECONDS)) == {"success"}, backfilled(api)
    assert client.get_registered_model("syncrec").aliases == aliases
    after = {name: files_by_day(catalog, name, day) for name, day in tables.items()}
    for name, own in after.items():
        others = {day: files for day, files in own.items() if day not in days}
        assert others == {day: files for day, files in before[name].items() if day not in days}, name
        assert all(own[day] != before[name].get(day) for day in days), f"{name} was not written again"
    nights = catalog.load_table(("syncrec", "nights")).scan().to_arrow().to_pylist()
    served = {night["ds"]: night["served_version"] for night in nights}
    assert served.keys() == {HISTORY, NIGHT}
    assert served[NIGHT] == aliases["champion"], "the champion of that night"
    assert served[HISTORY] not in aliases.values(), "without a champion: one of its own"


def backfilled(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.ask("GET", f"{RUNS}?run_type=backfill")["dag_runs"]
    return found


def test_nobody_listens_to_the_network(stack: Stack) -> None:
    open_to = set()
    for process in stack.family():
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                open_to.add((connection.laddr.ip, process.name()))
    assert open_to and {ip for ip, _ in open_to} <= {HOST, "::1", f"::ffff:{HOST}"}, open_to


def test_no_secret_is_in_a_log_a_database_a_table_or_a_command_line(stack: Stack) -> None:
    secrets = {name: value for name, value in stack.variables.items() if SECRET_NAME.search(name)}
    secrets["AIRFLOW_SECRET_KEY"] = stack.variables["AIRFLOW_SECRET_KEY"]
    texts = {
        str(file): file.read_bytes()
        for file in stack.folder.rglob("*")
        if file.is_file()
        and not file.is_relative_to(stack.folder / "made")  # .env itself
        and not file.is_relative_to(stack.folder / "volumes/postgres")  # as text below
        and file.name != "spark-defaults.conf"  # where it belongs
    }
    for database in ("airflow", "mlflow", "catalog"):
        password = secrets[f"{database.upper()}_DB_PASSWORD"]
        dumped = of_postgres(stack, "pg_dump", database, password, database)
        assert dumped.returncode == 0 and len(dumped.stdout) > 1000, dumped.stderr
        texts[f"database {database}"] = dumped.stdout
    for process in stack.family():
        try:
            texts[f"command line of {process.pid}"] = " ".join(process.cmdline()).encode()
        except psutil.Error:
            continue
    assert len(texts) > 50
    found = {
        (name, where) for where, text in texts.items() for name, value in secrets.items() if value.encode() in text
    }
    assert not found


def test_what_the_night_wrote_is_private(stack: Stack) -> None:
    open_to_others = [
        str(path)
        for volume in ("state", "logs", "mlflow", "redis")
        for path in (stack.folder / "volumes" / volume).rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert open_to_others == []
