"""The Spark session that every Spark job opens."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from jobs.class_archive import archive_options
from jobs.errors import JobError
from jobs.private import umask
from jobs.settings import Settings

log = logging.getLogger("syncrec")
SIGN_AFTER_S = 15.0
QUICK_ROWS = 1_000_000
"""A job that reads fewer rows than this is done sooner with the JVM's quick compiler (docs/benchmarks/data.md)."""


@contextmanager
def spark_session(
    settings: Settings, name: str, *, daemon: str | None = None, quick: bool = False
) -> Iterator[SparkSession]:
    """Open a session by the `[spark]` settings and stop it at the end; one that is already open is shared and kept.

    Parameters
    ----------
    settings, name
        The settings, and what the session is called.
    daemon
        The module that starts Python workers (jobs.worker_daemon); None for Spark's own.
    quick
        The driver's JVM compiles with its quick compiler alone: a job of few rows ends before what the thorough one
        makes is of use. With many rows it takes longer instead.

    Raises
    ------
    JobError
        No Java 17 or newer is to be found.
    """
    if (running := SparkSession.getActiveSession()) is not None:
        yield running
        return
    java, version = find_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    scratch = settings.state / "spark"
    scratch.mkdir(parents=True, exist_ok=True)
    options = [f"-Dlog4j2.configurationFile={_quiet_log4j(scratch)}"]
    if "-XX:ArchiveClassesAtExit" not in settings.spark.java_options:  # a JVM that writes an archive may read none
        options += archive_options(java, version)
    if quick:
        options.append("-XX:TieredStopAtLevel=1")
    builder = (
        SparkSession.builder.master(settings.spark.master)
        .appName(f"syncrec {name}")
        .config("spark.driver.memory", settings.spark.driver_memory)
        .config("spark.sql.shuffle.partitions", settings.spark.shuffle_partitions)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.sql.warehouse.dir", (scratch / "warehouse").as_uri())
        .config("spark.hadoop.fs.permissions.umask-mode", umask())  # Hadoop sets the mode of each file
        .config("spark.local.dir", str(scratch / "local"))
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config(
            "spark.driver.extraJavaOptions",
            " ".join(
                [*map(_quoted, options), settings.spark.java_options]
            ).strip(),  # the user's win: they come last
        )
    )
    if settings.spark.master.startswith("local"):
        builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    if daemon is not None:
        builder = builder.config("spark.python.daemon.module", daemon)
    for key, value in settings.spark.options.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    try:
        with signs_of_life(session):
            yield session
    finally:
        session.stop()


@contextmanager
def signs_of_life(session: SparkSession, after_s: float = SIGN_AFTER_S) -> Iterator[None]:
    """Log how far Spark is while it works: after so many seconds, then twice as many, at last every 5 minutes.

    Spark's own bar needs a terminal and says nothing in a log.
    """
    over, began = threading.Event(), time.monotonic()

    def watch() -> None:
        pause = after_s
        while not over.wait(pause):
            pause = min(2 * pause, 300.0)
            try:
                tracker = session.sparkContext.statusTracker()
                stages = [tracker.getStageInfo(number) for number in tracker.getActiveStageIds()]
            except Exception:  # Java is gone: the job itself says so
                return
            parts = [stage for stage in stages if stage is not None]
            if parts:
                done, total = (
                    sum(stage.numCompletedTasks for stage in parts),
                    sum(stage.numTasks for stage in parts),
                )
                if done == total:  # the pass is over, its stage not yet told
                    continue
                seconds = time.monotonic() - began
                log.info("Spark is at work, %.0f s so far: %d of %d parts of this pass done", seconds, done, total)

    thread = threading.Thread(target=watch, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)


def frame_of(spark: SparkSession, rows: Iterable[Sequence[Any]], ddl: str) -> DataFrame:
    """A few rows of the driver's as a frame; ddl: its columns.

    They go as Arrow, and are part of the plan. `createDataFrame` of a list hands them to a Python worker to be
    pickled anew, which starts a daemon of its own for them: seconds.
    """
    schema = cast("StructType", StructType.fromDDL(ddl))
    columns = to_arrow_schema(schema)
    table = pa.Table.from_pylist([dict(zip(columns.names, row, strict=True)) for row in rows], schema=columns)
    return spark.createDataFrame(table, schema)


def _quiet_log4j(folder: Path) -> Path:
    """Spark prints its start-up warnings before any log level can be set: give log4j a file that says error."""
    file = folder / "log4j2.properties"
    text = (
        # a level of its own, else Spark sets that of its Python gateway, and says so in two lines
        "logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer\nlogger.gateway.level = error\n"
        # these two print the trace of a failed task, which the driver raises and the job says in a line
        "logger.executor.name = org.apache.spark.executor.Executor\nlogger.executor.level = off\n"
        "logger.tasks.name = org.apache.spark.scheduler.TaskSetManager\nlogger.tasks.level = off\n"
        "rootLogger.level = error\nrootLogger.appenderRef.console.ref = console\nappender.console.type = Console\n"
        "appender.console.name = console\nappender.console.target = SYSTEM_ERR\n"
        "appender.console.layout.type = PatternLayout\n"
        "appender.console.layout.pattern = %d{HH:mm:ss} spark %p %c{1}: %m%n\n"
    )
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    return file


def _quoted(option: str) -> str:
    return f'"{option}"'


def find_java() -> tuple[str, str]:
    """Find the Java that Spark will run: the program, and what it says of its version.

    Raises
    ------
    JobError
        There is none, or one older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else shutil.which("java")
    hint = "install Java 17 (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME"
    if home and not shutil.which(java or ""):
        raise JobError(
            f"Spark needs Java, and JAVA_HOME={home} holds none: point it to a Java 17 to 25, or unset it"
        )
    if java is None:
        raise JobError(f"Spark needs Java and none was found: {hint}")
    printed = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60).stderr
    version = printed.split('"')[1] if '"' in printed else ""
    if version and int(version.split(".")[0]) < 17:
        raise JobError(f"Spark needs Java 17 or newer, {java} is {version}: {hint}")
    return java, printed
