"""The whole night on a Spark cluster: the same tables as in local mode, also when a worker is lost.

`make test-cluster` (SYNCREC_TEST_CLUSTER=1): minutes. A master and two workers as processes of their own, each in
its own folder; all that they and the driver share is the state folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from jobs.lakehouse import NAMESPACE
from jobs.orchestrator import REPOSITORY
from jobs.sample import SampleSettings, write_days
from tests.night.spark_cluster import Cluster, cluster, wait_until

pytestmark = pytest.mark.skipif(
    os.environ.get("SYNCREC_TEST_CLUSTER") != "1", reason="minutes; run `make test-cluster`"
)

HISTORY, FIRST, SECOND = date(2024, 1, 10), date(2024, 1, 11), date(2024, 1, 12)
SMALL = {
    "SYNCREC_STATE_DIR": "state",
    "SYNCREC_SAMPLE__USERS": "400",
    "SYNCREC_NIGHT__BOOTSTRAP_THROUGH": str(HISTORY),
    "SYNCREC_SEQUENCES__MAX_LENGTH": "16",
    "SYNCREC_MODEL__CHANNELS": "16",
    "SYNCREC_TRAINING__EPOCHS": "2",
    "SYNCREC_TRAINING__MIN_CASES": "5",
    "SYNCREC_TRAINING__EVERY_DAYS": "2",  # the second night is one of a champion alone
    "SYNCREC_SCORING__TOP_N": "10",
    "SYNCREC_SPARK__DRIVER_MEMORY": "1g",
}
STEP_SECONDS = 1800
"""Of a step that takes half a minute on a quiet machine."""
Worker = subprocess.Popen[bytes]
HURT = {"build_sequences": Cluster.has_shuffled, "score": Cluster.runs_python}  # when a worker is killed
STEPS = ("ingest", "build_sequences", "train", "evaluate", "gate", "score", "publish", "move_alias")
# What differs from run to run by its nature: names of runs and snapshots, moments, measured durations.
OF_THE_RUN = {"run_id", "code_version", "published_at"}


def on_cluster(running: Cluster, events: Path) -> dict[str, str]:
    """The one line of configuration that moves the night, and what a cluster of one machine wants besides."""
    events.mkdir(parents=True, exist_ok=True)
    options = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.executor.memory": "512m",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": events.as_uri(),
    }
    return {"SYNCREC_SPARK__MASTER": running.master, "SYNCREC_SPARK__OPTIONS": json.dumps(options)}


class Nights:
    """A project in a folder, whose steps run one by one as Airflow would run them."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        home.mkdir(parents=True)
        (home / "syncrec.toml").write_text((REPOSITORY / "syncrec.toml").read_text())
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SYNCREC_", "SPARK_"))}
        self.environment = kept | SMALL | {"SYNCREC_HOME": str(home)} | environment
        write_days(
            home / "state/landing", date(2024, 1, 1), SECOND,
            settings=SampleSettings(seed=7, n_users=int(SMALL["SYNCREC_SAMPLE__USERS"]), start=date(2024, 1, 1)),
        )  # fmt: skip

    def command(self, step: str, ds: date, *arguments: str) -> list[str]:
        return [sys.executable, "-m", f"jobs.{step}", f"--ds={ds}", f"--run-id=night-{ds}", *arguments]

    def step(self, step: str, ds: date, *arguments: str) -> int:
        ended = subprocess.run(
            self.command(step, ds, *arguments), env=self.environment, cwd=self.home, capture_output=True, text=True,
            timeout=STEP_SECONDS,
        )  # fmt: skip
        assert ended.returncode in (0, 99), f"{step} {ds}: {ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
        return ended.returncode

    def hurt(self, step: str, ds: date, hurt: Callable[[], None]) -> None:
        """Run a step and do damage while it works; the step must end well all the same."""
        log = self.home / f"{step}-{ds}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.command(step, ds), env=self.environment, cwd=self.home, stdout=out, stderr=out
            )
            try:
                hurt()
                assert process.poll() is None, f"{step} had ended before the damage: {log.read_text()}"
                process.wait(timeout=STEP_SECONDS)
            finally:
                process.kill()
        assert process.returncode == 0, f"{step} {ds}: {log.read_text()[-4000:]}"

    def history(self) -> None:
        self.step("ingest", HISTORY, "--since=2024-01-01")

    def night(self, ds: date) -> None:
        skipped = False
        for step in STEPS:
            if step == "evaluate" and skipped:  # as in Airflow: there is nothing to evaluate
                continue
            skipped = self.step(step, ds) == 99

    def hashes(self) -> dict[str, str]:
        """The content of every table, whatever the order of its rows and whoever wrote them."""
        warehouse = self.home / "state/warehouse"
        catalog = SqlCatalog("syncrec", uri=f"sqlite:///{warehouse}/catalog.db", warehouse=str(warehouse))
        return {
            name: content_hash(catalog.load_table((namespace, name)).scan().to_arrow())
            for namespace, name in catalog.list_tables(NAMESPACE)
        }


