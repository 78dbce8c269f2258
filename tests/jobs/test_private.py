"""Passwords never show, whatever goes wrong; files that jobs write are private."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import private
from jobs.command import one_line
from jobs.errors import JobError
from jobs.orchestrator import REPOSITORY
from jobs.private import HidingFormatter, hide, keep_secret, passwords, private_files, without_password
from jobs.settings import load_settings

PASSWORD = "c0rrect-horse"
MINIMAL = """
state_dir = "state"
[night]
bootstrap_through = 2024-01-05
[domains.books]
[[sources]]
name = "books"
domain = "books"
files = "books.csv"
format = "csv"
header = true
user = "u"
item = "i"
time = "t"
time_unit = "s"
"""


@pytest.fixture(autouse=True)
def no_secrets_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_secrets", set())


@pytest.mark.parametrize(
    ("address", "shown", "hidden"),
    [
        ("postgresql://syncrec:s3cret!@db:5432/catalog", "postgresql://syncrec:***@db:5432/catalog", {"s3cret!"}),
        ("postgresql+psycopg2://u:p%40ss@db/x", "postgresql+psycopg2://u:***@db/x", {"p%40ss", "p@ss"}),
        ("postgresql://u:p@ss@db/x", "postgresql://u:***@db/x", {"p@ss"}),
        ("postgresql://u:p/q@db/x?application_name=a@b", "postgresql://u:***@db/x?application_name=a@b", {"p/q"}),
        ("postgresql://db/x?user=u&password=s3cret", "postgresql://db/x?user=u&password=***", {"s3cret"}),
        ("https://me:token1@mlflow.example", "https://me:***@mlflow.example", {"token1"}),
        ("sqlite:////srv/catalog.db", "sqlite:////srv/catalog.db", set()),
    ],
)
def test_an_address_shows_everything_but_its_password(address: str, shown: str, hidden: set[str]) -> None:
    assert without_password(address) == shown
    assert passwords(address) == hidden


def test_a_known_secret_is_hidden_wherever_a_library_says_it() -> None:
    keep_secret({PASSWORD, "short"})
    record = logging.LogRecord("any", logging.INFO, "f", 1, "connect with %s", (PASSWORD,), None)
    assert HidingFormatter("%(message)s").format(record) == "connect with ***"
    assert one_line(ValueError(f"password={PASSWORD} was wrong")) == "password=*** was wrong"
    assert hide("a short word stays") == "a short word stays"
    assert hide("not yet known: postgresql://me:abc@db/x, 'https://a:b@c'") == (
        "not yet known: postgresql://me:***@db/x, 'https://a:***@c'"
    )


def test_settings_remember_their_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "syncrec.toml").write_text(MINIMAL)
    monkeypatch.setenv("SYNCREC_HOME", str(tmp_path))
    monkeypatch.setenv("SYNCREC_CATALOG__URI", f"postgresql+psycopg2://syncrec:{PASSWORD}@db/catalog")
    monkeypatch.setenv("SYNCREC_MLFLOW__TRACKING_URI", "https://me:tr4cking@mlflow.example")
    monkeypatch.setenv("SYNCREC_SPARK__OPTIONS", '{"spark.authenticate.secret": "sp4rk-secret"}')
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "fl0w-password")
    load_settings("syncrec.toml")
    told = hide(f"{PASSWORD} tr4cking sp4rk-secret fl0w-password catalog")
    assert told == "*** *** *** *** catalog"


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql+psycopg2://syncrec:{PASSWORD}@127.0.0.1:9/catalog",  # nobody answers
        f"postgresql+psycopg2://syncrec:{PASSWORD}@127.0.0.1:port/catalog",  # cannot be read
        f"no-such-database://syncrec:{PASSWORD}@127.0.0.1/catalog",
        f"postgresql+psycopg2://127.0.0.1:9/catalog?user=syncrec&password={PASSWORD}",
    ],
)
def test_a_catalog_out_of_reach_is_said_without_its_password(tmp_path: Path, address: str) -> None:
    (tmp_path / "syncrec.toml").write_text(MINIMAL)
    environment = os.environ | {"SYNCREC_HOME": str(tmp_path), "SYNCREC_CATALOG__URI": address}
    environment |= {"SYNCREC_LOG_LEVEL": "DEBUG", "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.publish", "--ds=2024-01-06"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert "cannot open the Iceberg catalog" in ended.stderr
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert PASSWORD not in ended.stdout + ended.stderr
    assert not any(PASSWORD.encode() in content for content in written)


def modes(folder: Path) -> dict[str, str]:
    """Every path below a folder that others than its owner may touch in some way."""
    found = {str(path.relative_to(folder)): path.lstat().st_mode for path in folder.rglob("*")}
    return {name: stat.filemode(mode) for name, mode in found.items() if mode & 0o077 and not stat.S_ISLNK(mode)}


@pytest.fixture
def umask() -> Any:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_files_are_private_unless_opened_on_purpose(
    tmp_path: Path, umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SYNCREC_UMASK", raising=False)
    private_files()
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("x")
    assert modes(tmp_path) == {}
    monkeypatch.setenv("SYNCREC_UMASK", "027")
    private_files()
    (tmp_path / "shared").write_text("x")
    assert modes(tmp_path) == {"shared": "-rw-r-----"}


@pytest.mark.parametrize("text", ["rw", "8", "0o77", "7777", "77777"])
def test_a_umask_that_is_none_is_refused(text: str, umask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCREC_UMASK", text)
    with pytest.raises(JobError, match=f"SYNCREC_UMASK={text}: give an octal number"):
        private_files()
