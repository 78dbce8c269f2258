"""The words on the MLflow page of a night's training: facts, one a line, to which each step adds its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from jobs.links import OF_MODELS, run_path

FIRST = ("Gate", "Report")
"""MLflow folds a long note: what people come for stands above."""


def add_facts(client: MlflowClient, run_id: str, facts: Mapping[str, str]) -> None:
    """Add lines to the note of a run, in place of those of the same names."""
    old = str(client.get_run(run_id).data.tags.get(MLFLOW_RUN_NOTE, ""))
    lines = {_name(line): line for line in old.splitlines() if line.strip()}
    lines |= {name: f"- **{name}**: {' '.join(text.split())}" for name, text in facts.items()}
    order = [*(name for name in FIRST if name in lines), *(name for name in lines if name not in FIRST)]
    client.set_tag(run_id, MLFLOW_RUN_NOTE, "\n".join(lines[name] for name in order))


def _name(line: str) -> str:
    found = re.match(r"- \*\*(.+?)\*\*: ", line)
    return found[1] if found else line


def version_link(model: str, number: str) -> str:
    """A link from one page of MLflow to that of a version."""
    return f"[version {number}](#/models/{model}/versions/{number}{OF_MODELS})"


def artifact_link(client: MlflowClient, run_id: str, path: str, words: str) -> str:
    """A link from one page of MLflow to an artifact of a run."""
    experiment = client.get_run(run_id).info.experiment_id
    return f"[{words}]({run_path(experiment, run_id, path)})"
