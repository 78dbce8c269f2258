"""The session's own parts: small frames without a Python worker, the quick compiler, the daemon of scoring."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from datetime import date

import pytest
from pyspark.sql import SparkSession

from jobs.schemas import SEQUENCES
from jobs.spark import frame_of, signs_of_life
from tests.conftest import SettingsFactory

ROWS = [("a", date(2024, 1, 29), [1, 2]), ("b", None, [])]


@pytest.mark.parametrize(
    ("rows", "ddl"), [(ROWS, "name string, day date, numbers array<int>"), ([], SEQUENCES.spark_ddl)]
)
def test_a_frame_of_the_drivers_rows_needs_no_python_worker(
    spark: SparkSession, rows: list[tuple[object, ...]], ddl: str
) -> None:
    frame = frame_of(spark, rows, ddl)
    assert [tuple(row) for row in frame.collect()] == rows
    assert "LocalRelation" in frame._jdf.queryExecution().optimizedPlan().toString()


def test_long_work_says_how_far_it_is_and_idle_sessions_say_nothing(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    slow = spark.range(0, 6, 1, 6).selectExpr("reflect('java.lang.Thread', 'sleep', 400L) as slept")
    with caplog.at_level(logging.INFO, logger="syncrec"), signs_of_life(spark, 0.3):
        slow.collect()
        n_lines = len(caplog.records)
        time.sleep(3)
    lines = [record.getMessage() for record in caplog.records if record.name == "syncrec"]
    late = [record.name for record in caplog.records[n_lines:]]
    assert lines and "syncrec" not in late
    said = [
        re.fullmatch(r"Spark is at work, \d+ s so far: (\d) of 6 parts of this pass done", line) for line in lines
    ]
    assert all(said) and all(int(match[1]) < 6 for match in said if match)


WORKERS = """
import sys
from jobs import worker_daemon
from jobs.settings import Settings
from jobs.spark import spark_session

def look(batches):
    import pyarrow as pa
    held = "torch" in sys.modules
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"held": [held] * len(batch)})

with spark_session(Settings.model_validate_json(sys.argv[1]), "x", daemon=worker_daemon.NAME, quick=True) as spark:
    worker_daemon.start_daemon(spark)
    runtime = spark._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()
    print([option for option in runtime.getInputArguments() if "Tiered" in option])
    print(spark.range(4, numPartitions=2).mapInArrow(look, "held boolean").distinct().collect())
"""


def test_the_workers_of_scoring_have_torch_and_its_jvm_is_quick(settings: SettingsFactory) -> None:
    config = settings(spark={"driver_memory": "1g"}).model_dump_json()
    environment = {name: value for name, value in os.environ.items() if name != "JDK_JAVA_OPTIONS"}
    command = [sys.executable, "-c", WORKERS, config]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["['-XX:TieredStopAtLevel=1']", "[Row(held=True)]"]
