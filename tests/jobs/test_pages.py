"""The web pages: taken ports, what still runs, and that nothing listens to the network."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from jobs.errors import JobError
from jobs.links import PAGE, REPORTS_PAGE, mlflow_page, report_link
from jobs.orchestrator import REPOSITORY, _true_start
from jobs.pages import Pages, Server, _airflow_is_healthy, _pages_environment, main
from jobs.settings import Settings


def listening(sockets: ExitStack) -> int:
    taken = sockets.enter_context(socket.socket())
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return int(taken.getsockname()[1])


def test_all_taken_ports_are_said_at_once_with_a_command_that_names_free_ones(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    config = tmp_path / "my shop.toml"
    with ExitStack() as sockets:
        airflow, mlflow, reports = listening(sockets), listening(sockets), listening(sockets)
        with pytest.raises(JobError, match=f"ports {airflow} and {mlflow} and {reports} are in use") as refused:
            Pages(settings(), config).up(airflow_port=airflow, mlflow_port=mlflow, reports_port=reports)
        wanted = r"make up CONFIG='(.+)' AIRFLOW_PORT=(\d+) MLFLOW_PORT=(\d+) REPORTS_PORT=(\d+) "
        said = re.search(wanted, str(refused.value))
        assert said and said[1] == str(config)
        free = {int(said[n]) for n in (2, 3, 4)}
        assert len(free) == 3 and not free & {airflow, mlflow, reports}
        with pytest.raises(JobError, match=f"port {mlflow} is in use.* AIRFLOW_PORT=\\d+ MLFLOW_PORT=\\d+ "):
            Pages(settings(), config).up(airflow_port=min(free), mlflow_port=mlflow, reports_port=max(free))


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ((8080, 70000, 8090), "MLFLOW_PORT=70000: a port is a whole number from 1 to 65535"),
        ((0, 5000, 8090), "AIRFLOW_PORT=0: a port"),
        ((8080, 8080, 8090), "AIRFLOW_PORT=8080 MLFLOW_PORT=8080 REPORTS_PORT=8090: each needs a port of its own"),
    ],
)
def test_ports_that_cannot_be_are_refused_before_anything_starts(
    settings: Callable[..., Settings], tmp_path: Path, ports: tuple[int, int, int], said: str
) -> None:
    project = settings()
    with pytest.raises(JobError, match=said):
        Pages(project, tmp_path / "x.toml").up(airflow_port=ports[0], mlflow_port=ports[1], reports_port=ports[2])
    assert not (project.state / "pages.json").exists() and not (project.state / PAGE).exists()


def test_down_says_when_nothing_ran(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "syncrec.toml"
    shutil.copy(REPOSITORY / "syncrec.toml", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNCREC_STATE_DIR", str(tmp_path / "state"))
        assert main(["down", "--config", str(config)]) == 0
    assert capsys.readouterr().out == "no pages were running\n"


class Experiments(BaseHTTPRequestHandler):
    """MLflow, as far as it knows the experiment `syncrec` by its name."""

    def do_GET(self) -> None:
        known = self.path == "/api/2.0/mlflow/experiments/get-by-name?experiment_name=syncrec"
        self.send_response(200 if known else 404)
        self.end_headers()
        found = {"experiment": {"experiment_id": "7", "lifecycle_stage": "active"}}
        self.wfile.write(json.dumps(found if known else {"error_code": "RESOURCE_DOES_NOT_EXIST"}).encode())

    def log_message(self, *_: object) -> None:
        pass


def test_the_address_of_mlflow_opens_the_runs_of_the_nights_once_there_are_some(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Experiments) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = f"http://127.0.0.1:{server.server_port}"

        def told(experiment: str) -> str:
            project = settings(mlflow={"tracking_uri": page, "experiment": experiment})
            return Pages(project, tmp_path / "syncrec.toml").describe()[0].split()[1]

        assert told("syncrec") == f"{page}/#/experiments/7/runs?workflowType=machine_learning"
        assert told("none yet") == f"{page}/#/experiments?workflowType=machine_learning"
        server.shutdown()


def test_down_stops_what_runs_and_leaves_a_stranger_with_the_same_number(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    project = settings()
    project.state.mkdir(parents=True)
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    born = psutil.Process(ours.pid).create_time()
    servers = [Server("mlflow", ours.pid, born, "", "log"), Server("airflow", os.getpid(), born - 3600, "", "log")]
    (project.state / "pages.json").write_text(json.dumps([asdict(server) for server in servers]))
    pages = Pages(project, tmp_path / "syncrec.toml")
    assert [server.name for server in pages.running()] == ["mlflow"]
    assert pages.down() == 1
    assert not psutil.pid_exists(ours.pid)
    assert pages.running() == []
    assert pages.down() == 0


def test_a_server_of_reports_that_ended_is_started_alone(settings: Callable[..., Settings], tmp_path: Path) -> None:
    project = settings()
    project.state.mkdir(parents=True)
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    kept = Server("airflow-scheduler", ours.pid, psutil.Process(ours.pid).create_time(), "", "log")
    (project.state / "pages.json").write_text(json.dumps([asdict(kept)]))
    (project.state / "logs").mkdir()
    pages = Pages(project, tmp_path / "syncrec.toml")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    try:
        names = [server.name for server in pages.up(airflow_port=1, mlflow_port=2, reports_port=port)]
        assert names == ["airflow-scheduler", "reports"]
        assert report_link(project, "x.html") == f"http://127.0.0.1:{port}/x.html"
        told = [line for line in pages.describe() if line.startswith("Reports")]
        assert told == [f"Reports  http://127.0.0.1:{port}    the page of each night, newest first"]
    finally:
        pages.down()
        ours.wait()


def test_airflow_is_told_to_stay_on_this_machine() -> None:
    environment = _pages_environment({"KEPT": "yes"}, 8081)
    assert environment["KEPT"] == "yes"
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8081/execution/"


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        ("", False),
        ('{"metadatabase": {"status": "healthy"}, "scheduler": {"status": "unhealthy"}}', False),
        (
            json.dumps({part: {"status": "healthy"} for part in ("metadatabase", "scheduler", "dag_processor")}),
            True,
        ),
    ],
)
def test_airflow_is_up_when_all_its_parts_are(answer: str, healthy: bool) -> None:
    assert _airflow_is_healthy(answer) is healthy


def test_links_of_later_nights_lead_where_the_pages_were_last(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SYNCREC_MLFLOW_PAGE", raising=False)
    project = settings()
    assert mlflow_page(project) == "http://127.0.0.1:5000"
    project.state.mkdir(parents=True)
    (project.state / PAGE).write_text("http://127.0.0.1:5001\n")
    assert mlflow_page(project) == "http://127.0.0.1:5001"
    monkeypatch.setenv("SYNCREC_MLFLOW_PAGE", "https://mlflow.shop.example/")
    assert mlflow_page(project) == "https://mlflow.shop.example"


def test_every_night_has_an_address_of_its_page(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SYNCREC_REPORTS_PAGE", raising=False)
    project, name = settings(), "2024-01-30.html"
    served = settings(mlflow={"tracking_uri": "https://mlflow.shop.example"})
    assert report_link(project, name) == f"http://127.0.0.1:8090/{name}"
    assert report_link(served, name) == "", "MLflow has a copy, and who knows where this machine is"
    project.state.mkdir(parents=True)
    (project.state / REPORTS_PAGE).write_text("http://127.0.0.1:8091\n")
    assert report_link(project, name) == report_link(served, name) == f"http://127.0.0.1:8091/{name}"
    monkeypatch.setenv("SYNCREC_REPORTS_PAGE", "https://nights.shop.example/")
    assert report_link(project, name) == report_link(served, name) == f"https://nights.shop.example/{name}"


def test_a_night_in_the_foreground_lasts_as_long_as_its_tasks(tmp_path: Path) -> None:
    database = tmp_path / "airflow.db"
    with closing(sqlite3.connect(database)) as airflow, airflow:
        airflow.execute("create table dag_run (dag_id, run_id, logical_date, start_date)")
        airflow.execute("create table task_instance (dag_id, run_id, start_date)")
        runs = [
            ("tested", "2024-01-30", "2024-01-30"),
            ("scheduled", "2024-01-30", "2026-11-28"),
            ("empty", "1", "1"),
        ]
        airflow.executemany("insert into dag_run values ('night', ?, ?, ?)", runs)
        tasks = [("tested", "2026-11-27 08:03"), ("tested", "2026-11-27 08:02"), ("tested", None)]
        airflow.executemany("insert into task_instance values ('night', ?, ?)", tasks)
    _true_start(database)
    _true_start(tmp_path / "absent" / "airflow.db")  # breaks nothing
    with closing(sqlite3.connect(database)) as airflow:
        starts = dict(airflow.execute("select run_id, start_date from dag_run").fetchall())
    assert starts == {"tested": "2026-11-27 08:02", "scheduled": "2026-11-28", "empty": "1"}
