"""The night's graph: names, order, retries, timeouts, the pool. Every step is one command of the jobs environment.

A step knows its day and its run through environment variables and quoted shell variables: no value is ever
templated into the text of a shell line. A run has one parameter, checked by its schema; nobody reads what else its
`conf` may hold. Exit code 99 means "nothing to do tonight" and shows as skipped.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    Asset,
    CronDataIntervalTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
    SyncCallback,
    TaskGroup,
    TriggerRule,
)

from syncrec_job import JobOperator, failed

HERE = Path(__file__).resolve().parent.parent
JOBS_PYTHON = os.environ.get("SYNCREC_JOBS_PYTHON") or f"{HERE}/.venv/jobs/bin/python"
HOME = os.environ.get("SYNCREC_HOME") or str(HERE)
CONFIG = os.environ.get("SYNCREC_CONFIG") or "syncrec.toml"
RETRIES = int(os.environ.get("SYNCREC_RETRIES") or 2)
RETRY_SECONDS = float(os.environ.get("SYNCREC_RETRY_SECONDS") or 120)
DEADLINE_HOURS = float(os.environ.get("SYNCREC_DEADLINE_HOURS") or 6)  # 0: none
GPU_QUEUE = os.environ.get("SYNCREC_GPU_QUEUE")  # e.g. "gpu" under Celery: the workers that have one

RUN, REPORT = "MLflow run", "Report of the night"  # links that a job tells: jobs/links.py

INTERACTIONS = Asset(name="syncrec_interactions", uri="syncrec://tables/interactions", group="syncrec")
SEQUENCES = Asset(name="syncrec_sequences", uri="syncrec://tables/sequences", group="syncrec")
RECOMMENDATIONS = Asset(name="syncrec_recommendations", uri="syncrec://tables/recommendations", group="syncrec")

NIGHT_DOC = """
### One night of SyNCRec
Turns the landing files of one day into tomorrow's recommendation tables.

- **The day** is `data_interval_start`; its cutoff is midnight UTC after it. A run triggered by hand at some time
  works on the last day that was complete by then, as a scheduled one does.
- **Green** means: tomorrow's recommendations are published. If `train` or `evaluate` fails, the champion still
  scores, the run stays green, and the report says so.
- **Red** means: yesterday's recommendations stand (the day's events may be in). The last line of the failed task's
  log that begins with
  `error:` says what was wrong and what to do; it is also the task's exception and the alert. Mend it and clear the
  task: every step can be run again.
- **Where to look**: the task *Report* links the page of the night and the MLflow run; *Train*, *Evaluate*, *Gate*
  link the run. A task's log has one line a fact, the last one sums up; its docs say what red means.
- **Late** means: not over six hours (`SYNCREC_DEADLINE_HOURS`) after it was queued, at midnight: an alert.
- **Assets** `syncrec_interactions`, `syncrec_sequences`, `syncrec_recommendations` are updated when a night has
  published the table; the event's `extra["ds"]` is the day. Schedule your DAG on them.
- **Backfill**: `airflow backfill create --dag-id syncrec_nightly --from-date ... --to-date ...
  --reprocess-behavior completed` rewrites exactly those days and moves no alias.
