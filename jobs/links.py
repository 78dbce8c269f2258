"""Addresses of the pages where people look: what a step hands to Airflow as links of its task.

Airflow's task names a file in SYNCREC_LINKS and shows what the job wrote there; a job run by hand writes none.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from jobs.settings import Settings

VARIABLE = "SYNCREC_LINKS"
PAGE, USUAL_PAGE = "mlflow_page.txt", "http://127.0.0.1:5000"
"""The file of the state that keeps the address of `make up`, and what holds before there is one."""
REPORTS_PAGE, USUAL_REPORTS_PAGE = "reports_page.txt", "http://127.0.0.1:8090"
"""The same of the pages of the nights."""
OF_MODELS = "?workflowType=machine_learning"
RUN, REPORT = "MLflow run", "Report of the night"
"""The names of the links, as dags/syncrec_job.py has them; a test compares."""


def mlflow_page(settings: Settings) -> str:
    """Where people open MLflow: SYNCREC_MLFLOW_PAGE, else the tracking server, else that of `make up`."""
    served = settings.tracking_uri if has_server(settings) else ""
    address = os.environ.get("SYNCREC_MLFLOW_PAGE") or served or known_page(settings)
    return address.rstrip("/")


def has_server(settings: Settings) -> bool:
    """Is there a tracking server? Then nobody knows whether `make up` is how people look, until it has run once."""
    return settings.tracking_uri.startswith(("http://", "https://"))


def known_page(settings: Settings) -> str:
    """Where `make up` last had MLflow; its usual port where it never ran."""
    return _noted(settings.state / PAGE) or USUAL_PAGE


def known_reports_page(settings: Settings) -> str:
    """Where `make up` last had the pages of the nights; its usual port where it never ran."""
    return _noted(settings.state / REPORTS_PAGE) or USUAL_REPORTS_PAGE


def _noted(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def report_link(settings: Settings, name: str) -> str:
    """Where people open the page of a night: SYNCREC_REPORTS_PAGE, else that of `make up`.

    "" where a tracking server is used and nothing says where the pages are: MLflow has a copy of some of them.
    """
    address = os.environ.get("SYNCREC_REPORTS_PAGE")
    if not address and has_server(settings) and not _noted(settings.state / REPORTS_PAGE):
        return ""
    return (address or known_reports_page(settings)).rstrip("/") + f"/{name}"


def run_link(settings: Settings, experiment_id: str, run_id: str, artifact: str = "") -> str:
    """The page of a run, or of one of its artifacts."""
    return mlflow_page(settings) + "/" + run_path(experiment_id, run_id, artifact)


def run_path(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """The same within MLflow. Its pages for models are asked for: it opens those for chats by itself."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}" + (f"/artifacts/{artifact}" if artifact else "")
    return page + OF_MODELS


def experiment_path(experiment_id: str) -> str:
    """The list of an experiment's runs within MLflow; of all experiments where there is none yet ("").

    A click in that list of all opens the page for chats, whatever the list was asked for.
    """
    return (f"#/experiments/{experiment_id}/runs" if experiment_id else "#/experiments") + OF_MODELS


def tell_links(**links: str) -> None:
    """Hand links to Airflow: run=..., report=... ; nothing where it did not ask."""
    if not (file := os.environ.get(VARIABLE)):
        return
    names = {"run": RUN, "report": REPORT}
    path = Path(file)
    known = json.loads(path.read_text(encoding="utf-8") or "{}") if path.exists() else {}
    path.write_text(json.dumps(known | {names[name]: link for name, link in links.items()}), encoding="utf-8")
