"""What MLflow shows of a training: facts that steps replace, figures by domain and task, the data it read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from jobs.lakehouse import Lakehouse
from jobs.run_note import add_facts, artifact_link, version_link
from jobs.run_page import log_inputs, log_training
from jobs.settings import Settings
from jobs.training_figures import epochs_figure, gates_figure
from syncrec_model import EpochReport, FitResult
from tests.syncrec_model.small_models import random_set, small_model

USE = {"cross": {"books": [0.5, 0.5, 0.0], "toys": [0.2, 0.2, 0.6]}, "single": {"books": [0.1, 0.8, 0.1]}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> mlflow.MlflowClient:
    folder = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = mlflow.MlflowClient()
    client.create_experiment("nights", artifact_location=(folder / "artifacts").as_uri())
    return client


@pytest.fixture
def run_id(client: mlflow.MlflowClient) -> str:
    return str(client.create_run(client.get_experiment_by_name("nights").experiment_id).info.run_id)


def epoch(number: int, **figures: float) -> EpochReport:
    values = {"ntg_loss": 0.1 * number, "lambda": 0.2, "ntg_ndcg": math.nan, **figures}
    return EpochReport(number, 1.0, 100.0, {"books": values, "toys": {"ntg_loss": -0.1, "lambda": 0.4}}, {})


def test_each_step_has_a_line_of_its_own_in_the_note(client: mlflow.MlflowClient, run_id: str) -> None:
    add_facts(client, run_id, {"Trained on": "5 users", "Gate": "not yet"})
    add_facts(client, run_id, {"Gate": f"{version_link('syncrec', '2')} refused:\nworse"})
    add_facts(client, run_id, {"Report": artifact_link(client, run_id, "report/d.html", "how it went")})
    lines = client.get_run(run_id).data.tags[MLFLOW_RUN_NOTE].splitlines()
    experiment = client.get_run(run_id).info.experiment_id
    assert lines == [
        "- **Gate**: [version 2](#/models/syncrec/versions/2?workflowType=machine_learning) refused: worse",
        f"- **Report**: [how it went](#/experiments/{experiment}/runs/{run_id}/artifacts/report/d.html"
        "?workflowType=machine_learning)",
        "- **Trained on**: 5 users",
    ]


def test_ntg_and_lambda_have_a_line_a_domain_and_the_kept_epoch_is_marked() -> None:
    figure = epochs_figure([epoch(1), epoch(2, ntg_ndcg=0.05)], best_epoch=2)
    loss, quality, weight = figure.axes
    assert [line.get_label() for line in loss.lines[:2]] == ["books", "toys"]
    assert list(loss.lines[0].get_ydata()) == [0.1, 0.2]
    assert list(quality.lines[0].get_xdata()) == [2], "an epoch that was not measured has no point"
    assert list(weight.lines[1].get_ydata()) == [0.4, 0.4]
    assert all([2, 2] in [list(line.get_xdata()) for line in axes.lines] for axes in figure.axes)


def test_the_gates_have_a_row_a_task_and_say_which_experts_are_whose() -> None:
    figure = gates_figure(USE, n_cross_experts=1)
    assert figure is not None
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "books, cross",
        "toys, cross",
        "books, single",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1\ncross", "2\nsingle", "3\nsingle"]
    assert np.allclose(axes.images[0].get_array()[1], [0.2, 0.2, 0.6])
    assert "0.800" in [text.get_text() for text in axes.texts]
    assert gates_figure({"cross": {}, "single": {}}, 1) is None


def test_the_run_holds_figures_and_the_data_it_read(
    client: mlflow.MlflowClient, run_id: str, planted: Settings
) -> None:
    cases = random_set(window=(20, 40))
    with mlflow.start_run(run_id=run_id):
        log_training(small_model(), FitResult(1, [epoch(1)], False, 0, []), cases)
        log_inputs(Lakehouse(planted), 42, {"training": random_set(), "validation": cases})
    names = [file.path for file in client.list_artifacts(run_id, "figures")]
    assert names == [f"figures/{name}" for name in ("gate_use.json", "gate_use.png", "ntg_and_lambda.png")]
    use = json.loads(Path(client.download_artifacts(run_id, "figures/gate_use.json")).read_text())
    assert sum(use["single"]["toys"]) == pytest.approx(1)
    inputs = client.get_run(run_id).inputs.dataset_inputs
    contexts = {entry.tags[0].value: entry.dataset for entry in inputs}
    assert set(contexts) == {"training", "validation"}
    assert {entry.digest for entry in contexts.values()} == {"42"}
    profile = json.loads(contexts["validation"].profile)
    assert profile == {"users": cases.n_users, "cases": int(cases.cross_targets_UT.sum())}
    assert json.loads(contexts["training"].source)["uri"].endswith("/sequences")
