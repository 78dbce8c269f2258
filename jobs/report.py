"""Write the nightly report: one self-contained HTML page that says how the night went, and an index of all nights.

Every number is read from the tables by SQL. A night that was not published gets its page too: what stopped it is
what the page says first. The page goes to <state_dir>/reports/<ds>.html and, where the night's training run is
found, to its MLflow artifacts. At the end analytics.duckdb is written anew, for tools that read it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import jinja2

from jobs.analytics import write_analytics
from jobs.command import Run, one_line, run_job
from jobs.night import write_whole
from jobs.query import connect
from jobs.report_figures import transfer_figures
from jobs.schemas import ROLLED_BACK, SERVED
from jobs.settings import Settings
from jobs.sql_views import SQL

Row = dict[str, Any]
NIGHTS_IN_FIGURES = 30
EVENTS_SHOWN = 8
log = logging.getLogger("syncrec")


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
        "gate": rows("select * from gate_checks where ds = $ds order by domain, rule"),
        "arms": rows("select * from experiments where ds = $ds order by arm desc"),
        "transfer": [history[name][-1] for name in history if history[name][-1]["ds"] == ds],
        "history": history,
        "quality": _quality(quality, domains, night),
        "arrived": [arrived[name] for name in _in_order(arrived, domains)],
        "rejected": rows(
            "select * from rejects_by_reason where arrival_ds = $ds order by lines desc, source, reason"
        ),
        "written": [written[name] for name in _in_order(written, domains)],
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
    if night and night["decision"] == "no_challenger":
        look.append(f"No model was trained; version {night['served_version']} served: {night['reason']}.")
    if night and night["decision"] == ROLLED_BACK:
        look.append(f"This night was {night['reason']}.")
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
    if not facts["quality"]:
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
    result = connection.execute("select ds, served_version, decision, reason from nights")
    nights = {row[0]: row for row in result.fetchall()}
    audited = {row[0] for row in connection.execute("select distinct ds from audits").fetchall()}
    pages = {file.stem for file in folder.glob("????-??-??.html")}
    days = sorted({day.isoformat() for day in (*nights, *audited)} | pages, reverse=True)
    table = []
    for day in days:
        _, version, decision, reason = nights.get(date.fromisoformat(day), (None, None, None, None))
        published = date.fromisoformat(day) in nights
        table.append({"day": day, "page": day in pages, "published": published, "version": version})
        table[-1] |= {"decision": decision, "reason": reason}
    return table


# --- the page -------------------------------------------------------------------------------------------


def render(name: str, **values: Any) -> str:
    """Fill one block of the template; every value is escaped: ids are strangers' data."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "signed": _signed, "percent": _percent, "count": _count}
    return environment.get_template("report.html.j2").render(page=name, **values)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}"
    zero = not text.strip("+-0.")
    return text[1:] if zero else text.replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


# --- MLflow ---------------------------------------------------------------------------------------------


def attach_to_mlflow(settings: Settings, ds: date, run_id: str | None, file: Path) -> bool:
    """Add the page to the artifacts of the night's training run; False, with a log line, where that cannot be."""
    sqlite = settings.tracking_uri.removeprefix("sqlite:///")
    if sqlite != settings.tracking_uri and not Path(sqlite).exists():
        return False  # looking must not create a store
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=settings.tracking_uri)
        experiment = client.get_experiment_by_name(settings.mlflow.experiment)
        found = (
            client.search_runs(
                [experiment.experiment_id], f"tags.ds = '{ds}'", order_by=["attributes.start_time DESC"]
            )
            if experiment
            else []
        )
        own = [run for run in found if run_id and run.data.tags.get("syncrec.run_id") == run_id]
        if not found:
            log.info("report: no MLflow run is tagged ds = %s: the page is not attached", ds)
            return False
        client.log_artifact((own or found)[0].info.run_id, str(file), "report")
    except Exception as error:  # MLflow raises what its store raises; the report stands without it
        log.warning("report: not attached to MLflow: %s", one_line(error, 200))
        return False
    return True


def job(run: Run) -> str:
    """Write the night's page and the index."""
    folder = run.settings.state / "reports"
    with connect(run.settings) as connection:
        folder.mkdir(parents=True, exist_ok=True)
        facts = gather(connection, run.ds, run.settings.domain_names)
        figures = transfer_figures(facts["history"])
        file = folder / f"{run.ds}.html"
        write_whole(file, render("night", **facts, figures=figures))
        write_whole(folder / "index.html", render("index", nights=index_rows(connection, folder)))
    run_id = facts["night"]["run_id"] if facts["night"] else run.run_id
    attach_to_mlflow(run.settings, run.ds, run_id, file)
    write_analytics(run.settings)
    return str(file)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run_job(job, argv)


if __name__ == "__main__":
    raise SystemExit(main())
