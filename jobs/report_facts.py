"""What the page of one night says, read from the tables by SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from jobs.account import ACCOUNTING, Account, account_of
from jobs.backfill import AGAIN
from jobs.report_problems import name_log, problems
from jobs.schemas import CANDIDATE_ARM, INTERACTIONS, ROLLED_BACK, SERVED
from jobs.sql_views import SQL
from jobs.step_times import FAILED, NOT_ENDED
from jobs.transfer_words import Transfer, hurt_text, transfer_in_words

Row = dict[str, Any]
NIGHTS_IN_FIGURES = 30
EVENTS_SHOWN = 8


def gather(connection: duckdb.DuckDBPyConnection, ds: date, domains: Sequence[str], logs: Path) -> dict[str, Any]:
    """Read everything that the page of one night shows.

    Parameters
    ----------
    connection
        From jobs.query.connect: every table and view.
    ds
        The night.
    domains
        The configured domains, in the order in which they are shown.
    logs
        The folder of logs; it need not be there.
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
    every_audit = rows((SQL / "report" / "audits.sql").read_text(encoding="utf-8"))
    measured = rows(
        "select run_id, role, max(model_version) as version from domain_metrics"
        " where ds = $ds and role in ('champion', 'challenger') group by run_id, role"
    )
    facts: dict[str, Any] = {
        "ds": ds,
        "night": night,
        "last_published": next((row["ds"] for row in nights if row["ds"] < ds), None),
        "kept": next((row["ds"] for row in nights if row["ds"] < ds and row["decision"] != ROLLED_BACK), None),
        "gate": _gate(rows("select * from gate_checks where ds = $ds order by domain, rule"), domains),
        "arms": rows("select * from experiments where ds = $ds order by arm desc"),
        "transfer": [history[name][-1] for name in history if history[name][-1]["ds"] == ds],
        "history": history,
        "in_words": "",
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
    facts["audits"] = [row for row in every_audit if row["newest"]]
    facts["stopped"] = [row for row in every_audit if not row["newest"] and not row["success"]]
    facts["account"] = _account(facts["audits"])
    facts["unread"] = _unread(facts)
    facts["earlier"] = _earlier(measured, night)
    run_id = max((row["run_id"] for row in measured), default=None)  # as ntg_by_night and _quality choose
    if night and not facts["earlier"]:
        run_id = night["run_id"]
    facts["epoch"] = _epoch(rows, run_id)
    metrics = rows("select * from domain_metrics where ds = $ds and run_id = $run", run=run_id)
    facts |= _in_words(facts, metrics, domains)
    for row in (*facts["steps"], *facts["arms"], *([night] if night else [])):
        for name in {"message", "reason"} & set(row):
            row[name] = name_log(row[name], logs, ds, row["run_id"])
    facts["again"] = night is not None and AGAIN in night["reason"]
    facts["problems"] = problems(facts, domains)
    return facts


def _in_words(facts: Mapping[str, Any], metrics: Sequence[Row], domains: Sequence[str]) -> Row:
    """Who is hurt, and by the lists of which version, as facts of the page.

    in_words: sentences, that of the version which serves first. is_served: does the version that was trained serve
    (of an experiment's users, too)? whose: whose lists users get where it does not serve all of them, else "".
    """
    night, own = facts["night"], [row for row in facts["transfer"] if row["domain"] in domains]
    said = transfer_in_words({row["domain"]: _transfer(row) for row in own})
    would = said.replace("As served,", "If it served,")
    if not night or night["decision"] == ROLLED_BACK:
        return {"in_words": [would] if said else [], "is_served": False, "whose": ""}
    served, trained = str(night["served_version"] or ""), str(own[0]["model_version"]) if own else ""
    if not said or served in ("", trained):
        return {"in_words": [said] if said else [], "is_served": True, "whose": ""}
    candidate = any((row["arm"], row["outcome"], row["model_version"]) == (CANDIDATE_ARM, SERVED, trained)
                    for row in facts["arms"])  # fmt: skip
    ours = hurt_text(metrics, domains, served)
    when = facts["earlier"]["when"] if facts["earlier"] else "tonight"
    sentences = [f"Version {served}, which serves: {_small(ours)}"] if ours else []
    sentences.append(f"Version {trained}, trained {when}: {_small(said if candidate else would)}")
    whose = f"users get the lists of version {served}" + (", those of the candidate’s arm its" if candidate else "")
    return {"in_words": sentences, "is_served": candidate, "whose": whose}


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _transfer(row: Row) -> Transfer:
    return Transfer(
        served=(row["ntg_served_low"], row["ntg_served_high"]),
        cross=(row["ntg_ndcg_low"], row["ntg_ndcg_high"]),
        view=row["served_view"] or "",
    )


def _account(audits: Sequence[Row]) -> Account | None:
    """What became of the lines that ingest read, as its audit kept it."""
    rule = (INTERACTIONS.name, ACCOUNTING.format("events"))
    return next((account_of(row["observed"]) for row in audits if (row["table_name"], row["rule"]) == rule), None)


def _unread(facts: Mapping[str, Any]) -> str:
    """Why nothing was ingested, where that is so; else ''."""
    ended = {row["step"]: row["outcome"] for row in facts["steps"]}
    stopped = next((name for name, outcome in ended.items() if outcome in (FAILED, NOT_ENDED)), None)
    if facts["arrived"] or facts["rejected"] or stopped is None:
        return ""
    step = "ingest" if "ingest" in ended else stopped
    if ended[step] not in (FAILED, NOT_ENDED):
        return ""
    return f"Nothing was ingested: the step {step} {'failed' if ended[step] == FAILED else 'did not end'}."


def _earlier(measured: Sequence[Row], night: Row | None) -> Row | None:
    """The run that measured what the page shows, where it is not the one that published: when, run, versions."""
    runs = {row["run_id"] for row in measured}
    if not night or not runs or night["run_id"] in runs:
        return None
    run_id = max(runs)  # as _quality and ntg_by_night choose
    when = "when this night first ran" if AGAIN in night["reason"] else "in another run of this day"
    versions = {row["role"]: row["version"] for row in measured if row["run_id"] == run_id}
    return {"when": when, "run_id": run_id, "champion": None, "challenger": None, **versions}


def _steps(rows: Callable[..., list[Row]], night: Row | None) -> list[Row]:
    """The steps of the run that published the night, else of the newest run."""
    found = rows("select run_id from steps where ds = $ds order by started_at desc limit 1")
    run_id = night["run_id"] if night else found[0]["run_id"] if found else None
    return rows("select * from steps_by_run where ds = $ds and run_id = $run order by started_at, step", run=run_id)


def _epoch(rows: Callable[..., list[Row]], run_id: str | None) -> Row | None:
    """The epoch that the challenger's training kept, and how many were allowed; None where that is not known."""
    found = rows(
        "select max(case when metric = 'epoch' then value end) as kept,"
        " max(case when metric = 'epochs_at_most' then value end) as allowed"
        " from domain_metrics where ds = $ds and run_id = $run and role = 'challenger' and split = 'train'",
        run=run_id,
    )[0]
    return None if found["kept"] is None else {name: int(value) for name, value in found.items()}


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
