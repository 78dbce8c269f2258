"""The next night on the state of an older version, by the command that `make nightly` runs: `make test-nights`."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from pyiceberg.expressions import EqualTo

from jobs.lakehouse import Lakehouse
from jobs.orchestrator import REPOSITORY
from jobs.registry import CHAMPION, Registry
from jobs.schemas import ANYONE
from jobs.settings import load_settings
from tests.upgrade.old_state import fixtures, unpack

PAST, NEXT = date(2024, 1, 12), date(2024, 1, 13)

pytestmark = pytest.mark.skipif(
    "SYNCREC_TEST_NIGHTS" not in os.environ, reason="a whole night, a minute or more: `make test-nights`"
)


def run(home: Path, job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("SYNCREC_")}
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *arguments],
        cwd=home, env=own | {"SYNCREC_HOME": str(home)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


def test_the_next_night_starts_from_what_the_older_version_left(tmp_path: Path) -> None:
    if not (REPOSITORY / ".venv/orchestrator/bin/airflow").is_file():
        pytest.skip("no orchestrator environment: run `make setup`")
    config = unpack(fixtures()[0], tmp_path)
    settings = load_settings(config)
    champion = Registry(settings).at_alias(CHAMPION)
    ended = run(tmp_path, "nightly", "--config", str(config))
    assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-2000:]}"
    assert "bringing it to version" in ended.stderr and "the state is of version" in ended.stderr
    assert f"night {NEXT} is published" in ended.stdout
    warnings = [line for line in ended.stdout.splitlines() if "warning" in line]
    strangers = [f"{NEXT}/{name} belongs to no source" for name in ("navigation.parquet", "toys.csv.gz")]
    assert len(warnings) == 2 and all(text in line for text, line in zip(strangers, warnings, strict=True)), (
        "the sample of today lands five domains, this project has three of them"
    )

    lakehouse = Lakehouse(settings)
    rows = {
        name: lakehouse.read_arrow(
            name, lakehouse.current_snapshot(name), EqualTo("ds", NEXT.isoformat())
        ).to_pylist()
        for name in ("nights", "sequences", "recommendations", "gate_checks")
    }
    (night,) = rows["nights"]
    assert champion and night["champion_before"] == champion.number
    assert {row["champion"] for row in rows["gate_checks"]} == {champion.number}, (
        "it was measured beside the new one"
    )
    events = lakehouse.read_arrow("interactions", lakehouse.current_snapshot("interactions")).to_pylist()
    users = {row["user_id"] for row in events}
    assert {row["user_id"] for row in rows["sequences"]} == users, "all sequences are built anew from all events"
    assert {row["user_id"] for row in rows["recommendations"]} == users | {ANYONE}
    challenger = Registry(settings).version(night["challenger"])
    assert challenger.tags["start"] == f"version {champion.number}", "trained on from the older version's champion"
    report = (settings.state / f"reports/{NEXT}.html").read_text()
    assert "2024-01-12" in report, "its figures begin with the nights of the older version"

    for step in ("build_sequences", "report"):  # a night of the older version again, by hand
        ended = run(tmp_path, step, "--ds", str(PAST), "--config", str(config))
        assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-2000:]}"
    where = EqualTo("ds", PAST.isoformat())
    built = lakehouse.read_arrow("sequences", lakehouse.current_snapshot("sequences"), where).to_pylist()
    assert {row["user_id"] for row in built} == {row["user_id"] for row in events if row["known_ds"] <= PAST}
    for engine in ("duckdb", "spark"):
        said = run(tmp_path, "query", "ntg_by_day", "--engine", engine, "--config", str(config)).stdout
        assert str(PAST) in said and str(NEXT) in said
