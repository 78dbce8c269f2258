"""A Spark standalone cluster on the loopback: one master and some workers, each a process in its own folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyspark

SPARK_CLASS = Path(pyspark.__file__).parent / "bin/spark-class"
START_SECONDS = 60
DAEMON = "jobs.worker_daemon"  # forks the Python workers of score


class ClusterError(Exception):
    """The cluster did not come up, or did not do what it was asked; the message names the log."""


def free_port() -> int:
    """A port of the loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Any, seconds: float, what: str) -> Any:
    """Ask until the answer is true, and return it.

    Raises
    ------
    ClusterError
        It never was.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.1)
    raise ClusterError(f"{what}: not within {seconds:.0f} s")


@dataclass
class Cluster:
    """A running cluster. workers: their processes, of which each has its executors as children."""

    folder: Path
    port: int
    page_port: int
    memory: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    everybody: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def master(self) -> str:
        """The address for spark.master."""
        return f"spark://127.0.0.1:{self.port}"

    def start(self, name: str, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a master or a worker in a folder of its own."""
        home = self.folder / name
        home.mkdir(parents=True)
        foreign = ("SPARK_", "PYSPARK_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        environment |= {
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(home / "local"),
            "PYSPARK_PYTHON": sys.executable,
        }
        command = [str(SPARK_CLASS), f"org.apache.spark.deploy.{kind}", "--host", "127.0.0.1", *arguments]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.everybody.append(process)
        return process

    def add_worker(self) -> None:
        """Start one more worker of one core, and wait until the master counts on it."""
        before = self.alive()
        name = f"worker-{len(self.everybody)}"
        work = str(self.folder / name / "work")
        options = ("--webui-port", "0", "--cores", "1", "--memory", self.memory, "--work-dir", work)
        self.workers.append(self.start(name, "worker.Worker", *options, self.master))
        wait_until(lambda: self.alive() > before, START_SECONDS, f"a worker, see {self.folder}/*/log")

    def state(self) -> dict[str, Any]:
        """What the master's page says, or nothing while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.page_port}/json/", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
        except OSError:
            return {}
        return found

    def alive(self) -> int:
        """How many workers the master counts on."""
        return sum(worker["state"] == "ALIVE" for worker in self.state().get("workers", []))

    def folder_of(self, worker: subprocess.Popen[bytes]) -> Path:
        """The worker's own folder."""
        return Path(psutil.Process(worker.pid).cwd())

    def has_shuffled(self, worker: subprocess.Popen[bytes]) -> bool:
        """Whether an executor of the worker holds the output of a task, which the others need."""
        return any(self.folder_of(worker).glob("local/**/shuffle_*.data"))

    def runs_python(self, worker: subprocess.Popen[bytes]) -> bool:
        """Whether an executor of the worker is at a task that runs Python."""
        for process in _family(worker.pid):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                parent = process.parent()
                if parent is not None and all(DAEMON in own.cmdline() for own in (process, parent)):
                    return True  # a worker that the daemon has forked
        return False

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL a worker, its executors and their Python workers, as a machine that loses its power does."""
        for process in _family(worker.pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        worker.wait()
        self.workers.remove(worker)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def cluster(folder: Path, workers: int = 2, memory: str = "1g") -> Iterator[Cluster]:
    """A master and workers of one core each; all of them are gone after the block.

    Raises
    ------
    ClusterError
        It does not come up.
    """
    running = Cluster(folder, free_port(), free_port(), memory)
    try:
        ports = ("--webui-port", str(running.page_port), "--port", str(running.port))
        running.start("master", "master.Master", *ports)
        for _ in range(workers):
            running.add_worker()
        yield running
    finally:
        for process in running.everybody:
            for member in _family(process.pid):
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()
