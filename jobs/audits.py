"""Audits: staged rows are looked at before they are published, and only if they keep every rule.

The rules themselves are data, in `jobs.audit_rules`. Spark counts in one pass how many of the staged rows break
each of them; Great Expectations judges these counts, so its cost does not grow with the rows. This file also
records what was found in the table `audits`, and turns a broken rule into one clear error:

    results = run_suite("interactions", staged, interactions_suite(settings, ds, ds))
    record_audits(lakehouse, results, ds, run_id)
    require(results)
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyiceberg.expressions import And, EqualTo
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.audit_rules import (
    RowRule,
    SetRule,
    Suite,
    UniqueRule,
    interactions_suite,
    items_suite,
    recommendations_suite,
    sequences_suite,
)
from jobs.errors import AuditFailed, PublishConflict
from jobs.lakehouse import Lakehouse
from jobs.schemas import AUDITS, audited_things

RECORD_ATTEMPTS = 5
log = logging.getLogger("syncrec")


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What one rule found in one table.

    `checked` and `failed` count rows, of recommendations lists (None where a rule is not about them); `observed`
    says it in words; `hint`, for the error alone, says what to look at.
    """

    table_name: str
    rule: str
    success: bool
    checked: int | None = None
    failed: int | None = None
    observed: str = ""
    hint: str = ""


