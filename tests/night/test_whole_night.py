"""A whole night on a tiny sample, by the command that `make nightly` runs: every job real, through Airflow.

`make test-nights` (SYNCREC_TEST_NIGHTS=2) adds the night after it, one of a champion alone: minutes more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyiceberg.expressions import EqualTo

from jobs.analytics import analytics_file
from jobs.lakehouse import Lakehouse
from jobs.night_log import STEPS
from jobs.night_plan import table_days
from jobs.orchestrator import REPOSITORY
from jobs.schemas import ANYONE
from jobs.settings import Settings

FIRST, SECOND = date(2024, 1, 11), date(2024, 1, 12)
NIGHTS = (FIRST, SECOND)[: int(os.environ.get("SYNCREC_TEST_NIGHTS", "1"))]
TOP_N = 5
TINY = {
    "SYNCREC_STATE_DIR": "state",
    "SYNCREC_SAMPLE__USERS": "120",
    "SYNCREC_NIGHT__BOOTSTRAP_THROUGH": "2024-01-10",
    "SYNCREC_NIGHT__FIRST_RUN_NIGHTS": "1",
    "SYNCREC_SEQUENCES__MAX_LENGTH": "16",
    "SYNCREC_MODEL__CHANNELS": "16",
    "SYNCREC_TRAINING__EPOCHS": "2",
    "SYNCREC_TRAINING__EVERY_DAYS": "2",  # so that the second night is one of a champion alone
    "SYNCREC_TRAINING__MIN_CASES": "5",
    "SYNCREC_SCORING__TOP_N": str(TOP_N),
    "SYNCREC_SPARK__SHUFFLE_PARTITIONS": "2",
    "SYNCREC_SPARK__DRIVER_MEMORY": "1g",
}


@dataclass
class Project:
    """What the calls of the launcher left behind, one a night."""

    settings: Settings
    lakehouse: Lakehouse
    outputs: list[str]

    def rows(self, table: str, ds: date) -> list[dict[str, Any]]:
        found = self.lakehouse.read_arrow(table, self.lakehouse.current_snapshot(table), EqualTo("ds", ds))
        return list(found.to_pylist())


def without_domains(text: str, *names: str) -> str:
    """The sample project with fewer domains; one CSV, one JSON lines and one Parquet source are enough here."""
    for name in names:
        text = re.sub(rf"\[domains\.{name}\]\n(repeats.*\n)?", "", text)
        text = re.sub(rf"\[\[sources\]\].*\nname = \"{name}\"\n(.+\n)*", "", text)
    return text


def nightly(home: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SYNCREC_")}
    return subprocess.run(
        [sys.executable, "-m", "jobs.nightly"],
        cwd=home,
        env=environment | TINY | {"SYNCREC_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    if not (REPOSITORY / ".venv/orchestrator/bin/airflow").is_file():
        pytest.skip("no orchestrator environment: run `make setup`")
    home = tmp_path_factory.mktemp("home")
    text = without_domains((REPOSITORY / "syncrec.toml").read_text(), "toys", "groceries")
    (home / "syncrec.toml").write_text(text)
    outputs = []
    for _ in NIGHTS:
        ended = nightly(home)
        assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-2000:]}"
        outputs.append(ended.stdout)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in TINY.items():
            patch.setenv(key, value)
        settings = Settings(**tomllib.loads(text))
    settings = settings.model_copy(update={"state_dir": home / "state"})
    return Project(settings, Lakehouse(settings), outputs)


def test_the_first_call_takes_the_history_and_one_night_the_second_the_next(project: Project) -> None:
    assert table_days(project.lakehouse, "nights", "ds") == set(NIGHTS)
    arrivals = table_days(project.lakehouse, "interactions", "arrival_ds")
    assert arrivals == {date(2024, 1, day) for day in range(1, 11)} | set(NIGHTS)
    assert "history 2024-01-01 to 2024-01-10" in project.outputs[0]
    assert "late events" not in project.outputs[0].partition("history done")[0]
    assert "late events" in project.outputs[0].partition("history done")[2]
    assert all("history" not in output for output in project.outputs[1:])


def test_progress_and_closing_lines_are_there_and_airflows_noise_is_not(project: Project) -> None:
    for ds, output in zip(NIGHTS, project.outputs, strict=True):
        for place, step in enumerate(STEPS, 1):
            left_out = (ds, step) == (SECOND, "evaluate")
            assert f"[{place:2}/10] {step} {'left out' if left_out else '...'}" in output
        count = len(project.rows("recommendations", ds))
        for line in (f"night {ds} is published", f"{count:,} rows", "NTG per domain", "make sql", "make up"):
            assert line in output
        assert "airflow." not in output


def test_airflows_pages_have_the_log_of_each_task(project: Project) -> None:
    logs = (project.settings.state / "airflow/logs").glob("dag_id=*/run_id=*/task_id=score/attempt=1.log")
    said = " ".join(log.read_text() for log in logs)
    assert [said.count(f"score {ds}: ") for ds in NIGHTS] == [1 for _ in NIGHTS]


def test_each_user_and_domain_has_its_list_and_strangers_have_one(project: Project) -> None:
    for ds in NIGHTS:
        recommendations = project.rows("recommendations", ds)
        users = {row["user_id"] for row in recommendations}
        known = {row["user_id"] for day in NIGHTS if day <= ds for row in project.rows("sequences", day)}
        assert users == known | {ANYONE}
        lengths = Counter((row["user_id"], row["domain"]) for row in recommendations)
        assert {domain for _, domain in lengths} == set(project.settings.domain_names)
        assert max(lengths.values()) == TOP_N
        assert {row["source"] for row in recommendations} == {"model", "popularity"}
        ranks = sorted(
            row["rank"] for row in recommendations if row["user_id"] == ANYONE and row["domain"] == "books"
        )
        assert ranks == list(range(1, TOP_N + 1))


def test_the_first_model_is_champion_and_scores_every_night(project: Project) -> None:
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    from mlflow import MlflowClient

    client = MlflowClient(project.settings.tracking_uri, project.settings.tracking_uri)
    champion = client.get_model_version_by_alias(project.settings.mlflow.model_name, "champion")
    nights = [project.rows("nights", ds)[0] for ds in NIGHTS]
    assert [night["decision"] for night in nights] == ["promoted", "no_challenger"][: len(NIGHTS)]
    assert {night["served_version"] for night in nights} == {str(champion.version)}
    for ds in NIGHTS:
        assert {row["model_version"] for row in project.rows("recommendations", ds)} == {str(champion.version)}
    assert all("[ 4/10] train not needed" in output for output in project.outputs[1:])


def test_every_domain_was_measured(project: Project) -> None:
    metrics = project.rows("domain_metrics", FIRST)
    for metric in ("ntg_ndcg", "ntg_loss", "lambda"):
        domains = {row["domain"] for row in metrics if row["metric"] == metric}
        assert domains >= set(project.settings.domain_names), metric


def test_every_audit_held_and_the_account_of_the_lines_balances(project: Project) -> None:
    for ds in NIGHTS:
        audits = project.rows("audits", ds)
        assert {row["table_name"] for row in audits} >= {
            "interactions",
            "sequences",
            "recommendations",
        }
        assert [row["rule"] for row in audits if not row["success"]] == []


def test_nobody_else_may_look_into_it(project: Project) -> None:
    """Some libraries copy a file with its mode: the folder around all of them is what keeps others out."""
    assert project.settings.state.stat().st_mode & 0o077 == 0
    tables = [path for path in project.settings.warehouse.rglob("*") if path.stat().st_mode & 0o077]
    assert tables == []


def test_the_newest_night_is_in_analytics_for_tools_that_read_duckdb(project: Project) -> None:
    with duckdb.connect(str(analytics_file(project.settings)), read_only=True) as connection:
        found = connection.sql("select max(ds), count(*) from latest_recommendations").fetchone()
        audited = connection.sql("select count(*) from audits where ds = (select max(ds) from nights)").fetchone()
    assert found == (NIGHTS[-1], len(project.rows("recommendations", NIGHTS[-1])))
    assert audited != (0,)


def test_each_night_has_its_page(project: Project) -> None:
    for ds in NIGHTS:
        page = (project.settings.state / "reports" / f"{ds}.html").read_text()
        assert str(ds) in page
        assert "https://" not in page.replace("https://www.w3.org", ""), "a page that needs nothing from elsewhere"
