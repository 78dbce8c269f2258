"""The operator of a step, and what people and other DAGs hear of it: why it failed, the day, links, alerts.

A sibling of the DAG files: Airflow puts its DAG folder on the import path of every process that runs a task or a
callback. An alert is one line; it goes to the log, and to the input of SYNCREC_ALERT_COMMAND where that is set.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

ALERT_SECONDS = 60
log = logging.getLogger("syncrec.alerts")


# What the JVM says at every start of Spark, and no setting can silence.
NOISE = ("WARNING: Using incubator modules",)


class FactsOnly:
    """A task's log without lines that tell nobody anything."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def info(self, text: str, *values: Any) -> None:
        """Log a line of the job, or one of the hook's own."""
        if not (values and str(values[0]).startswith(NOISE)):
            self._log.info(text, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def killed(exit_code: int) -> str:
    """One line for a process that a signal ended, by its own or a shell's exit code; '' of any other end."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return ""
    why = ", most often for want of memory (dmesg)" if name == "SIGKILL" else ""
    return f"error: the process was killed by signal {number}, {name}{why}; run it again"


class JobSubprocessHook(SubprocessHook):
    """Remembers the line with which a job says why it failed: its last one."""

    cause = ""

    @property
    def log(self) -> FactsOnly:
        """The task's log."""
        return FactsOnly(super().log)

    def run_command(self, *arguments: Any, **named: Any) -> Any:
        """Run the command as ever; of a killed process, which could say nothing, say what happened."""
        result = super().run_command(*arguments, **named)
        self.cause = result.output if result.output.startswith("error: ") else ""
        if not self.cause and (end := killed(result.exit_code)):
            self.cause = end
            self.log.info("%s", end)
        return result


class PageLink(BaseOperatorLink):
    """A button on the task's page in Airflow: where the job said that one should look."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """What the button says."""
        return self._name

    @property
    def xcom_key(self) -> str:
        """Where Airflow keeps the address."""
        return f"link {self._name}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address that the job told; empty: none, and the button is grey."""
        return str(operator.told.get(self._name, ""))


class JobOperator(BashOperator):
    """One job. A failure's message is the job's `error:` line; events of its assets say which day they are of.

    pages: names of the links that the job tells (jobs/links.py).
    """

    def __init__(self, *, pages: Sequence[str] = (), **arguments: Any) -> None:
        super().__init__(**arguments)
        self.operator_extra_links = tuple(map(PageLink, pages))
        self.told: dict[str, str] = {}

    @cached_property
    def subprocess_hook(self) -> JobSubprocessHook:
        """The hook that runs the command."""
        return JobSubprocessHook()

    def execute(self, context: Any) -> Any:
        """Run the job."""
        with tempfile.TemporaryDirectory(prefix="syncrec-") as folder:
            file = Path(folder) / "links.json"
            self.env = {**(self.env or {}), "SYNCREC_LINKS": str(file)}
            try:
                return self._execute(context)
            finally:
                if file.is_file():
                    self.told = json.loads(file.read_text(encoding="utf-8"))

    def _execute(self, context: Any) -> Any:
        try:
            result = super().execute(context)
        except AirflowSkipException:
            raise
        except AirflowException:
            if cause := self.subprocess_hook.cause:
                raise AirflowException(cause) from None
            raise
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {"ds": self.env["SYNCREC_DS"]}
        return result


def alert(text: str) -> None:
    """Tell people; a command that cannot be run is said in the log and breaks nothing."""
    line = " ".join(text.split())
    log.error("%s", line)
    if command := os.environ.get("SYNCREC_ALERT_COMMAND"):
        try:
            subprocess.run(shlex.split(command), input=f"{line}\n", text=True, timeout=ALERT_SECONDS, check=True)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            log.error("the alert command failed: %s", type(error).__name__)  # its text may hold a secret


def failed(context: Mapping[str, Any]) -> None:
    """Of a task that failed for good: the cause, and which run it was."""
    task = context["task_instance"]
    cause = context.get("exception") or "its process ended without a word: killed, or out of memory?"
    alert(f"{task.dag_id}.{task.task_id} failed: {cause} (run {task.run_id}, attempt {task.try_number})")


def late(context: Mapping[str, Any]) -> None:
    """Of a night that is not over at its deadline. A backfill has none: its runs wait for each other."""
    run = context["dag_run"]
    if run.get("run_type") != "backfill":
        needed = context["deadline"]["deadline_time"]
        alert(
            f"{run['dag_id']} is late: run {run['dag_run_id']} is {run['state']} and was needed by {needed}; "
            "yesterday's recommendations stand until it is over"
        )
