"""A full disk, MLflow or the catalog away, Java killed: one line says why, a retry is as if nothing had been.

`make test-lost` (SYNCREC_TEST_LOST=1): many minutes. Every step is the command that Airflow runs.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from sqlalchemy import create_engine, text

from tests.chaos import contents
from tests.chaos.kill import Moment, watched
from tests.chaos.nights import Chaos
from tests.chaos.project import SECOND
from tests.chaos.services import MLflowServer, Postgres, leave_free, small_volume

pytestmark = pytest.mark.skipif(not os.environ.get("SYNCREC_TEST_LOST"), reason="many minutes: make test-lost")
AT_ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"}
"""MLflow's client waits for minutes by itself; here it gives up soon."""
OF_SPARK = "Exception occurred during processing of request from"
"""Begins the trace that a thread of pyspark prints when its Java is gone; nobody can keep it from that."""
LAST = 40
"""So many of the last things that a step did to files say where it failed: it closes its databases afterwards."""


class Hurt:
    """One step of the prepared night, run under difficulties."""

    def __init__(self, chaos: Chaos, step: str) -> None:
        self.chaos, self.step, self.log = chaos, step, chaos.home / "lost.log"
        chaos.project.restore(f"before-{step}")
        self.variables: dict[str, str] = {}
        self.code, self.last = 0, list[str]()

    def run(self, moment: Moment | None = None, act: Callable[[], None] | None = None, **more: str) -> int:
        """Run the step; do something to it at a moment. Its exit code."""
        self.log.unlink(missing_ok=True)
        project = self.chaos.project
        process = project.start(project.command(self.step), SECOND, self.log, variables={**self.variables, **more})
        end = watched(process, project.state, moment, act)
        assert end.code is not None
        self.code = end.code
        self.last = [one.kind for one in end.happenings][-LAST:]
        return end.code

    def fails(
        self, *words: str, moment: Moment | None = None, act: Callable[[], None] | None = None, **more: str
    ) -> str:
        """The step fails with one line that holds these words, and no table is half."""
        self.run(moment, act, **more)
        return self.failed(*words)

    def failed(self, *words: str) -> str:
        """The last run ended with one line that holds these words."""
        code, said = self.code, self.said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        traces = said.count("Traceback") - said.count(OF_SPARK)
        assert code == 1 and len(errors) == 1 and traces == 0, f"exit code {code}:\n{said[-4000:]}"
        for word in words:
            assert word in errors[0], errors[0]
        return errors[0]

    @property
    def said(self) -> str:
        """The output of the last run."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def nothing_is_half(self) -> None:
        own = self.chaos.undisturbed(self.step)
        before, after = contents.of_readers(own.before), contents.of_readers(own.after)
        assert contents.between(contents.tables(self.chaos.settings), before, after) == []

    def goes_on(self, **more: str) -> None:
        """A retry ends well, and all is as in the undisturbed night."""
        code = self.run(**more)
        assert code == 0, self.said[-4000:]
        assert (
            contents.differences(contents.whole(self.chaos.settings), self.chaos.undisturbed(self.step).after) == []
        )


@pytest.fixture
def hurt(chaos: Chaos) -> Callable[[str], Hurt]:
    return lambda step: Hurt(chaos, step)


# --- a full disk ------------------------------------------------------------------------------------------


def kib_of(folder: Path) -> int:
    return sum(-(-file.stat().st_size // 4096) * 4 for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("step", "shares", "place"),
    [
        ("ingest", (0.05, 0.5, 0.85), "/data/"),  # staging, and between the commits of three tables
        ("train", (0.05, 0.2, 0.4, 0.6, 0.8), "checkpoints/"),
        ("score", (0.1, 0.5, 0.9), "/data/"),
        ("publish", (0.05, 0.2, 0.35, 0.5, 0.6, 0.7), "/metadata/"),  # it does nothing but commit
    ],
)
def test_no_room_for_a_share_of_what_a_step_writes(
    hurt: Callable[[str], Hurt], chaos: Chaos, step: str, shares: tuple[float, ...], place: str
) -> None:
    one, state = hurt(step), chaos.project.state
    following = {"ingest": "ingest_clicks", "train": "evaluate", "score": "publish", "publish": "move_alias"}[step]
    saved = chaos.project.saved
    if step == "score":  # the copy of the model is many times what it stages
        shutil.copytree(saved / "before-publish/warehouse/_models", state / "warehouse/_models", dirs_exist_ok=True)
    needs = kib_of(saved / f"before-{following}") - kib_of(state)
    failures, places = [], []
    with small_volume(state, 64):
        for share in shares:
            ballast = leave_free(state, int(share * needs))
            if one.run() == 0:  # room enough: what one writes is less than what is there afterwards
                break
            failures.append(one.failed("the disk is full", "make room"))
            places.append([kind for kind in one.last if place in kind])
            one.nothing_is_half()
            ballast.unlink()
        ballast.unlink(missing_ok=True)
        one.goes_on()
    print(*zip(failures, places, strict=True), sep="\n")
    assert len(failures) >= 2, "too few of them were too small"
    assert any(places), f"none of them in {place}"


# --- MLflow -----------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow_server(chaos: Chaos, tmp_path: Path) -> Iterator[MLflowServer]:
    folder = chaos.project.state / "mlflow"
    server = MLflowServer(folder / "mlflow.db", folder / "artifacts", tmp_path / "mlflow.log")
    yield server
    server.kill()


SECOND_CHECKPOINT = Moment(0.0, "checkpoints/*.partial written", 2)
LAST_CHECKPOINT = Moment(0.0, "checkpoints/*.partial written", 6)
MODEL = Moment(0.0, "mlflow/artifacts/models/m-#/artifacts/* begun", 1)


def test_mlflow_is_down_when_training_starts(hurt: Callable[[str], Hurt], mlflow_server: MLflowServer) -> None:
    one = hurt("train")
    one.variables = {"SYNCREC_MLFLOW__TRACKING_URI": mlflow_server.address}
    one.fails("cannot reach MLflow at", mlflow_server.address, **AT_ONCE)
    one.nothing_is_half()
    mlflow_server.start()
    one.goes_on()


@pytest.mark.parametrize(
    "moment", [SECOND_CHECKPOINT, LAST_CHECKPOINT, MODEL], ids=["middle", "end", "registering"]
)
def test_mlflow_goes_away_while_training_works(
    hurt: Callable[[str], Hurt], mlflow_server: MLflowServer, moment: Moment
) -> None:
    one = hurt("train")
    one.variables = {"SYNCREC_MLFLOW__TRACKING_URI": mlflow_server.address}
    mlflow_server.start()
    one.fails("a service does not answer", mlflow_server.address, moment=moment, act=mlflow_server.kill, **AT_ONCE)
    one.nothing_is_half()
    mlflow_server.start()
    one.goes_on()


def test_training_waits_for_an_mlflow_that_comes_back(
    hurt: Callable[[str], Hurt], mlflow_server: MLflowServer
) -> None:
    one = hurt("train")
    one.variables = {"SYNCREC_MLFLOW__TRACKING_URI": mlflow_server.address}
    mlflow_server.start()

    def restart() -> None:
        mlflow_server.kill()
        time.sleep(2)
        mlflow_server.start()

    assert one.run(SECOND_CHECKPOINT, restart) == 0, one.said[-4000:]
    assert contents.differences(contents.whole(one.chaos.settings), one.chaos.undisturbed("train").after) == []


# --- the catalog ------------------------------------------------------------------------------------------


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with TemporaryDirectory(
        prefix="syncrec-postgres-"
    ) as folder:  # pytest's own are private, and it is another user
        Path(folder).chmod(0o711)
        server = Postgres(Path(folder) / "postgres")
        server.start()
        yield server
        server.kill()


def move_catalog(source: Path, address: str) -> None:
    """Let PostgreSQL hold what the project's SQLite catalog holds."""
    SqlCatalog("syncrec", uri=address, warehouse="file:///nowhere")  # makes the tables
    with closing(sqlite3.connect(source)) as old, create_engine(address).begin() as new:
        for table in ("iceberg_tables", "iceberg_namespace_properties"):
            rows = old.execute(f"select * from {table}")
            names = [column[0] for column in rows.description]
            values = ", ".join(f":{name}" for name in names)
            for row in rows.fetchall():
                new.execute(
                    text(f"insert into {table} ({', '.join(names)}) values ({values})"),
                    dict(zip(names, row, strict=True)),
                )


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("ingest", Moment(0.0, "warehouse/syncrec/interactions/data/#/*.parquet begun", 1)),
        ("score", Moment(0.0, "warehouse/syncrec/recommendations/data/#/*.parquet begun", 1)),
        ("publish", Moment(0.0, "warehouse/syncrec/recommendations/metadata/*.avro written", 1)),
        ("publish", Moment(0.0, "warehouse/syncrec/nights/metadata/*.metadata.json written", 1)),
    ],
    ids=["ingest stages", "score stages", "publish commits lists", "publish commits the night"],
)
def test_the_catalog_goes_away(hurt: Callable[[str], Hurt], postgres: Postgres, step: str, moment: Moment) -> None:
    one = hurt(step)
    move_catalog(one.chaos.settings.warehouse / "catalog.db", postgres.address)
    one.variables = {"SYNCREC_CATALOG__URI": postgres.address}
    own = one.chaos.settings.catalog.model_copy(update={"uri": postgres.address})
    settings = one.chaos.settings.model_copy(update={"catalog": own})
    one.fails("a service does not answer", moment=moment, act=postgres.kill)
    one.fails("cannot open the Iceberg catalog", "a service does not answer at")
    postgres.start()
    undisturbed = one.chaos.undisturbed(step)
    before, after = contents.of_readers(undisturbed.before), contents.of_readers(undisturbed.after)
    assert contents.between(contents.tables(settings), before, after) == []
    assert one.run() == 0, one.said[-4000:]
    assert contents.differences(contents.whole(settings), undisturbed.after) == []


def test_somebody_keeps_the_catalog_locked(hurt: Callable[[str], Hurt]) -> None:
    one = hurt("publish")
    with closing(sqlite3.connect(one.chaos.settings.warehouse / "catalog.db", isolation_level=None)) as connection:
        connection.execute("begin immediate")  # others may read, nobody may write
        one.fails("another process keeps the SQLite database locked")
        connection.execute("rollback")
    one.nothing_is_half()
    one.goes_on()


# --- Java -------------------------------------------------------------------------------------------------


def kill_java(home: Path) -> None:
    """SIGKILL the Java process of the job that works in a folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "java" and Path(process.cwd()) == home:
                process.kill()


@pytest.mark.parametrize("step", ["ingest", "score"])
def test_sparks_java_process_is_killed(hurt: Callable[[str], Hurt], step: str) -> None:
    one, table = hurt(step), {"ingest": "interactions", "score": "recommendations"}[step]
    moment = Moment(0.0, f"warehouse/syncrec/{table}/data/#/*.parquet begun", 1)
    one.fails("Spark's Java process ended", moment=moment, act=lambda: kill_java(one.chaos.home))
    one.nothing_is_half()
    one.goes_on()
