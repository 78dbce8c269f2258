"""The weekly maintenance: a graph of its own, one task, as careful with its values as a night's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.orchestrator import REPOSITORY
from tests.dags.test_syncrec_nightly import ORCHESTRATOR, shape

pytestmark = pytest.mark.skipif(not ORCHESTRATOR.is_file(), reason="no orchestrator environment: run `make setup`")


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file: Path = REPOSITORY / "dags/syncrec_maintenance.py"
    return shape(tmp_path_factory.mktemp("airflow"), file)


def test_maintenance_is_a_graph_of_its_own_that_no_night_waits_for(dag: dict[str, Any]) -> None:
    assert dag["id"] == "syncrec_maintenance"
    assert dag["timetable"] == "CronDataIntervalTimetable"
    assert dag["catchup"] is False and dag["max_active_runs"] == 1
    assert dag["parsed"] < 2 and dag["heavy"] == []
    assert list(dag["tasks"]) == ["maintain"]


def test_its_task_is_the_job_with_its_values_in_the_environment(dag: dict[str, Any]) -> None:
    (task,) = dag["tasks"].values()
    assert task["command"] == (
        'exec "$SYNCREC_JOBS_PYTHON" -m jobs.maintain --ds="$SYNCREC_DS" --run-id="$SYNCREC_RUN_ID"'
    )
    assert task["env"]["SYNCREC_DS"] == "{{ data_interval_end | ds }}"
    assert task["append_env"] is True and task["skip_code"] == [99]
    assert task["timeout"] and task["retries"] == 2 and task["backoff"] > 1 and task["doc"]
    assert task["pool"] == "default_pool"
