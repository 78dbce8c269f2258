"""The embedded Airflow of one project: its environment, its database, and one night run in the foreground.

Airflow lives in its own virtual environment and its own folder, `<state>/airflow`. A night runs by `airflow dags
test`, the whole DAG in one process without a scheduler; its log goes to a file, its facts to the terminal.
"""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import IO

import psutil

from jobs.errors import JobError
from jobs.night_log import NightEnd, NightLog
from jobs.settings import DEFAULT_CONFIG, Settings

REPOSITORY = Path(__file__).resolve().parent.parent
DAG_ID = "syncrec_nightly"


def airflow_program() -> Path:
    """The `airflow` command of the orchestrator environment.

    Raises
    ------
    JobError
        There is none.
    """
    program = Path(os.environ.get("SYNCREC_AIRFLOW") or REPOSITORY / ".venv/orchestrator/bin/airflow")
    if not program.is_file():
        raise JobError(f"no Airflow at {program}: run `make setup`, or set SYNCREC_AIRFLOW to an airflow command")
    return program


def airflow_environment(settings: Settings, config: Path) -> dict[str, str]:
    """The environment of every Airflow process of this project.

    Nothing of another Airflow that the shell may know (`AIRFLOW_*`) gets in.
    """
    program = airflow_program()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW_")}
    return inherited | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "AIRFLOW_HOME": str(settings.state / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__JSON_LOGS": "True",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",  # else others may read every log
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        "SYNCREC_JOBS_PYTHON": os.environ.get("SYNCREC_JOBS_PYTHON") or sys.executable,
        "SYNCREC_HOME": str(settings.home.resolve()),
        "SYNCREC_CONFIG": str(config),
    }


def prepare(environment: Mapping[str, str]) -> None:
    """Make Airflow's database and the pool `gpu`, unless this Airflow version has already done so.

    Raises
    ------
    JobError
        Airflow could not; the message says where its output is.
    """
    home = Path(environment["AIRFLOW_HOME"])
    stamp = home / "prepared-for"
    version = _airflow_version(airflow_program())
    if stamp.is_file() and stamp.read_text() == version and (home / "airflow.db").is_file():
        return
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    print("preparing Airflow's database ...", flush=True)
    log = home / "prepare.log"
    with log.open("w", encoding="utf-8") as out:
        for arguments in (["db", "migrate"], ["pools", "set", "gpu", "1", "one training at a time"]):
            ended = subprocess.run(
                [airflow_program(), *arguments], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
            if ended.returncode:
                raise JobError(f"airflow {' '.join(arguments[:2])} failed: see {log}")
    stamp.write_text(version)


def _airflow_version(program: Path) -> str:
    """The installed version, read from the folder names: asking Airflow itself takes seconds."""
    found = program.parent.parent.glob("lib/python*/site-packages/apache_airflow_core-*.dist-info")
    return next((folder.name for folder in found), str(program.stat().st_mtime_ns))


def logical_date(ds: date) -> str:
    """The logical date that makes a manual run work on `ds`.

    A manual run gets the last data interval that is complete at its logical date. Four o'clock of the next
    morning, not its midnight: that one belongs to the scheduled run of the day after `ds`.
    """
    return f"{(ds + timedelta(days=1)).isoformat()}T04:00:00+00:00"


def make_option(config: Path) -> str:
    """What `make` needs to be told of the project: ` CONFIG=...`, nothing for the sample's."""
    return "" if config == REPOSITORY / DEFAULT_CONFIG else f" CONFIG={shlex.quote(str(config))}"


def run_night(
    ds: date,
    environment: Mapping[str, str],
    log: Path,
    *,
    tell: Callable[[str], object] = print,
    keep_open: Iterable[int] = (),
) -> NightEnd:
    """Run the DAG for one day in the foreground.

    Parameters
    ----------
    ds
        The logical day.
    environment
        From `airflow_environment`.
    log
        Where Airflow's whole output goes, appended.
    tell
        Takes each line for the terminal.
    keep_open
        File descriptors that live as long as the run (the lock).
    """
    command = [str(airflow_program()), "dags", "test", DAG_ID, logical_date(ds)]
    # Airflow 3.3.2 cannot end `dags test` of a DAG with a deadline; who runs a night in the foreground sees it.
    environment = {**environment, "SYNCREC_DEADLINE_HOURS": "0"}
    reader = NightLog(tell, logs=Path(environment["AIRFLOW_HOME"]) / "logs")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out, started(command, environment, keep_open) as process:
        out.write(f"\n=== {' '.join(command)}\n")
        assert process.stdout
        for line in process.stdout:
            out.write(reader.read(line))
            out.flush()
    reader.end.succeeded = process.returncode == 0
    _true_start(Path(environment["AIRFLOW_HOME"]) / "airflow.db")
    return reader.end


def _true_start(database: Path) -> None:
    """Let a run begin with its first task.

    `dags test` notes the logical date as the beginning: the pages would show a past day's night as one of years.
    """
    first = "(select min(start_date) from task_instance t where t.dag_id = r.dag_id and t.run_id = r.run_id)"
    text = f"update dag_run as r set start_date = {first} where start_date = logical_date and {first} is not null"
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute(text)


@contextmanager
def started(
    command: list[str], environment: Mapping[str, str], keep_open: Iterable[int] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A child process whose whole family ends with this block, also at Ctrl-C and SIGTERM.

    The child gets its own session: a Ctrl-C reaches this process only, which then ends the children in order.
    """
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
        start_new_session=True,
        pass_fds=tuple(keep_open),
    )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield process
        process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            end_families([process.pid])
            process.wait()
        _close(process.stdout)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _close(stream: IO[str] | None) -> None:
    if stream:
        stream.close()


def end_families(pids: Iterable[int], patience: float = 10) -> None:
    """End processes and all their descendants, together: asked first, killed after `patience` seconds."""
    family: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            family += [parent, *parent.children(recursive=True)]
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in family:
            with suppress(psutil.NoSuchProcess):
                ask(process)
        _, family = psutil.wait_procs(family, timeout=patience)
        if not family:
            return
