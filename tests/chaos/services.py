"""What a night needs, to be taken away and given back: a disk with room, MLflow, a catalog database."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.chaos.kill import kill_tree
from tests.night.spark_cluster import free_port

HOST = "127.0.0.1"
START_SECONDS = 240


class NotUp(Exception):
    """A service did not come up; the message names its log."""


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody listens.

    Raises
    ------
    NotUp
        The process ended, or nobody does.
    """
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise NotUp(f"nobody listens on port {port}: see {log}")


@dataclass
class MLflowServer:
    """`mlflow server` over the project's own store, on the loopback."""

    database: Path
    artifacts: Path
    log: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """For [mlflow] tracking_uri."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.database}", "--default-artifact-root", self.artifacts.as_uri(),
        ]  # fmt: skip
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=kept | quiet, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )
        wait_for_port(self.port, self._process, self.log)

    def kill(self) -> None:
        """SIGKILL it with all its workers."""
        if self._process is not None:
            kill_tree(self._process)
            self._process = None


@dataclass
class Postgres:
    """A PostgreSQL of its own, as Debian installs it; it refuses to run as root, so root lends it another user."""

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        program = str(found[-1]) if found else shutil.which("postgres")
        if program is None:
            pytest.skip("no PostgreSQL: Debian has it as `postgresql`")
        self.programs, self.data = Path(program).parent, self.folder / "data"
        self.folder.mkdir(parents=True)
        self.user: str | None = "postgres" if os.geteuid() == 0 else None
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        made = [str(self.programs / "initdb"), "-D", str(self.data), "-U", "catalog", "-A", "trust"]
        subprocess.run(made, check=True, capture_output=True, user=self.user, cwd="/")

    @property
    def address(self) -> str:
        """For [catalog] uri."""
        return f"postgresql+psycopg2://catalog@{HOST}:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            str(self.programs / "postgres"), "-D", str(self.data), "-h", HOST, "-p", str(self.port),
            "-k", str(self.folder), "-c", "fsync=off",
        ]  # fmt: skip
        log = self.folder.parent / "postgres.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, user=self.user, cwd="/", start_new_session=True
            )
        wait_for_port(self.port, self._process, log)
        ready = [str(self.programs / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        for _ in range(100):
            if subprocess.run(ready).returncode == 0:
                return
            time.sleep(0.1)
        raise NotUp(f"PostgreSQL accepts no connections: see {log}")

    def kill(self) -> None:
        """SIGKILL it with all that serve connections."""
        if self._process is not None:
            kill_tree(self._process)
            self._process = None
            (self.data / "postmaster.pid").unlink(missing_ok=True)


@contextmanager
def small_volume(folder: Path, mb: int) -> Iterator[None]:
    """Let a folder be a volume of that size with the folder's content; skips the test where nobody may mount."""
    content = folder.with_name(f"{folder.name}.content")
    shutil.rmtree(content, ignore_errors=True)
    folder.rename(content)
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mb}m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        folder.rmdir()
        content.rename(folder)
        pytest.skip(f"needs to mount a small volume (root): {mounted.stderr.strip()}")
    try:
        subprocess.run(["cp", "-a", f"{content}/.", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(content)


def leave_free(folder: Path, kib: int) -> Path:
    """Fill a volume so that so much is free; the file that fills it."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    found = os.statvfs(folder)
    with ballast.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, found.f_bavail * found.f_frsize - kib * 1024)
    return ballast
