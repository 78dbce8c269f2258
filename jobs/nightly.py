"""The main job, behind `make nightly`: find out which nights are due, and run each through the Airflow DAG.

The first call ingests the history at once (all landing days through [night] bootstrap_through) and runs the next
`first_run_nights` nights; each later call runs the next one. A night that failed is the next one again.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import sys
import time
import traceback
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pyiceberg.expressions import EqualTo

from jobs.command import one_line, start_logging
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.orchestrator import (
    REPOSITORY,
    NightEnd,
    airflow_environment,
    prepare,
    run_night,
    started,
)
from jobs.settings import DEFAULT_CONFIG, Sample, Settings, load_settings

DAY = timedelta(days=1)
FIRST_QUERY = "sql/queries/ntg_by_day.sql"


# --- which nights are due -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What one call has to do: `bootstrap` is the first and last landing day to ingest at once, if any."""

    bootstrap: tuple[date, date] | None
    nights: tuple[date, ...]


def plan_nights(
    *,
    landed: Collection[date],
    ingested: Collection[date],
    published: Collection[date],
    bootstrap_through: date,
    first_run_nights: int,
    count: int | None = None,
) -> Plan:
    """Find the nights that are due.

    Parameters
    ----------
    landed
        The days that have a landing folder.
    ingested
        The days that `interactions` holds arrivals of.
    published
        The days that `nights` holds.
    bootstrap_through, first_run_nights
        The settings of that name.
    count
        How many nights, where the person said so.

    Returns
    -------
    Plan
        At most the wanted number of nights, each with a landing folder, all after the last published one.
    """
    history = sorted(day for day in landed if day <= bootstrap_through)
    bootstrap = None
    if history and not published and history[-1] not in ingested:
        bootstrap = (history[0], history[-1])
    done_through = max([*published, bootstrap_through])
    wanted = count if count is not None else 1 if published else first_run_nights
    return Plan(bootstrap, tuple(sorted(day for day in landed if day > done_through)[:wanted]))


def sample_days(sample: Sample, last: date) -> tuple[date, ...]:
    """The days that the generated sample can land through `last`."""
    return tuple(sample.start + n * DAY for n in range((last - sample.start).days + 1))


def landing_days(landing: Path) -> list[date]:
    """The day folders of the landing path."""
    days = []
    for folder in landing.iterdir() if landing.is_dir() else ():
        with suppress(ValueError):
            day = date.fromisoformat(folder.name)
            if folder.is_dir() and day.isoformat() == folder.name:
                days.append(day)
    return sorted(days)


def _plan(settings: Settings, lakehouse: Lakehouse, count: int | None) -> Plan:
    published, ingested = table_days(lakehouse, "nights", "ds"), table_days(lakehouse, "interactions", "arrival_ds")
    through, first_nights = settings.night.bootstrap_through, settings.night.first_run_nights
    if settings.sample:
        far_enough = max([*published, through]) + DAY * max(first_nights, count or 1)
        landed: Sequence[date] = sample_days(settings.sample, far_enough)
    else:
        landed = landing_days(settings.landing_path)
    if not landed:
        raise JobError(
            f"no landing day in {settings.landing_path}: put each day's files into a folder like "
            f"{settings.landing_path}/{through}/, or set [landing] path"
        )
    return plan_nights(
        landed=landed,
        ingested=ingested,
        published=published,
        bootstrap_through=through,
        first_run_nights=first_nights,
        count=count,
    )


def table_days(lakehouse: Lakehouse, table: str, column: str) -> set[date]:
    """The days that a table, partitioned by day, holds rows of; reads metadata only."""
    if lakehouse.current_snapshot(table) is None:
        return set()
    partitions = lakehouse.table(table).inspect.partitions()
    return {row["partition"][column] for row in partitions.to_pylist() if row["record_count"] > 0}


# --- running them ---------------------------------------------------------------------------------------


