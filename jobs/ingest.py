"""Ingest: landing files of a day -> interactions, rejected_interactions and new items.

    python -m jobs.ingest --ds 2024-01-29                       one day
    python -m jobs.ingest --ds 2024-01-28 --since 2024-01-01    every landing day from then on, at once

Each line of the landing files becomes an event, a rejected line with its reason, or a counted duplicate; an audit
holds the three against the number of lines. Running a day again replaces exactly what arrived on that day.
docs/bad-input.md says what happens to what.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, LessThan, LessThanOrEqual, Or
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.account import Account
from jobs.audit_rules import FIRST_MOMENT, MAX_ID_LENGTH
from jobs.audits import (
    AuditResult,
    import_ahead,
    interactions_suite,
    items_suite,
    record_audits,
    require,
    run_suite,
)
from jobs.command import Run, log, parse_day, run_job
from jobs.errors import JobError
from jobs.ingest_checks import (
    ReasonCounts,
    check_accounting,
    check_history,
    check_shares,
    check_volume,
    count_domains,
    count_reasons,
    days_in_words,
    observations,
    row_count,
    tell,
)
from jobs.lakehouse import Lakehouse, data_files
from jobs.landing import count_lines, find_files, landing_days
from jobs.night import BOOTSTRAP, Night
from jobs.readers import read_landing, readable_errors
from jobs.schemas import ANYONE, INTERACTIONS, ITEMS, REJECTED_INTERACTIONS
from jobs.spark import QUICK_ROWS, frame_of, spark_session

EVENT = ("user_id", "item_id", "domain", "ts")
"""What makes an event: two lines that agree in these are one event."""
ROWS_PER_FILE = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What landing rows became; every row is in exactly one of the three.

    `duplicates` counts further copies of events in its column `copies`.
    """

    events: DataFrame
    rejected: DataFrame
    duplicates: DataFrame


@dataclass(frozen=True, kw_only=True)
class Staged:
    """Folders and files of each table that wait for the audit, and the items snapshot they count from."""

    folders: dict[str, Path]
    files: dict[str, list[str]]
    items_parent: int | None


def reject_reason(domains: Sequence[str]) -> Column:
    """Why a raw row is refused; null for a sound one. The first reason in this order counts."""
    too_long = F.greatest(F.length("user_id"), F.length("item_id")) > MAX_ID_LENGTH
    midnight = F.date_add("arrival_ds", 1).cast("timestamp")
    known = F.coalesce(F.col("domain").isin(*domains), F.lit(False))
    return (
        F.when(F.col("broken"), "broken_line")
        .when(F.col("user_id").isNull(), "null_user")
        .when(F.col("item_id").isNull(), "null_item")
        .when(F.col("user_id") == ANYONE, "reserved_user")
        .when(too_long, "id_too_long")
        .when(~known, "unknown_domain")
        .when(F.col("ts").isNull() | (F.col("ts") < F.lit(FIRST_MOMENT)), "bad_time")
        .when(F.col("ts") >= midnight, "future_time")
    )


def transform(judged: DataFrame, earlier: DataFrame) -> Ingested:
    """Part judged raw rows into events, rejected lines and duplicates.

    Parameters
    ----------
    judged
        Raw rows (`readers.RAW`) with their `reason`.
    earlier
        Events (user_id, item_id, domain, ts) of earlier arrival days: what came then does not count again.

    Returns
    -------
    Ingested
        Events as in the table `interactions` but for what `with_indexes` adds, of several copies the one that
        arrived first.
    """
    rejected = judged.where("reason is not null").select(*REJECTED_INTERACTIONS.column_names)
    known = earlier.select(*EVENT).distinct().withColumn("known", F.lit(True))
    distinct = (
        judged.where("reason is null")
        .groupBy(*EVENT)
        .agg(F.min(F.struct("arrival_ds", "source")).alias("first"), F.count(F.lit(1)).alias("rows"))
        .join(known, list(EVENT), "left")
        .select(*EVENT, "first.*", "rows", "known")
        .persist(StorageLevel.DISK_ONLY)
    )
    events = (
        distinct.where("known is null")
        .withColumn("event_id", F.xxhash64(*EVENT))
        .withColumn("event_day", F.to_date("ts"))
        .drop("rows", "known")
    )
    kept = F.when(F.col("known").isNull(), 1).otherwise(0)
    copies = distinct.select("source", "arrival_ds", (F.col("rows") - kept).alias("copies")).where("copies > 0")
    return Ingested(events=events, rejected=rejected, duplicates=copies)