"""


def step(name: str, doc: str, *, red: str, hours: float, **arguments: object) -> JobOperator:
    """One step: the job of that name, with the day and the run in its environment; red: what its failure means."""
    return JobOperator(
        task_id=name,
        task_display_name=name.replace("_", " ").capitalize(),
        bash_command=f'exec "$SYNCREC_JOBS_PYTHON" -m jobs.{name} --ds="$SYNCREC_DS" --run-id="$SYNCREC_RUN_ID"',
        env={
            "SYNCREC_JOBS_PYTHON": JOBS_PYTHON,
            "SYNCREC_HOME": HOME,
            "SYNCREC_CONFIG": CONFIG,
            "SYNCREC_DS": "{{ data_interval_start | ds }}",
            "SYNCREC_RUN_ID": "{{ run_id }}",
            "SYNCREC_FULL": "{{ params.full }}",
        },
        append_env=True,
        cwd=HOME,
        skip_on_exit_code=99,
        do_xcom_push=False,
        execution_timeout=timedelta(hours=hours),
        doc_md=f"{doc}\n\n**Red**: {red}\n\n**By hand**: `python -m jobs.{name} --ds DAY`. "
        "`docs/runbook.md` goes through every alert.",
        **arguments,
    )


with DAG(
    dag_id="syncrec_nightly",
    dag_display_name="SyNCRec: a night",
    description="Landing files of one day -> audited tables -> SyNCRec -> tomorrow's recommendations",
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(1996, 1, 1, tzinfo=UTC),  # before any log: with catchup off it starts nothing
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "syncrec",
        "retries": RETRIES,
        "retry_delay": timedelta(seconds=RETRY_SECONDS),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=30),
        "on_failure_callback": failed,
    },
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=DEADLINE_HOURS),
        callback=SyncCallback("syncrec_job.late"),
        name="the night is late",
    )
    if DEADLINE_HOURS
    else None,
    params={
        "full": Param(
            False,
            type="boolean",
            title="Everything anew",
            description="Build all sequences and score all users, whatever the night before has; slower.",
        )
    },
    doc_md=NIGHT_DOC,
    tags=["syncrec"],
) as dag:
    with TaskGroup("data", group_display_name="Data", prefix_group_id=False, tooltip="Landing files to sequences"):
        wait_for_landing = step(
            "wait_for_landing",
            "Waits until the day's landing folder is complete.",
            red="the line names the files that are missing: have them delivered, clear the task.",
            hours=12,
        )
        ingest = step(
            "ingest",
            "Landing files to `interactions` and `rejected_interactions`, audited before they are published.",
            red="nothing of the day is in. The line names the broken rule or the file.",
            hours=3,
            outlets=[INTERACTIONS],
        )
        ingest_clicks = step(
            "ingest_clicks",
            "Click logs to `impressions`, audited; skipped where none are configured.",
            red="no recommendation waits for it, it does not decide the night: clear it at any time.",
            hours=3,
        )
        clicks_over = (
            EmptyOperator(  # so that no failure of ingest_clicks is the end of a branch: such an end is red
                task_id="clicks_over",
                task_display_name="Clicks are over",
                trigger_rule=TriggerRule.ALL_DONE,
                execution_timeout=timedelta(minutes=5),
                doc_md="The click logs are in: done, skipped or failed. Does nothing itself.",
            )
        )
        build_sequences = step(
            "build_sequences",
            "New `interactions` merged into the rows of their users in `sequences`, audited.",
            red="the events are in, the sequences are those of the night before. Once more with *Everything anew*.",
            hours=3,
            outlets=[SEQUENCES],
        )
    with TaskGroup("model", group_display_name="Model", prefix_group_id=False, tooltip="Train, measure, decide"):
        train = step(
            "train",
            "Trains SyNCRec and registers the challenger. Skipped when no training is due. The pool `gpu` has one "
            "slot. The log has a line an epoch; MLflow has the curves.",
            red="the champion scores, the night can still be green. Cleared, it goes on from its last checkpoint.",
            hours=8,
            pool="gpu",
            pages=[RUN],
            **({"queue": GPU_QUEUE} if GPU_QUEUE else {}),
        )
        evaluate = step(
            "evaluate",
            "Measures the challenger beside champion and popularity on the same cases: metrics per domain and "
            "view, and the negative transfer gap.",
            red="the challenger cannot be promoted; the champion scores.",
            hours=3,
            pages=[RUN],
        )
        # Succeeds however training ended, so that the gate needs no more than "all of them succeeded": no
        # trigger rule of Airflow lets a task run after a failed and after a skipped parent, yet not after a
        # failed other one.
        training_over = EmptyOperator(
            task_id="training_over",
            task_display_name="Training is over",
            trigger_rule=TriggerRule.ALL_DONE,
            execution_timeout=timedelta(minutes=5),
            doc_md="Training and evaluation are over: done, skipped or failed. Does nothing itself.",
        )
        gate = step(
            "gate",
            "Decides which version scores tonight: the challenger if it is better and hurts no domain, else the "
            "champion. Runs also when training failed or was skipped.",
            red="no version can score; yesterday's lists stand.",
            hours=2,
            pages=[RUN],
        )
    with TaskGroup(
        "lists", group_display_name="Recommendations", prefix_group_id=False, tooltip="Score, publish, move aliases"
    ):
        score = step(
            "score",
            "Top N per user and domain with the version that the gate chose, staged and audited.",
            red="nothing is published; the line names the broken rule.",
            hours=4,
        )
        publish = step(
            "publish",
            "Publishes the audited recommendations and the night in one commit each.",
            red="yesterday's lists stand, or another run of the day published: the line says which.",
            hours=1,
            outlets=[RECOMMENDATIONS],
        )
        move_alias = step(
            "move_alias",
            "Moves `champion` to the promoted version. This task decides whether the night is green.",
            red="the lists are published, the registry's alias is behind: clear it.",
            hours=0.5,
        )
    report = step(
        "report",
        "The night's HTML page. Runs last, whatever happened before; its own end does not decide the night.",
        red="the page or `analytics.duckdb` is of the night before: clear it.",
        hours=0.5,
        pages=[REPORT, RUN],
    ).as_teardown()  # a teardown runs after failures and does not count for the state of the run

    wait_for_landing >> ingest >> build_sequences >> train >> evaluate >> training_over
    [build_sequences, training_over] >> gate >> score >> publish >> move_alias >> report
    wait_for_landing >> ingest_clicks >> clicks_over >> report
