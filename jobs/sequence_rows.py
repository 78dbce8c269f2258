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

_EVENT = ("time", "event_id", "code", "item")
PLAN = {
    # One user at a time, in the order that the window leaves: no hash table, no second sort.
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
    alone = {"older": F.lit(None).cast("array<bigint>"), "n": F.lit(1).cast("bigint")}
    events = arrived.repartition("user_id").withColumns(alone)
    if old is not None:
        events = events.unionByName(_unfolded(old))
    first_day = micros(window_start) // DAY
    bucket = F.greatest(F.expr(f"cast(time div {DAY} as int)"), F.lit(first_day - 1))
    newest_first = Window.partitionBy("user_id", "code", "bucket").orderBy(F.desc("time"), F.desc("event_id"))
    # A copy of an event, which came again with another landing day, has the rank of the first.
    ranked = events.withColumn("bucket", bucket).withColumns(
        {
            "place": F.dense_rank().over(newest_first),
            "rank": F.rank().over(newest_first),
            "number": F.row_number().over(newest_first),
        }
    )
    is_event, recent = F.col("code").isNotNull(), F.col("place") <= max_length + 1
    is_kept = is_event & recent & (F.col("rank") == F.col("number"))
    folded = ranked.groupBy("user_id").agg(
        F.sort_array(F.collect_list(F.when(is_kept, F.struct(*_EVENT)))).alias("kept"),
        F.collect_set(F.when(is_event & ~recent, _key())).alias("dropped"),
        F.flatten(F.collect_list("older")).alias("older"),
        F.sum("n").alias("n_events"),
    )
    return folded.select(
        "user_id",
        F.col("kept.item").alias("items"),
        F.col("kept.code").alias("domains"),
        F.col("kept.time").alias("times"),
        F.col("kept.event_id").alias("event_ids"),
        F.sort_array(F.array_union("older", "dropped")).alias("older_items"),
        "n_events",
    )


def _key() -> Column:
    return F.shiftleft(F.col("code").cast("bigint"), 32).bitwiseOR(F.col("item").cast("bigint"))


def _unfolded(old: DataFrame) -> DataFrame:
    """The kept events of old rows, and for each row one more without a code that carries what it knows besides."""
    kept = F.transform(
        F.arrays_zip("times", "event_ids", "domains", "items"),
        lambda event: F.struct(
            event["times"].alias("time"),
            event["event_ids"].alias("event_id"),
            event["domains"].alias("code"),
            event["items"].alias("item"),
            F.lit(None).cast("array<bigint>").alias("older"),
            F.lit(0).cast("bigint").alias("n"),
        ),
    )
    carried = F.struct(
        F.lit(None).cast("bigint").alias("time"),
        F.lit(None).cast("bigint").alias("event_id"),
        F.lit(None).cast("int").alias("code"),
        F.lit(None).cast("int").alias("item"),
        F.col("older_items").alias("older"),
        F.col("n_events").alias("n"),
    )
    event = F.explode(F.array_append(kept, carried)).alias("event")
    return old.select("user_id", event).select("user_id", "event.*")
