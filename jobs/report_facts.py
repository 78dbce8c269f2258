"""What the page of one night says, read from the tables by SQL; and what of it a person should look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from jobs.backfill import AGAIN
from jobs.schemas import ROLLED_BACK, SERVED
from jobs.sql_views import SQL
from jobs.step_times import FAILED, NOT_ENDED, NOTHING

Row = dict[str, Any]
NIGHTS_IN_FIGURES = 30
EVENTS_SHOWN = 8


def gather(connection: duckdb.DuckDBPyConnection, ds: date, domains: Sequence[str]) -> dict[str, Any]:
    """Read everything that the page of one night shows.

    Parameters
    ----------
    connection
        From jobs.query.connect: every table and view.
    ds
        The night.
    domains
        The configured domains, in the order in which they are shown.
    """

    def rows(text: str, **values: Any) -> list[Row]:
        result = connection.execute(text, {"ds": ds, **values})
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    nights = rows("select * from nights where ds <= $ds order by ds desc")
    night = nights[0] if nights and nights[0]["ds"] == ds else None
    gaps = rows("select * from ntg_by_night where ds <= $ds order by ds, published, run_id, model_version")
    history = _history(gaps, domains)
    quality = rows("select * from quality_by_version where ds = $ds and split = 'test'")
    written = {row["domain"]: row for row in rows("select * from recommendations_by_domain where ds = $ds")}
    for row in rows("select * from coverage_by_night where ds = $ds"):
        written[row["domain"]] = row | written.get(row["domain"], {})
    arrived = {row["domain"]: row for row in rows("select * from interactions_by_day where arrival_ds = $ds")}
    facts: dict[str, Any] = {
        "ds": ds,
        "night": night,
        "last_published": next((row["ds"] for row in nights if row["ds"] < ds), None),
        "audits": rows("select * from audits where ds = $ds order by success, table_name, rule, run_id"),
        "gate": _gate(rows("select * from gate_checks where ds = $ds order by domain, rule"), domains),
        "arms": rows("select * from experiments where ds = $ds order by arm desc"),
        "transfer": [history[name][-1] for name in history if history[name][-1]["ds"] == ds],
        "history": history,
        "quality": _quality(quality, domains, night),
        "arrived": [arrived[name] for name in _in_order(arrived, domains)],
        "rejected": rows(
            "select * from rejects_by_reason where arrival_ds = $ds order by lines desc, source, reason"
        ),
        "written": [written[name] for name in _in_order(written, domains)],
        "steps": _steps(rows, night),
        "users": rows((SQL / "report" / "sample_users.sql").read_text(encoding="utf-8")),
    }
    for user in facts["users"]:
        user["history"] = rows(
            "select * from interactions where user_id = $user and arrival_ds <= $ds"
            " order by ts desc, event_id desc",
            user=user["user_id"],
        )[:EVENTS_SHOWN]
        user["lists"] = rows(
            "select * from recommendations where user_id = $user and ds = $ds and rank <= 3"
            " order by domain, arm, rank",
            user=user["user_id"],
        )
    facts["problems"] = problems(facts, domains)
    return facts


def _steps(rows: Callable[..., list[Row]], night: Row | None) -> list[Row]:
    """The steps of the run that published the night, else of the newest run."""
    found = rows("select run_id from steps where ds = $ds order by started_at desc limit 1")
    run_id = night["run_id"] if night else found[0]["run_id"] if found else None
    return rows("select * from steps_by_run where ds = $ds and run_id = $run order by started_at, step", run=run_id)


def _in_order(found: Mapping[str, Any], domains: Sequence[str]) -> list[str]:
    """The names that were found: configured domains first in their order, then others, macro and min last."""
    order = [*domains, *sorted(set(found) - {*domains, "macro", "min"}), "macro", "min"]
    return [name for name in order if name in found]


def _history(gaps: Sequence[Row], domains: Sequence[str]) -> dict[str, list[Row]]:
    """NTG by domain, oldest first; of several runs of one day the published one counts."""
    by_domain: dict[str, dict[date, Row]] = {}
    for row in gaps:  # published rows come last in a day and win
        by_domain.setdefault(row["domain"], {})[row["ds"]] = row
    return {name: list(by_domain[name].values())[-NIGHTS_IN_FIGURES:] for name in _in_order(by_domain, domains)}


def _gate(rows: Sequence[Row], domains: Sequence[str]) -> list[Row]:
    """What the gate compared: objections first, then by domain in their order."""
    places = {name: place for place, name in enumerate(domains)}
    return sorted(rows, key=lambda row: (row["outcome"] != "objection", places.get(row["domain"], len(places))))


def _quality(rows: Sequence[Row], domains: Sequence[str], night: Row | None) -> list[Row]:
    """One line a domain: the served view of champion and challenger, the single view, popularity."""
    runs = {row["run_id"] for row in rows}
    run_id = night["run_id"] if night and night["run_id"] in runs else max(runs, default=None)
    measured = {(row["domain"], row["role"], row["view"]): row for row in rows if row["run_id"] == run_id}
    return [
        {
            "domain": name,
            "champion": measured.get((name, "champion", "served")),
            "challenger": measured.get((name, "challenger", "served")),
            "single": measured.get((name, "challenger", "single")) or measured.get((name, "champion", "single")),
            "popularity": measured.get((name, "popularity", "")),
        }
        for name in _in_order({domain: None for domain, _, _ in measured}, domains)
    ]


def problems(facts: Mapping[str, Any], domains: Sequence[str]) -> list[tuple[str, str]]:
    """What a person should look at, worst first: ('bad' or 'look', one sentence)."""
    bad: list[str] = []
    look: list[str] = []
    night = facts["night"]
    for audit in facts["audits"]:
        if not audit["success"]:
            count = f"{audit['failed']:,} of {audit['checked']:,} rows" if audit["checked"] else audit["observed"]
            sentence = f"Audit of {audit['table_name']} failed: {audit['rule']}: {count}."
            if night and audit["run_id"] != night["run_id"]:
                look.append(f"Another run of this day, {audit['run_id']}, was stopped. {sentence}")
            else:
                bad.append(sentence)
    planned = any(
        (step["step"], step["outcome"]) == ("train", NOTHING) for step in facts["steps"]
    )  # not due tonight
    told = ""
    if night and night["decision"] == "no_challenger" and not planned and AGAIN not in night["reason"]:
        told = night["reason"]
        look.append(f"No model was trained; version {night['served_version']} served: {night['reason']}.")
    if night and night["decision"] == ROLLED_BACK:
        look.append(f"This night was {night['reason']}.")
    for step in facts["steps"]:
        if step["outcome"] in (FAILED, NOT_ENDED):
            if told and step["message"] and step["message"] in told:
                continue
            why = step["message"] or "it was killed, or is still at work"
            attempts = f" (attempt {step['attempt']})" if step["attempt"] > 1 else ""
            sentence = f"Step {step['step']} {step['outcome'].replace('not ended', 'did not end')}{attempts}: {why}"
            (look if night else bad).append(sentence.rstrip(".") + ".")
    look += [
        f"Experiment {row['experiment']}: the candidate was {row['outcome'].replace('_', ' ')}: {row['reason']}."
        for row in facts["arms"]
        if row["outcome"] != SERVED
    ]
    ruled = night["run_id"] if night else None
    look += [
        f"Gate: {row['words']}." for row in facts["gate"] if (row["rule"], row["run_id"]) == ("warning", ruled)
    ]
    if not facts["audits"]:
        look.append("No audit is recorded for this night.")
    if not facts["arrived"]:
        look.append("No event arrived on this day.")
    if not facts["quality"] and not planned:
        look.append("No quality was measured on this night.")
    missing = [name for name in domains if name not in {row["domain"] for row in facts["written"]}]
    if night and missing:
        bad.append(f"No recommendations for {', '.join(missing)}.")
    for row in facts["transfer"]:
        if row["domain"] in domains and (row["ntg_served_high"] or 0) < 0:
            look.append(f"What users of {row['domain']} get is worse than the single-domain view alone.")
    return [("bad", text) for text in bad] + [("look", text) for text in look]


def index_rows(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[Row]:
    """Every night that was published, audited or reported, newest first."""
    result = connection.execute("select ds, served_version, decision, reason, run_id from nights")
    nights = {row[0]: row for row in result.fetchall()}
    took = dict(connection.execute("select (ds, run_id), sum(seconds) from steps group by all").fetchall())
    audited = {row[0] for row in connection.execute("select distinct ds from audits").fetchall()}
    pages = {file.stem for file in folder.glob("????-??-??.html")}
    first = min(nights, default=date.max)
    audited -= {day for day in audited if day < first and day.isoformat() not in pages}  # the history, no night
    days = sorted({day.isoformat() for day in (*nights, *audited)} | pages, reverse=True)
    table = []
    for day in days:
        _, version, decision, reason, run_id = nights.get(date.fromisoformat(day), (None,) * 5)
        published = date.fromisoformat(day) in nights
        table.append({"day": day, "page": day in pages, "published": published, "version": version})
        seconds = took.get((date.fromisoformat(day), run_id))
        table[-1] |= {"decision": decision, "reason": reason, "seconds": seconds}
    return table
