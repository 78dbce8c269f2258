"""The session's own parts: small frames without a Python worker, the quick compiler, the daemon of scoring."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date

import pytest
from pyspark.sql import SparkSession

from jobs.schemas import SEQUENCES
from jobs.spark import frame_of
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
