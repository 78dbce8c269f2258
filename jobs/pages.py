"""The web pages, behind `make up` and `make down`: Airflow, MLflow and the nights' reports on this machine only.

    python -m jobs.pages up [--airflow-port 8080] [--mlflow-port 5000] [--reports-port 8090]
    python -m jobs.pages down

Airflow's parts are started one by one, not by `airflow standalone`: that one would open two log servers to all
network interfaces.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from jobs.command import one_line
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.links import PAGE, REPORTS_PAGE, experiment_path, has_server, known_page, known_reports_page
from jobs.mlflow_store import make_store
from jobs.night_files import write_whole
from jobs.nightly import config_file
from jobs.orchestrator import REPOSITORY, airflow_environment, airflow_program, end_families, make_option, prepare
from jobs.private import hide, private_files, without_password
from jobs.report_server import HEALTH
from jobs.settings import Settings, load_settings, make_folder

HOST = "127.0.0.1"
PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class Server:
    """One server process; `born` tells it from a later process with the same number."""

    name: str
    pid: int
    born: float
    address: str
    log: str

    def alive(self) -> bool:
        """Does this very process still run?"""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and bool(abs(process.create_time() - self.born) < 2)
        except psutil.NoSuchProcess:
            return False


class Pages:
    """The web servers of one project.

    Parameters
    ----------
    settings, config
        The settings and the file they came from.
    """

    def __init__(self, settings: Settings, config: Path) -> None:
        self.settings, self.config = settings, config
        self._file = settings.state / "pages.json"
        self._logs = settings.state / "logs"
        self._former: dict[str, str] = {}  # where MLflow and the reports were before this call

    def running(self) -> list[Server]:
        """The servers that run now."""
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return []
        return [server for server in (Server(**values) for values in kept) if server.alive()]

    def up(
        self, *, airflow_port: int, mlflow_port: int, reports_port: int, patience: float = PATIENCE_SECONDS
    ) -> list[Server]:
        """Start what does not run yet and wait until it answers.

        Raises
        ------
        JobError
            A newer version made the state; a port is taken; or a server ended or did not answer in time: then all
            of them are stopped again.
        """
        if servers := self.running():
            if all(server.name != "reports" for server in servers):  # it alone ended, or older code started these
                self._reports_alone(reports_port, patience)
            return self.running()
        if self.settings.warehouse.exists():
            Lakehouse(self.settings)  # an older state is brought to today's form, a newer one refused
        own_mlflow = not has_server(self.settings)
        ports = {"AIRFLOW_PORT": airflow_port} | ({"MLFLOW_PORT": mlflow_port} if own_mlflow else {})
        ports["REPORTS_PORT"] = reports_port
        _need_free(ports, f"make up{make_option(self.config)}")
        make_folder(self._logs, "state_dir")
        environment = _pages_environment(airflow_environment(self.settings, self.config), airflow_port)
        self._former = {"reports": known_reports_page(self.settings)}
        if own_mlflow:
            self._former["mlflow"] = known_page(self.settings)
            write_whole(self.settings.state / PAGE, f"http://{HOST}:{mlflow_port}\n")  # for links of later nights
        write_whole(self.settings.state / REPORTS_PAGE, f"http://{HOST}:{reports_port}\n")
        prepare(environment)
        try:
            self._start_all(environment, airflow_port, mlflow_port if own_mlflow else None)
            self._start_reports(reports_port)
            self._wait_healthy(patience)
        except BaseException:
            self.down()
            raise
        return self.running()

    def _reports_alone(self, port: int, patience: float) -> None:
        _need_free({"REPORTS_PORT": port}, f"make up{make_option(self.config)}")
        self._former = {"reports": known_reports_page(self.settings)}
        write_whole(self.settings.state / REPORTS_PAGE, f"http://{HOST}:{port}\n")
        self._start_reports(port)
        self._wait_healthy(patience)

    def down(self) -> int:
        """Stop all servers with all their children; returns how many ran."""
        servers = self.running()
        end_families(server.pid for server in servers)
        self._file.unlink(missing_ok=True)
        return len(servers)

    def _start_all(self, environment: Mapping[str, str], airflow_port: int, mlflow_port: int | None) -> None:
        airflow, address = str(airflow_program()), f"http://{HOST}:{airflow_port}"
        api = ["api-server", f"--host={HOST}", f"--port={airflow_port}", "--workers=1"]
        self._start("airflow", [airflow, *api], environment, address)
        self._start("airflow-scheduler", [airflow, "scheduler", "--skip-serve-logs"], environment)
        self._start("airflow-dag-processor", [airflow, "dag-processor"], environment)
        if mlflow_port is not None:
            self._start_mlflow(mlflow_port)

    def _start_mlflow(self, port: int) -> None:
        uri = self.settings.tracking_uri
        make_store(uri)
        names = ",".join(f"{name}:{port}" for name in ("localhost", HOST))
        command = [sys.executable, "-m", "mlflow", "server", f"--host={HOST}", f"--port={port}", "--workers=1"]
        command += ["--app-name=syncrec", f"--default-artifact-root={self.settings.artifact_root}"]
        command += ["--no-serve-artifacts", f"--allowed-hosts={names}"]
        environment = os.environ | {
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that wait for work nobody here has
            "MLFLOW_BACKEND_STORE_URI": uri,  # not in the command line, which everybody on the machine may read
        }
        self._start("mlflow", command, environment, f"http://{HOST}:{port}")

    def _start_reports(self, port: int) -> None:
        folder = self.settings.state / "reports"
        make_folder(folder, "state_dir")
        command = [sys.executable, "-m", "jobs.report_server", f"--folder={folder}", f"--port={port}"]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self._start("reports", command, environment, f"http://{HOST}:{port}")

    def _start(self, name: str, command: list[str], environment: Mapping[str, str], address: str = "") -> None:
        log = self._logs / f"{name}.log"
        with log.open("a", encoding="utf-8") as out:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.settings.state,
                start_new_session=True,
            )
        born = psutil.Process(process.pid).create_time()
        servers = [*self.running(), Server(name, process.pid, born, address, str(log))]
        write_whole(self._file, json.dumps([asdict(server) for server in servers], indent=1))

    def _wait_healthy(self, patience: float) -> None:
        checks: dict[str, tuple[str, Callable[[str], bool]]] = {
            "airflow": ("/api/v2/monitor/health", _airflow_is_healthy),
            "mlflow": ("/health", bool),
            "reports": (HEALTH, bool),
        }
        started = self.running()
        waiting = {server.name for server in started if server.address}
        deadline = time.monotonic() + patience
        while True:
            for server in started:
                if not server.alive():
                    raise JobError(
                        f"{server.name} ended at once: {_last_line(server.log)} (full log: {server.log})"
                    )
                if server.name in waiting:
                    path, healthy = checks[server.name]
                    if healthy(_get(server.address + path)):
                        waiting.discard(server.name)
                        print(f"{server.name} answers", flush=True)
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise JobError(f"{', '.join(sorted(waiting))} did not answer in {patience:.0f} s: see {self._logs}")
            time.sleep(1)

    def describe(self) -> list[str]:
        """Say where the pages are and how to log in."""
        addresses = {server.name: server.address for server in self.running() if server.address}
        mlflow = addresses.get("mlflow") or without_password(self.settings.tracking_uri)
        path = experiment_path(_experiment_id(mlflow, self.settings.mlflow.experiment))
        passwords = self.settings.state / "airflow" / "simple_auth_manager_passwords.json.generated"
        paused = "syncrec_nightly is paused: switch it on to run every night"
        if self.settings.sample:
            paused += " (the sample has no files of today: its nights are those of make nightly)"
        lines = [
            f"MLflow   {mlflow}/{path}    experiment {self.settings.mlflow.experiment}, model "
            f"{self.settings.mlflow.model_name}",
            f"Airflow  {addresses.get('airflow', 'not running')}    user admin, password in {passwords}",
            f"Reports  {addresses.get('reports', 'not running')}    the page of each night, newest first",
            f"All listen on this machine only. {paused}.",
            "Airflow shows its Triggerer in red: no task here needs one, so none runs.",
            f"Logs: {self._logs}. Stop them with: make down",
        ]
        moved = {name: was for name, was in self._former.items() if was != addresses.get(name)}
        if moved and any((self.settings.state / "reports").glob("*.html")):
            lines.append(
                f"Links in Airflow's tasks of earlier nights lead to {' and '.join(moved.values())}, where nothing "
                "runs now."
            )
        return lines


def _pages_environment(environment: Mapping[str, str], port: int) -> dict[str, str]:
    address = f"http://{HOST}:{port}"
    return {
        **environment,
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__LOGGING__JSON_LOGS": "False",
    }


def _need_free(ports: Mapping[str, int], command: str) -> None:
    """Refuse ports that are none, given twice, or taken: then with a command that names free ones."""
    for variable, port in ports.items():
        if not 0 < port < 65536:
            raise JobError(f"{variable}={port}: a port is a whole number from 1 to 65535")
    if len(set(ports.values())) < len(ports):
        told = " ".join(f"{variable}={port}" for variable, port in ports.items())
        raise JobError(f"{told}: each needs a port of its own")
    taken = list(dict.fromkeys(str(port) for port in ports.values() if not _is_free(port)))
    if not taken:
        return
    chosen: dict[str, int] = {}
    for variable, port in ports.items():
        while port in chosen.values() or not _is_free(port):
            port = port + 1 if port < 65535 else 1024
        chosen[variable] = port
    which = f"port {taken[0]} is" if len(taken) == 1 else f"ports {' and '.join(taken)} are"
    command += "".join(f" {variable}={port}" for variable, port in chosen.items())
    raise JobError(
        f"{which} in use. Give free ones: {command}    (where another project's pages run there, this stops them: "
        "make down CONFIG=ITS.toml)"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _get(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            text: str = answer.read().decode(errors="replace")
            return text
    except (urllib.error.URLError, OSError):
        return ""


def _experiment_id(mlflow: str, name: str) -> str:
    """The number of an experiment, asked of the server: nothing is made. "" before the first night."""
    query = urllib.parse.urlencode({"experiment_name": name})
    try:
        answer = json.loads(_get(f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?{query}"))["experiment"]
        return str(answer["experiment_id"]) if answer["lifecycle_stage"] == "active" else ""
    except (ValueError, KeyError, TypeError, http.client.HTTPException):  # absent, or it asks who we are
        return ""


def _airflow_is_healthy(answer: str) -> bool:
    try:
        parts = json.loads(answer)
    except json.JSONDecodeError:
        return False
    return all(
        parts.get(name, {}).get("status") == "healthy" for name in ("metadatabase", "scheduler", "dag_processor")
    )


def _last_line(log: str) -> str:
    lines = [line.strip() for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: exit code 0 done, 1 a clear error, 70 a defect of ours."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.pages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parser.add_argument("--airflow-port", type=int, default=8080)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--reports-port", type=int, default=8090)
    arguments = parser.parse_args(argv)
    try:
        private_files()
        config = config_file(arguments.config)
        pages = Pages(load_settings(config), config)
        if arguments.action == "down":
            if pages.running():
                print("stopping the web pages (up to ten seconds) ...", flush=True)
            stopped = pages.down()
            print(f"stopped {stopped} servers" if stopped else "no pages were running")
            return 0
        print("starting the web pages (half a minute to a minute) ...", flush=True)
        pages.up(
            airflow_port=arguments.airflow_port,
            mlflow_port=arguments.mlflow_port,
            reports_port=arguments.reports_port,
        )
        print("\n".join(pages.describe()))
        return 0
    except JobError as error:
        print(f"error: pages: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("error: pages: interrupted; nothing was left running", file=sys.stderr, flush=True)
        return 130
    except Exception as error:
        print(hide(traceback.format_exc()), end="", file=sys.stderr)
        print(f"error: pages: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
        return 70


if __name__ == "__main__":
    sys.exit(main())