def assign_indexes(events: DataFrame, items: DataFrame) -> DataFrame:
    """Give every item that is not in `items` yet the next index of its domain, in order of arrival, then id.

    An item's `arrival_ds` is never before that of an item with a smaller index: then the items known at any day
    are the first so many, also when an old day is ingested again and brings an item for the first time.
    """
    first_seen = events.groupBy("domain", "item_id").agg(F.min("arrival_ds").alias("arrival_ds"))
    last = items.groupBy("domain").agg(F.max("item_index").alias("taken"), F.max("arrival_ds").alias("newest"))
    unknown = first_seen.join(items.select("domain", "item_id"), ["domain", "item_id"], "left_anti")
    place = F.row_number().over(Window.partitionBy("domain").orderBy("arrival_ds", "item_id"))
    return (
        unknown.withColumn("place", place)
        .join(F.broadcast(last), "domain", "left")
        .withColumn("item_index", (F.coalesce("taken", F.lit(0)) + F.col("place")).cast("int"))
        .withColumn("arrival_ds", F.greatest("arrival_ds", "newest"))  # greatest passes over nulls
        .select(*ITEMS.column_names)
    )


def with_indexes(events: DataFrame, items: DataFrame) -> DataFrame:
    """Add each event's item index, so that nothing ever has to join all events with all items again.

    `known_ds` is the first night that counts the event. That is the day it arrived, but where an old day that is
    ingested again brings an item for the first time: its nights do not know the item, whose index is newer.
    """
    numbered = items.select("domain", "item_id", "item_index", F.col("arrival_ds").alias("numbered"))
    return (
        events.join(numbered, ["domain", "item_id"])
        .withColumn("known_ds", F.greatest("arrival_ds", "numbered"))
        .select(*INTERACTIONS.column_names)
    )


