"""From events to the rows of `sequences`, in Spark's own functions: a full build and a night's merge are one path.

A row keeps what any cut at midnight inside the evaluation days [window start, cutoff] can need. An event's bucket
is its day where that lies in them, else 'before'. Of each user, domain and bucket the last T + 1 events are kept,
one more than a model reads, because it must know whether there was more. In a later night the same events fall into
the same or into coarser buckets, and the last T + 1 of a union are the last T + 1 of the parts' last T + 1: merging
new events into kept ones and pruning again equals pruning all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.splits import DAY, micros

_EVENT = ("time", "event_id", "code", "item", "bucket")
PLAN = {
    # Files are named one by one by the table: looking each up is no work for a job of its own.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
    # One user at a time, in sorted order: no hash table, and the join with old rows needs no second sort.
    "spark.sql.execution.useObjectHashAggregateExec": "false",
    # What grows with the users is never broadcast; a Bloom filter of at most 8 MiB says which old rows to read.
    "spark.sql.autoBroadcastJoinThreshold": "-1",
    "spark.sql.adaptive.autoBroadcastJoinThreshold": "-1",
    "spark.sql.optimizer.runtime.bloomFilter.enabled": "true",
    "spark.sql.optimizer.runtime.bloomFilter.applicationSideScanSizeThreshold": "0",
    "spark.sql.optimizer.runtime.bloomFilter.creationSideThreshold": "1TB",
    "spark.sql.optimizer.runtime.bloomFilter.expectedNumItems": "4000000",
    "spark.sql.optimizer.runtime.bloomFilter.numBits": str(8 * 8 * 2**20),
}


@contextmanager
def planned(spark: SparkSession) -> Iterator[None]:
    """Settings of Spark's planner for these frames; a shared session gets its own back."""
    usual: dict[str, Any] = {name: spark.conf.get(name, None) for name in PLAN}
    for name, value in PLAN.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, value in usual.items():
            if value is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, value)


def event_rows(interactions: DataFrame, domains: Sequence[str], cutoff: datetime) -> DataFrame:
    """The events before the cutoff as user_id, code, item, time (microseconds), event_id."""
    codes = F.create_map(*[F.lit(v) for code, name in enumerate(domains, 1) for v in (name, code)])
    return interactions.where((F.col("ts") < F.lit(cutoff)) & F.col("domain").isin(list(domains))).select(
        "user_id",
        codes[F.col("domain")].alias("code"),
        F.col("item_index").alias("item"),
        F.unix_micros("ts").alias("time"),
        "event_id",
    )


def latest_rows(state: DataFrame) -> DataFrame:
    """The latest row of every user."""
    newest = Window.partitionBy("user_id").orderBy(F.desc("ds"))
    return state.withColumn("place", F.row_number().over(newest)).where("place = 1").drop("place")


def rows_of_users(state: DataFrame, users: DataFrame) -> DataFrame:
    """The latest row of each user that occurs in `users`.

    Spark filters the state by a Bloom filter of these users while it reads: only their rows are shuffled.
    """
    return latest_rows(state.join(users.select("user_id"), "user_id", "left_semi"))


def merge(arrived: DataFrame, old: DataFrame | None, *, max_length: int, window_start: datetime) -> DataFrame:
    """The rows of all users with new events.

    Parameters
    ----------
    arrived
        `event_rows` of what is new; all events in a full build.
    old
        One row of `sequences` a user, of users with new events only; None in a full build.
    max_length, window_start
        T, and the first moment of the evaluation days.

    Returns
    -------
    DataFrame
        The columns of `sequences` but ds.
    """
    room, first_day = max_length + 1, micros(window_start) // DAY
    bucketed = arrived.withColumn("bucket", _bucket(F.col("code"), F.col("time"), first_day))
    rows = bucketed.groupBy("user_id").agg(F.collect_list(F.struct(*_EVENT)).alias("events"))
    older, before = _no_items(), F.lit(0)
    rows = rows.withColumn("n_events", F.size("events").cast("bigint"))
    if old is not None:
        rows = rows.join(_known(old, first_day), "user_id", "left").select(
            "user_id",
            F.when(F.col("kept").isNull(), F.col("events")).otherwise(F.concat("kept", "events")).alias("events"),
            (F.coalesce("n_before", before) + F.col("n_events")).alias("n_events"),
            F.coalesce("older", older).alias("older"),
        )
        older = F.col("older")
    pruned = _pruned(rows.withColumn("events", _in_order_once("events")), room)
    return pruned.select(
        "user_id",
        F.col("events.item").alias("items"),
        F.col("events.code").alias("domains"),
        F.col("events.time").alias("times"),
        F.col("events.event_id").alias("event_ids"),
        F.sort_array(F.array_union(older, "dropped")).alias("older_items"),
        "n_events",
    )


