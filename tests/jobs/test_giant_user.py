"""One user with 2,000,000 events of one day: ingested and built into a sequence in bounded memory.

Part of `make bad-input` (SYNCREC_TEST_BAD_INPUT=1); prints the time and the memory of both jobs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.lakehouse import Lakehouse
from jobs.orchestrator import REPOSITORY
from jobs.settings import load_settings

pytestmark = pytest.mark.skipif(not os.environ.get("SYNCREC_TEST_BAD_INPUT"), reason="minutes: make bad-input")
EVENTS, ITEMS, DS = 2_000_000, 100_000, "2024-01-20"
NOON = 1705752000


def job(home: Path, name: str) -> tuple[str, float]:
    """Run a job; its closing line and the GiB that it needed at most."""
    environment = os.environ | {"SYNCREC_HOME": str(home), "SYNCREC_STATE_DIR": "state"}
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", "--ds", DS, "--config", str(REPOSITORY / "syncrec.toml")],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    closing = done.stdout.strip().splitlines()[-1]
    return closing, float(re.search(r"at most ([\d.]+) GiB", closing)[1])  # type: ignore[index]


def test_one_user_with_two_million_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state/landing" / DS
    folder.mkdir(parents=True)
    with (folder / "books.csv").open("w") as out:
        out.writelines(f"crawler,i{n % ITEMS},5,{NOON - n // 100}\n" for n in range(EVENTS))
        out.writelines(f"u{n},i{n},5,{NOON}\n" for n in range(1_000))
    (folder / "_SUCCESS").touch()
    said = {name: job(tmp_path, name) for name in ("ingest", "build_sequences")}
    with capsys.disabled():
        for closing, _ in said.values():
            print(f"\n{closing}", end="")
    monkeypatch.setenv("SYNCREC_HOME", str(tmp_path))
    monkeypatch.setenv("SYNCREC_STATE_DIR", "state")
    settings = load_settings(REPOSITORY / "syncrec.toml")
    lakehouse = Lakehouse(settings)
    rows = lakehouse.read_arrow("sequences", lakehouse.current_snapshot("sequences")).to_pylist()
    giant = next(row for row in rows if row["user_id"] == "crawler")
    assert giant["n_events"] == EVENTS and len(rows) == 1_001
    assert len(giant["items"]) <= (settings.sequences.max_length + 1) * 5, (
        "of each of the windows' days the last ones"
    )
    assert max(gib for _, gib in said.values()) < 6
