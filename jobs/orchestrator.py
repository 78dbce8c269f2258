"""The embedded Airflow of one project: its environment, its database, and one night run in the foreground.

Airflow lives in its own virtual environment and its own folder, `<state>/airflow`. A night runs by `airflow dags
test`, the whole DAG in one process without a scheduler; its log goes to a file, its facts to the terminal.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import IO, Any

import psutil

from jobs.errors import JobError
from jobs.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
DAG_ID = "syncrec_nightly"
STEPS = (
    "wait_for_landing",
    "ingest",
    "build_sequences",
    "train",
    "evaluate",
    "gate",
    "score",
    "publish",
    "move_alias",
    "report",
)
"""The steps that a person sees, in order; a test holds them against the DAG."""

_FACT = re.compile(r"^(\d\d:\d\d:\d\d |error: )")
_STEP_EVENT = re.compile(r"^\[DAG TEST\] (starting|end) task(?: task)?_id=(\w+) ")


def airflow_program() -> Path:
    """The `airflow` command of the orchestrator environment.

    Raises
    ------
    JobError
        There is none.
    """
    program = Path(os.environ.get("SYNCREC_AIRFLOW") or REPOSITORY / ".venv/orchestrator/bin/airflow")
    if not program.is_file():
        raise JobError(f"no Airflow at {program}: run `make setup`, or set SYNCREC_AIRFLOW to an airflow command")
    return program


def airflow_environment(settings: Settings, config: Path) -> dict[str, str]:
    """The environment of every Airflow process of this project.

    Nothing of another Airflow that the shell may know (`AIRFLOW_*`) gets in.
    """
    program = airflow_program()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW_")}
    return inherited | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "AIRFLOW_HOME": str(settings.state / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__JSON_LOGS": "True",
        "SYNCREC_JOBS_PYTHON": os.environ.get("SYNCREC_JOBS_PYTHON") or sys.executable,
        "SYNCREC_HOME": str(settings.home.resolve()),
        "SYNCREC_CONFIG": str(config),
    }


def prepare(environment: Mapping[str, str]) -> None:
    """Make Airflow's database and the pool `gpu`, unless this Airflow version has already done so.

    Raises
    ------
    JobError
        Airflow could not; the message says where its output is.
    """
    home = Path(environment["AIRFLOW_HOME"])
    stamp = home / "prepared-for"
    version = _airflow_version(airflow_program())
    if stamp.is_file() and stamp.read_text() == version and (home / "airflow.db").is_file():
        return
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    print("preparing Airflow's database ...", flush=True)
    log = home / "prepare.log"
    with log.open("w", encoding="utf-8") as out:
        for arguments in (["db", "migrate"], ["pools", "set", "gpu", "1", "one training at a time"]):
            ended = subprocess.run(
                [airflow_program(), *arguments], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
            if ended.returncode:
                raise JobError(f"airflow {' '.join(arguments[:2])} failed: see {log}")
    stamp.write_text(version)


def _airflow_version(program: Path) -> str:
    """The installed version, read from the folder names: asking Airflow itself takes seconds."""
    found = program.parent.parent.glob("lib/python*/site-packages/apache_airflow_core-*.dist-info")
    return next((folder.name for folder in found), str(program.stat().st_mtime_ns))


@dataclass
class StepEnd:
    """How one step ended."""

    name: str
    state: str = "running"
    seconds: float = 0.0
    cause: str = ""


@dataclass
class NightEnd:
    """How one run of the DAG ended. `succeeded` is the state of the run as Airflow sees it."""

    succeeded: bool = False
    steps: dict[str, StepEnd] = field(default_factory=dict)
    last_line: str = ""

    @property
    def failed(self) -> list[StepEnd]:
        """The steps that failed themselves, in order; steps that could not run are not among them."""
        return [step for step in self.steps.values() if step.state in ("failed", "up_for_retry", "running")]


class NightLog:
    """Reads the log of `airflow dags test` line by line: keeps the state of each step, tells the facts.

    Parameters
    ----------
    tell
        Takes a line for the person at the terminal.
    clock
        Seconds; for tests.
    """

    def __init__(self, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self.end = NightEnd()
        self._tell = tell
        self._clock = clock
        self._step: StepEnd | None = None
        self._started = 0.0

    def read(self, line: str) -> str:
        """Take one line of Airflow's output; returns it in the form that the log file keeps."""
        record = _record(line)
        if record is None:
            self.end.last_line = line.strip() or self.end.last_line
            return line
        event = str(record.get("event", ""))
        if boundary := _STEP_EVENT.match(event):
            self._boundary(boundary[1], boundary[2])
        elif event == "Task instance state updated" and self._step and "new_state" in record:
            self._step.state = str(record["new_state"])
        elif self._step and str(record.get("logger", "")).endswith("SubprocessHook"):
            if _FACT.match(event):
                self._tell(f"       {event}")
            if event.startswith("error: "):
                self._step.cause = event.removeprefix("error: ")
        elif self._step and record.get("exception") and not self._step.cause:
            self._step.cause = _exception(record)
        if record.get("level") in ("error", "critical") or record.get("exception"):
            self.end.last_line = f"{event} {_exception(record)}".strip()
        return _readable(record, event)

    def _boundary(self, kind: str, name: str) -> None:
        if kind == "starting":
            self._tell_left_out(before=name)
            self._started = self._clock()
            again = " again" if name in self.end.steps else ""
            self._step = self.end.steps[name] = StepEnd(name)
            self._tell_step(name, f"{again} ...")
        elif self._step:
            step, self._step = self._step, None
            step.seconds = self._clock() - self._started
            words = {"success": "done", "skipped": "not needed", "up_for_retry": "failed, will be tried again"}
            self._tell_step(name, f" {words.get(step.state, 'FAILED')}, {step.seconds:.1f} s")

    def _tell_step(self, name: str, text: str) -> None:
        if name in STEPS:
            self._tell(f"[{STEPS.index(name) + 1:2}/{len(STEPS)}] {name}{text}")

    def _tell_left_out(self, before: str) -> None:
        """A step that Airflow passes over has no line of its own in the log."""
        for name in STEPS[: STEPS.index(before)] if before in STEPS else ():
            if name not in self.end.steps:
                self.end.steps[name] = StepEnd(name, "left_out")
                self._tell_step(name, " left out")


