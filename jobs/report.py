"""Write the nightly report: one self-contained HTML page that says how the night went, and an index of all nights.

Every number is read from the tables by SQL. A night that was not published gets its page too: what stopped it is
what the page says first. The page goes to <state_dir>/reports/<ds>.html and, where the night's training run is
found, to its MLflow artifacts. At the end analytics.duckdb is written anew, for tools that read it.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import jinja2

from jobs.analytics import write_analytics
from jobs.command import Run, one_line, run_job
from jobs.errors import JobError, PublishConflict
from jobs.links import report_link, run_link, tell_links
from jobs.mlflow_store import no_store
from jobs.night_files import write_whole
from jobs.query import connect, open_lakehouse
from jobs.report_facts import gather
from jobs.report_figures import quality_figure, steps_figure, transfer_figures
from jobs.report_index import index_rows, link_neighbours
from jobs.schemas import ROLLED_BACK
from jobs.settings import Settings
from jobs.step_times import record_steps

log = logging.getLogger("syncrec")


def render(name: str, **values: Any) -> str:
    """Fill one block of the template; every value is escaped: ids are strangers' data."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "signed": _signed, "end": _end, "percent": _percent, "count": _count}
    environment.filters |= {"seconds": _seconds, "gibibytes": _gibibytes}
    return environment.get_template("report.html.j2").render(page=name, **values)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}"
    zero = not text.strip("+-0.")
    return text[1:] if zero else text.replace("-", "−")


def _end(value: float | None) -> str:
    """An end of an interval: with a digit more where it would read as zero, for zero is what it is held against."""
    short, longer = _signed(value), _signed(value, 4)
    return short if short.strip("0.") or not longer.strip("0.") else longer


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    """A duration in words: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if value is None:
        return "–"
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _gibibytes(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 2**30:.1f} GiB" if value >= 0.1 * 2**30 else f"{value / 2**20:.0f} MiB"


# --- MLflow ---------------------------------------------------------------------------------------------


def alone(page: str) -> str:
    """A page without links to other nights, which are not beside it among the artifacts of a run."""
    page = re.sub(r"<nav .*?</nav>", "", page, flags=re.DOTALL)
    return re.sub(r'<a [^>]*href="[\d-]+\.html"[^>]*>(.*?)</a>', r"\1", page)


def attach_to_mlflow(settings: Settings, ds: date, run_id: str | None, file: Path) -> bool:
    """Add the page to the artifacts of the night's training run; False, with a log line, where that cannot be."""
    if no_store(settings.tracking_uri):
        return False
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        from mlflow.tracking import MlflowClient

        from jobs.run_note import add_facts, artifact_link

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
        mlflow_run = (own or found)[0].info.run_id
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / file.name
            copy.write_text(alone(file.read_text(encoding="utf-8")), encoding="utf-8")
            client.log_artifact(mlflow_run, str(copy), "report")
        client.set_tag(mlflow_run, "report", f"report/{file.name}")
        link = artifact_link(client, mlflow_run, f"report/{file.name}", "how the night went")
        add_facts(client, mlflow_run, {"Report": link})
        pages = (settings, experiment.experiment_id, mlflow_run)
        copy_link = run_link(*pages, artifact=f"report/{file.name}")
        tell_links(run=run_link(*pages), report=report_link(settings, file.name) or copy_link)
    except Exception as error:  # MLflow raises what its store raises; the report stands without it
        log.warning("report: not attached to MLflow: %s", one_line(error, 200))
        return False
    return True


def write_index(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Write the page that lists all nights; connection: has the tables by their names."""
    write_whole(folder / "index.html", render("index", nights=index_rows(connection, folder)))


def _refuse_other_days(connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date) -> None:
    """Raise JobError where the day lies before the first night, or nothing is known of it.

    Its page would be that of a failed night.
    """
    (first,) = connection.execute("select min(ds) from nights").fetchall()[0]
    landed = (settings.landing_path / ds.isoformat()).exists()
    if first and ds > first and not landed and not (settings.state / "reports" / f"{ds}.html").exists():
        raise JobError(f"{ds} is no night: no step of it ran, and no folder of it is in {settings.landing_path}")
    if first and ds < first:
        raise JobError(f"{ds} is no night but history: the first night is {first}")


def job(run: Run) -> str:
    """Write the night's page and the index."""
    folder = run.settings.state / "reports"
    try:
        record_steps(open_lakehouse(run.settings), run.ds)
    except PublishConflict as error:  # another report of this day writes the same
        log.warning("report: %s", error)
    with connect(run.settings) as connection:
        folder.mkdir(parents=True, exist_ok=True)
        facts = gather(connection, run.ds, run.settings.domain_names, run.settings.state / "logs")
        if not facts["night"] and not facts["steps"]:
            _refuse_other_days(connection, run.settings, run.ds)
        figures = {
            "transfer": transfer_figures(facts["history"]),
            "withdrawn": any(row["decision"] == ROLLED_BACK for rows in facts["history"].values() for row in rows),
            "quality": quality_figure(facts["quality"]),
            "steps": steps_figure(facts["steps"]),
        }
        file = folder / f"{run.ds}.html"
        write_whole(file, render("night", **facts, figures=figures))
        link_neighbours(folder, run.ds)
        write_index(connection, folder)
    tell_links(report=report_link(run.settings, file.name) or file.as_uri())
    run_id = facts["night"]["run_id"] if facts["night"] else run.run_id
    attach_to_mlflow(run.settings, run.ds, run_id, file)
    write_analytics(run.settings)
    return str(file)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return run_job(job, argv)


if __name__ == "__main__":
    raise SystemExit(main())