class Launcher:
    """Runs the nights of one project, one after the other.

    Parameters
    ----------
    settings, config
        The settings and the file they came from.
    lock
        The file descriptor of the lock; the night's processes keep it open.
    """

    def __init__(self, settings: Settings, config: Path, lock: int) -> None:
        self.settings, self.config, self.lock = settings, config, lock
        self.environment = airflow_environment(settings, config)
        # By hand one wants the cause now, not after the retries of a night that nobody watches.
        self.environment.setdefault("SYNCREC_RETRIES", "0")
        self.logs = settings.state / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)

    def run(self, count: int | None) -> int:
        """Run what is due; returns the exit code."""
        lakehouse = Lakehouse(self.settings)
        lakehouse.create_tables()
        plan = _plan(self.settings, lakehouse, count)
        if not plan.nights:
            self._say_nothing_is_due(lakehouse)
            return 0
        prepare(self.environment)
        if self.settings.sample:
            _write_sample(self.settings.sample, self.settings.landing_path, plan)
        if plan.bootstrap:
            self._bootstrap(*plan.bootstrap)
        for place, ds in enumerate(plan.nights, 1):
            print(f"\nnight {ds} ({place} of {len(plan.nights)})", flush=True)
            begun = time.monotonic()
            self._night(ds, lakehouse)
            for line in closing_lines(self.settings, self.config, lakehouse, ds, time.monotonic() - begun):
                print(line, flush=True)
        return 0

    def _say_nothing_is_due(self, lakehouse: Lakehouse) -> None:
        published = table_days(lakehouse, "nights", "ds")
        last = max([*published, self.settings.night.bootstrap_through])
        print(
            f"nothing to do: no landing day after {last} in {self.settings.landing_path}. Put the next day's files "
            f"into a folder like {self.settings.landing_path}/{last + DAY}/ and run this again."
        )

    def _bootstrap(self, first: date, last: date) -> None:
        print(f"\nhistory {first} to {last}, ingested at once ...", flush=True)
        begun = time.monotonic()
        python = self.environment["SYNCREC_JOBS_PYTHON"]
        command = [python, "-m", "jobs.ingest", f"--ds={last}", f"--since={first}", "--run-id=bootstrap"]
        log, cause = self.logs / "bootstrap.log", ""
        with log.open("a", encoding="utf-8") as out, started(command, self.environment, [self.lock]) as process:
            assert process.stdout
            for line in process.stdout:
                out.write(line)
                out.flush()
                if line[2:3] == ":" and line[5:6] == ":":
                    print(f"       {line.rstrip()}", flush=True)
                elif line.startswith("error: "):
                    cause = line.removeprefix("error: ").strip()
        if process.returncode:
            raise JobError(
                f"the history could not be ingested: {cause or f'exit code {process.returncode}'}. "
                f"Full log: {log}. Nothing was published; mend the cause and run this again"
            )
        print(f"history done, {time.monotonic() - begun:.1f} s", flush=True)

    def _night(self, ds: date, lakehouse: Lakehouse) -> None:
        log = self.logs / f"night-{ds}.log"
        end = run_night(ds, self.environment, log, tell=_tell, keep_open=[self.lock])
        if end.succeeded and ds not in table_days(lakehouse, "nights", "ds"):
            raise JobError(f"night {ds}: every step ended well, yet the table nights has no such day. Log: {log}")
        if not end.succeeded:
            raise JobError(failure_text(ds, end, log))
        for step in end.failed:
            print(f"warning: {step.name} failed, the night was published without it: {step.cause}", flush=True)


def failure_text(ds: date, end: NightEnd, log: Path) -> str:
    """Say in a few lines what failed, why, where the log is and what to do."""
    if end.failed:
        causes = [f"{step.name} failed: {step.cause or 'no cause given'}" for step in end.failed]
    else:
        causes = [f"Airflow could not run it: {end.last_line or 'no output'}"]
    return "\n".join(
        [
            f"night {ds} is not published; the tables are as they were.",
            *(f"  {cause}" for cause in causes),
            f"  full log: {log}",
            "  when the cause is mended: the same command again runs this night again",
        ]
    )


def _tell(line: str) -> None:
    print(line, flush=True)


def _write_sample(sample: Sample, landing: Path, plan: Plan) -> None:
    from jobs.sample import SampleSettings, write_days

    first = plan.bootstrap[0] if plan.bootstrap else plan.nights[0]
    wanted = SampleSettings(seed=sample.seed, n_users=sample.users, start=sample.start)
    begun = time.monotonic()
    write_days(landing, first, plan.nights[-1], settings=wanted)
    print(
        f"sample landing days {first} to {plan.nights[-1]} are there, {time.monotonic() - begun:.1f} s", flush=True
    )


