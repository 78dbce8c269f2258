"""One cell in a process of its own: its memory is its own to measure and ends with it, its output goes to a file.

A forked process shares the data with the benchmark and starts at once. The benchmark itself must never have used
torch's threads or a GPU before: neither survives a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar

from benchmarks.quality.protocol import PeerAbsent
from benchmarks.quality.trials import ABSENT, DONE, FAILED

_FORK = multiprocessing.get_context("fork")
_TICK_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a process ended. word: done, absent or failed; message: PeerAbsent's, or the last line of the error."""

    word: str
    message: str
    seconds: float


class Running:
    """A child process that does work(), all it prints in `log`."""

    def __init__(self, work: Callable[[], object], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._receiver, sender = _FORK.Pipe(duplex=False)
        self._began = time.perf_counter()
        self._process = _FORK.Process(target=_child, args=(work, log, sender))
        self._process.start()
        sender.close()
        self.sentinel = self._process.sentinel

    def outcome(self) -> Outcome | None:
        """Return how it ended; None while it runs."""
        if self._process.is_alive():
            return None
        self._process.join()
        ending = _ending(self._process.exitcode)
        word, message = FAILED, f"the process ended with {ending}; its output is in {self.log.name}"
        with suppress(EOFError):
            word, message = self._receiver.recv()
        self._receiver.close()
        return Outcome(word, message, time.perf_counter() - self._began)

    def stop(self) -> None:
        """End it where it still runs, and what it started."""
        _end(self._process)


@dataclass(frozen=True)
class Task:
    """What a child process does, and the file for all that it prints."""

    work: Callable[[], object]
    log: Path


AnyTask = TypeVar("AnyTask", bound=Task)


def run_together(
    take: Callable[[], AnyTask | None], at_once: int, tick: Callable[[], None] = lambda: None
) -> Generator[tuple[AnyTask, Outcome], None, None]:
    """Run tasks in child processes, so many at once, and yield (the task, how it ended) as they end.

    take: called when a place is free; None: nothing now, perhaps more once another has ended. tick: called about
    every second. Whatever stops this generator stops the children and everything they started: hold it in
    `contextlib.closing`.
    """
    running: list[tuple[AnyTask, Running]] = []
    try:
        while True:
            while len(running) < at_once and (task := take()) is not None:
                running.append((task, Running(task.work, task.log)))
            if not running:
                return
            wait([child.sentinel for _, child in running], _TICK_S)
            tick()
            for task, child in list(running):
                outcome = child.outcome()
                if outcome is not None:
                    running.remove((task, child))
                    yield task, outcome
    finally:
        for _, child in running:
            child.stop()


def run_alone(task: Task, tick: Callable[[], None] = lambda: None) -> Outcome:
    """Run one task as `run_together` does."""
    tasks = [task]
    with closing(run_together(lambda: tasks.pop() if tasks else None, 1, tick)) as ended:
        return next(ended)[1]


def _child(work: Callable[[], object], log: Path, sender: Connection) -> None:
    os.setsid()  # Ctrl-C reaches the benchmark alone, which then ends this whole group
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout = sys.stderr = log.open("w", encoding="utf-8", buffering=1)
    for number in (1, 2):
        os.dup2(sys.stdout.fileno(), number)
    try:
        work()
    except PeerAbsent as absent:
        sender.send((ABSENT, str(absent)))
    except BaseException as error:  # whatever a system raises is its row's, not ours
        traceback.print_exc()
        sender.send((FAILED, traceback.format_exception_only(error)[-1].strip().splitlines()[-1]))
    else:
        sender.send((DONE, ""))


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """End the child where it still runs, and what it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.pid is None or process.exitcode is not None:
            return
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):  # it has no group of its own yet
            process.kill()
        process.join(5)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name} (out of memory?)" if name == "SIGKILL" else name
    return f"exit code {code}"