def _record(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _exception(record: Mapping[str, Any]) -> str:
    raised = record.get("exception") or [{}]
    first = raised[0] if isinstance(raised, list) and isinstance(raised[0], dict) else {}
    return " ".join(f"{first.get('exc_type', '')}: {first.get('exc_value', '')}".strip(": ").split())


def _readable(record: dict[str, Any], event: str) -> str:
    plain = ("timestamp", "level", "event", "logger", "filename", "lineno")
    rest = {key: value for key, value in record.items() if key not in plain}
    text = f"{str(record.get('timestamp', ''))[:19]} {record.get('level', '')!s:<8} {event}"
    return text + (" " + json.dumps(rest, default=str) if rest else "") + "\n"


def logical_date(ds: date) -> str:
    """The logical date that makes a manual run work on `ds`.

    A manual run gets the last data interval that is complete at its logical date. Four o'clock of the next
    morning, not its midnight: that one belongs to the scheduled run of the day after `ds`.
    """
    return f"{(ds + timedelta(days=1)).isoformat()}T04:00:00+00:00"


def run_night(
    ds: date,
    environment: Mapping[str, str],
    log: Path,
    *,
    tell: Callable[[str], object] = print,
    keep_open: Iterable[int] = (),
) -> NightEnd:
    """Run the DAG for one day in the foreground.

    Parameters
    ----------
    ds
        The logical day.
    environment
        From `airflow_environment`.
    log
        Where Airflow's whole output goes, appended.
    tell
        Takes each line for the terminal.
    keep_open
        File descriptors that live as long as the run (the lock).
    """
    command = [str(airflow_program()), "dags", "test", DAG_ID, logical_date(ds)]
    reader = NightLog(tell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out, started(command, environment, keep_open) as process:
        out.write(f"\n=== {' '.join(command)}\n")
        assert process.stdout
        for line in process.stdout:
            out.write(reader.read(line))
            out.flush()
    reader.end.succeeded = process.returncode == 0
    return reader.end


@contextmanager
def started(
    command: list[str], environment: Mapping[str, str], keep_open: Iterable[int] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A child process whose whole family ends with this block, also at Ctrl-C and SIGTERM.

    The child gets its own session: a Ctrl-C reaches this process only, which then ends the children in order.
    """
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
        start_new_session=True,
        pass_fds=tuple(keep_open),
    )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield process
        process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            end_family(process.pid)
            process.wait()
        _close(process.stdout)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _close(stream: IO[str] | None) -> None:
    if stream:
        stream.close()


def end_family(pid: int, patience: float = 10) -> None:
    """End a process and all its descendants: asked first, then killed."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in family:
            with suppress(psutil.NoSuchProcess):
                ask(process)
        _, family = psutil.wait_procs(family, timeout=patience)
        if not family:
            return