# --- the closing lines ----------------------------------------------------------------------------------


def closing_lines(
    settings: Settings, config: Path, lakehouse: Lakehouse, ds: date, seconds: float
) -> Iterator[str]:
    """Say what came out of a published night and where to look."""
    (night,) = _rows(lakehouse, "nights", ds)
    count = lakehouse.table("recommendations").scan(row_filter=EqualTo("ds", ds)).count()
    option = "" if config == REPOSITORY / DEFAULT_CONFIG else f" CONFIG={shlex.quote(str(config))}"
    metrics = [row for row in _rows(lakehouse, "domain_metrics", ds) if row["run_id"] == night["run_id"]]
    yield f"night {ds} is published, {seconds:.0f} s"
    yield f"  recommendations  {count:,} rows"
    yield f"  model            {model_text(night)}"
    yield f"  NTG per domain   {ntg_text(metrics, settings.domain_names)}"
    yield f"  query it         make sql{option} Q={FIRST_QUERY}"
    yield f"  web pages        make up{option}    (MLflow and Airflow, on this machine only)"
    yield f"  report           {settings.state / 'reports' / f'{ds}.html'}"


def _rows(lakehouse: Lakehouse, table: str, ds: date) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lakehouse.read_arrow(
        table, lakehouse.current_snapshot(table), EqualTo("ds", ds)
    ).to_pylist()
    return rows


def model_text(night: dict[str, Any]) -> str:
    """Which version scored, and what the gate decided and why."""
    decision = str(night["decision"]).replace("_", " ")
    if night["decision"] == "refused" and night["challenger"]:
        decision = f"version {night['challenger']} refused"
    return f"version {night['served_version']} scored; {decision}: {night['reason']}"


def ntg_text(metrics: Iterable[dict[str, Any]], domains: Sequence[str]) -> str:
    """The negative transfer gap of each domain in NDCG@10, as one line; a star marks a clear one.

    The challenger's where there is one, else the champion's; as in `sql/queries/ntg_by_day.sql`.
    """
    best: dict[str, dict[str, Any]] = {}
    for row in metrics:
        if row["metric"] == "ntg_ndcg" and (row["domain"] not in best or row["role"] == "challenger"):
            best[row["domain"]] = row
    told = []
    for domain in domains:
        if domain in best:
            row = best[domain]
            clear = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
            told.append(f"{domain} {row['value']:+.3f}{'*' if clear else ''}")
    if not told:
        return "not measured tonight"
    return ", ".join(told) + "   (NDCG@10; above 0: the other domains help; * clear at 95 %)"


# --- the command line -----------------------------------------------------------------------------------


@contextmanager
def locked(state: Path) -> Iterator[int]:
    """Hold the lock of a state folder.

    Raises
    ------
    JobError
        Another process holds it.
    """
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / "nightly.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 40).decode(errors="replace").strip() or "unknown"
            raise JobError(
                f"another `make nightly` works in {state} (process {holder}): wait for its end, or end it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def config_file(argument: Path | None) -> Path:
    """The absolute path of the settings file, as `load_settings` finds it."""
    home = Path(os.environ.get("SYNCREC_HOME") or Path.cwd())
    return (home / (argument or os.environ.get("SYNCREC_CONFIG") or DEFAULT_CONFIG)).resolve()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: exit code 0 done, or nothing due; 1 a clear error; 70 a defect of ours."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.nightly", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parser.add_argument("--nights", type=_positive, help="how many nights to run; default: as the settings say")
    arguments = parser.parse_args(argv)
    start_logging()
    try:
        config = config_file(arguments.config)
        settings = load_settings(config)
        with locked(settings.state) as lock:
            return Launcher(settings, config, lock).run(arguments.nights)
    except JobError as error:
        print(f"error: nightly: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("error: nightly: interrupted; the same command again goes on", file=sys.stderr, flush=True)
        return 130
    except Exception as error:
        traceback.print_exc()
        print(f"error: nightly: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
        return 70


if __name__ == "__main__":
    sys.exit(main())
