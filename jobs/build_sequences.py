"""Build the padded cross- and single-domain sequence tables of one night from all events up to its cutoff.

One shuffle by user serves both tables: each user's history is collected and sorted once, by the total order
(ts, event_id), then cut by time into the splits:

    train   events before the validation window
    valid   ... and the validation window; its events are the ones to predict
    test    ... and the test window, which ends with ds; its events are the ones to predict
    serve   everything before the cutoff: what tonight's recommendations start from

A row holds the last T events. Rows of valid and test exist only where the window holds an event of the user.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pyiceberg.expressions import EqualTo, LessThanOrEqual
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.audit_rules import sequences_suites
from jobs.audits import record_audits, require, run_suite
from jobs.command import Run, run_job
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse, data_files
from jobs.night import Night
from jobs.schemas import CROSS_SEQUENCES, SINGLE_SEQUENCES
from jobs.spark import spark_session

log = logging.getLogger("syncrec")
EVER = datetime(1900, 1, 1, tzinfo=UTC)


class Window(NamedTuple):
    """One split: events before `cut` count; a user needs an event at or after `start` to have a row in it."""

    split: str
    start: datetime
    cut: datetime


def split_windows(cutoff: datetime, valid_days: int, test_days: int) -> tuple[Window, ...]:
    """The four splits of the night that ends at `cutoff`, cut by event time."""
    test_start = cutoff - timedelta(days=test_days)
    valid_start = test_start - timedelta(days=valid_days)
    return (
        Window("train", EVER, valid_start),
        Window("valid", valid_start, test_start),
        Window("test", test_start, cutoff),
        Window("serve", EVER, cutoff),
    )


def user_histories(
    interactions: DataFrame, items: DataFrame, domains: Sequence[str], cutoff: datetime
) -> DataFrame:
    """Each user's whole history before the cutoff in the total order, exact duplicates once.

    Parameters
    ----------
    interactions
        The interactions table, events that arrived up to ds only.
    items
        The items table, items known at ds only.
    domains
        The domain names; place + 1 is the domain code.
    cutoff
        Nothing at or after it counts.

    Returns
    -------
    DataFrame
        user_id, history: array of (time in microseconds, event_id, code, item_index).
    """
    codes = F.create_map(*[F.lit(v) for code, name in enumerate(domains, 1) for v in (name, code)])
    events = (
        interactions.where(F.col("ts") < F.lit(cutoff))
        .join(items.select("domain", "item_id", "item_index"), ["domain", "item_id"])
        .select(
            "user_id",
            F.struct(
                F.unix_micros("ts").alias("time"), "event_id", codes[F.col("domain")].alias("code"), "item_index"
            ).alias("event"),
        )
        .where(F.col("event.code").isNotNull())
    )
    history = F.col("history")
    first_of_its_kind = F.filter(
        history,
        lambda event, i: (i == 0) | (event != F.get(history, F.greatest(i - 1, F.lit(0)))),
    )
    return (
        events.groupBy("user_id")
        .agg(F.sort_array(F.collect_list("event")).alias("history"))
        .select("user_id", first_of_its_kind.alias("history"))
    )


def split_histories(histories: DataFrame, windows: Sequence[Window], max_length: int) -> DataFrame:
    """Cut every history into its splits.

    Returns
    -------
    DataFrame
        user_id, split, length, history: array of (event, place); place is the event's step in the padded cross
        sequence, -1 where it is older than the window of `max_length` events.
    """
    splits = F.explode(
        F.array(
            *[
                F.struct(
                    F.lit(w.split).alias("split"),
                    F.unix_micros(F.lit(w.cut)).alias("cut"),
                    F.unix_micros(F.lit(w.start)).alias("start"),
                )
                for w in windows
            ]
        )
    )
    cut = (
        histories.select("user_id", "history", splits.alias("window"))
        .select(
            "user_id",
            "window",
            F.filter("history", lambda event: event["time"] < F.col("window.cut")).alias("history"),
        )
        .withColumn("length", F.size("history"))
        .where((F.col("length") > 0) & (F.element_at("history", -1)["time"] >= F.col("window.start")))
    )
    placed = F.transform(
        "history",
        lambda event, i: F.struct(
            event.alias("event"), F.greatest(i - F.col("length") + max_length, F.lit(-1)).alias("place")
        ),
    )
    return cut.select("user_id", F.col("window.split").alias("split"), "length", placed.alias("history"))


def cross_sequences(splits: DataFrame, max_length: int) -> DataFrame:
    """One row a user and split: the last `max_length` events of all domains, left-padded with 0."""
    recent = splits.withColumn("recent", F.slice("history", -_kept(max_length), _kept(max_length)))
    return recent.select(
        "user_id",
        "split",
        _padded(F.transform("recent", lambda x: x["event"]["item_index"]), max_length, "int").alias("item_indexes"),
        _padded(F.transform("recent", lambda x: x["event"]["code"]), max_length, "int").alias("domain_codes"),
        _padded(F.transform("recent", lambda x: x["event"]["time"]), max_length, "bigint").alias("times"),
        "length",
    )


def single_sequences(splits: DataFrame, domains: Sequence[str], max_length: int) -> DataFrame:
    """One row a user, domain and split with events: its last `max_length` events, left-padded with 0."""
    by_domain = F.explode(
        F.array(
            *[
                F.struct(
                    F.lit(name).alias("domain"),
                    F.filter("history", _is_of(code)).alias("history"),
                )
                for code, name in enumerate(domains, 1)
            ]
        )
    )
    recent = (
        splits.select("user_id", "split", by_domain.alias("single"))
        .select("user_id", "split", "single.*")
        .withColumn("length", F.size("history"))
        .where("length > 0")
        .withColumn("recent", F.slice("history", -_kept(max_length), _kept(max_length)))
    )
    return recent.select(
        "user_id",
        "domain",
        "split",
        _padded(F.transform("recent", lambda x: x["event"]["item_index"]), max_length, "int").alias("item_indexes"),
        _padded(F.transform("recent", lambda x: x["place"]), max_length, "int", padding=-1).alias("places"),
        _padded(F.transform("recent", lambda x: x["event"]["time"]), max_length, "bigint").alias("times"),
        "length",
    )


def _is_of(code: int) -> Callable[[Column], Column]:
    return lambda x: x["event"]["code"] == code


def _kept(max_length: int) -> Column:
    return F.least(F.col("length"), F.lit(max_length))


def _padded(values: Column, max_length: int, kind: str, padding: int = 0) -> Column:
    blanks = F.array_repeat(F.lit(padding).cast(kind), max_length - F.size(values))
    return F.concat(blanks, values.cast(f"array<{kind}>"))


def build(run: Run) -> str:
    """Stage, audit and publish both sequence tables of the night."""
    settings = run.settings
    lakehouse = Lakehouse(settings)
    lakehouse.create_tables()
    night = Night(run, lakehouse)
    ds = run.ds.isoformat()
    with spark_session(settings, f"build_sequences {ds}") as spark:
        known = LessThanOrEqual("arrival_ds", ds)
        interactions = lakehouse.read(spark, "interactions", night.snapshot("interactions"), known)
        items = lakehouse.read(spark, "items", night.snapshot("items"))
        arrived = F.col("arrival_ds") <= F.lit(run.ds)
        windows = split_windows(run.cutoff, settings.sequences.valid_days, settings.sequences.test_days)
        length = settings.sequences.max_length
        splits = split_histories(
            user_histories(interactions.where(arrived), items.where(arrived), settings.domain_names, run.cutoff),
            windows,
            length,
        ).persist(StorageLevel.DISK_ONLY)
        frames = {
            CROSS_SEQUENCES.name: cross_sequences(splits, length),
            SINGLE_SEQUENCES.name: single_sequences(splits, settings.domain_names, length),
        }
        folders: dict[str, Path] = {}
        for name, frame in frames.items():
            folders[name] = lakehouse.stage_folder(name, run.ds, run.run_id)
            frame.withColumn("ds", F.lit(run.ds)).write.parquet(str(folders[name]))
        splits.unpersist()
        results = []
        for name, expectations in sequences_suites(settings, run.cutoff).items():
            staged = spark.read.parquet(str(folders[name]))
            results += run_suite(name, staged, expectations)
        record_audits(lakehouse, results, run.ds, run.run_id)
        require(results)
    return _publish(run, lakehouse, night, folders)


def _publish(run: Run, lakehouse: Lakehouse, night: Night, folders: dict[str, Path]) -> str:
    staged = {name: data_files(folder) for name, folder in folders.items()}
    if not staged[CROSS_SEQUENCES.name]:
        raise JobError(f"no event before {run.cutoff:%Y-%m-%d %H:%M} UTC: ingest a day with events first")
    for name, files in staged.items():
        snapshot = lakehouse.replace(
            name,
            EqualTo("ds", run.ds.isoformat()),
            files,
            ds=run.ds,
            run_id=run.run_id,
            properties={"interactions_snapshot": night.snapshot("interactions")},
        )
        night.pin(name, snapshot)
        log.info("%s: day %s published as snapshot %s", name, run.ds, snapshot)
    return f"sequences of {run.ds} published"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(build, argv)


if __name__ == "__main__":
    raise SystemExit(main())
