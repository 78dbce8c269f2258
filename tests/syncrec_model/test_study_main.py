"""The study kit's command line."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from study_logs import FAST, columns, write

from syncrec_model import ModelConfig, TrainingConfig, study
from syncrec_model.__main__ import main, parser
from syncrec_model.descriptions import DESCRIPTIONS

ROOT = Path(__file__).parents[2]
SETS = [part for name, value in FAST.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("log") / "log.csv", columns())


def test_one_command_prints_the_table_and_writes_the_folder(log: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "syncrec_model",
        str(log),
        *SETS,
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = study(log, settings=FAST | {"epochs": 1}, progress=False)
    assert done.stdout == f"{expected}\n"
    for line in ("60 users, 840 events", "seed 0, 1 of 1", "epoch 1/1", "table.md"):
        assert line in done.stderr
    assert (tmp_path / "out/table.md").exists()


def test_names_of_columns_and_domains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = columns()
    renamed["shop"] = renamed.pop("domain")
    path = write(tmp_path / "log.parquet", renamed)
    options = ["--domain", "shop", "--domains", "toys", "books", "--repeats", "toys", "--split", "time", "--quiet"]
    assert main([str(path), *SETS, "--epochs", "1", *options]) == 0
    said = capsys.readouterr()
    assert said.out.index("toys") < said.out.index("books") and "; split by time;" in said.out
    assert "Nothing was written: --out FOLDER" in said.out and said.err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "mim"], "error: --set mim: give NAME=VALUE"),
        (["--set", "mim=maybe"], "error: mim=maybe: give true or false"),
        (["--user", "customer"], "error: {log} has no column 'customer'; its columns are user, item, domain, ts."),
        (["--users", "3"], "error: {log}: too few users"),
        (["--set", "n_heads=3"], "error: ModelConfig.n_heads = 3: channels (64) must be a multiple"),
    ],
)
def test_a_mistake_is_one_line(
    log: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([str(log), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(message.format(log=log)) and len(said.splitlines()) == 1


def test_an_interrupted_call_says_how_to_go_on(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("syncrec_model.__main__.study", interrupted)
    assert main([str(log), "--out", "kept"]) == 130
    assert "the same command goes on from kept" in capsys.readouterr().err


def test_a_kill_is_answered_as_ctrl_c_is(log: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "syncrec_model", str(log), *SETS, "--epochs", "5000", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        said = next(line for line in running.stderr if "seed 0" in line)
        running.terminate()
        rest = running.stderr.read()
    assert said and running.returncode == 130
    assert f"interrupted: the same command goes on from {tmp_path}" in rest and "Traceback" not in rest


def test_every_setting_is_described_once_and_shown_in_the_help() -> None:
    names = [field.name for kind in (ModelConfig, TrainingConfig) for field in dataclasses.fields(kind)]
    assert list(DESCRIPTIONS) == names, "in the order of the records; and no name is in both"
    shown = parser().format_help()
    assert all(f"  {name}=" in shown for name in names)


def test_the_package_needs_only_what_pip_installs() -> None:
    """Importing it takes no table library: a registered model travels without; reading a log takes pyarrow."""
    allowed = {"numpy", "torch", "safetensors", "tqdm", "__future__", *sys.stdlib_module_names}
    for file in sorted((ROOT / "syncrec_model").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names} - allowed:
                assert (file.name, name) in (
                    ("study_log.py", "pyarrow"),
                    ("study_columns.py", "pyarrow"),
                ) and node not in tree.body


def test_two_numbers_of_epochs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["absent.parquet", "--set", "epochs=3", "--epochs", "1"]) == 2
    assert "--epochs 1 and --set epochs=3: give one of them" in capsys.readouterr().err


def test_settings_may_follow_one_set_or_several() -> None:
    found = parser().parse_args(["log.parquet", "--set", "mim=false", "epochs=2", "--set", "dropout=0.1"])
    assert found.set == ["mim=false", "epochs=2", "dropout=0.1"]
