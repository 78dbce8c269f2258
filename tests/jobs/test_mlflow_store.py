"""MLflow's SQLite database is made whole or not at all."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.mlflow_store import make_store
from jobs.orchestrator import REPOSITORY
from jobs.registry import Registry
from jobs.settings import Settings


def test_a_kill_while_it_is_made_leaves_nothing_that_a_night_meets(settings: Callable[..., Settings]) -> None:
    own = settings()
    file = Path(own.tracking_uri.removeprefix("sqlite:///"))
    code = f"from jobs.mlflow_store import make_store; make_store({own.tracking_uri!r})"
    maker = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    new = file.with_name(f"{file.name}.new")
    until = time.monotonic() + 120
    while not (new.exists() and new.stat().st_size > 50_000):
        assert maker.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    maker.kill()
    maker.wait()
    assert new.exists() and not file.exists(), "it was ended too late to say anything"
    assert Registry(own).client.search_experiments()
    assert [path.name for path in file.parent.glob("*.new*")] == []


def test_what_a_kill_left_is_no_part_of_the_next_one(settings: Callable[..., Settings]) -> None:
    own = settings()
    file = Path(own.tracking_uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True)
    half_made(file.with_name(f"{file.name}.new"))
    assert Registry(own).client.search_experiments()


def half_made(file: Path) -> None:
    """Make a table whose making MLflow's migrations do not survive."""
    with sqlite3.connect(file) as database:
        database.execute("create table logged_models (model_id text)")


def test_one_that_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"mine")
    make_store(f"sqlite:///{file}")
    make_store("http://127.0.0.1:9")
    assert file.read_bytes() == b"mine" and [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_half_made_one_of_an_earlier_version_is_named(settings: Callable[..., Settings]) -> None:
    own = settings()
    file = Path(own.tracking_uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True)
    half_made(file)
    with pytest.raises(JobError, match=r"mlflow\.db is half-made.*remove its folder"):
        Registry(own)
