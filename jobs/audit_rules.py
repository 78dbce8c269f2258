"""The rules of the audits, as data: what must hold for interactions, sequences and recommendations.

Great Expectations knows columns, not arrays or lists of rows: a rule of that kind is first worked out as a
true/false column by Spark, all in one pass, and the expectation is that it is always true. What a column cannot
say about itself (null included) counts as broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.audits import AuditResult, run_suite  # first: it tells Great Expectations to send nothing home

import great_expectations.expectations as gxe  # isort: skip
from great_expectations.expectations import Expectation  # isort: skip

from jobs.schemas import SPLITS

FIRST_MOMENT = datetime(1970, 1, 2, tzinfo=UTC)
"""No event is older: a time on the first day of the epoch is a missing number, not a time."""
MAX_ID_LENGTH = 1000
Rules = Mapping[str, Column]


def _check(frame: DataFrame, keep: Sequence[str], rules: Rules) -> tuple[DataFrame, list[Expectation]]:
    """Work every rule out as a column; return the columns to look at and the expectations."""
    names = {rule: f"rule_{place}" for place, rule in enumerate(rules)}
    columns = [F.coalesce(rules[rule], F.lit(False)).alias(name) for rule, name in names.items()]
    expectations = [
        gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[True], description=rule)
        for rule, name in names.items()
    ]
    return frame.select(*keep, *columns), expectations


def _present(*columns: str) -> list[Expectation]:
    return [gxe.ExpectColumnValuesToNotBeNull(column=name, description=f"{name} is never null") for name in columns]


def _one_of(column: str, values: Sequence[str]) -> Expectation:
    return gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=list(values), description=f"{column} is one of {', '.join(values)}"
    )


def _unique(*columns: str) -> Expectation:
    return gxe.ExpectCompoundColumnsToBeUnique(
        column_list=list(columns), description=f"({', '.join(columns)}) is unique"
    )


def audit_interactions(
    frame: DataFrame,
    *,
    domains: Sequence[str],
    first_arrival: date,
    last_arrival: date,
    extra: Sequence[AuditResult] = (),
) -> list[AuditResult]:
    """Audit staged events that arrived on the days first_arrival..last_arrival."""
    user, item, ts, arrival = (F.col(name) for name in ("user_id", "item_id", "ts", "arrival_ds"))
    days = f"{first_arrival}..{last_arrival}" if first_arrival != last_arrival else f"{last_arrival}"
    checked, rules = _check(
        frame,
        ["user_id", "item_id", "domain", "ts", "event_id"],
        {
            f"ids have 1 to {MAX_ID_LENGTH:,} characters": (
                F.length(user).between(1, MAX_ID_LENGTH) & F.length(item).between(1, MAX_ID_LENGTH)
            ),
            "ts lies before the midnight after the arrival day": ts < F.date_add(arrival, 1).cast("timestamp"),
            f"ts lies on or after {FIRST_MOMENT:%Y-%m-%d}": ts >= F.lit(FIRST_MOMENT),
            "event_day is the day of ts": F.col("event_day") == F.to_date(ts),
            "event_id is the hash of the event": F.col("event_id") == F.xxhash64(user, item, F.col("domain"), ts),
            f"arrival_ds is {days}": arrival.between(F.lit(first_arrival), F.lit(last_arrival)),
        },
    )
    rules = [
        *_present("user_id", "item_id", "domain", "ts", "event_id"),
        _one_of("domain", domains),
        *rules,
        _unique("user_id", "item_id", "domain", "ts"),
    ]
    return run_suite("interactions", checked, rules, extra=extra)


def _padded(column: str, real: Column, max_length: int) -> Column:
    """The array has T entries: zeros first, then exactly `real` entries above zero."""
    array = F.col(column)
    padding = F.slice(array, F.lit(1), max_length - real)
    return (
        (F.size(array) == max_length)
        & (F.array_min(array) >= 0)
        & (F.size(F.array_remove(array, 0)) == real)
        & ((real == max_length) | (F.array_max(padding) == 0))
    )


def _real(column: str) -> Column:
    return F.size(F.array_remove(F.col(column), 0))


def _sorted(column: str) -> Column:
    return F.sort_array(F.col(column)) == F.col(column)


def _before(cutoff: datetime) -> Column:
    return F.array_max("times") < int(cutoff.timestamp()) * 1_000_000


def audit_cross_sequences(
    frame: DataFrame,
    *,
    ds: date,
    cutoff: datetime,
    max_length: int,
    domains: Sequence[str],
    extra: Sequence[AuditResult] = (),
) -> list[AuditResult]:
    """Audit staged cross-domain sequences of `ds`; `cutoff` is the midnight after it."""
    real, codes = _real("domain_codes"), F.col("domain_codes")
    checked, rules = _check(
        frame,
        ["user_id", "split"],
        {
            f"the arrays have {max_length} entries each": (
                (F.size("item_indexes") == max_length)
                & (F.size(codes) == max_length)
                & (F.size("times") == max_length)
            ),
            "padding comes first, at the same places in all three arrays": (
                _padded("domain_codes", real, max_length)
                & _padded("item_indexes", real, max_length)
                & _padded("times", real, max_length)
            ),
            f"domain codes lie within 0..{len(domains)}": (
                (F.array_min(codes) >= 0) & (F.array_max(codes) <= len(domains))
            ),
            "times never decrease": _sorted("times"),
            "every time lies before the cutoff": _before(cutoff),
            "length counts at least the events shown": F.col("length") >= real,
            f"ds is {ds}": F.col("ds") == F.lit(ds),
        },
    )
    rules = [*_present("user_id"), _one_of("split", SPLITS), *rules, _unique("user_id", "split")]
    return run_suite("cross_sequences", checked, rules, extra=extra)


def audit_single_sequences(
    frame: DataFrame,
    *,
    ds: date,
    cutoff: datetime,
    max_length: int,
    domains: Sequence[str],
    extra: Sequence[AuditResult] = (),
) -> list[AuditResult]:
    """Audit staged single-domain sequences of `ds`; `cutoff` is the midnight after it."""
    real, places = _real("item_indexes"), F.col("places")
    shared = F.array_remove(places, -1)
    checked, rules = _check(
        frame,
        ["user_id", "domain", "split"],
        {
            f"the arrays have {max_length} entries each": (
                (F.size("item_indexes") == max_length)
                & (F.size(places) == max_length)
                & (F.size("times") == max_length)
            ),
            "padding comes first, at the same places in items and times": (
                _padded("item_indexes", real, max_length) & _padded("times", real, max_length)
            ),
            "times never decrease": _sorted("times"),
            "every time lies before the cutoff": _before(cutoff),
            f"places lie within -1..{max_length - 1}": (
                (F.array_min(places) >= -1) & (F.array_max(places) < max_length)
            ),
            "places increase, -1 first, and padding has none": (
                _sorted("places") & (F.size(F.array_distinct(shared)) == F.size(shared)) & (F.size(shared) <= real)
            ),
            "length counts at least the events shown": F.col("length") >= real,
            f"ds is {ds}": F.col("ds") == F.lit(ds),
        },
    )
    rules = [
        *_present("user_id"),
        _one_of("domain", domains),
        _one_of("split", SPLITS),
        *rules,
        _unique("user_id", "domain", "split"),
    ]
    return run_suite("single_sequences", checked, rules, extra=extra)


def audit_recommendations(
    frame: DataFrame,
    items: DataFrame,
    *,
    ds: date,
    top_n: int,
    domains: Sequence[str],
    extra: Sequence[AuditResult] = (),
) -> list[AuditResult]:
    """Audit staged recommendations of `ds`.

    Parameters
    ----------
    frame
        The staged rows.
    items
        The vocabulary (domain, item_id) of the night, each pair once.
    ds, top_n, domains
        What the rows must fit.
    extra
        Results that the caller found itself.

    Returns
    -------
    list[AuditResult]
        Checked and failed count lists (one user and domain), not rows.
    """
    known = items.select("domain", "item_id", F.lit(True).alias("known"))
    score = F.col("score")
    wrong: Rules = {
        "scores": score.isNull() | F.isnan(score),
        "sources": ~F.coalesce(F.col("source").isin("model", "popularity"), F.lit(False)),
        "items": F.col("known").isNull(),
        "days": ~F.coalesce(F.col("ds") == F.lit(ds), F.lit(False)),
        "nameless": F.col("user_id").isNull() | F.col("model_version").isNull() | F.col("arm").isNull(),
    }
    lists = (
        frame.join(known, ["domain", "item_id"], "left")
        .groupBy("user_id", "domain")
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.min("rank").alias("first"),
            F.max("rank").alias("last"),
            F.count_distinct("rank").alias("ranks"),
            F.count_distinct("item_id").alias("distinct_items"),
            *(F.count_if(condition).alias(name) for name, condition in wrong.items()),
        )
    )
    rows = F.col("rows")
    checked, rules = _check(
        lists,
        ["domain"],
        {
            f"ranks are 1, 2, 3, ... without gap or repetition, at most {top_n}": (
                (F.col("first") == 1) & (F.col("last") == rows) & (F.col("ranks") == rows) & (rows <= top_n)
            ),
            "no item twice in a list": F.col("distinct_items") == rows,
            "every item is in the vocabulary of its domain": F.col("items") == 0,
            "every score is a number": F.col("scores") == 0,
            "source is model or popularity": F.col("sources") == 0,
            "user, model version and arm are never null": F.col("nameless") == 0,
            f"ds is {ds}": F.col("days") == 0,
        },
    )
    every_domain = gxe.ExpectColumnDistinctValuesToEqualSet(
        column="domain", value_set=list(domains), description="every domain has lists, and no other has"
    )
    return run_suite("recommendations", checked, [*rules, every_domain], extra=extra)
