"""The services of docker-compose.yml as processes of this machine: their commands, variables and health checks.

What an engine would give them is translated: a service's name becomes 127.0.0.1, its port a free one, its volumes
folders, and what it sees of the image the repository. Everything else is read from the file.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from jobs.orchestrator import REPOSITORY
from tests.deploy.compose_file import filled_in
from tests.night.spark_cluster import free_port

HOST = "127.0.0.1"
IMAGE_HOME = "/opt/syncrec"
MARK = "SYNCREC_STACK"
FOREIGN = ("AIRFLOW_", "SYNCREC_", "MLFLOW_", "SPARK_", "PYSPARK_", "PG", "POSTGRES_", "REDIS")
ALONE = {"SPARK_LOCAL_IP": HOST}
"""Variables that the file does not have: an engine's network keeps others out, here the loopback must."""


class StackError(Exception):
    """A service did not come up or ended; the message ends with the last lines of its log."""


@dataclass
class Process:
    """One container's process."""

    name: str
    service: str
    popen: subprocess.Popen[bytes]
    log: Path


@dataclass
class Stack:
    """The services of one file. variables: those of .env; folder: volumes, logs and containers' own files."""

    spec: dict[str, Any] = field(repr=False)
    variables: dict[str, str] = field(repr=False)  # secrets have no business in a failed test's words
    folder: Path
    profiles: frozenset[str] = frozenset({"gpu"})
    ports: dict[tuple[str, str], int] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        for name, service in self.spec["services"].items():
            for port in service.get("expose", []):
                self.ports[name, port] = free_port()
        for name, port in (("airflow-api-server", "8080"), ("mlflow", "5000")):
            (published,) = self.spec["services"][name]["ports"]
            variable = re.findall(r"\$\{(\w+)", published)[0]
            self.variables[variable] = str(self.ports[name, port])
        self.services: dict[str, dict[str, Any]] = filled_in(self.spec["services"], self.variables)

    def address(self, service: str, port: str) -> str:
        """Where a service's port is on this machine."""
        return f"http://{HOST}:{self.ports[service, port]}"

    # --- translation --------------------------------------------------------------------------------------

    def container(self, name: str) -> Path:
        """The folder that stands for the file system of one container."""
        return self.folder / "containers" / name

    def mounts(self, name: str, service: str) -> dict[str, str]:
        """What a path of the container is on this machine, longest first."""
        found = {"/srv": str(self.container(name) / "srv"), IMAGE_HOME: str(REPOSITORY)}
        for volume in self.services[service].get("volumes", []):
            if isinstance(volume, dict):
                found[volume["target"]] = str((REPOSITORY / volume["source"]).resolve())
            else:
                source, target = volume.split(":")
                found[target] = str(self.folder / "volumes" / source)
        return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))

    def translate(self, text: str, name: str, service: str) -> str:
        """A text of the file as it must be on this machine."""
        own = {port: str(free) for (of, port), free in self.ports.items() if of == service}
        mounts = self.mounts(name, service)
        paths = "|".join(re.escape(path) for path in mounts)
        text = re.sub(rf"(?<![\w.\-/])({paths})(?=/|$|[\s\"',])", lambda m: mounts[m[1]], text)
        for (of, port), free in self.ports.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(of)}:{port}\b", f"{HOST}:{free}", text)
        for port, free in own.items():
            text = re.sub(rf"\b(127\.0\.0\.1|localhost):{port}\b", rf"\1:{free}", text)
            text = re.sub(rf"(^|=){port}$", rf"\g<1>{free}", text)
        return text.replace("0.0.0.0", HOST)

    def environment(self, name: str, service: str) -> dict[str, str]:
        """The variables of one container."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        given = self.services[service].get("environment", {})
        own = {key: self.translate(str(value), name, service) for key, value in given.items()}
        home = self.container(name) / "srv/home"
        return kept | {"HOME": str(home), MARK: self.mark} | ALONE | own

    def command(self, name: str, service: str, words: list[str] | None = None) -> list[str]:
        """The command of one container, behind the entry point of its image."""
        words = words or self.services[service]["command"]
        ours = self.services[service]["build"]["dockerfile"] == "deploy/Dockerfile"
        entry = [f"{IMAGE_HOME}/deploy/start"] if ours else []
        hosts = {number for number, word in enumerate(words, 1) if word == "--host"}
        words = [HOST if number in hosts and word == service else word for number, word in enumerate(words)]
        return [self.translate(word, name, service) for word in [*entry, *words]]

    def user(self, service: str) -> dict[str, Any]:
        """PostgreSQL refuses to run as root: there it runs as Debian's user of that name."""
        return {"user": "postgres", "group": "postgres", "extra_groups": []} if _alone(service) else {}

    # --- running ------------------------------------------------------------------------------------------

    def names(self, service: str) -> list[str]:
        """The containers of a service."""
        replicas = self.services[service].get("deploy", {}).get("replicas", 1)
        return [service] if replicas == 1 else [f"{service}-{number}" for number in range(1, replicas + 1)]

    def in_order(self) -> list[str]:
        """The services to start, each after those that it depends on."""
        wanted = {
            name
            for name, service in self.services.items()
            if not service.get("profiles") or self.profiles & set(service["profiles"])
        }
        ordered: list[str] = []
        while left := sorted(wanted - set(ordered)):
            ready = [name for name in left if set(self.services[name].get("depends_on", {})) <= set(ordered)]
            assert ready, f"services that wait for each other: {left}"
            ordered += ready
        return ordered

    def up(self, patience: float) -> dict[str, float]:
        """Start all services; returns the seconds that each took to be healthy.

        Raises
        ------
        StackError
            One of them ended or did not become healthy in time.
        """
        took = {}
        for service in self.in_order():
            begun = time.monotonic()
            started = [self.start(name, service) for name in self.names(service)]
            waiting = self.services[service].get("depends_on", {})
            assert all(other in took for other in waiting)
            for process in started:
                self.wait(process, patience)
            took[service] = round(time.monotonic() - begun, 1)
            print(f"{service}: {took[service]} s", flush=True)
        return took

    def start(self, name: str, service: str) -> Process:
        """Start one container's process."""
        for target, here in self.mounts(name, service).items():
            if target.startswith("/srv") and not Path(here).exists():
                Path(here).mkdir(parents=True, mode=0o700)
        (self.container(name) / "srv/home").mkdir(parents=True, exist_ok=True)
        if _alone(service):
            account = pwd.getpwnam("postgres")
            for folder in (self.folder / "volumes" / "postgres", self.container(name) / "srv/home"):
                os.chown(folder, account.pw_uid, account.pw_gid)
            for parent in (self.folder, self.folder / "volumes"):
                parent.chmod(0o711)
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True, mode=0o700)
        with log.open("ab") as out:
            popen = subprocess.Popen(
                self.command(name, service),
                env=self.environment(name, service),
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **self.user(service),
            )
        self.processes.append(Process(name, service, popen, log))
        return self.processes[-1]

    def wait(self, process: Process, patience: float) -> None:
        """Wait until a container is healthy by its own check, or has ended where it is one that ends."""
        end = time.monotonic() + patience
        service = self.services[process.service]
        ends = "healthcheck" not in service
        while time.monotonic() < end:
            code = process.popen.poll()
            if code is not None:
                if ends and code == 0:
                    return
                raise StackError(f"{process.name} ended with {code}:\n{tail(process.log)}")
            if not ends and self.is_healthy(process):
                return
            time.sleep(1)
        raise StackError(f"{process.name} is not healthy after {patience:.0f} s:\n{tail(process.log)}")

    def is_healthy(self, process: Process) -> bool:
        """Run the health check of a container."""
        kind, *words = self.services[process.service]["healthcheck"]["test"]
        words = [self.translate(word, process.name, process.service) for word in words]
        for (of, port), free in self.ports.items():  # inside one text of a shell
            if of == process.service:
                words = [word.replace(f"--port={port}", f"--port={free}") for word in words]
        asked = subprocess.run(
            words if kind == "CMD" else ["sh", "-c", *words],
            env=self.environment(process.name, process.service),
            cwd=REPOSITORY,
            capture_output=True,
            timeout=120,
        )
        return asked.returncode == 0

    def run(self, service: str, *words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run another command in a container of a service, as `docker compose run` does."""
        name = self.names(service)[0]
        return subprocess.run(
            self.command(name, service, list(words)),
            env=self.environment(name, service),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=timeout,
            **self.user(service),
        )

    def family(self) -> list[psutil.Process]:
        """Every process that this stack has started, whoever its parent is now."""
        found: set[psutil.Process] = set()
        for process in self.processes:
            with suppress(psutil.Error):
                started = psutil.Process(process.popen.pid)
                found |= {started, *started.children(recursive=True)}
        for process in psutil.process_iter():  # whoever has lost its parent; some write over their environment
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(MARK) == self.mark:
                    found.add(process)
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def down(self) -> None:
        """End everything: the last one first, then whatever is left."""
        members = self.family()
        for process in reversed(self.processes):
            _signal_group(process.popen, signal.SIGTERM)
        deadline = time.monotonic() + 20
        for process in reversed(self.processes):
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(max(0.1, deadline - time.monotonic()))
        for _ in range(5):
            for left in {*members, *self.family()}:
                with suppress(psutil.Error):
                    left.kill()
            time.sleep(0.2)
            for process in self.processes:
                process.popen.poll()


def _alone(service: str) -> bool:
    return service == "postgres" and os.geteuid() == 0


def _signal_group(popen: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, number)


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def running(stack: Stack, patience: float) -> Iterator[dict[str, float]]:
    """A stack that is up inside the block, and gone after it, whatever happened."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield stack.up(patience)
    finally:
        signal.signal(signal.SIGTERM, before)
        stack.down()


def missing_programs() -> list[str]:
    """What this machine lacks, with the way to get it."""
    lacking = []
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        lacking.append("PostgreSQL (apt-get install postgresql)")
    if not shutil.which("redis-server"):
        lacking.append("Redis (apt-get install redis-server)")
    if not (REPOSITORY / ".venv/production/bin/airflow").is_file():
        lacking.append("the production environment (make stack-test makes it)")
    return lacking


def as_environment(values: Mapping[str, str]) -> dict[str, str]:
    """The variables of .env that a stack is given; a copy, because it sets its ports in it."""
    return dict(values)
