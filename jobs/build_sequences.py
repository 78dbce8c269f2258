"""Merge the new events of a night into the rows of their users, in the table `sequences`.

    python -m jobs.build_sequences --ds 2024-01-29           what changed since the night before; all where it must
    python -m jobs.build_sequences --ds 2024-01-29 --full    all users from all events

A night reads the events that arrived since the night before it and the rows of their users, and writes these rows
anew (jobs.sequence_rows). It builds everything anew, and says why, where there is no earlier night, where settings
that rows depend on have changed, or where something that the night before had read was replaced
(jobs.sequence_nights).
Now and then it writes all users' latest rows, so that reading a state stays cheap.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThan, LessThanOrEqual
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from jobs.audit_rules import sequences_suite
from jobs.audits import AuditResult, count_broken, import_ahead, judge, record_audits, require
from jobs.command import Run, add_full, run_job
from jobs.errors import JobError
from jobs.ingest_checks import row_count
from jobs.lakehouse import Lakehouse, data_files
from jobs.night import Night
from jobs.schemas import INTERACTIONS, SEQUENCES
from jobs.sequence_nights import SequenceNight, find_previous, past_nights, shape_of
from jobs.sequence_rows import event_rows, latest_rows, merge, planned, rows_of_users
from jobs.spark import QUICK_ROWS, spark_session

log = logging.getLogger("syncrec")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a night does. previous: the night it builds on, None for a full build; earlier: the run of this very
    night that it replaces; parent: the snapshot of `sequences` that it looks at.
    """

    previous: SequenceNight | None
    earlier: SequenceNight | None
    reason: str
    parent: int | None


def make_plan(run: Run, lakehouse: Lakehouse, interactions: int | None) -> Plan:
    """Find out whether the night can build on the one before it."""
    parent = lakehouse.current_snapshot(SEQUENCES.name)
    earlier = next((n for n in past_nights(lakehouse, parent) if n.ds == run.ds), None)
    if run.arguments.full:
        return Plan(previous=None, earlier=earlier, reason="--full asked for it", parent=parent)
    previous, reason = find_previous(lakehouse, parent, run.ds, shape_of(run.settings), interactions)
    return Plan(previous=previous, earlier=earlier, reason=reason, parent=parent)


def _where_new(run: Run, previous: SequenceNight | None) -> BooleanExpression:
    """Which files hold events that the night counts and the night before did not (every one in a full build)."""
    where: BooleanExpression = LessThanOrEqual("arrival_ds", run.ds.isoformat())
    if previous is not None:  # of earlier arrival days: those with events of items that were not known then
        where = And(where, GreaterThan("known_ds", previous.ds.isoformat()))
    return where


def arrived_events(
    run: Run, spark: SparkSession, lakehouse: Lakehouse, interactions: int | None, previous: SequenceNight | None
) -> DataFrame:
    """The events that the night counts and the night before did not (every one in a full build)."""
    known = F.col("known_ds") <= F.lit(run.ds)
    if previous is not None:
        known &= F.col("known_ds") > F.lit(previous.ds)
    events = lakehouse.read(spark, INTERACTIONS.name, interactions, _where_new(run, previous)).where(known)
    return event_rows(events, run.settings.domain_names, run.cutoff)


def build(run: Run) -> str:
    """Stage, audit and publish the rows of the night."""
    lakehouse = Lakehouse(run.settings)
    lakehouse.create_tables()
    night = Night(run, lakehouse)
    interactions = night.snapshot(INTERACTIONS.name)
    plan = make_plan(run, lakehouse, interactions)
    log.info("%s: %s", "incremental" if plan.previous else "full rebuild", plan.reason)
    if interactions is None and plan.previous is None:
        raise _no_event(run)
    in_files = _rows_in(lakehouse, INTERACTIONS.name, interactions, _where_new(run, plan.previous))
    old_rows = 0
    if (then := plan.previous) is not None:
        old_rows = _rows_in(lakehouse, SEQUENCES.name, then.snapshot, then.rows())
    import_ahead()
    quick = in_files + old_rows < QUICK_ROWS
    with spark_session(run.settings, f"build_sequences {run.ds}", quick=quick) as spark, planned(spark):
        arrived = arrived_events(run, spark, lakehouse, interactions, plan.previous)
        folder, before = _merge(run, spark, lakehouse, arrived, plan, any_old=min(old_rows, in_files) > 0)
        reason = _why_all(run, lakehouse, plan, _rows(folder))
        if reason:  # tonight's own rows are replaced before the audit: count their events now
            found = _n_events(spark, folder)
        else:
            results, found = _audit(run, spark, folder)
        came = in_files if found == before + in_files else arrived.count()  # most often files hold nothing else
        if not came and plan.previous is None:
            shutil.rmtree(folder, ignore_errors=True)
            raise _no_event(run)
        words = f"{before:,} of the night before + {came:,} that arrived"
        accounts = [_account("n_events of the changed users", found, before + came, words)]
        made = _describe(run, plan, interactions, came)
        if reason:
            log.info("all rows are written: %s", reason)
            made = replace(made, kind="compacted", base_ds=run.ds, reason=reason)
            folder = _rewrite(run, spark, lakehouse, plan, folder)
            results, found = _audit(run, spark, folder)
            words = f"{made.events - came:,} of the night before + {came:,} that arrived"
            accounts.append(_account("n_events of all users", found, made.events, words))
        record_audits(lakehouse, [*accounts, *results], run.ds, run.run_id)
        require([*accounts, *results], staged=[folder])
    return _publish(run, lakehouse, night, made, folder)


