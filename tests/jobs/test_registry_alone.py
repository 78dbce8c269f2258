"""The registered model needs nothing of this repository: mlflow and its listed requirements are enough."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import venv
from pathlib import Path

import mlflow
import pandas as pd
import pytest

import jobs.registry_model
import syncrec_model
from jobs.registry import pyfunc_parts
from tests.jobs.registered import formula_model, registered, table

HISTORIES = [[("b1", "books", 3), ("t2", "toys", 9), ("new", "food", 4)], []]
STRANGER = """
import json, sys
import mlflow, pandas as pd
loaded = mlflow.pyfunc.load_model(sys.argv[1])
histories = json.load(open(sys.argv[2]))
found = loaded.predict(pd.DataFrame(histories), params={"n": 3})
found.to_json(sys.argv[3], orient="records", double_precision=15)
import syncrec_model
assert syncrec_model.__file__.startswith(sys.argv[1]), syncrec_model.__file__
assert "jobs" not in sys.modules
"""


def ask_a_stranger(python: Path, artifact: Path, folder: Path) -> None:
    """Load the artifact in a process outside the repository; compare with what this process gets."""
    histories = table(HISTORIES)
    expected = mlflow.pyfunc.load_model(str(artifact)).predict(histories, params={"n": 3})
    histories.to_json(folder / "histories.json", orient="records")
    (folder / "stranger.py").write_text(STRANGER)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
    subprocess.run(
        [python, "-P", "stranger.py", str(artifact), "histories.json", "found.json"],
        cwd=folder,
        env=environment,
        check=True,
    )
    found = pd.read_json(folder / "found.json", dtype={"user_id": str})
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, atol=1e-5, rtol=0)


def test_it_loads_outside_the_repository_from_the_code_that_travels_with_it(tmp_path: Path) -> None:
    artifact = registered(tmp_path, formula_model())
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    ask_a_stranger(Path(sys.executable), artifact, outside)


def test_every_package_that_its_code_imports_is_a_listed_requirement() -> None:
    files = [Path(jobs.registry_model.__file__), *Path(syncrec_model.__file__).parent.rglob("*.py")]
    imported: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add((node.module or "").split(".")[0])
    foreign = imported - sys.stdlib_module_names - {"syncrec_model", "mlflow"}
    listed = {line.split("==")[0] for line in pyfunc_parts(Path(), [])["pip_requirements"]}
    assert foreign == listed


@pytest.mark.skipif(not os.environ.get("SYNCREC_TEST_REGISTRY"), reason="minutes of pip: make test-registry")
def test_a_fresh_environment_with_its_requirements_alone_gives_the_same(tmp_path: Path) -> None:
    artifact = registered(tmp_path, formula_model())
    requirements = (artifact / "requirements.txt").read_text(encoding="utf-8")
    assert "mlflow==" in requirements and "torch==" in requirements
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    quiet = ["--quiet", "--disable-pip-version-check", "--progress-bar", "off"]
    subprocess.run([python, "-m", "pip", "install", *quiet, "-r", artifact / "requirements.txt"], check=True)
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    ask_a_stranger(python, artifact, outside)
