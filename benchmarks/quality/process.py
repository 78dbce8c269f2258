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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

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


def run_alone(work: Callable[[], object], log: Path, tick: Callable[[], None] = lambda: None) -> Outcome:
    """Run work() in a child process, all it prints in `log`. tick: called every second.

    Whatever stops this function stops the child and everything it started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    receiver, sender = _FORK.Pipe(duplex=False)
    began = time.perf_counter()
    process = _FORK.Process(target=_child, args=(work, log, sender))
    process.start()
    sender.close()
    try:
        while process.is_alive():
            process.join(_TICK_S)
            tick()
    finally:
        _end(process)
    word, message = FAILED, f"the process ended with {_ending(process.exitcode)}; its output is in {log.name}"
    with suppress(EOFError):
        word, message = receiver.recv()
    receiver.close()
    return Outcome(word, message, time.perf_counter() - began)


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
