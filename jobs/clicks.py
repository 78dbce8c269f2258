"""Click logs become impressions: which item was shown to whom, in which arm, and whether it was clicked.

A line becomes an impression, a copy of one, or a refused line with its reason, by the rules of `jobs.ingest`. Lines
of one landing day that agree in user, item, domain and time are one impression, clicked if one of them says so.
The arm that was shown is what the log says; where it says nothing, that of the user's lists in the night whose
lists were shown that day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pyiceberg.expressions import And, GreaterThanOrEqual, In, LessThanOrEqual
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.account import Account
from jobs.audit_rules import impressions_suite
from jobs.audits import AuditResult, import_ahead, record_audits, require, run_suite
from jobs.command import Run
from jobs.errors import JobError
from jobs.ingest import EVENT, fresh_cache, reject_reason, stage
from jobs.ingest_checks import (
    check_accounting,
    check_shares,
    check_volume,
    count_reasons,
    days_in_words,
    observations,
    row_count,
    tell,
)
from jobs.lakehouse import Lakehouse
from jobs.landing import LandingFile, count_lines, find_files, landing_days
from jobs.readers import RAW_CLICKS, read_landing, readable_errors
from jobs.schemas import ANYONE, ARMS, IMPRESSIONS, NIGHTS, RECOMMENDATIONS, REJECTED_IMPRESSIONS, ROLLED_BACK
from jobs.settings import Source
from jobs.spark import QUICK_ROWS, frame_of, spark_session

TABLE = IMPRESSIONS.name
YES, NO = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What lines of click logs became; every line is in one of the three. `duplicates`: copies, by `copies`."""

    impressions: DataFrame
    rejected: DataFrame
    duplicates: DataFrame


def click_reason(domains: Sequence[str]) -> Column:
    """Why a raw row of a click log is refused; null for a sound one."""
    clicked = F.coalesce(F.lower("clicked").isin(*YES, *NO), F.lit(False))
    return F.coalesce(
        reject_reason(domains),
        F.when(~clicked, "bad_clicked").when(~F.col("arm").isin(*ARMS), "unknown_arm"),
    )


def transform(judged: DataFrame, nights: DataFrame, listed: DataFrame) -> Shown:
    """Part judged raw rows into impressions, refused lines and copies.

    Parameters
    ----------
    judged
        Raw rows (`readers.RAW_CLICKS`) with their `reason`.
    nights
        event_day, night_ds: the night whose lists were shown that day.
    listed
        user_id, night_ds, listed_arm: who had lists of which arm.
    """
    shown = (
        judged.where("reason is null")
        .groupBy(*EVENT, "arrival_ds")
        .agg(
            F.max(F.lower("clicked").isin(*YES)).alias("clicked"),
            F.min("arm").alias("logged_arm"),
            F.min("source").alias("source"),
            F.count(F.lit(1)).alias("rows"),
        )
        .withColumn("event_day", F.to_date("ts"))
        .persist(StorageLevel.DISK_ONLY)
    )
    impressions = (
        shown.join(F.broadcast(nights), "event_day", "left")
        .join(listed, ["user_id", "night_ds"], "left")
        .withColumn("arm", F.coalesce("logged_arm", "listed_arm"))
        .select(*IMPRESSIONS.column_names)
    )
    copies = shown.select("arrival_ds", (F.col("rows") - 1).alias("copies")).where("copies > 0")
    rejected = judged.where("reason is not null").select(*REJECTED_IMPRESSIONS.column_names)
    return Shown(impressions=impressions, rejected=rejected, duplicates=copies)


def nights_shown(nights: Sequence[Mapping[str, Any]], days: Sequence[date]) -> dict[date, date]:
    """The night whose lists were shown on each day: the newest published one before it, withdrawn ones apart."""
    published = sorted(row["ds"] for row in nights if row["decision"] != ROLLED_BACK)
    found = {day: max((ds for ds in published if ds < day), default=None) for day in days}
    return {day: ds for day, ds in found.items() if ds is not None}


def _lists_of_days(spark: SparkSession, lakehouse: Lakehouse, judged: DataFrame) -> tuple[DataFrame, DataFrame]:
    """The nights whose lists were shown on the days of these rows, and who had lists of which arm in them."""
    rows = judged.where("reason is null").select(F.to_date("ts").alias("day")).distinct().collect()
    columns = ("ds", "decision")
    nights = lakehouse.read_arrow(NIGHTS.name, lakehouse.current_snapshot(NIGHTS.name), columns=columns).to_pylist()
    by_day = nights_shown(nights, [row["day"] for row in rows])
    shown = frame_of(spark, by_day.items(), "event_day date, night_ds date")
    if not by_day:
        return shown, frame_of(spark, [], "user_id string, night_ds date, listed_arm string")
    wanted = sorted(set(by_day.values()))
    where = In("ds", {day.isoformat() for day in wanted})
    lists = lakehouse.read(spark, RECOMMENDATIONS.name, lakehouse.current_snapshot(RECOMMENDATIONS.name), where)
    first = lists.where(F.col("ds").isin(wanted) & (F.col("rank") == 1) & (F.col("user_id") != ANYONE))
    own = first.select("user_id", F.col("ds").alias("night_ds"), F.col("arm").alias("listed_arm"))
    return shown, own.groupBy("user_id", "night_ds").agg(F.min("listed_arm").alias("listed_arm"))