def run_suite(table_name: str, frame: DataFrame, rules: Suite) -> list[AuditResult]:
    """Check a frame against rules: one result for each, in their order."""
    return judge(table_name, rules, count_broken(frame, rules))


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What one look at a frame found: its rows, the rows that break each rule, and sums that were asked for.

    For a rule about a set of values, `broken` counts those too many and those missing.
    """

    rows: int
    broken: Sequence[int]
    sums: Mapping[str, int]


def count_broken(frame: DataFrame, rules: Suite, sums: Sequence[str] = ()) -> Counted:
    """Count in Spark how many rows break each rule, and add up the columns `sums`.

    All is one aggregation, in one pass over the frame; a rule about uniqueness is one more, of its columns alone,
    because it has to bring equal rows together.
    """
    counts = {f"rule_{place}": own for place, rule in enumerate(rules) if (own := _count(rule)) is not None}
    totals = {f"sum_{name}": F.sum(name) for name in sums}
    columns = {"rows": F.count(F.lit(1)), **counts, **totals}
    found = _first(frame.agg(*(column.alias(name) for name, column in columns.items())))
    for place, rule in enumerate(rules):
        if isinstance(rule, UniqueRule):
            copies = frame.groupBy(*rule.columns).agg(F.count(F.lit(1)).alias("n")).where("n > 1")
            found |= _first(copies.agg(F.sum("n").alias(f"rule_{place}")))
    return Counted(
        rows=found["rows"],
        broken=[found[f"rule_{place}"] for place in range(len(rules))],
        sums={name: found[f"sum_{name}"] for name in sums},
    )


def _count(rule: RowRule | UniqueRule | SetRule) -> Column | None:
    """The number of rows that break a rule, as an aggregate; None for what needs rows to be brought together."""
    if isinstance(rule, RowRule):
        return F.count_if(~F.coalesce(rule.holds, F.lit(False)))
    if isinstance(rule, SetRule):
        found, expected = F.collect_set(rule.column), F.array(*map(F.lit, rule.values)).cast("array<string>")
        return F.size(F.array_except(found, expected)) + F.size(F.array_except(expected, found))
    return None


def _first(aggregated: DataFrame) -> dict[str, int]:
    row = aggregated.first()
    return {name: int(value or 0) for name, value in row.asDict().items()} if row else {}


def judge(table_name: str, rules: Suite, counted: Counted) -> list[AuditResult]:
    """Let Great Expectations judge what was counted: of every rule it expects that no row breaks it."""
    return [
        AuditResult(
            table_name=table_name,
            rule=rule.words,
            success=passed,
            checked=counted.rows,
            failed=broken,
            observed=said or f"{broken:,} of {counted.rows:,} {audited_things(table_name)} break it",
        )
        for rule, broken, (passed, said) in zip(rules, counted.broken, _validate(table_name, counted), strict=True)
    ]


def import_ahead() -> None:
    """Begin to import Great Expectations while Spark starts, which the driver only waits for: seconds saved."""

    def load() -> None:
        with suppress(Exception):  # whoever needs it meets the same error again
            _judges()

    threading.Thread(target=load, name="import of great_expectations").start()


def _judges() -> tuple[Any, Any, Any]:
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # read when it is imported: nothing is sent home
    import great_expectations as gx  # seconds: only jobs that audit
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # it sets INFO itself
    return gx, gxe, ProgressBarsConfig


def _validate(name: str, counted: Counted) -> list[tuple[bool, str]]:
    """For every rule whether it holds, and what went wrong if it could not be checked."""
    gx, gxe, progress_bars = _judges()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = progress_bars(globally=False)
    columns = [f"rule_{place}" for place in range(len(counted.broken))]
    frame = pd.DataFrame([counted.broken], columns=columns)
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(
        name=name,
        expectations=[gxe.ExpectColumnValuesToBeBetween(column=own, min_value=0, max_value=0) for own in columns],
    )
    results = batch.validate(suite, result_format="BOOLEAN_ONLY").results
    by_column = {result.expectation_config.kwargs["column"]: result for result in results}
    return [_read(by_column[own]) for own in columns]


def _read(result: Any) -> tuple[bool, str]:
    """Translate one Great Expectations result."""
    raised = _exception(result.exception_info)
    return bool(result.success), f"the rule could not be checked: {raised}" if raised else ""


def _exception(info: Any) -> str:
    """The message of an exception inside Great Expectations, or ''; it nests them by metric."""
    if not isinstance(info, dict):
        return ""
    if "raised_exception" in info:
        return str(info.get("exception_message") or "") if info["raised_exception"] else ""
    return "; ".join(message for message in map(_exception, info.values()) if message)


def record_audits(lakehouse: Lakehouse, results: Sequence[AuditResult], ds: date, run_id: str) -> None:
    """Write the results to the table `audits`, in place of what the same run found in the same tables before.

    Raises
    ------
    PublishConflict
        Other runs recorded theirs at the same moment, again and again.
    """
    for table_name in sorted({result.table_name for result in results}):
        own = [result for result in results if result.table_name == table_name]
        columns: dict[str, list[Any]] = {
            name: [getattr(result, name) for result in own]
            for name in AUDITS.column_names
            if name not in ("ds", "run_id")
        }
        rows = pa.table(
            {"run_id": [run_id] * len(own), **columns, "ds": [ds] * len(own)}, schema=AUDITS.arrow_schema
        )
        files = lakehouse.stage_arrow("audits", rows, ds, run_id)
        where = And(_equal("ds", ds), _equal("run_id", run_id), _equal("table_name", table_name))
        for attempt in range(1, RECORD_ATTEMPTS + 1):
            try:
                lakehouse.replace("audits", where, files, ds=ds, run_id=run_id)
                break
            except PublishConflict:
                if attempt == RECORD_ATTEMPTS:
                    raise


NOTHING_PUBLISHED = "audit failed, nothing was published: "


def _broken_in_words(result: AuditResult) -> str:
    rows = result.failed is not None and result.checked is not None
    things = audited_things(result.table_name)
    found = f"{result.failed:,} of {result.checked:,} {things}" if rows else result.observed
    return f"{result.table_name}: {found}, against the rule '{result.rule}'" + (
        f" ({result.hint})" if result.hint else ""
    )


def _equal(column: str, value: Any) -> EqualTo:
    return EqualTo(term=column, value=value)


def require(results: Sequence[AuditResult], *, staged: Sequence[Path] = ()) -> None:
    """Stop if a rule was broken.

    Raises
    ------
    AuditFailed
        Says which rules and how many rows; where the staged files lie is in the log.
    """
    broken = [result for result in results if not result.success]
    if not broken:
        checked = max((result.checked or 0 for result in results), default=0)
        tables = sorted({result.table_name for result in results})
        things = " or ".join(sorted({audited_things(name) for name in tables}, reverse=True))
        log.info(
            "audit of %s: %d rules hold, %s %s checked", ", ".join(tables), len(results), f"{checked:,}", things
        )
        return
    said = "; ".join(map(_broken_in_words, broken))
    for folder in staged:  # a line each, whole: the error's own line may be cut
        log.info("staged files left in %s", folder)
    left = "; the log names where the staged files are left" if staged else ""
    raise AuditFailed(f"{NOTHING_PUBLISHED}{said}{left}")


__all__ = [
    "AuditResult",
    "Counted",
    "RowRule",
    "SetRule",
    "Suite",
    "UniqueRule",
    "count_broken",
    "interactions_suite",
    "items_suite",
    "judge",
    "recommendations_suite",
    "record_audits",
    "require",
    "run_suite",
    "sequences_suite",
]