def stage(frame: DataFrame, folder: Path, by: str, *, largest: int = 0) -> list[str]:
    """Write a frame into a staging folder so that each file holds one value of `by`.

    Parameters
    ----------
    frame, folder, by
        What to write, where, and the partition column; it stays in the files.
    largest
        About how many rows the largest partition has; over ROWS_PER_FILE it becomes several files.
    """
    files_each = max(1, -(-largest // ROWS_PER_FILE))
    salt = F.pmod(F.xxhash64(*frame.columns), F.lit(files_each))
    (
        frame.withColumns({"part": F.col(by), "salt": salt})
        .repartition("part", "salt")
        .drop("salt")
        .sortWithinPartitions("part", *frame.columns)
        .write.partitionBy("part")
        .parquet(str(folder))
    )
    return data_files(folder)


def day_ranges(days: Sequence[date], most: int = 50) -> list[tuple[date, date]]:
    """At most so many ranges that hold all of the days, with the widest gaps between them left out."""
    ordered = sorted(set(days))
    width = {place: (ordered[place] - ordered[place - 1]).days for place in range(1, len(ordered))}
    gaps = sorted((place for place in width if width[place] > 1), key=lambda place: -width[place])[: most - 1]
    starts = [0, *sorted(gaps)] if ordered else []
    return [(ordered[a], ordered[b - 1]) for a, b in zip(starts, [*starts[1:], len(ordered)], strict=True)]


def earlier_where(days: Sequence[date], first: date) -> BooleanExpression:
    """Files that may hold events of these days from before `first`; one very late day opens its own alone."""
    spans = [
        And(GreaterThanOrEqual("event_day", low.isoformat()), LessThanOrEqual("event_day", high.isoformat()))
        for low, high in day_ranges(days)
    ]
    arrived = And(
        GreaterThanOrEqual("arrival_ds", min(days).isoformat()), LessThan("arrival_ds", first.isoformat())
    )
    return And(arrived, Or(*spans) if len(spans) > 1 else spans[0])


def _earlier_events(spark: SparkSession, lakehouse: Lakehouse, judged: DataFrame, first: date) -> DataFrame:
    """Published events of earlier arrival days, as far as their event days occur among these rows."""
    snapshot = lakehouse.current_snapshot(INTERACTIONS.name)
    sound = judged.where("reason is null").select(F.to_date("ts").alias("day")).distinct()
    days = [row.day for row in sound.collect()] if snapshot is not None else []
    if not days:
        return frame_of(spark, [], INTERACTIONS.spark_ddl)
    published = lakehouse.read(spark, INTERACTIONS.name, snapshot, earlier_where(days, first))
    return published.where((F.col("arrival_ds") < F.lit(first)) & F.col("event_day").isin(days))


@contextmanager
def fresh_cache(spark: SparkSession) -> Iterator[None]:
    """Keep nothing in a shared session: Spark would answer for a changed landing file out of its cache."""
    try:
        yield
    finally:
        spark.catalog.clearCache()


def ingest(run: Run) -> str:
    """Read, stage, audit and publish the days."""
    settings, landing = run.settings, run.settings.landing_path
    first: date = run.arguments.since or run.ds
    if first > run.ds:
        raise JobError(f"--since {first} lies after --ds {run.ds}")
    days = landing_days(landing, first, run.ds)
    marker, clicks = settings.landing.marker, settings.click_sources
    files, strangers = find_files(landing, days, settings.sources, marker, elsewhere=clicks)
    lines = count_lines(files)
    lakehouse = Lakehouse(settings)
    lakehouse.create_tables()
    log.info("reading %s lines of %d files", f"{lines:,}", len(files))  # before Spark's start: a sign of life
    import_ahead()
    with (
        spark_session(settings, f"ingest {run.ds}", quick=lines < QUICK_ROWS) as spark,
        readable_errors(),
        fresh_cache(spark),
    ):
        raw = read_landing(spark, landing, files)
        judged = raw.withColumn("reason", reject_reason(settings.domain_names)).persist(StorageLevel.DISK_ONLY)
        counts = count_reasons(judged)
        parts = transform(judged, _earlier_events(spark, lakehouse, judged, first))
        staged = _stage(run, spark, lakehouse, parts, largest=max(counts.sound_by_day().values(), default=0))
        copies = parts.duplicates.agg(F.sum("copies")).first()
        account = Account(
            lines=lines,
            events=row_count(staged.files[INTERACTIONS.name]),
            rejected=row_count(staged.files[REJECTED_INTERACTIONS.name]),
            duplicates=int(copies[0] or 0) if copies else 0,
        )
        unknown = (
            count_domains(judged, "unknown_domain") if counts.by_reason()["unknown_domain"] else Counter[str]()
        )
        tell(counts, account, strangers, unknown=unknown)
        extra = [
            check_accounting(account),
            *check_shares(counts, settings.sources),
            *_check_history(run, lakehouse, judged, counts, unknown),
            *check_volume(lakehouse, account, first, run.ds),
            *observations(account, strangers),
        ]
        _audit(run, spark, lakehouse, first, staged, extra)
    return _publish(run, lakehouse, first, staged)


def _check_history(
    run: Run, lakehouse: Lakehouse, judged: DataFrame, counts: ReasonCounts, unknown: Counter[str]
) -> list[AuditResult]:
    """Look at the days that a project begins with. `make nightly` stops there, by hand it is a warning."""
    if run.arguments.since is None or lakehouse.current_snapshot(INTERACTIONS.name) is not None:
        return []
    events, settings = count_domains(judged, None), run.settings
    found = check_history(counts, settings.sources, settings.domain_names, events, unknown)
    if run.run_id == BOOTSTRAP:
        return [found]
    if not found.success:
        log.warning("warning: %s: %s", found.observed, found.hint)
    return []


def _stage(run: Run, spark: SparkSession, lakehouse: Lakehouse, parts: Ingested, largest: int) -> Staged:
    """Write the parts, and the items they bring, into staging folders."""
    folders = {
        name: lakehouse.stage_folder(name, run.ds, run.run_id)
        for name in (REJECTED_INTERACTIONS.name, ITEMS.name, INTERACTIONS.name)
    }
    by = REJECTED_INTERACTIONS.partition
    parent = lakehouse.current_snapshot(ITEMS.name)
    items = lakehouse.read(spark, ITEMS.name, parent)
    rejected = stage(parts.rejected, folders[REJECTED_INTERACTIONS.name], by)
    fresh = stage(assign_indexes(parts.events, items), folders[ITEMS.name], ITEMS.partition)
    if fresh:
        items = items.unionByName(spark.read.schema(ITEMS.spark_ddl).parquet(*fresh))
    events = with_indexes(parts.events, items)
    files = {
        REJECTED_INTERACTIONS.name: rejected,
        ITEMS.name: fresh,
        INTERACTIONS.name: stage(events, folders[INTERACTIONS.name], by, largest=largest),
    }
    return Staged(folders=folders, files=files, items_parent=parent)


def _audit(
    run: Run, spark: SparkSession, lakehouse: Lakehouse, first: date, staged: Staged, extra: Sequence[AuditResult]
) -> None:
    """Look at the staged files; record what was found; stop if a rule is broken."""
    results = list(extra)
    if staged.files[INTERACTIONS.name]:
        events = spark.read.schema(INTERACTIONS.spark_ddl).parquet(*staged.files[INTERACTIONS.name])
        if first == run.ds:  # in a history most events are older than the day that brought them
            late = events.where("event_day < arrival_ds").count()
            log.info("late events (an earlier day than they arrived on): %s", f"{late:,}")
        results += run_suite(INTERACTIONS.name, events, interactions_suite(run.settings, first, run.ds))
    if staged.files[ITEMS.name]:
        fresh = spark.read.schema(ITEMS.spark_ddl).parquet(*staged.files[ITEMS.name])
        for domain, count in sorted(fresh.groupBy("domain").count().collect()):
            log.info("new items in %s: %s", domain, f"{count:,}")
        whole = lakehouse.read(spark, ITEMS.name, staged.items_parent).unionByName(fresh)
        results += run_suite(ITEMS.name, *items_suite(whole))
    record_audits(lakehouse, results, run.ds, run.run_id)
    left = [staged.folders[name] for name in (INTERACTIONS.name, REJECTED_INTERACTIONS.name) if staged.files[name]]
    require(results, staged=left)


def _publish(run: Run, lakehouse: Lakehouse, first: date, staged: Staged) -> str:
    """Commit rejected lines, then items, then events, and pin what the night reads.

    Items come before the events that mention them: whoever reads in between, or after a kill in between, finds
    every item of every event; a retry finds the items there and adds none.
    """
    night = Night(run, lakehouse)
    days = And(
        GreaterThanOrEqual("arrival_ds", first.isoformat()), LessThanOrEqual("arrival_ds", run.ds.isoformat())
    )
    ds, run_id, files = run.ds, run.run_id, staged.files
    lakehouse.replace(REJECTED_INTERACTIONS.name, days, files[REJECTED_INTERACTIONS.name], ds=ds, run_id=run_id)
    items = lakehouse.append(ITEMS.name, files[ITEMS.name], parent=staged.items_parent, ds=ds, run_id=run_id)
    lakehouse.replace(INTERACTIONS.name, days, files[INTERACTIONS.name], ds=ds, run_id=run_id)
    interactions = lakehouse.current_snapshot(INTERACTIONS.name)
    for table, snapshot in ((INTERACTIONS.name, interactions), (ITEMS.name, items)):
        if snapshot is not None:
            night.pin(table, snapshot)
    return f"published {days_in_words(first, run.ds)}; interactions snapshot {interactions}, items snapshot {items}"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since", type=parse_day, help="first landing day; every landing day from it to --ds is read at once"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    return run_job(ingest, argv, arguments=_add_arguments)


if __name__ == "__main__":
    raise SystemExit(main())