def _bucket(code: Column, time: Column, first_day: int) -> Column:
    """Domain and day of an event as one number; all days before the evaluation days are one."""
    day = F.greatest(F.call_function("div", time, F.lit(DAY)), F.lit(first_day - 1))
    return F.shiftleft(code.cast("bigint"), 32) + day


def _known(old: DataFrame, first_day: int) -> DataFrame:
    """What old rows know: their kept events in the form of new ones, older items, the number of events."""
    events = F.transform(
        F.arrays_zip("times", "event_ids", "domains", "items"),
        lambda event: F.struct(
            event["times"].alias("time"),
            event["event_ids"].alias("event_id"),
            event["domains"].alias("code"),
            event["items"].alias("item"),
            _bucket(event["domains"], event["times"], first_day).alias("bucket"),
        ),
    )
    return old.select(
        "user_id", events.alias("kept"), F.col("older_items").alias("older"), F.col("n_events").alias("n_before")
    )


def _in_order_once(events: str) -> Column:
    """The events in order, without copies of an event, which came again with another landing day.

    Most users have no copies. Those of the others are neighbours once they are in order.
    """
    in_order = F.sort_array(events)
    before = F.concat(F.array(F.lit(None)), F.slice(in_order, F.lit(1), F.size(events) - 1))
    pairs = F.arrays_zip(in_order.alias("event"), before.alias("before"))
    firsts = F.filter(pairs, lambda pair: ~pair["event"].eqNullSafe(pair["before"]))
    no_copies = F.size(F.array_distinct(F.col(f"{events}.event_id"))) == F.size(events)
    return F.when(no_copies, in_order).otherwise(F.transform(firsts, lambda pair: pair["event"]))


def _pruned(rows: DataFrame, room: int) -> DataFrame:
    """Keep the last `room` sorted events of each bucket; of the others the keys of their items, as `dropped`.

    Most users have no more than `room` events in all, and nothing to prune. The events of the others are put into
    the order of their buckets, where an event is dropped if the one `room` places later is in the same.
    """
    by_bucket = F.arrays_zip(*(F.col(f"events.{name}").alias(name) for name in ("bucket", *_EVENT[:-1])))

    def is_dropped(event: Column, i: Column) -> Column:
        return F.get("ordered", i + room)["bucket"].eqNullSafe(event["bucket"])

    def unbucketed(event: Column) -> Column:
        return F.struct(*(event[name].alias(name) for name in _EVENT))

    def key(event: Column) -> Column:
        return F.shiftleft(event["code"].cast("bigint"), 32).bitwiseOR(event["item"].cast("bigint"))

    ordered = rows.withColumn("ordered", F.when(F.size("events") > room, F.sort_array(by_bucket)))
    kept = F.filter("ordered", lambda event, i: ~is_dropped(event, i))
    in_time = F.sort_array(F.transform(kept, unbucketed))
    dropped = F.transform(F.filter("ordered", is_dropped), key)
    return ordered.withColumns(
        {
            "events": F.when(F.col("ordered").isNull(), F.col("events")).otherwise(in_time),
            "dropped": F.coalesce(dropped, _no_items()),
        }
    )


def _no_items() -> Column:
    return F.array().cast("array<bigint>")
