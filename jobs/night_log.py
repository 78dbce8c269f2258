"""Reads the log of one DAG run as it comes: the state of each step, the facts for the person at the terminal.

`airflow dags test` keeps no log of a task; what a task said goes where Airflow's pages look for it, too.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
BESIDE = "ingest_clicks"
"""The step that runs beside them; a person sees its end, where it had something to do."""

_FACT = re.compile(r"^(\d\d:\d\d:\d\d |error: )")
_RUNNING = re.compile(r"^\[DAG TEST\] running task <TaskInstance: (\w+)\.(\w+) (\S+) \[")
_STEP_EVENT = re.compile(r"^\[DAG TEST\] (starting|end) task(?: task)?_id=(\w+) ")


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
    logs
        Airflow's folder of logs: each task's records go to the file that Airflow's pages show. None: nowhere.
    """

    def __init__(
        self,
        tell: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        logs: Path | None = None,
    ) -> None:
        self.end = NightEnd()
        self._tell = tell
        self._clock = clock
        self._step: StepEnd | None = None
        self._started = 0.0
        self._logs = logs
        self._log: Path | None = None

    def read(self, line: str) -> str:
        """Take one line of Airflow's output; returns it in the form that the log file keeps."""
        record = _record(line)
        if record is None:
            self.end.last_line = line.strip() or self.end.last_line
            return line
        event = str(record.get("event", ""))
        self._keep(record, event, line)
        if boundary := _STEP_EVENT.match(event):
            self._boundary(boundary[1], boundary[2])
        elif event == "Task instance state updated" and self._step and "new_state" in record:
            self._step.state = str(record["new_state"])
        elif self._step and str(record.get("logger", "")).endswith("SubprocessHook"):
            if _FACT.match(event) and self._step.name != BESIDE:
                self._tell(f"       {event}")
            if event.startswith("error: "):
                self._step.cause = event.removeprefix("error: ")
        elif self._step and record.get("exception") and not self._step.cause:
            self._step.cause = _exception(record)
        if record.get("level") in ("error", "critical") or record.get("exception"):
            self.end.last_line = f"{event} {_exception(record)}".strip()
        return _readable(record, event)

    def _keep(self, record: Mapping[str, Any], event: str, line: str) -> None:
        """Add a record of a task to its log; the folders are those of Airflow's log_filename_template."""
        if running := _RUNNING.match(event):
            dag, task, run = running.groups()
            if self._logs and "/" not in run:
                self._log = self._logs / f"dag_id={dag}/run_id={run}/task_id={task}/attempt=1.log"
                self._log.parent.mkdir(parents=True, exist_ok=True)
        elif _STEP_EVENT.match(event):
            self._log = None
        elif self._log and re.match(r"(airflow\.)?task\b", str(record.get("logger", ""))):
            with self._log.open("a", encoding="utf-8") as out:
                out.write(line)

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
        elif name == BESIDE and self.end.steps[name].state not in ("running", "skipped"):
            self._tell(f"[beside] {name}{text}")

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