def ingest(run: Run) -> str:
    """Read, stage, audit and publish the days."""
    settings, landing = run.settings, run.settings.landing_path
    first: date = run.arguments.since or run.ds
    if first > run.ds:
        raise JobError(f"--since {first} lies after --ds {run.ds}")
    days, marker = landing_days(landing, first, run.ds), settings.landing.marker
    files, strangers = find_files(landing, days, settings.click_sources, marker, elsewhere=settings.sources)
    _refuse_shared(files, settings.sources)
    lines = count_lines(files)
    lakehouse = Lakehouse(settings)
    lakehouse.create_tables()
    import_ahead()
    with (
        spark_session(settings, f"ingest_clicks {run.ds}", quick=lines < QUICK_ROWS) as spark,
        readable_errors(),
        fresh_cache(spark),
    ):
        raw = read_landing(spark, landing, files, empty=RAW_CLICKS)
        judged = raw.withColumn("reason", click_reason(settings.domain_names)).persist(StorageLevel.DISK_ONLY)
        counts = count_reasons(judged)
        parts = transform(judged, *_lists_of_days(spark, lakehouse, judged))
        staged = _stage(run, lakehouse, parts, max(counts.sound_by_day().values(), default=0))
        copies = parts.duplicates.agg(F.sum("copies")).first()
        account = Account(
            lines=lines,
            events=row_count(staged[TABLE]),
            rejected=row_count(staged[REJECTED_IMPRESSIONS.name]),
            duplicates=int(copies[0] or 0) if copies else 0,
        )
        tell(counts, account, strangers, TABLE)
        results = [
            check_accounting(account, TABLE),
            *check_shares(counts, settings.click_sources, TABLE),
            *check_volume(lakehouse, account, first, run.ds, TABLE),
            *observations(account, strangers, TABLE),
        ]
        _audit(run, spark, lakehouse, first, staged[TABLE], results)
    return _publish(run, lakehouse, first, staged)


def _audit(
    run: Run, spark: SparkSession, lakehouse: Lakehouse, first: date, files: list[str], found: list[AuditResult]
) -> None:
    """Look at the staged impressions; record what was found; stop if a rule is broken."""
    if files:
        impressions = spark.read.schema(IMPRESSIONS.spark_ddl).parquet(*files)
        found = found + run_suite(TABLE, impressions, impressions_suite(run.settings, first, run.ds))
    record_audits(lakehouse, found, run.ds, run.run_id)
    require(found, staged=[Path(file.removeprefix("file://")).parent.parent for file in files[:1]])


def _refuse_shared(files: Sequence[LandingFile], sources: Sequence[Source]) -> None:
    """A file of events is no click log: the night reads it as events, whatever is said here."""
    for file in files:
        for source in sources:
            if file.path in file.path.parent.glob(source.files):
                raise JobError(f"{file} is a file of [[sources]] '{source.name}', too: give them patterns apart")


def _stage(run: Run, lakehouse: Lakehouse, parts: Shown, largest: int) -> dict[str, list[str]]:
    """Write the parts into staging folders; the files of each table."""
    frames = {REJECTED_IMPRESSIONS: parts.rejected, IMPRESSIONS: parts.impressions}
    return {
        table.name: stage(
            frame, lakehouse.stage_folder(table.name, run.ds, run.run_id), table.partition, largest=largest
        )
        for table, frame in frames.items()
    }


def _publish(run: Run, lakehouse: Lakehouse, first: date, staged: Mapping[str, list[str]]) -> str:
    """Replace what arrived on these days: refused lines, then impressions."""
    days = And(
        GreaterThanOrEqual("arrival_ds", first.isoformat()), LessThanOrEqual("arrival_ds", run.ds.isoformat())
    )
    for name in (REJECTED_IMPRESSIONS.name, IMPRESSIONS.name):
        lakehouse.replace(name, days, staged[name], ds=run.ds, run_id=run.run_id)
    return f"published the impressions of {days_in_words(first, run.ds)}: {row_count(staged[IMPRESSIONS.name]):,}"
