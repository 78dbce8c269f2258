"""A pickle in the registry, in a checkpoint or in a table's folder is never run, whoever put it there."""

from __future__ import annotations

import ast
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from jobs.errors import JobError
from jobs.loaded_model import read_version
from jobs.orchestrator import REPOSITORY
from jobs.registry import Registry, pyfunc_parts
from jobs.settings import Settings
from syncrec_model import save_model
from syncrec_model.checkpoint import read_checkpoint
from tests.conftest import SMALL
from tests.jobs.registered import REPEATS, VIEWS, VOCABULARY, formula_model

FORBIDDEN = {
    *((module, name) for module in ("pickle", "cloudpickle", "dill") for name in ("load", "loads", "Unpickler")),
    ("joblib", "load"), ("torch", "load"), ("pd", "read_pickle"), ("pandas", "read_pickle"), ("shelve", "open"),
    ("marshal", "loads"), ("yaml", "load"), ("yaml", "unsafe_load"),
    ("pyfunc", "load_model"), ("pytorch", "load_model"), ("sklearn", "load_model"),
}  # fmt: skip


class Bomb:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.mark)!r}, 'w').write('it ran')",))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that must never appear; the bomb is a real one."""
    trial = tmp_path / "trial"
    pickle.loads(pickle.dumps(Bomb(trial)))
    assert trial.exists()
    place = tmp_path / "it-ran"
    yield place
    assert not place.exists(), "a pickle was run"


def as_pickle(mark: Path) -> bytes:
    return pickle.dumps(Bomb(mark))


def as_torch_archive(mark: Path, folder: Path) -> bytes:
    """The form of torch.save: a zip with a pickle in it."""
    file = folder / "archive.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", as_pickle(mark))
        archive.writestr("archive/version", "3\n")
    return file.read_bytes()


@pytest.fixture(scope="module")
def pyfunc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound version, as `Registry.log_version` has MLflow keep it."""
    folder = tmp_path_factory.mktemp("sound")
    save_model(folder / "model", formula_model(), VOCABULARY, VIEWS, {"ds": "2024-01-05", "repeats": REPEATS})
    example = [{"item_id": "b1", "domain": "books", "ts": 0}]
    mlflow.pyfunc.save_model(str(folder / "pyfunc"), **pyfunc_parts(folder / "model", example))
    return folder / "pyfunc"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    made = Registry(Settings(**{"state_dir": tmp_path_factory.mktemp("registry"), **SMALL}))
    made.client.create_registered_model(made.name)
    return made


def register(registry: Registry, pyfunc: Path, folder: Path, poison: Callable[[Path], None]) -> str:
    """Register a copy of the sound version that somebody has poisoned; returns its number."""
    poisoned = folder / "poisoned"
    shutil.copytree(pyfunc, poisoned)
    poison(poisoned)
    with mlflow.start_run(experiment_id=registry.experiment_id) as run:
        mlflow.log_artifacts(str(poisoned), "model")
    source = f"{run.info.artifact_uri}/model"
    return str(registry.client.create_model_version(registry.name, source, run.info.run_id).version)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocabulary.json"])
@pytest.mark.parametrize("form", ["pickle", "archive"])
def test_a_pickle_in_place_of_a_file_is_refused_in_words(
    name: str, form: str, registry: Registry, pyfunc: Path, tmp_path: Path, mark: Path
) -> None:
    content = as_pickle(mark) if form == "pickle" else as_torch_archive(mark, tmp_path)

    def poison(folder: Path) -> None:
        (file,) = folder.glob(f"artifacts/**/{name}")
        file.write_bytes(content)

    number = register(registry, pyfunc, tmp_path, poison)
    with pytest.raises(JobError, match=rf"model version {number} cannot be read: .*{name}"):
        read_version(registry, number)


def test_pickles_beside_the_files_are_left_alone(
    registry: Registry, pyfunc: Path, tmp_path: Path, mark: Path
) -> None:
    def poison(folder: Path) -> None:
        for place in (folder, *(f.parent for f in folder.glob("artifacts/**/config.json"))):
            for name in ("python_model.pkl", "model.pkl", "data.pickle", "model.pt", "__init__.py", "conftest.py"):
                code = f"open({str(mark)!r}, 'w').write('it ran')" if name.endswith(".py") else ""
                (place / name).write_bytes(code.encode() or as_pickle(mark))
        own = folder / "code/syncrec_model/__init__.py"
        own.write_text(f"open({str(mark)!r}, 'w').write('it ran')\n" + own.read_text())

    number = register(registry, pyfunc, tmp_path, poison)
    model, *_ = read_version(registry, number)
    assert model.domains == ("books", "toys", "food")


def test_mlflow_itself_refuses_a_model_that_says_it_is_a_pickle(
    registry: Registry, pyfunc: Path, tmp_path: Path, mark: Path
) -> None:
    def poison(folder: Path) -> None:
        (folder / "python_model.pkl").write_bytes(as_pickle(mark))
        form = yaml.safe_load((folder / "MLmodel").read_text())
        flavor = form["flavors"]["python_function"]
        flavor.pop("model_code_path", None)
        flavor |= {"python_model": "python_model.pkl", "cloudpickle_version": "3.1.2"}
        (folder / "MLmodel").write_text(yaml.safe_dump(form))

    number = register(registry, pyfunc, tmp_path, poison)
    with pytest.raises(Exception, match=r"(?i)pickle"):
        mlflow.pyfunc.load_model(f"models:/{registry.name}/{number}")
    read_version(registry, number)  # what the nights read of it is sound, and they read nothing else


@pytest.mark.parametrize("form", ["pickle", "archive"])
def test_a_checkpoint_that_is_a_pickle_is_refused(form: str, tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "checkpoint"
    file.write_bytes(as_pickle(mark) if form == "pickle" else as_torch_archive(mark, tmp_path))
    with pytest.raises(ValueError, match="is not a training checkpoint"):
        read_checkpoint(file, "any")


def test_no_call_of_ours_could_load_one() -> None:
    for folder in ("jobs", "syncrec_model", "dags", "deploy"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func).split(".")
                assert tuple(called[-2:]) not in FORBIDDEN, f"{file}:{node.lineno} calls {'.'.join(called)}"
                allowed = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
                assert not allowed, f"{file}:{node.lineno} allows pickle"
