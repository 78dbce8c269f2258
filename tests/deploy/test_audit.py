"""`make audit` tells weak, clean and unasked apart, with a stand-in for pip-audit."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.orchestrator import REPOSITORY

AUDIT = REPOSITORY / "deploy/audit.py"
FOUND = {"id": "CVE-2099-1", "fix_versions": ["2.0"]}


def audit(tmp_path: Path, answer: str, code: int = 0, said: str = "") -> subprocess.CompletedProcess[str]:
    stand_in = f"import sys\nsys.stdout.write({answer!r})\nsys.stderr.write({said!r})\nsys.exit({code})\n"
    (tmp_path / "pip_audit.py").write_text(stand_in)
    pins = tmp_path / "pins.txt"
    pins.write_text("# head\na==1.0\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    return subprocess.run([sys.executable, AUDIT, pins], env=environment, capture_output=True, text=True)


def report(**package: Any) -> str:
    return json.dumps({"dependencies": [{"name": "a", **package}], "fixes": []})


def test_clean(tmp_path: Path) -> None:
    ended = audit(tmp_path, report(version="1.0", vulns=[]))
    assert (ended.returncode, ended.stdout.strip()[-31:]) == (0, ": 1 packages, 0 known weaknesses"[-31:])


def test_weak(tmp_path: Path) -> None:
    ended = audit(tmp_path, report(version="1.0", vulns=[FOUND]), code=1, said="Found 1 known vulnerability\n")
    assert ended.returncode == 1
    assert "a 1.0: CVE-2099-1, mended in 2.0" in ended.stdout


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("", 1, "requests.exceptions.ConnectionError: no route\n"),
        # what pip-audit says, with exit code 0, behind an index that has packages and no service of weaknesses
        (report(skip_reason="Dependency not found on PyPI and could not be audited: a (1.0)"), 0, ""),
    ],
)
def test_no_answer_is_never_clean(tmp_path: Path, answer: str, code: int, said: str) -> None:
    ended = audit(tmp_path, answer, code, said)
    assert ended.returncode == 3
    assert "error: audit: NOTHING WAS AUDITED" in ended.stderr
    assert "no route" in ended.stderr or "could not be audited" in ended.stderr


def test_every_pin_is_asked_about() -> None:
    spec = importlib.util.spec_from_file_location("audit", AUDIT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("jobs", "orchestrator", "production"):
        file = REPOSITORY / f"constraints/{name}.txt"
        assert len(module.pins_of(file)) == len([line for line in file.read_text().splitlines() if line[0] != "#"])