def content_hash(table: pa.Table) -> str:
    """A hash of a table's rows as a bag."""
    names = [n for n in table.column_names if n not in OF_THE_RUN and not n.endswith("_snapshot")]
    rows = table.select(names).to_pylist()
    lines = sorted(json.dumps(row, sort_keys=True, default=str) for row in rows)
    return f"{len(lines)} rows, {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def lost_executors(events: Path, step: str, ds: date) -> tuple[set[str], set[str]]:
    """From Spark's event logs of a step: the executors that ran tasks, and those that were lost."""
    ran, lost = set(), set()
    for file in (path for path in events.rglob("*") if path.is_file() and not path.name.endswith(".crc")):
        lines = [json.loads(line) for line in file.read_text().split("\n")[:-1] if line.startswith("{")]
        if not any(line.get("App Name") == f"syncrec {step} {ds}" for line in lines):
            continue
        ran |= {line["Executor ID"] for line in map(_task, lines) if line}
        lost |= {line["Executor ID"] for line in lines if line["Event"] == "SparkListenerExecutorRemoved"}
    return ran, lost


def _task(line: dict[str, dict[str, str]]) -> dict[str, str] | None:
    return line.get("Task Info") if str(line["Event"]) == "SparkListenerTaskStart" else None


def kill_one(running: Cluster, sign: Callable[[Cluster, Worker], bool]) -> None:
    """Kill the first worker that shows a sign of work."""

    def busy() -> list[Worker]:
        return [worker for worker in running.workers if sign(running, worker)]

    running.kill(wait_until(busy, 300, "a worker that works")[0])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Callable[[date], dict[str, str]]:
    """Ask for the tables after a night in local mode; the nights before it run first, each of them once."""
    nights = Nights(tmp_path_factory.mktemp("local") / "home", {})
    found: dict[date, dict[str, str]] = {}

    def after(ds: date) -> dict[str, str]:
        if not found:
            nights.history()
        for night in (FIRST, SECOND):
            if night <= ds and night not in found:
                nights.night(night)
                found[night] = nights.hashes()
        return found[ds]

    return after


def test_two_nights_on_a_cluster_make_the_same_tables_as_in_local_mode(
    local: Callable[[date], dict[str, str]], tmp_path: Path
) -> None:
    with cluster(tmp_path / "cluster") as running:
        nights = Nights(tmp_path / "home", on_cluster(running, tmp_path / "events"))
        nights.history()
        for ds in (FIRST, SECOND):
            nights.night(ds)
    found = nights.hashes()
    print(*[f"{name:24} {text}" for name, text in sorted(found.items())], sep="\n")
    assert found == local(SECOND)


def test_a_lost_worker_costs_time_and_nothing_else(local: Callable[[date], dict[str, str]], tmp_path: Path) -> None:
    events = tmp_path / "events"
    with cluster(tmp_path / "cluster") as running:
        nights = Nights(tmp_path / "home", on_cluster(running, events))
        nights.history()
        for step in STEPS:
            if step not in HURT:
                nights.step(step, FIRST)
                continue
            nights.hurt(step, FIRST, partial(kill_one, running, HURT[step]))
            wait_until(lambda: running.alive() == 1, 120, "the master notices the loss")
            running.add_worker()
    for step in HURT:
        ran, lost = lost_executors(events, step, FIRST)
        assert lost & ran, f"{step}: no executor that had worked was lost: ran {ran}, lost {lost}"
    assert nights.hashes() == local(FIRST)