def _rows_in(lakehouse: Lakehouse, table: str, snapshot: int | None, where: BooleanExpression) -> int:
    """How many rows a table says there are in the files of a snapshot."""
    return sum(sum(own.values()) for own in lakehouse.partitions(table, snapshot, where).values())


def _no_event(run: Run) -> JobError:
    return JobError(f"no event before {run.cutoff:%Y-%m-%d %H:%M} UTC: ingest a day with events first")


def _merge(
    run: Run, spark: SparkSession, lakehouse: Lakehouse, arrived: DataFrame, plan: Plan, *, any_old: bool
) -> tuple[Path, int]:
    """Write the rows of the users with new events; and the events that their old rows counted before the merge.

    any_old: whether there may be old rows of them; of a frame without files Spark would observe nothing.
    """
    own, old, seen = run.settings.sequences, None, Observation("old")
    if plan.previous is not None and any_old:
        rows = rows_of_users(_state(spark, lakehouse, plan.previous), arrived)
        old = rows.observe(seen, F.sum("n_events").alias("n_events"))
    start = run.cutoff - timedelta(days=own.valid_days + own.test_days)
    folder = _write(run, lakehouse, merge(arrived, old, max_length=own.max_length, window_start=start))
    return folder, int(seen.get.get("n_events") or 0) if old is not None else 0


def _audit(run: Run, spark: SparkSession, folder: Path) -> tuple[list[AuditResult], int]:
    """What the rules find in the staged files, and the events that these count."""
    files = data_files(folder)
    if not files:
        return [], 0
    staged = spark.read.schema(SEQUENCES.spark_ddl).parquet(*files)
    rules = sequences_suite(run.settings, run.cutoff)
    counted = count_broken(staged, rules, sums=["n_events"])
    return judge(SEQUENCES.name, rules, counted), counted.sums["n_events"]


def _state(spark: SparkSession, lakehouse: Lakehouse, night: SequenceNight) -> DataFrame:
    """The rows of a night's state, also those that later rows of their users replace."""
    rows = lakehouse.read(spark, SEQUENCES.name, night.snapshot, night.rows())
    return rows.where(F.col("ds").between(F.lit(night.base_ds), F.lit(night.ds)))


def _write(run: Run, lakehouse: Lakehouse, rows: DataFrame) -> Path:
    folder = lakehouse.stage_folder(SEQUENCES.name, run.ds, run.run_id)
    rows.withColumn("ds", F.lit(run.ds)).select(*SEQUENCES.column_names).write.parquet(str(folder))
    return folder


def _rows(folder: Path) -> int:
    return row_count(data_files(folder))


def _n_events(spark: SparkSession, folder: Path) -> int:
    files = data_files(folder)
    counted = spark.read.parquet(*files).agg(F.sum("n_events")).first() if files else None
    return int(counted[0]) if counted else 0


def _account(what: str, found: int, expected: int, words: str) -> AuditResult:
    rule = f"{what} = those of the night before + the events that arrived"
    return AuditResult(
        table_name=SEQUENCES.name, rule=rule, success=found == expected, observed=f"{found:,} = {words}"
    )


def _describe(run: Run, plan: Plan, interactions: int | None, came: int) -> SequenceNight:
    previous = plan.previous
    return SequenceNight(
        ds=run.ds,
        base_ds=previous.base_ds if previous else run.ds,
        previous_ds=previous.ds if previous else None,
        previous_snapshot=plan.parent if previous else None,
        interactions_snapshot=interactions,
        shape=shape_of(run.settings),
        kind="incremental" if previous else "full",
        reason=plan.reason,
        events=came + (previous.events if previous else 0),
    )


def _why_all(run: Run, lakehouse: Lakehouse, plan: Plan, tonight: int) -> str:
    """Why an incremental night writes the rows of all users, in words; '' where it need not."""
    if plan.previous is None:
        return ""
    if plan.earlier is not None and plan.earlier.base_ds == run.ds:
        return "an earlier run of this night did, and later nights may count on them"
    base, share = plan.previous.base_ds, run.settings.sequences.compact_share
    files = lakehouse.partitions(SEQUENCES.name, plan.previous.snapshot, plan.previous.rows())
    rows = {day: sum(own.values()) for day, own in files.items()}
    changed, users = tonight + sum(rows.values()) - rows[base], rows[base]
    if changed <= share * users:
        return ""
    return f"{changed:,} rows of changed users since {base} are more than {share} of its {users:,} users"


def _rewrite(run: Run, spark: SparkSession, lakehouse: Lakehouse, plan: Plan, tonight: Path) -> Path:
    """Write all users' latest rows; tonight's own, staged already, are among them."""
    assert plan.previous is not None
    state = _state(spark, lakehouse, plan.previous)
    if files := data_files(tonight):
        state = state.unionByName(spark.read.schema(SEQUENCES.spark_ddl).parquet(*files))
    folder = _write(run, lakehouse, latest_rows(state).drop("ds"))
    shutil.rmtree(tonight, ignore_errors=True)
    return folder


def _publish(run: Run, lakehouse: Lakehouse, night: Night, made: SequenceNight, folder: Path) -> str:
    snapshot = lakehouse.replace(
        SEQUENCES.name,
        EqualTo("ds", run.ds.isoformat()),
        data_files(folder),
        ds=run.ds,
        run_id=run.run_id,
        properties=made.properties(),
        even_if_empty=True,
    )
    night.pin(SEQUENCES.name, snapshot)
    return f"{made.kind}: rows of {_rows(folder):,} users of {run.ds} published as snapshot {snapshot}"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_full(parser, "build all users from all events, whatever there is")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(build, argv, arguments=_add_arguments)


if __name__ == "__main__":
    raise SystemExit(main())
