"""Run a command and measure the whole tree of processes that it starts: time, processor time, memory.

The tree is looked at ten times a second. A process that has left the tree (Spark's JVM, once the Python that
started it is gone) is still followed to its end. Memory is the resident memory of all processes at one moment, so
pages that two of them share count twice: the figures are upper bounds. A process counts from its first second on:
until it runs its own program, a child shows the whole memory of its parent. Processor time misses what a process
does after the last look at it, a tenth of a second at most.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

EVERY = 0.1  # seconds
YOUNG = 1.0  # seconds
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a command took; `failed` says in a line why it did not end well, "" where it did.

    seconds: wall time to the end of the command. cpu_seconds: of all its processes. peak_gib: of all processes
    together; jvm_gib and python_gib: the highest moment of the Java processes alone, of all others alone.
    """

    seconds: float
    cpu_seconds: float
    peak_gib: float
    jvm_gib: float
    python_gib: float
    failed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def run_measured(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    limit_gib: float,
    limit_seconds: float,
) -> Cost:
    """Run a command to its end and return what it took.

    Parameters
    ----------
    command : program and arguments; its output, both streams, goes to the file `log`.
    limit_gib, limit_seconds : a tree that needs more is ended, and `failed` says so.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with log.open("wb") as out:
        child = subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT)
        tree = _Tree(psutil.Process(child.pid))
        failed = ""
        while child.poll() is None:
            tree.look()
            if tree.now_gib > limit_gib:
                failed = f"needs more than {limit_gib:g} GiB"
            elif time.perf_counter() - began > limit_seconds:
                failed = f"takes longer than {limit_seconds:g} s"
            if failed:
                tree.end()
                break
            with suppress(subprocess.TimeoutExpired):
                child.wait(EVERY)
        child.wait()
        seconds = time.perf_counter() - began
        tree.wait(60)
    if child.returncode and not failed:
        failed = _last_words(log, child.returncode)
    return tree.cost(seconds, failed)


def _last_words(log: Path, code: int) -> str:
    """The last line of the output that says something: an error of ours is one line at the end."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return (said[-1] if said else f"exit code {code}, no message (memory?)")[:300]


@dataclass
class _Tree:
    """A process, its descendants, and all that ever were."""

    root: psutil.Process
    seen: dict[psutil.Process, float] = field(default_factory=dict)  # processor seconds at the last look
    now_gib: float = 0.0
    peak: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("all", "jvm", "python"), 0.0))

    def look(self) -> None:
        """Add up the memory of the moment and note the processor time of every process."""
        with suppress(psutil.NoSuchProcess):
            for process in [self.root, *self.root.children(recursive=True)]:
                self.seen.setdefault(process, 0.0)
        now = {"jvm": 0, "python": 0}
        for process in list(self.seen):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                with process.oneshot():
                    memory, spent = process.memory_info().rss, process.cpu_times()
                    kind = "jvm" if process.name() == "java" else "python"
                self.seen[process] = spent.user + spent.system
                if time.time() - process.create_time() >= YOUNG:
                    now[kind] += memory
        self.now_gib = sum(now.values()) / GIB
        for name, value in {**{key: count / GIB for key, count in now.items()}, "all": self.now_gib}.items():
            self.peak[name] = max(self.peak[name], value)

    def end(self) -> None:
        """Kill every process of the tree."""
        for process in reversed(list(self.seen)):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def wait(self, seconds: float) -> None:
        """Wait for those that outlive the command: the next one must not share the machine with them."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            if not any(_lives(process) for process in self.seen):
                return
            time.sleep(EVERY)
        self.end()

    def cost(self, seconds: float, failed: str) -> Cost:
        return Cost(
            seconds=seconds,
            cpu_seconds=sum(self.seen.values()),
            peak_gib=self.peak["all"],
            jvm_gib=self.peak["jvm"],
            python_gib=self.peak["python"],
            failed=failed,
        )


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    return False
