"""Audits: Great Expectations looks at staged rows, and only rows that keep every rule are published.

The rules themselves are data, in `jobs.audit_rules`; this file runs them, records what was found in the table
`audits`, and turns a broken rule into one clear error:

    results = run_suite("interactions", staged, interactions_suite(settings, ds, ds))
    record_audits(lakehouse, results, ds, run_id)
    require(results)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.expressions import And, EqualTo
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.audit_rules import (  # before Great Expectations: it tells it to send nothing home
    RowRule,
    Suite,
    interactions_suite,
    items_suite,
    recommendations_suite,
    sequences_suite,
)

import great_expectations as gx  # isort: skip
import great_expectations.expectations as gxe  # isort: skip
from great_expectations.data_context.types.base import ProgressBarsConfig  # isort: skip
from great_expectations.expectations import Expectation  # isort: skip

from jobs.errors import AuditFailed, PublishConflict
from jobs.lakehouse import Lakehouse
from jobs.schemas import AUDITS

RECORD_ATTEMPTS = 5
_RESULT_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 0}
log = logging.getLogger("syncrec")


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What one rule found in one table.

    `checked` and `failed` count rows (None where a rule is not about rows); `observed` says it in words; `hint`,
    for the error alone, says what to look at.
    """

    table_name: str
    rule: str
    success: bool
    checked: int | None = None
    failed: int | None = None
    observed: str = ""
    hint: str = ""


def run_suite(
    table_name: str,
    frame: DataFrame,
    rules: Suite,
    *,
    extra: Sequence[AuditResult] = (),
) -> list[AuditResult]:
    """Check a frame against rules.

    Parameters
    ----------
    table_name
        The table that the rows are meant for; names the results.
    frame
        The rows; kept in memory while the rules run, because each rule is a Spark job of its own.
    rules
        Expectations, whose `description` is the rule in words that people read, and row rules.
    extra
        Results found without Great Expectations (accounting, volume); they come first.

    Returns
    -------
    list[AuditResult]
        One for each of `extra`, then one for each rule, in their order.
    """
    checked, expectations = _as_columns(frame, rules)
    checked = checked.persist()
    try:
        found = _validate(table_name, checked, expectations) if expectations else []
    finally:
        checked.unpersist()
    results = [_read(table_name, result) for result in found]
    order = {str(expectation.description): place for place, expectation in enumerate(expectations)}
    return [*extra, *sorted(results, key=lambda result: order.get(result.rule, len(order)))]


def _as_columns(frame: DataFrame, rules: Suite) -> tuple[DataFrame, list[Expectation]]:
    """Work the row rules out as columns; keep those and the columns that the expectations name."""
    wanted: dict[str, None] = {}
    worked_out, expectations = [], []
    for place, rule in enumerate(rules):
        if isinstance(rule, RowRule):
            name = f"rule_{place}"
            worked_out.append(F.coalesce(rule.holds, F.lit(False)).alias(name))
            rule = gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[True], description=rule.words)
        else:
            named = [getattr(rule, "column", None), *getattr(rule, "column_list", [])]
            wanted |= dict.fromkeys(name for name in named if name)
        expectations.append(rule)
    return frame.select(*wanted, *worked_out), expectations


def _validate(name: str, frame: DataFrame, expectations: Sequence[Expectation]) -> list[Any]:
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # it sets INFO itself
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_spark(name, persist=False)
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    suite = gx.ExpectationSuite(name=name, expectations=list(expectations))
    results = batch.get_batch({"dataframe": frame}).validate(suite, result_format=_RESULT_FORMAT).results
    return list(results)


def _read(table_name: str, result: Any) -> AuditResult:
    """Translate one Great Expectations result."""
    config, values = result.expectation_config, result.result or {}
    raised = _exception(result.exception_info)
    failed = values.get("unexpected_count")
    observed = values.get("observed_value")
    if raised:
        words = f"the rule could not be checked: {raised}"
    elif observed is not None:
        words = str(observed)
    else:
        words = f"{failed or 0:,} of {values.get('element_count', 0):,} rows break it"
    return AuditResult(
        table_name=table_name,
        rule=str(config.description or config.type),
        success=bool(result.success),
        checked=values.get("element_count"),
        failed=failed,
        observed=words,
    )


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


def _broken_in_words(result: AuditResult) -> str:
    rows = result.failed is not None and result.checked is not None
    found = f" by {result.failed:,} of {result.checked:,} rows" if rows else f": {result.observed}"
    return f"{result.table_name}: '{result.rule}' broken{found}" + (f" ({result.hint})" if result.hint else "")


def _equal(column: str, value: Any) -> EqualTo:
    return EqualTo(term=column, value=value)


def require(results: Sequence[AuditResult], *, staged: Path | None = None) -> None:
    """Stop if a rule was broken.

    Raises
    ------
    AuditFailed
        Says which rules, how many rows, and where the staged files lie.
    """
    broken = [result for result in results if not result.success]
    if not broken:
        checked = max((result.checked or 0 for result in results), default=0)
        names = ", ".join(sorted({result.table_name for result in results}))
        log.info("audit of %s: %d rules hold, %s rows checked", names, len(results), f"{checked:,}")
        return
    said = "; ".join(map(_broken_in_words, broken))
    left = f"; staged files left in {staged}" if staged else ""
    raise AuditFailed(f"audit failed, nothing was published: {said}{left}")


__all__ = [
    "AuditResult",
    "RowRule",
    "Suite",
    "interactions_suite",
    "items_suite",
    "recommendations_suite",
    "record_audits",
    "require",
    "run_suite",
    "sequences_suite",
]
