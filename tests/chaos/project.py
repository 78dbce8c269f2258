"""A small project and its nights, step by step as Airflow runs them; the state before each step can be put back.

The night that is hurt is the second one: there is an old day to read, a champion to start from, lists to take over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from jobs.night_log import BESIDE
from jobs.night_log import STEPS as SEEN
from jobs.orchestrator import REPOSITORY
from jobs.sample import SampleSettings, write_days
from jobs.settings import Settings, load_settings

STEPS = ("ingest", BESIDE, *SEEN[SEEN.index("ingest") + 1 :])
"""The steps of a night that write something, in an order in which Airflow may run them."""
HISTORY, FIRST, SECOND = date(2024, 1, 9), date(2024, 1, 10), date(2024, 1, 11)
START = date(2024, 1, 1)
CLICKS = """
[[click_sources]]
name = "clicks"
files = "clicks.csv"
format = "csv"
header = true
domain_column = "domain"
user = "user"
item = "item"
time = "shown_at"
time_unit = "s"
clicked = "clicked"
"""
INTERPRET = {  # on frames of some hundred rows Spark spends its time on compiling
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}
SMALL = {
    "SYNCREC_CODE_VERSION": "chaos",  # that of the checkout changes while somebody works in it
    "SYNCREC_SAMPLE__USERS": "60",
    "SYNCREC_NIGHT__BOOTSTRAP_THROUGH": str(HISTORY),
    "SYNCREC_SEQUENCES__MAX_LENGTH": "16",
    "SYNCREC_MODEL__CHANNELS": "16",
    "SYNCREC_TRAINING__EPOCHS": "6",
    "SYNCREC_TRAINING__WARM_EPOCHS": "6",  # six checkpoints to be killed at
    "SYNCREC_TRAINING__THREADS": "1",
    "SYNCREC_TRAINING__MIN_CASES": "5",
    "SYNCREC_GATE__MODE": "dry_run",  # every challenger is promoted: an alias moves every night
    "SYNCREC_SCORING__TOP_N": "5",
    "SYNCREC_SPARK__MASTER": "local[1]",
    "SYNCREC_SPARK__OPTIONS": json.dumps(INTERPRET),
    "SYNCREC_SPARK__SHUFFLE_PARTITIONS": "2",
    "SYNCREC_SPARK__DRIVER_MEMORY": "1g",
    "SYNCREC_DEADLINE_HOURS": "0",
}
COMMAND = 'exec "$SYNCREC_JOBS_PYTHON" -m jobs.{name} --ds="$SYNCREC_DS" --run-id="$SYNCREC_RUN_ID"'
"""What a task of dags/syncrec_nightly.py gives to bash; a test compares."""
STEP_SECONDS = 900
FOREIGN = ("SYNCREC_", "SPARK_", "PYSPARK_", "MLFLOW_", "AIRFLOW_")


class StepFailed(Exception):
    """A step that should have ended well did not; the message holds its last words."""


def config_text(state: Path) -> str:
    """The sample project with three domains, one CSV, one JSON lines and one Parquet source, and a click log."""
    text = (REPOSITORY / "syncrec.toml").read_text(encoding="utf-8")
    for name in ("toys", "groceries"):
        text = re.sub(rf"\[domains\.{name}\]\n(repeats.*\n)?", "", text)
        text = re.sub(rf"\[\[sources\]\].*\nname = \"{name}\"\n(.+\n)*", "", text)
    return re.sub(r"(?m)^state_dir = .*", f'state_dir = "{state}"', text) + CLICKS


class Project:
    """The project in a folder.

    Parameters
    ----------
    home
        Its folder; what a call before left there is removed. Tables hold absolute paths: it cannot be moved.
    variables
        Further SYNCREC_ variables.
    keep
        Go on with what is there.
    """

    def __init__(self, home: Path, variables: Mapping[str, str] | None = None, *, keep: bool = False) -> None:
        self.home = home.resolve()
        self.state, self.saved = self.home / "state", self.home / "saved"
        self.config = self.home / "syncrec.toml"
        if not keep:
            shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True, exist_ok=True)
        self.config.write_text(config_text(self.state), encoding="utf-8")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        self.environment = kept | SMALL | {
            "PYTHONPATH": str(REPOSITORY),
            "SYNCREC_JOBS_PYTHON": sys.executable,
            "SYNCREC_HOME": str(self.home),
            "SYNCREC_CONFIG": str(self.config),
            **(variables or {}),
        }  # fmt: skip

    def settings(self) -> Settings:
        """The settings, as the jobs read them."""
        own = {key: value for key, value in self.environment.items() if key.startswith("SYNCREC_")}
        before = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("SYNCREC_")}
        os.environ.update(own)
        try:
            return load_settings(self.config)
        finally:
            for key in own:
                os.environ.pop(key, None)
            os.environ.update(before)

    # --- running ------------------------------------------------------------------------------------------

    def command(self, step: str) -> list[str]:
        """What Airflow's BashOperator starts for a step; day and run come by the environment."""
        return ["bash", "-c", COMMAND.format(name=step)]

    def start(
        self,
        command: Sequence[str],
        ds: date,
        log: Path,
        run_id: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command of a night in a session of its own, as Airflow does; its output is added to the log."""
        own = {"SYNCREC_DS": str(ds), "SYNCREC_RUN_ID": run_id or f"night-{ds}", **(variables or {})}
        with log.open("ab") as out:
            return subprocess.Popen(
                command,
                env=self.environment | own,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def run(
        self, command: Sequence[str], ds: date, run_id: str = "", variables: Mapping[str, str] | None = None
    ) -> tuple[int, str, float]:
        """Run a command of a night to its end: exit code, output, seconds."""
        log = self.home / "run.log"
        log.unlink(missing_ok=True)
        began = time.monotonic()
        process = self.start(command, ds, log, run_id, variables)
        try:
            code = process.wait(STEP_SECONDS)
        finally:
            process.kill()
        return code, log.read_text(encoding="utf-8", errors="replace"), time.monotonic() - began

    def step(self, step: str, ds: date, run_id: str = "", variables: Mapping[str, str] | None = None) -> float:
        """Run a step that must end well; its seconds.

        Raises
        ------
        StepFailed
            It did not.
        """
        code, said, seconds = self.run(self.command(step), ds, run_id, variables)
        if code not in (0, 99):
            raise StepFailed(f"{step} of {ds} ended with {code}:\n{said[-3000:]}")
        return seconds

    def job(self, name: str, *arguments: str) -> str:
        """Run another job of the project, which must end well; its output."""
        code, said, _ = self.run([sys.executable, "-m", f"jobs.{name}", *arguments], SECOND)
        if code not in (0, 99):
            raise StepFailed(f"{name} ended with {code}:\n{said[-3000:]}")
        return said

    # --- states -------------------------------------------------------------------------------------------

    def save(self, name: str) -> None:
        """Keep the state as it is now under a name."""
        target = self.saved / name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        _copy(self.state, target)

    def restore(self, name: str) -> None:
        """Put a kept state back."""
        shutil.rmtree(self.state, ignore_errors=True)
        _copy(self.saved / name, self.state)

    def has(self, name: str) -> bool:
        """Whether a state of that name is kept."""
        return (self.saved / name).is_dir()

    # --- the nights before --------------------------------------------------------------------------------

    def first_night(self) -> None:
        """History, the first night, and what lands on the second day: clicks on the first night's lists too."""
        sample = SampleSettings(seed=7, n_users=int(SMALL["SYNCREC_SAMPLE__USERS"]), start=START)
        write_days(self.state / "landing", START, SECOND, settings=sample)
        history = [sys.executable, "-m", "jobs.ingest", f"--ds={HISTORY}", f"--since={START}"]
        code, said, _ = self.run(history, HISTORY, "bootstrap")
        if code:
            raise StepFailed(f"the history ended with {code}:\n{said[-3000:]}")
        for step in STEPS:
            if step != "ingest_clicks":  # nobody has seen a list yet
                self.step(step, FIRST)
        self.job("sample_clicks", f"--ds={SECOND}", "--uplift=0")


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with its times: maintenance goes by them."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
