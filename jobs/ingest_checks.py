"""What ingest checks besides the rules about single rows: the accounting, shares of refused lines, the volume."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

import pyarrow.parquet as pq
from pyiceberg.expressions import And, GreaterThanOrEqual, LessThan
from pyspark.sql import DataFrame

from jobs.account import ACCOUNTING, Account, delivered_again
from jobs.audits import AuditResult
from jobs.lakehouse import Lakehouse
from jobs.schemas import INTERACTIONS
from jobs.settings import ClickSource, Source

VOLUME_FACTOR = 10
"""A day with less than a tenth or more than ten times the usual is not believed. Usual is the median of recent
days: a mean would remember for weeks the one day that brought years of history."""
VOLUME_DAYS = 28
VOLUME_MIN_DAYS = 7
MAX_SHARE = 0.5
MIN_REFUSED = 10
"""Fewer refused lines than that say nothing about how a source is configured."""
_HINTS = {
    "time": "is time_unit = '{unit}' right?",
    "form": "are format, columns and delimiter right?",
    "ids": "are the columns user = '{user}' and item = '{item}' right?",
    "clicks": "are the columns clicked = '{clicked}' and arm = '{arm}' right?",
}
_KINDS = {
    "bad_time": "time",
    "future_time": "time",
    "broken_line": "form",
    "null_user": "ids",
    "null_item": "ids",
    "id_too_long": "ids",
    "bad_clicked": "clicks",
    "unknown_arm": "clicks",
}
log = logging.getLogger("syncrec")


@dataclass(frozen=True)
class ReasonCounts:
    """Rows by source, arrival day and reject reason (None: a sound row)."""

    rows: dict[tuple[str, date, str | None], int]

    def sound_by_day(self) -> Counter[date]:
        """Sound rows, copies among them, by arrival day."""
        counter: Counter[date] = Counter()
        for (_, day, reason), count in self.rows.items():
            counter[day] += count if reason is None else 0
        return counter

    def by_source(self) -> Counter[str]:
        """All rows by source."""
        counter: Counter[str] = Counter()
        for (source, _, _), count in self.rows.items():
            counter[source] += count
        return counter

    def by_reason(self) -> Counter[str]:
        """Refused rows by reason."""
        counter: Counter[str] = Counter()
        for (_, _, reason), count in self.rows.items():
            if reason is not None:
                counter[reason] += count
        return counter


def count_reasons(judged: DataFrame) -> ReasonCounts:
    """Count raw rows by source, arrival day and reason."""
    rows = judged.groupBy("source", "arrival_ds", "reason").count().collect()
    return ReasonCounts({(row[0], row[1], row[2]): row[3] for row in rows})


def count_domains(judged: DataFrame, reason: str | None) -> Counter[str]:
    """Raw rows of one reason (None: sound ones) by what they say of their domain."""
    chosen = judged.where("reason is null" if reason is None else f"reason = '{reason}'")
    return Counter({str(row[0] or ""): row[1] for row in chosen.groupBy("domain").count().collect()})


def unknown_in_words(unknown: Counter[str], most: int = 5) -> str:
    """What no domain is called, the most frequent first."""
    named = [f"{name[:30] or 'nothing'!r} in {rows:,} lines" for name, rows in unknown.most_common(most)]
    return ", ".join(named) + (", ..." if len(unknown) > most else "")


def row_count(files: Sequence[str]) -> int:
    """Rows of Parquet files, by their footers."""
    return sum(pq.ParquetFile(file.removeprefix("file://")).metadata.num_rows for file in files)


def days_in_words(first: date, last: date) -> str:
    """2024-01-05, or 2024-01-01 to 2024-01-05."""
    return str(last) if first == last else f"{first} to {last}"


def _called(table: str) -> str:
    """What people call the rows of a table."""
    return "events" if table == INTERACTIONS.name else table


def tell(
    counts: ReasonCounts, account: Account, strangers: Sequence[str], table: str = INTERACTIONS.name,
    *, unknown: Counter[str] | None = None,
) -> None:  # fmt: skip
    """Log what was read and what became of it, one fact a line. unknown: domains that are not configured."""
    for name in strangers:
        log.warning("warning: %s belongs to no source and was left alone", name)
    for source, rows in sorted(counts.by_source().items()):
        log.info("read from %s: %s lines", source, f"{rows:,}")
    if account.lines == 0:
        log.warning("warning: an empty day: the landing files hold no line")
    log.info("%s: %s", _called(table), f"{account.events:,}")
    for reason, rows in sorted(counts.by_reason().items()):
        log.info("rejected for %s: %s", reason, f"{rows:,}")
    if unknown:
        log.warning("warning: no domain is called %s", unknown_in_words(unknown))
    log.info("duplicates: %s", f"{account.duplicates:,}")
    if again := delivered_again(account):
        log.warning("warning: %s", again)


def check_accounting(account: Account, table: str = INTERACTIONS.name) -> AuditResult:
    """Every line is an event, a rejected line or a duplicate."""
    out = account.events + account.rejected + account.duplicates
    return AuditResult(
        table_name=table,
        rule=ACCOUNTING.format(_called(table)),
        success=account.lines == out,
        checked=account.lines,
        failed=abs(account.lines - out),
        observed=account.in_words(),
    )


def check_shares(
    counts: ReasonCounts, sources: Sequence[Source], table: str = INTERACTIONS.name
) -> list[AuditResult]:
    """A source that is refused for the most part on a day is configured wrongly, or has changed its form."""
    read: Counter[tuple[str, date]] = Counter()
    refused: Counter[tuple[str, date, str]] = Counter()
    for (name, day, reason), count in counts.rows.items():
        read[name, day] += count
        if reason in _KINDS:
            refused[name, day, _KINDS[reason]] += count
    return [
        _check_share(
            source,
            kind,
            {day: (refused[name, day, kind], rows) for (name, day), rows in read.items() if name == source.name},
            counts,
            table,
        )
        for source in sources
        for kind in _HINTS
        if kind != "clicks" or isinstance(source, ClickSource)
    ]


def _check_share(
    source: Source, kind: str, days: Mapping[date, tuple[int, int]], counts: ReasonCounts, table: str
) -> AuditResult:
    wrong = sorted(
        day for day, (failed, rows) in days.items() if failed >= MIN_REFUSED and failed > MAX_SHARE * rows
    )
    own = {"clicked": source.clicked, "arm": source.arm or ""} if isinstance(source, ClickSource) else {}
    asked = _HINTS[kind].format(unit=source.time_unit, user=source.user, item=source.item, **own)
    looked_at = wrong or list(days)
    reasons: Counter[str] = Counter()
    for (name, day, reason), count in counts.rows.items():
        if name == source.name and day in wrong and reason and _KINDS.get(reason) == kind:
            reasons[reason] += count
    found = "".join(f", {reason} {count:,}" for reason, count in sorted(reasons.items()))
    return AuditResult(
        table_name=table,
        rule=f"at most half of a day's lines of source {source.name} are refused for their {kind}",
        success=not wrong,
        checked=sum(days[day][1] for day in looked_at),
        failed=sum(days[day][0] for day in wrong),
        observed=f"broken on {', '.join(map(str, wrong))}" if wrong else "holds on every day",
        hint=f"on {days_in_words(wrong[0], wrong[-1])}{found}: {asked}" if wrong else "",
    )


def check_history(
    counts: ReasonCounts, sources: Sequence[Source], domains: Sequence[str], events: Counter[str],
    unknown: Counter[str],
) -> AuditResult:  # fmt: skip
    """Every domain has an event in the history that a project begins with: what is missing there stays missing.

    events, unknown: sound rows, and rows of no configured domain, by what they say of their domain.
    """
    without = [domain for domain in domains if not events[domain]]
    read = counts.by_source()
    found = [f"no file of source {source.name} ({source.files})" for source in sources if not read[source.name]]
    found += [f"no domain is called {unknown_in_words(unknown)}"] if unknown else []
    asked = "correct [[sources]] or [domains], or take the domain out until it has events"
    return AuditResult(
        table_name=INTERACTIONS.name,
        rule="every domain has an event in the history",
        success=not without,
        observed=f"no event in {', '.join(without)}" if without else "every domain has events",
        hint="; ".join([*found, asked]) if without else "",
    )


def check_volume(
    lakehouse: Lakehouse, account: Account, first: date, last: date, table: str = INTERACTIONS.name
) -> list[AuditResult]:
    """Hold a day against the recent ones; says nothing about several days at once, few days or an empty day."""
    snapshot = lakehouse.current_snapshot(table)
    if first != last or account.lines == 0 or snapshot is None:
        return []
    recent = And(
        GreaterThanOrEqual("arrival_ds", (last - timedelta(days=VOLUME_DAYS)).isoformat()),
        LessThan("arrival_ds", last.isoformat()),
    )
    by_day: Counter[object] = Counter()
    for task in lakehouse.table(table).scan(row_filter=recent, snapshot_id=snapshot).plan_files():
        by_day[task.file.partition[0]] += task.file.record_count
    if len(by_day) < VOLUME_MIN_DAYS:
        return []
    usual = median(by_day.values())
    limits = f"1/{VOLUME_FACTOR} to {VOLUME_FACTOR} times"
    fits = usual / VOLUME_FACTOR <= account.events <= usual * VOLUME_FACTOR
    found = f"{account.events:,} {_called(table)}; median of {len(by_day)} recent days {usual:,.0f}"
    return [
        AuditResult(
            table_name=table,
            rule=f"{_called(table)} lie within {limits} the median of recent days",
            success=fits,
            observed=found,
            hint=delivered_again(account),
        )
    ]


def observations(account: Account, strangers: Sequence[str], table: str = INTERACTIONS.name) -> list[AuditResult]:
    """What was seen and is no fault."""
    named = ", ".join(strangers[:10]) + (", ..." if len(strangers) > 10 else "")
    return [
        AuditResult(
            table_name=table,
            rule="duplicates are counted once",
            success=True,
            checked=account.lines,
            failed=0,
            observed=f"{account.duplicates:,} duplicates left out",
        ),
        AuditResult(
            table_name=table,
            rule="files that belong to no source are left alone",
            success=True,
            observed=f"{len(strangers)} files" + (f": {named}" if strangers else ""),
        ),
        AuditResult(
            table_name=table,
            rule="an empty day is allowed",
            success=True,
            observed="empty day: no line in the landing files" if account.lines == 0 else "the day has lines",
        ),
    ]
