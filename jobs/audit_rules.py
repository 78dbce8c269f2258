"""The rules of the audits, as data: what must hold for interactions, sequences and recommendations.

A rule is words and what Spark needs to count the rows that break it; jobs.audits counts all rules of a suite in one
pass. Where a row cannot say (null included), it counts as broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.arms import Split
from jobs.schemas import ARMS, CHAMPION_ARM
from jobs.settings import Settings

FIRST_MOMENT = datetime(1971, 1, 1, tzinfo=UTC)
"""No event is older: a time on the first day of the epoch is a missing number, and seconds that are read as
milliseconds, or milliseconds as microseconds, are times in January or February 1970."""
MAX_ID_LENGTH = 1000


@dataclass(frozen=True)
class RowRule:
    """A rule in words, and the Spark column that is true for the rows that keep it."""

    words: str
    holds: Column


@dataclass(frozen=True)
class UniqueRule:
    """No two rows have the same values in these columns."""

    words: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class SetRule:
    """The column holds exactly these values, each at least once; null does not count as one. They must be few."""

    words: str
    column: str
    values: tuple[str, ...]


Suite = Sequence[RowRule | UniqueRule | SetRule]


def _present(*columns: str) -> list[RowRule]:
    return [RowRule(f"{name} is never null", F.col(name).isNotNull()) for name in columns]


def _one_of(column: str, values: Sequence[str]) -> RowRule:
    return RowRule(f"{column} is one of {', '.join(values)}", F.col(column).isin(list(values)))


def interactions_suite(settings: Settings, first_arrival: date, last_arrival: date) -> Suite:
    """Rules for events that arrived on the days first_arrival..last_arrival."""
    user, item, ts, arrival = (F.col(name) for name in ("user_id", "item_id", "ts", "arrival_ds"))
    days = f"{first_arrival}..{last_arrival}" if first_arrival != last_arrival else f"{last_arrival}"
    lengths = F.length(user).between(1, MAX_ID_LENGTH) & F.length(item).between(1, MAX_ID_LENGTH)
    midnight = F.date_add(arrival, 1).cast("timestamp")
    event_hash = F.xxhash64(user, item, F.col("domain"), ts)
    return [
        *_present("user_id", "item_id", "domain", "ts", "event_id"),
        _one_of("domain", settings.domain_names),
        RowRule(f"ids have 1 to {MAX_ID_LENGTH:,} characters", lengths),
        RowRule("ts lies before the midnight after the arrival day", ts < midnight),
        RowRule(f"ts lies on or after {FIRST_MOMENT:%Y-%m-%d}", ts >= F.lit(FIRST_MOMENT)),
        RowRule("event_day is the day of ts", F.col("event_day") == F.to_date(ts)),
        RowRule("event_id is the hash of the event", F.col("event_id") == event_hash),
        RowRule("item_index is at least 1", F.col("item_index") >= 1),
        RowRule("known_ds is arrival_ds or later", F.col("known_ds") >= arrival),
        RowRule(f"arrival_ds is {days}", arrival.between(F.lit(first_arrival), F.lit(last_arrival))),
        UniqueRule("(user_id, item_id, domain, ts) is unique", ("user_id", "item_id", "domain", "ts")),
    ]


def items_suite(items: DataFrame) -> tuple[DataFrame, Suite]:
    """Rules for the whole vocabulary, and the frame they look at: one row a domain."""
    size, index = F.col("size"), F.col("item_index")
    domains = items.groupBy("domain").agg(
        F.count(F.lit(1)).alias("size"),
        F.min(index).alias("first"),
        F.max(index).alias("last"),
        F.count_distinct(index).alias("indexes"),
        F.count_distinct("item_id").alias("ids"),
    )
    gapless = (F.col("first") == 1) & (F.col("last") == size) & (F.col("indexes") == size)
    return domains, [
        RowRule("item indexes of a domain are 1, 2, 3, ... without gap or repetition", gapless),
        RowRule("no item of a domain has two indexes", F.col("ids") == size),
    ]


def sequences_suite(settings: Settings, cutoff: datetime) -> Suite:
    """Rules for the rows of `sequences` of one night; `cutoff` is the midnight after its day."""
    n_domains, ds = len(settings.domain_names), cutoff.date() - timedelta(days=1)
    items, codes, times, older = (F.col(name) for name in ("items", "domains", "times", "older_items"))
    sizes = (F.size(items) == F.size(codes)) & (F.size(items) == F.size(times))
    sizes &= (F.size(items) == F.size("event_ids")) & (F.size(items) > 0)
    order = F.arrays_zip("times", "event_ids")
    # array_max and array_min pass over nulls; array_contains is null where it meets one and finds no such value.
    before = (F.array_max(times) < int(cutoff.timestamp()) * 1_000_000) & ~F.array_contains(times, -1)
    positive = (F.array_min(items) >= 1) & ~F.array_contains(items, 0)
    strange_codes = F.array_except(codes, F.array(*map(F.lit, range(1, n_domains + 1))))
    distinct = F.size(F.array_distinct(older)) == F.size(older)
    first, last = (F.shiftright(F.try_element_at("older_items", F.lit(place)), 32) for place in (1, -1))
    return [
        *_present("user_id"),
        UniqueRule("user_id is unique", ("user_id",)),
        RowRule("the four arrays have one length, at least 1", sizes),
        RowRule("kept events come in order of time, then event_id", F.sort_array(order) == order),
        RowRule("every time lies before the cutoff", before),
        RowRule(f"domain codes lie within 1..{n_domains}", F.size(strange_codes) == 0),
        RowRule("item indexes are at least 1", positive),
        RowRule("older items are ascending, each once", (F.sort_array(older) == older) & distinct),
        RowRule("older items have domain codes", (F.size(older) == 0) | ((first >= 1) & (last <= n_domains))),
        RowRule("n_events counts at least the events kept", F.col("n_events") >= F.size(items)),
        RowRule(f"ds is {ds}", F.col("ds") == F.lit(ds)),
    ]


def impressions_suite(settings: Settings, first_arrival: date, last_arrival: date) -> Suite:
    """Rules for impressions that arrived on the days first_arrival..last_arrival."""
    user, item, ts, arrival = (F.col(name) for name in ("user_id", "item_id", "ts", "arrival_ds"))
    lengths = F.length(user).between(1, MAX_ID_LENGTH) & F.length(item).between(1, MAX_ID_LENGTH)
    midnight = F.date_add(arrival, 1).cast("timestamp")
    own = ("user_id", "item_id", "domain", "ts", "arrival_ds")
    arms = [F.coalesce(F.col(name).isin(*ARMS), F.lit(True)) for name in ("arm", "listed_arm")]
    return [
        *_present("user_id", "item_id", "domain", "ts", "clicked"),
        _one_of("domain", settings.domain_names),
        RowRule(f"ids have 1 to {MAX_ID_LENGTH:,} characters", lengths),
        RowRule("ts lies before the midnight after the arrival day", ts < midnight),
        RowRule("event_day is the day of ts", F.col("event_day") == F.to_date(ts)),
        RowRule(f"arms are {' or '.join(ARMS)}, or not known", arms[0] & arms[1]),
        RowRule(
            "the night that was shown lies before event_day",
            F.coalesce("night_ds", F.date_sub("event_day", 1)) < F.col("event_day"),
        ),
        RowRule(
            f"arrival_ds is {first_arrival}..{last_arrival}",
            arrival.between(F.lit(first_arrival), F.lit(last_arrival)),
        ),
        UniqueRule(f"({', '.join(own)}) is unique", own),
    ]


def recommendations_suite(
    domains: Sequence[str], top_n: int, versions: Mapping[str, str], split: Split | None = None
) -> Suite:
    """Rules for the lists of a night, for the frame of `jobs.list_audit.lists_in`: one row a list.

    domains: those that have items. top_n: rows that a list may have at most. versions: the model version of each
    arm. split: who is in which arm, None where there is but the champion's.
    """
    arm, user = F.col("arm"), F.col("user_id")
    own_arm = split.arm(user) if split else F.lit(CHAMPION_ARM)
    own_version = reduce(
        lambda found, own: F.when(arm == own[0], own[1]).otherwise(found), versions.items(), F.lit("")
    )
    rows = F.col("rows")
    one_to_n = (F.col("first") == 1) & (F.col("last") == rows) & (F.col("ranks") == rows) & (rows <= top_n)
    return [
        RowRule("every list lies in one piece", F.col("pieces") == 1),
        RowRule(f"ranks are 1, 2, 3, ... without gap or repetition, at most {top_n}", one_to_n),
        RowRule("no item twice in a list", F.col("items") == rows),
        RowRule("every item is in the vocabulary of its domain", F.col("unknown_items") == 0),
        RowRule("every score is a number", F.col("bad_scores") == 0),
        RowRule("source is model or popularity", F.col("bad_sources") == 0),
        RowRule("user, model version and arm are never null", F.col("nameless") == 0),
        RowRule("every list is of the arm that its user is in", arm == own_arm),
        RowRule("the model version is that of the arm", F.col("model_version") == own_version),
        SetRule("every domain that has items has lists, and no other has", "domain", tuple(domains)),
    ]
