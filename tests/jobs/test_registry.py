"""The registered model as a stranger uses it, and the aliases, on a real embedded MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from jobs.errors import JobError
from jobs.loaded_model import load_version
from jobs.registry import CHALLENGER, CHAMPION, NOT_JUDGED, Registry, Version
from jobs.settings import Settings
from syncrec_model import ModelConfig, Recommender, SyNCRec, Vocabulary, save_model
from tests.conftest import SMALL

DOMAINS = ("books", "toys")
VOCABULARY = Vocabulary(DOMAINS, (["b1", "b2", "b3"], ["t1", "t2", "t3", "t4"]))
EVENT = {"item_id": "b1", "domain": "books", "ts": 0}
VIEWS = {"books": "blend", "toys": "cross"}


def small_model() -> SyNCRec:
    torch.manual_seed(1)
    config = ModelConfig(channels=8, max_length=5, n_experts=2, n_cross_experts=1)
    return SyNCRec(config, DOMAINS, VOCABULARY.n_items).eval()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("mlflow")
    made = Registry(Settings(**{"state_dir": folder, **SMALL}))
    save_model(folder / "model", small_model(), VOCABULARY, VIEWS, {"ds": "2024-01-05", "repeats": ["toys"]})
    with mlflow.start_run(experiment_id=made.experiment_id, tags={"ds": "2024-01-05"}) as run:
        pass
    tags = {"ds": "2024-01-05", "syncrec.run_id": "scheduled__1"}
    made.challenge(made.log_version(run.info.run_id, folder / "model", tags, "a first version", [EVENT]))
    return made


HISTORIES = pd.DataFrame(
    {
        "user_id": ["u", "v"],
        "history": [
            [{"item_id": "b1", "domain": "books", "ts": 1}, {"item_id": "t2", "domain": "toys", "ts": 2}],
            [{"item_id": "never-seen", "domain": "books", "ts": 1}],
        ],
    }
)


def test_the_new_version_is_challenger_and_found_by_its_night(registry: Registry) -> None:
    version = registry.at_alias(CHALLENGER)
    assert version is not None and version.tags["ds"] == "2024-01-05"
    assert registry.of_night("2024-01-05", "scheduled__1") == version
    assert registry.of_night("2024-01-06", "scheduled__1") is None
    assert registry.at_alias(CHAMPION) is None


def test_a_version_is_never_seen_without_its_words(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    create = registry.client.create_model_version

    def then_killed(*args: Any, **more: Any) -> None:
        seen.append(create(*args, **more))
        raise KeyboardInterrupt

    monkeypatch.setattr(registry.client, "create_model_version", then_killed)
    with mlflow.start_run(experiment_id=registry.experiment_id) as run:
        pass
    with pytest.raises(KeyboardInterrupt):
        registry.log_version(
            run.info.run_id, Path(registry.settings.state_dir) / "model", {"ds": "2024-01-06"}, "in words", [EVENT]
        )
    made = registry.client.get_model_version(registry.name, str(seen[0].version))
    assert (made.description, made.tags, made.run_id) == ("in words", {"ds": "2024-01-06"}, run.info.run_id)
    left = registry.version(str(made.version))
    registry.link(left)
    registry.link(left)
    model_id = made.source.removeprefix("models:/")
    named = registry.client.get_logged_model(model_id).tags["mlflow.modelVersions"]
    assert [str(one["version"]) for one in json.loads(named)] == [left.number]


def test_a_version_that_no_gate_judged_says_which_one_took_its_place(registry: Registry) -> None:
    def made(run_id: str, words: str, ds: str = "2024-01-09") -> Version:
        source = registry.client.get_model_version(registry.name, "1").source
        tags = {"ds": ds, "syncrec.run_id": run_id}
        version = registry.client.create_model_version(registry.name, source, tags=tags, description=words)
        return registry.version(str(version.version))

    left = made("killed", f"Trained.{NOT_JUDGED}")
    judged = made("earlier", "Refused: worse.")
    other = made("killed", f"Trained.{NOT_JUDGED}", ds="2024-01-08")
    with mlflow.start_run(experiment_id=registry.experiment_id) as run:
        pass
    folder, tags = Path(registry.settings.state_dir) / "model", {"ds": "2024-01-09"}
    new = registry.log_version(run.info.run_id, folder, tags, f"Trained.{NOT_JUDGED}", [EVENT])
    numbers = [version.number for version in (left, judged, other, new)]
    assert [registry.client.get_model_version(registry.name, number).description for number in numbers] == [
        f"Trained. Never judged: its run ended before the gate, version {new.number} took its place.",
        "Refused: worse.",
        f"Trained.{NOT_JUDGED}",
        f"Trained.{NOT_JUDGED}",
    ]


def test_runs_of_this_night_that_were_killed_are_ended_and_no_others(registry: Registry) -> None:
    def begun(ds: str) -> str:
        return str(registry.client.create_run(registry.experiment_id, tags={"ds": ds}).info.run_id)

    left, own, other = begun("2024-03-01"), begun("2024-03-01"), begun("2024-03-02")
    registry.end_left("2024-03-01", own)
    states = [registry.client.get_run(run).info.status for run in (left, own, other)]
    assert states == ["KILLED", "RUNNING", "RUNNING"]


def test_no_file_of_the_version_is_a_pickle(registry: Registry, tmp_path: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts("models:/syncrec@challenger", dst_path=str(tmp_path)))
    names = {f.name for f in folder.rglob("*") if f.is_file()}
    assert "model.safetensors" in names
    assert not {n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth", ".joblib"))}
    for file in folder.rglob("*"):
        if file.is_file():
            assert not file.read_bytes().startswith((b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), file


def test_anyone_can_load_it_and_gets_what_the_model_says(registry: Registry) -> None:
    loaded = mlflow.pyfunc.load_model("models:/syncrec@challenger")
    found = loaded.predict(HISTORIES, params={"n": 2})
    assert list(found.columns) == ["user_id", "domain", "rank", "item_id", "score", "ignored_items"]
    own = Recommender(small_model(), VOCABULARY, VIEWS).recommend(
        [[("b1", "books", 1), ("t2", "toys", 2)], []], 2, repeats=["toys"]
    )
    for user, lists in zip(("u", "v"), own.items, strict=True):
        for domain, expected in lists.items():
            rows = found[(found.user_id == user) & (found.domain == domain)].sort_values("rank")
            assert list(rows.item_id) == [item for item, _ in expected]
            assert list(rows.score) == pytest.approx([score for _, score in expected], abs=1e-5)
    assert "b1" not in set(found[found.user_id == "u"].item_id)


def test_an_unknown_domain_is_refused_with_the_known_ones(registry: Registry) -> None:
    loaded = mlflow.pyfunc.load_model("models:/syncrec@challenger")
    wrong = pd.DataFrame({"user_id": ["u"], "history": [[{"item_id": "x", "domain": "cars", "ts": 1}]]})
    with pytest.raises(Exception, match=r"unknown domain 'cars'.*books, toys"):
        loaded.predict(wrong)


def test_a_version_is_widened_to_todays_items(registry: Registry) -> None:
    today = Vocabulary(("books", "toys", "music"), (["b1", "b2", "b3", "b4"], VOCABULARY.item_ids[1], ["m1"]))
    loaded = load_version(registry, "1", today)
    assert loaded.known_items == (3, 4, 0)
    assert loaded.model.n_items == (4, 4, 1)
    assert loaded.metadata["ds"] == "2024-01-05" and loaded.views["toys"] == "cross"


def test_items_in_another_order_are_refused(registry: Registry) -> None:
    other = Vocabulary(DOMAINS, (["b2", "b1", "b3"], VOCABULARY.item_ids[1]))
    with pytest.raises(JobError, match="does not fit tonight's items"):
        load_version(registry, "1", other)


def test_a_version_that_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(JobError, match="version 99"):
        load_version(registry, "99", VOCABULARY)


def test_a_registry_that_fails_is_not_an_empty_one(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MlflowException("database is locked", error_code=TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(registry.client, "get_model_version_by_alias", fail)
    with pytest.raises(JobError, match=r"cannot read the model registry.*keeps the SQLite database locked"):
        registry.at_alias(CHAMPION)


def test_a_retry_makes_its_version_challenger_but_never_takes_it_from_a_later_night(registry: Registry) -> None:
    first = registry.version("1")
    registry.client.delete_registered_model_alias(registry.name, CHALLENGER)
    registry.challenge(first)
    assert registry.at_alias(CHALLENGER) == first
    registry.challenge(Version(number="99", run_id="r", tags={"ds": "2024-01-04"}))
    assert registry.at_alias(CHALLENGER) == first


def test_items_newer_than_the_version_are_zero_in_histories(registry: Registry) -> None:
    today = Vocabulary(DOMAINS, (["b1", "b2", "b3", "b4"], VOCABULARY.item_ids[1]))
    weights = load_version(registry, "1", today).model.embedding.items_VC
    assert weights[4].abs().sum() == 0 and weights[3].abs().sum() > 0 and weights[5].abs().sum() > 0


def test_mlflow_out_of_reach_is_one_line(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    reachable = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with pytest.raises(JobError, match=r"cannot reach MLflow at http://127\.0\.0\.1:9"):
        Registry(settings(mlflow={"tracking_uri": "http://127.0.0.1:9"}))
    mlflow.set_tracking_uri(reachable[0])
    mlflow.set_registry_uri(reachable[1])
