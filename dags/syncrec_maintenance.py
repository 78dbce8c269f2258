"""The weekly maintenance: one task, apart from the nights, so that no night waits for it or fails with it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, CronDataIntervalTimetable

from syncrec_job import JobOperator, failed

HERE = Path(__file__).resolve().parent.parent
JOBS_PYTHON = os.environ.get("SYNCREC_JOBS_PYTHON") or f"{HERE}/.venv/jobs/bin/python"
HOME = os.environ.get("SYNCREC_HOME") or str(HERE)
CONFIG = os.environ.get("SYNCREC_CONFIG") or "syncrec.toml"

DOC = """
### Maintenance of SyNCRec's tables
Drops rows past their days, merges small files, expires snapshots that no kept night needs, removes files that
nothing refers to. It may run beside a night: it keeps whatever a night in progress needs, and leaves a table to the
next week where somebody else commits to it at the same moment. On the command line, `--dry-run` says what it would
do.
"""

with DAG(
    dag_id="syncrec_maintenance",
    dag_display_name="SyNCRec: weekly maintenance",
    description="Small files merged, old snapshots and rows dropped, leftovers removed; beside the nights",
    schedule=CronDataIntervalTimetable(
        "0 12 * * 0", timezone="UTC"
    ),  # Sundays at noon: the nights begin at midnight
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "syncrec",
        "retries": int(os.environ.get("SYNCREC_RETRIES") or 2),
        "retry_delay": timedelta(seconds=float(os.environ.get("SYNCREC_RETRY_SECONDS") or 120)),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=30),
        "on_failure_callback": failed,
    },
    doc_md=DOC,
    tags=["syncrec"],
) as dag:
    maintain = JobOperator(
        task_id="maintain",
        task_display_name="Maintain",
        bash_command='exec "$SYNCREC_JOBS_PYTHON" -m jobs.maintain --ds="$SYNCREC_DS" --run-id="$SYNCREC_RUN_ID"',
        env={
            "SYNCREC_JOBS_PYTHON": JOBS_PYTHON,
            "SYNCREC_HOME": HOME,
            "SYNCREC_CONFIG": CONFIG,
            "SYNCREC_DS": "{{ data_interval_end | ds }}",
            "SYNCREC_RUN_ID": "{{ run_id }}",
        },
        append_env=True,
        cwd=HOME,
        skip_on_exit_code=99,
        do_xcom_push=False,
        execution_timeout=timedelta(hours=3),
        doc_md="Keeps the tables small and quick; the last line of its log sums up what was done.",
    )
