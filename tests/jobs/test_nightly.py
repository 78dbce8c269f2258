"""The launcher: which nights are due, what a person sees of a night, and the lock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo

from jobs import nightly
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.night_closing import closing_lines, experiment_text, failure_text, ntg_text, served_text
from jobs.night_log import NightEnd, NightLog, StepEnd
from jobs.night_plan import Plan, landing_days, plan_nights, sample_days, table_days
from jobs.nightly import locked
from jobs.orchestrator import end_families, logical_date
from jobs.schemas import TABLES
from jobs.settings import Sample, Settings, load_settings
from jobs.transfer_words import hurt_text


def days(first: int, last: int) -> list[date]:
    return [date(2024, 1, 1) + timedelta(days=n - 1) for n in range(first, last + 1)]


def plan(landed: list[date], published: list[date] | None = None, **changes: object) -> Plan:
    values = {"ingested": [], "bootstrap_through": date(2024, 1, 28), "first_run_nights": 2} | changes
    return plan_nights(landed=landed, published=published or [], **values)  # type: ignore[arg-type]


# --- which nights are due -------------------------------------------------------------------------------


def test_the_first_call_ingests_the_history_and_runs_the_first_nights() -> None:
    assert plan(days(1, 35)) == Plan((date(2024, 1, 1), date(2024, 1, 28)), tuple(days(29, 30)))


def test_a_later_call_runs_the_next_night() -> None:
    assert plan(days(1, 35), days(29, 30)) == Plan(None, (date(2024, 1, 31),))


def test_a_history_that_is_there_is_not_ingested_again() -> None:
    assert plan(days(1, 35), ingested=days(1, 28)) == Plan(None, tuple(days(29, 30)))
    assert plan(days(1, 35), ingested=days(1, 20)).bootstrap == (date(2024, 1, 1), date(2024, 1, 28))


def test_a_first_night_that_failed_is_the_next_one_again() -> None:
    assert plan(days(1, 35), ingested=days(1, 29)).nights == tuple(days(29, 30))


def test_the_number_of_nights_can_be_given() -> None:
    assert plan(days(1, 40), days(29, 30), count=3).nights == tuple(days(31, 33))


def test_days_without_a_landing_folder_are_passed_over() -> None:
    assert plan([*days(1, 20), *days(31, 32), *days(40, 40)]).bootstrap == (date(2024, 1, 1), date(2024, 1, 20))
    assert plan([*days(1, 20), *days(31, 32), *days(40, 40)], days(31, 32)).nights == tuple(days(40, 40))


def test_nothing_is_due_without_a_newer_landing_day() -> None:
    assert plan(days(1, 30), days(29, 30)) == Plan(None, ())


def test_without_history_the_nights_begin_with_the_first_day() -> None:
    assert plan(days(33, 40)) == Plan(None, tuple(days(33, 34)))


def test_sample_days_begin_at_its_start() -> None:
    assert sample_days(Sample(start=date(2024, 1, 5)), date(2024, 1, 7)) == tuple(days(5, 7))


def test_landing_days_are_the_folders_with_a_day_for_a_name(tmp_path: Path) -> None:
    for name in ("2024-01-02", "2024-01-01", "20240103", "tmp", ".2024-01-04.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / "2024-01-05").touch()
    assert landing_days(tmp_path) == days(1, 2)
    assert landing_days(tmp_path / "absent") == []


def test_the_logical_date_lies_after_the_day_and_on_no_scheduled_run() -> None:
    assert logical_date(date(2024, 2, 28)) == "2024-02-29T04:00:00+00:00"


# --- what a person sees ---------------------------------------------------------------------------------


def record(event: str, **more: object) -> str:
    return json.dumps({"timestamp": "2026-01-01T00:00:00.1Z", "level": "info", "event": event} | more) + "\n"


def starting(name: str) -> str:
    return record(f"[DAG TEST] starting task_id={name} map_index=-1")


def ending(name: str, state: str) -> list[str]:
    return [
        record("Task instance state updated", new_state=state, ti_id="x"),
        record(f"[DAG TEST] end task task_id={name} map_index=-1"),
    ]


def said(line: str) -> str:
    return record(line, logger="airflow.task.hooks.SubprocessHook")


def read(lines: list[str]) -> tuple[NightEnd, list[str], str]:
    told: list[str] = []
    ticks = iter(range(0, 1000, 2))
    log = NightLog(told.append, clock=lambda: next(ticks))
    kept = "".join(log.read(line) for line in lines)
    return log.end, told, kept


def test_a_step_is_told_with_its_facts_and_its_end_and_not_airflows_noise() -> None:
    end, told, kept = read(
        [
            "some warning\n",
            starting("wait_for_landing"),
            said("Running command: ['bash']"),
            said("26/01/01 00:00:00 WARN NativeCodeLoader"),
            said("12:00:01 wait_for_landing: 10 files"),
            *ending("wait_for_landing", "success"),
            starting("training_over"),
            *ending("training_over", "success"),
        ]
    )
    assert told == [
        "[ 1/10] wait_for_landing ...",
        "       12:00:01 wait_for_landing: 10 files",
        "[ 1/10] wait_for_landing done, 2.0 s",
    ]
    assert end.steps["wait_for_landing"] == StepEnd("wait_for_landing", "success", 2, "")
    assert end.failed == []
    assert "WARN NativeCodeLoader" in kept and "some warning" in kept


def test_what_a_task_said_lies_where_airflows_pages_look(tmp_path: Path) -> None:
    run = "manual__2024-02-01T04:00:00+00:00"
    running = f"[DAG TEST] running task <TaskInstance: syncrec_nightly.score {run} [SCHEDULED] ti_id=1>"
    words, noise = said("12:00:01 score: done"), record("Updating", logger="airflow.api_fastapi")
    log = NightLog(lambda line: None, logs=tmp_path)
    begun = [said("before"), starting("score"), record(running, logger="airflow.sdk.definitions.dag")]
    for line in [*begun, words, noise, *ending("score", "success"), said("after")]:
        log.read(line)
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert str(kept.relative_to(tmp_path)) == f"dag_id=syncrec_nightly/run_id={run}/task_id=score/attempt=1.log"
    assert kept.read_text() == words


def test_steps_that_airflow_passed_over_are_told_once() -> None:
    lines = [starting("wait_for_landing"), *ending("wait_for_landing", "failed"), starting("move_alias")]
    end, told, _ = read(
        [*lines, *ending("move_alias", "success"), starting("report"), *ending("report", "success")]
    )
    left_out = [line for line in told if line.endswith(" left out")]
    assert left_out[0] == "[ 2/10] ingest left out" and len(left_out) == 7
    assert [step.name for step in end.failed] == ["wait_for_landing"]


def test_a_failed_step_has_the_cause_that_the_job_gave() -> None:
    raised = [{"exc_type": "AirflowException", "exc_value": "Bash command failed"}]
    end, told, kept = read(
        [
            starting("score"),
            said("error: score 2024-01-29: no champion"),
            record("Task failed with exception", level="error", exception=raised, logger="task"),
            *ending("score", "failed"),
            "DagRun failed\n",
        ]
    )
    assert told[-1] == "[ 7/10] score FAILED, 2.0 s"
    assert [(step.name, step.cause) for step in end.failed] == [("score", "score 2024-01-29: no champion")]
    assert "Bash command failed" in kept


def test_a_step_that_ran_out_of_time_has_airflows_cause() -> None:
    raised = [{"exc_type": "AirflowTaskTimeout", "exc_value": "Timeout, PID: 12"}]
    lines = [starting("train"), record("Task failed", level="error", exception=raised), *ending("train", "failed")]
    assert read(lines)[0].failed[0].cause == "AirflowTaskTimeout: Timeout, PID: 12"


def test_a_second_attempt_takes_the_place_of_the_first() -> None:
    end, told, _ = read(
        [
            starting("train"),
            said("error: train: no luck"),
            *ending("train", "up_for_retry"),
            starting("train"),
            *ending("train", "success"),
        ]
    )
    assert told[-4:] == [
        "       error: train: no luck",
        "[ 4/10] train failed, will be tried again, 2.0 s",
        "[ 4/10] train again ...",
        "[ 4/10] train done, 2.0 s",
    ]
    assert end.failed == []


def test_the_text_of_a_failed_night_says_what_why_where_and_what_to_do() -> None:
    end = NightEnd(steps={"score": StepEnd("score", "failed", 1, "score 2024-01-29: no champion")})
    text = failure_text(date(2024, 1, 29), end, Path("/logs/night.log"), Path("/reports/2024-01-29.html"))
    for part in ("2024-01-29 is not published", "score failed: score 2024-01-29: no champion", "/logs/night.log"):
        assert part in text
    assert "report: /reports/2024-01-29.html" in text
    assert "report" not in failure_text(date(2024, 1, 29), end, Path("/logs/night.log"))


def test_a_night_published_without_a_model_asks_for_nothing_to_be_run_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ds = date(2024, 1, 29)
    end = NightEnd(steps={"train": StepEnd("train", "failed", 1, "killed; run it again")}, succeeded=True)
    monkeypatch.setattr(nightly, "run_night", lambda *_, **__: end)
    monkeypatch.setattr(nightly, "table_days", lambda *_: {ds})
    config = project / "shop.toml"
    settings = load_settings(config)
    nightly.Launcher(settings, config, lock=0)._night(ds, Lakehouse(settings))
    said, then = capsys.readouterr().out.splitlines()
    assert said == "warning: train failed, the night was published without it: killed"
    assert "Nothing has to be run again tonight" in then


def test_the_text_of_a_night_that_never_began_has_airflows_last_words() -> None:
    assert "No module named x" in failure_text(
        date(2024, 1, 29), NightEnd(last_line="No module named x"), Path("log")
    )


def test_ntg_is_the_challengers_where_there_is_one_and_marks_what_is_clear() -> None:
    def row(domain: str, role: str, value: float, low: float | None, high: float | None) -> dict[str, object]:
        ends = {"low": low, "high": high, "model_version": "1"}
        return {"domain": domain, "role": role, "metric": "ntg_ndcg", "value": value, **ends}

    rows = [
        row("books", "challenger", 0.0321, 0.01, 0.05),
        row("books", "champion", 9.0, 8.0, 10.0),
        row("toys", "champion", -0.5, -0.9, -0.1),
        row("coupons", "challenger", 0.1, -0.1, 0.2),
        row("games", "challenger", 0.0, None, None),
        row("books", "challenger", 7.0, 6.0, 8.0) | {"metric": "ntg_loss"},
    ]
    text = ntg_text(rows, ("books", "toys", "coupons", "games", "absent"), "1")
    assert text.startswith(
        "books +0.032*, toys -0.500*, coupons +0.100, games +0.000   (NDCG@10, cross view less single; * clear"
    )
    assert "less single of version 1, trained tonight; * clear)" in ntg_text(rows, ("books", "toys"), "7")
    assert ntg_text([], ("books",), "1") == "not measured tonight"


def test_the_line_of_an_experiment_says_who_gets_the_candidates_lists() -> None:
    arms: list[dict[str, object]] = [
        {"experiment": "first-test", "arm": "champion", "users": 1437, "model_version": "1", "outcome": "served"},
        {"experiment": "first-test", "arm": "candidate", "users": 1511, "model_version": "3", "outcome": "served"},
    ]
    assert experiment_text(arms) == "first-test: 1,511 of 2,948 users get the lists of version 3"
    arms[1] |= {"outcome": "not_served", "reason": "no version is named challenger", "users": 0}
    assert experiment_text(arms) == "first-test: the candidate was not served: no version is named challenger"
    assert experiment_text([]) == ""


def test_the_line_of_what_is_served_is_of_the_version_that_serves() -> None:
    def row(version: str, domain: str, split: str, value: float, view: str = "") -> dict[str, object]:
        return {"metric": "ntg_served", "model_version": version, "domain": domain, "split": split, "value": value,
                "low": value - 0.01, "high": value + 0.01, "view": view}  # fmt: skip

    rows = [
        row("2", "books", "test", 0.5), row("1", "books", "test", 0.02), row("1", "books", "valid", 0.3, "blend"),
        row("1", "toys", "test", 0.0), row("1", "toys", "valid", 0.0, "single"), row("1", "macro", "test", 0.1),
    ]  # fmt: skip
    text = served_text(rows, ("books", "toys", "absent"), "1")
    assert text == "books +0.020* blend, toys single   (the view that validation chose, less single)"
    assert served_text(rows, ("books",), "3") == ""


def test_whether_a_domain_is_worse_is_a_sentence_about_the_version_that_serves() -> None:
    def row(
        metric: str, domain: str, split: str, middle: float, view: str, version: str = "1"
    ) -> dict[str, object]:
        return {"metric": metric, "model_version": version, "domain": domain, "split": split, "value": middle,
                "low": middle - 0.01, "high": middle + 0.01, "view": view}  # fmt: skip

    rows = [
        row("ntg_served", "books", "test", 0.02, ""), row("ntg_served", "books", "valid", 0.3, "blend"),
        row("ntg_ndcg", "books", "test", -0.03, ""), row("ntg_ndcg", "books", "valid", 0.9, ""),
        row("ntg_served", "toys", "test", 0.0, ""), row("ntg_served", "toys", "valid", 0.0, "single"),
        row("ntg_ndcg", "toys", "test", 0.0, ""), row("ntg_served", "macro", "test", -0.9, ""),
        row("ntg_served", "toys", "test", -0.9, "", "2"), row("ntg_ndcg", "toys", "test", -0.9, "", "2"),
    ]  # fmt: skip
    assert hurt_text(rows, ("books", "toys", "absent"), "1") == (
        "As served, no domain is clearly worse than its single view alone; books gains."
        " The cross view alone would hurt books: it serves none of these."
    )
    assert hurt_text(rows, ("books", "toys"), "3") == ""


def test_the_closing_lines_say_what_came_out_and_where_to_look(settings: Callable[..., Settings]) -> None:
    project = settings()
    lakehouse = Lakehouse(project)
    lakehouse.create_tables()
    ds = date(2024, 1, 6)
    night = dict.fromkeys(TABLES["nights"].column_names, "x") | {"ds": ds, "run_id": "r1", "served_version": "3"}
    night |= {name: 1 for name in night if name.endswith("_snapshot")} | {"published_at": datetime.now(UTC)}
    night |= {"decision": "refused", "challenger": "4", "reason": "books fell by 12 %"}
    recommendation = {"user_id": "u", "domain": "books", "rank": 1, "item_id": "i", "score": 0.5}
    recommendation |= {"source": "model", "model_version": "3", "arm": "champion", "ds": ds}
    for table, rows in (("nights", [night]), ("recommendations", [recommendation] * 1234)):
        staged = lakehouse.stage_arrow(table, pa.Table.from_pylist(rows, TABLES[table].arrow_schema), ds, "r1")
        lakehouse.replace(table, EqualTo("ds", ds), staged, ds=ds, run_id="r1")
    assert table_days(lakehouse, "nights", "ds") == {ds}
    text = "\n".join(closing_lines(project, Path("/my own/shop.toml"), lakehouse, ds, 12.3))
    for part in (
        "2024-01-06 is published, 12 s",
        "1,234 rows",
        "version 3 scored; version 4 refused: books fell by 12 %",
        "not measured tonight",
        "make sql CONFIG='/my own/shop.toml' Q=sql/queries/ntg_by_day.sql",
        "make up CONFIG='/my own/shop.toml'",
        "export SYNCREC_CONFIG='/my own/shop.toml'",
        f"{project.state}/reports/2024-01-06.html",
    ):
        assert part in text


# --- the command line -----------------------------------------------------------------------------------


def test_two_launchers_of_one_project_do_not_run_together(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "state"),
        pytest.raises(JobError, match=rf"another `make nightly` works in .*process {os.getpid()}"),
        locked(tmp_path / "state"),
    ):
        pass
    with locked(tmp_path / "state"):
        pass


def test_the_lock_that_a_step_of_a_killed_night_holds_does_not_send_one_to_end_a_process_that_is_gone(
    tmp_path: Path,
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with locked(tmp_path / "state"):
        (tmp_path / "state/nightly.lock").write_text(str(gone.pid))
        with (
            pytest.raises(JobError, match=rf"process {gone.pid} is gone, .*a step that it began works on"),
            locked(tmp_path / "state"),
        ):
            pass


CONFIG = """
state_dir = "state"
[night]
bootstrap_through = 2024-01-28
[domains.books]
[[sources]]
name = "books"
domain = "books"
files = "*.csv"
format = "csv"
header = true
user = "u"
item = "i"
time = "t"
time_unit = "s"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.toml").write_text(CONFIG)
    monkeypatch.setenv("SYNCREC_HOME", str(tmp_path))
    monkeypatch.setenv("SYNCREC_AIRFLOW", sys.executable)  # never started in these tests
    return tmp_path


