"""The last lines of a night at the terminal: what came out of it, and where to look."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pyiceberg.expressions import EqualTo

from jobs.analytics import analytics_file
from jobs.lakehouse import Lakehouse
from jobs.night_log import NightEnd
from jobs.orchestrator import make_option
from jobs.schemas import CANDIDATE_ARM, SERVED
from jobs.settings import Settings
from jobs.transfer_words import hurt_text

FIRST_QUERY = "sql/queries/ntg_by_day.sql"


def closing_lines(
    settings: Settings, config: Path, lakehouse: Lakehouse, ds: date, seconds: float
) -> Iterator[str]:
    """Say what came out of a published night and where to look."""
    (night,) = _rows(lakehouse, "nights", ds)
    count = lakehouse.table("recommendations").scan(row_filter=EqualTo("ds", ds)).count()
    option = make_option(config)
    metrics = [row for row in _rows(lakehouse, "domain_metrics", ds) if row["run_id"] == night["run_id"]]
    yield f"night {ds} is published, {seconds:.0f} s"
    yield f"  recommendations  {count:,} rows"
    yield f"  model            {model_text(night)}"
    if tried := experiment_text(_rows(lakehouse, "experiments", ds)):
        yield f"  experiment       {tried}"
    yield f"  NTG per domain   {ntg_text(metrics, settings.domain_names, str(night['served_version']))}"
    if served := served_text(metrics, settings.domain_names, str(night["served_version"])):
        yield f"  what is served   {served}"
    if said := hurt_text(metrics, settings.domain_names, str(night["served_version"])):
        yield f"  worse anywhere?  {said}"
    yield f"  query it         make sql{option} Q={FIRST_QUERY}"
    yield f"  BI tools         {analytics_file(settings)}    (DuckDB, read only)"
    yield f"  web pages        make up{option}    (Airflow, MLflow and the nights' pages, on this machine only)"
    if option:
        named = shlex.quote(str(config))
        yield f"  other commands   export SYNCREC_CONFIG={named}    (else they work on the sample)"
    yield f"  report           {settings.state / 'reports' / f'{ds}.html'}"


def _rows(lakehouse: Lakehouse, table: str, ds: date) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lakehouse.read_arrow(
        table, lakehouse.current_snapshot(table), EqualTo("ds", ds)
    ).to_pylist()
    return rows


def model_text(night: dict[str, Any]) -> str:
    """Which version scored, and what the gate decided and why."""
    decision = str(night["decision"]).replace("_", " ")
    if night["decision"] == "refused" and night["challenger"]:
        decision = f"version {night['challenger']} refused"
    return f"version {night['served_version']} scored; {decision}: {night['reason']}"


def experiment_text(arms: Iterable[dict[str, Any]]) -> str:
    """Who gets the candidate's lists, as one line; "" without an experiment. arms: rows of `experiments`."""
    by_arm = {row["arm"]: row for row in arms}
    if not (candidate := by_arm.get(CANDIDATE_ARM)):
        return ""
    name, users = candidate["experiment"], sum(row["users"] for row in by_arm.values())
    if candidate["outcome"] != SERVED:
        return f"{name}: the candidate was {candidate['outcome'].replace('_', ' ')}: {candidate['reason']}"
    return (
        f"{name}: {candidate['users']:,} of {users:,} users get the lists of version {candidate['model_version']}"
    )


def ntg_text(metrics: Iterable[dict[str, Any]], domains: Sequence[str], version: str) -> str:
    """The negative transfer gap of each domain in NDCG@10, as one line; a star marks a clear one.

    The challenger's where there is one, else the champion's; as in `sql/queries/ntg_by_day.sql`. version: the one
    that serves; another is named.
    """
    best: dict[str, dict[str, Any]] = {}
    for row in metrics:
        if row["metric"] == "ntg_ndcg" and (row["domain"] not in best or row["role"] == "challenger"):
            best[row["domain"]] = row
    told = [f"{domain} {_gap(best[domain])}" for domain in domains if domain in best]
    if not told:
        return "not measured tonight"
    measured = {str(row["model_version"]) for row in best.values()} - {version}
    of = f" of version {measured.pop()}, trained tonight" if measured else ""
    return ", ".join(told) + f"   (NDCG@10, cross view less single{of}; * clear)"


def served_text(metrics: Iterable[dict[str, Any]], domains: Sequence[str], version: str) -> str:
    """What the version that serves gains on its own single view, and the view that validation chose, as one line.

    "" where it was not measured tonight.
    """
    own = [row for row in metrics if row["metric"] == "ntg_served" and str(row["model_version"]) == version]
    gains = {row["domain"]: row for row in own if row["split"] == "test"}
    views = {row["domain"]: row["view"] for row in own if row["split"] == "valid"}
    told = [
        f"{domain} {_served(gains[domain], views.get(domain) or '')}".rstrip()
        for domain in domains
        if domain in gains
    ]
    return ", ".join(told) + "   (the view that validation chose, less single)" if told else ""


def _served(gain: dict[str, Any], view: str) -> str:
    """The single view gains nothing on itself."""
    return view if view == "single" else f"{_gap(gain)} {view}"


def _gap(row: dict[str, Any]) -> str:
    """A difference with its sign; a star where its interval leaves out 0."""
    clear = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
    return f"{row['value']:+.3f}{'*' if clear else ''}"


def failure_text(ds: date, end: NightEnd, log: Path, page: Path | None = None, *, published: bool = False) -> str:
    """Say in a few lines what failed, why, where the log and the night's page are and what to do."""
    if end.failed:
        causes = [f"{step.name} failed: {step.cause or 'no cause given'}" for step in end.failed]
    else:
        causes = [f"Airflow could not run it: {end.last_line or 'no output'}"]
    return "\n".join(
        [
            f"night {ds} is published, yet it did not end well."
            if published
            else f"night {ds} is not published; the recommendations are as they were.",
            *(f"  {cause}" for cause in causes),
            f"  full log: {log}",
            *([f"  report: {page}"] if page else []),
            "  when the cause is mended: the same command again "
            + ("moves the aliases and goes on" if published else "runs this night again"),
        ]
    )