def test_no_landing_day_at_all_is_an_error_that_says_where(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nightly.main(["--config", "shop.toml"]) == 1
    assert f"no landing day in {project}/state/landing" in capsys.readouterr().err


def test_a_wrong_option_of_the_training_stops_before_anything_is_made(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (project / "shop.toml").open("a") as file:
        file.write("\n[training.options]\npatiens = 3\n")
    assert nightly.main(["--config", "shop.toml"]) == 1
    assert "[training.options] patiens: there is no such setting: did you mean patience?" in capsys.readouterr().err
    assert not (project / "state/warehouse").exists()


def test_a_state_folder_that_cannot_be_made_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "file").touch()
    for place in (project / "file", project / "file/below"):
        monkeypatch.setenv("SYNCREC_STATE_DIR", str(place))
        assert nightly.main(["--config", "shop.toml"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"state_dir: the folder {place} cannot be made" in line


def test_no_newer_landing_day_is_said_and_is_no_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "state/landing/2024-01-20").mkdir(parents=True)
    assert nightly.main(["--config", "shop.toml"]) == 0
    assert "nothing to do: no landing day after 2024-01-28" in capsys.readouterr().out


def test_a_missing_orchestrator_is_one_clear_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYNCREC_AIRFLOW", str(project / "absent"))
    assert nightly.main(["--config", "shop.toml"]) == 1
    assert "run `make setup`" in capsys.readouterr().err


def test_a_history_that_cannot_be_ingested_gives_the_cause_of_the_job(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in ("2024-01-20", "2024-01-29"):
        (project / "state/landing" / day).mkdir(parents=True)
    stand_in = project / "python"
    stand_in.write_text('#!/bin/sh\necho "12:00:00 $*"; echo "error: ingest: books.csv is a folder" >&2; exit 1\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("SYNCREC_JOBS_PYTHON", str(stand_in))
    monkeypatch.setattr(nightly, "prepare", lambda environment: None)
    assert nightly.main(["--config", "shop.toml"]) == 1
    printed = capsys.readouterr()
    assert "-m jobs.ingest --ds=2024-01-20 --since=2024-01-20 --run-id=bootstrap" in printed.out
    assert "error: nightly: the history could not be ingested: ingest: books.csv is a folder." in printed.err


def test_ending_families_ends_the_grandchildren_too() -> None:
    script = "import subprocess, time; print(subprocess.Popen(['sleep', '300']).pid, flush=True); time.sleep(300)"
    command = [sys.executable, "-c", script]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other,
    ):
        assert one.stdout and other.stdout
        grandchildren = [int(one.stdout.readline()), int(other.stdout.readline())]
        end_families([one.pid, other.pid])
    for pid in grandchildren:
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_families_that_do_not_listen_wait_together_and_are_killed() -> None:
    deaf = "from signal import *; signal(SIGTERM, SIG_IGN); print(1, flush=True); pause()"
    command = [sys.executable, "-c", deaf]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other,
    ):
        assert one.stdout and other.stdout
        assert one.stdout.readline() and other.stdout.readline()
        end_families([one.pid, other.pid, 2**22 + 1], patience=1)  # the last: of a process long gone
        alive = [process.pid for process in (one, other) if psutil.pid_exists(process.pid)]
        one.kill()
        other.kill()
    assert not alive


def test_an_interrupted_launcher_leaves_no_job_behind(project: Path) -> None:
    for day in ("2024-01-20", "2024-01-29"):
        (project / "state/landing" / day).mkdir(parents=True)
    (project / "state/airflow").mkdir()
    stand_in = project / "python"
    stand_in.write_text(f"#!/bin/sh\necho $$ > '{project}/pid'; sleep 300 & wait\n")
    stand_in.chmod(0o755)
    code = (
        "import jobs.nightly as n; n.prepare = lambda e: None; raise SystemExit(n.main(['--config', 'shop.toml']))"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"SYNCREC_JOBS_PYTHON": str(stand_in)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (project / "pid").exists() or not (project / "pid").read_text().strip():
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.1)
    job = int((project / "pid").read_text())
    launcher.send_signal(signal.SIGTERM)
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 130
    assert "interrupted" in errors
    assert not psutil.pid_exists(job)


def test_a_day_without_a_folder_is_passed_over_and_named() -> None:
    plan = plan_nights(
        landed=[*days(1, 28), *days(30, 31)],
        ingested=days(1, 28),
        published=days(28, 28),
        bootstrap_through=date(2024, 1, 27),
        first_run_nights=2,
        count=2,
    )
    assert plan.nights == (date(2024, 1, 30), date(2024, 1, 31))
    assert plan.missing == (date(2024, 1, 29),)


def test_a_published_night_that_ended_badly_is_not_called_unpublished() -> None:
    end = NightEnd(last_line="killed")
    assert "is published, yet" in failure_text(date(2024, 1, 29), end, Path("log"), published=True)
