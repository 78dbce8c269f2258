"""The main job, behind `make nightly`: find out which nights are due, and run each through the Airflow DAG.

The first call ingests the history at once (all landing days through [night] bootstrap_through) and runs the next
`first_run_nights` nights; each later call runs the next one. A night that failed is the next one again.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import psutil
from pyiceberg.expressions import EqualTo

from jobs.command import Run, one_line, positive, start_logging
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.machine_errors import machine_trouble
from jobs.model_settings import check_options
from jobs.night import BOOTSTRAP, Night
from jobs.night_closing import closing_lines, failure_text
from jobs.night_plan import DAY, Plan, due, landing_days, table_days
from jobs.orchestrator import airflow_environment, prepare, run_night, started
from jobs.private import hide, private_files
from jobs.settings import DEFAULT_CONFIG, Sample, Settings, load_settings, make_folder


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
        check_options(self.settings)
        lakehouse = Lakehouse(self.settings)
        lakehouse.create_tables()
        self._finish_newest(lakehouse)
        plan = due(self.settings, lakehouse, count)
        for day in plan.missing:
            print(f"warning: no landing day {day}: its night is passed over", flush=True)
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

    def _finish_newest(self, lakehouse: Lakehouse) -> None:
        """Move the aliases of the newest night where an end between publishing and moving left them behind."""
        newest = max(table_days(lakehouse, "nights", "ds"), default=None)
        if newest is None:
            return
        (row,) = lakehouse.read_arrow(
            "nights", lakehouse.current_snapshot("nights"), EqualTo("ds", newest.isoformat())
        ).to_pylist()
        run = Run(ds=newest, run_id=row["run_id"], settings=self.settings, arguments=argparse.Namespace())
        if row["decision"] != "promoted" or run.backfill or Night(run, lakehouse).get("aliases_moved"):
            return
        print(f"night {newest} was published, its aliases were not moved; moving them", flush=True)
        command = [self.environment["SYNCREC_JOBS_PYTHON"], "-m", "jobs.move_alias", f"--ds={newest}"]
        ended = subprocess.run(
            [*command, f"--run-id={row['run_id']}"], env=self.environment, cwd=self.settings.home, text=True,
            capture_output=True,
        )  # fmt: skip
        if ended.returncode:
            cause = (ended.stderr.strip() or "no cause given").splitlines()[-1]
            raise JobError(f"the aliases of night {newest} could not be moved: {cause}")

    def _say_nothing_is_due(self, lakehouse: Lakehouse) -> None:
        published = table_days(lakehouse, "nights", "ds")
        through, landing = self.settings.night.bootstrap_through, self.settings.landing_path
        last = max([*published, through])
        days = landing_days(landing)
        earlier = ""
        if days and not published:
            earlier = (
                f", or let [night] bootstrap_through = {through}, by which all landing days ({days[0]} to "
                f"{days[-1]}) are history, be an earlier day"
            )
        print(
            f"nothing to do: no landing day after {last} in {landing}. Put the next day's files into a folder like "
            f"{landing}/{last + DAY}/ and run this again{earlier}."
        )

    def _bootstrap(self, first: date, last: date) -> None:
        print(f"\nhistory {first} to {last}, ingested at once ...", flush=True)
        begun = time.monotonic()
        python = self.environment["SYNCREC_JOBS_PYTHON"]
        command = [python, "-m", "jobs.ingest", f"--ds={last}", f"--since={first}", f"--run-id={BOOTSTRAP}"]
        log, cause = self.logs / "bootstrap.log", ""
        with log.open("a", encoding="utf-8") as out, started(command, self.environment, [self.lock]) as process:
            out.write(f"\n=== {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {' '.join(command)}\n")
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
                f"the history could not be ingested: {cause.rstrip('. ') or f'exit code {process.returncode}'}. "
                f"Full log: {log}. Mend the cause and run this again"
            )
        print(f"history done, {time.monotonic() - begun:.1f} s", flush=True)

    def _night(self, ds: date, lakehouse: Lakehouse) -> None:
        log = self.logs / f"night-{ds}.log"
        end = run_night(ds, self.environment, log, tell=_tell, keep_open=[self.lock])
        if end.succeeded and ds not in table_days(lakehouse, "nights", "ds"):
            raise JobError(f"night {ds}: every step ended well, yet the table nights has no such day. Log: {log}")
        if not end.succeeded:
            published = ds in table_days(lakehouse, "nights", "ds")
            page = self.settings.state / "reports" / f"{ds}.html"
            raise JobError(failure_text(ds, end, log, page if page.exists() else None, published=published))
        for step in end.failed:
            cause = step.cause.removesuffix("; run it again")
            print(f"warning: {step.name} failed, the night was published without it: {cause}", flush=True)
            print("         Nothing has to be run again tonight: the next night tries anew.", flush=True)


def _tell(line: str) -> None:
    print(line, flush=True)


def _write_sample(sample: Sample, landing: Path, plan: Plan) -> None:
    from jobs.sample import SampleSettings, write_days

    first = plan.bootstrap[0] if plan.bootstrap else plan.nights[0]
    wanted = SampleSettings(seed=sample.seed, n_users=sample.users, start=sample.start)
    begun, last = time.monotonic(), plan.nights[-1]
    write_days(landing, first, last, settings=wanted)
    days = f"day {last} is" if first == last else f"days {first} to {last} are"
    print(f"sample landing {days} there, {time.monotonic() - begun:.1f} s", flush=True)


# --- the command line -----------------------------------------------------------------------------------


@contextmanager
def locked(state: Path) -> Iterator[int]:
    """Hold the lock of a state folder.

    Raises
    ------
    JobError
        Another process holds it, or the folder cannot be made.
    """
    make_folder(state, "state_dir")
    descriptor = os.open(state / "nightly.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 40).decode(errors="replace").strip() or "unknown"
            raise JobError(f"another `make nightly` works in {state} {_whose(holder)}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _whose(holder: str) -> str:
    """Say which process holds the lock and what to do; the steps of a night that was killed hold it, too."""
    if holder.isdigit() and not psutil.pid_exists(int(holder)):
        return (
            f"(process {holder} is gone, or in another container; a step that it began works on): wait some "
            "minutes until that has ended; what it has done is not done again"
        )
    return f"(process {holder}): wait for its end, or end it"


def config_file(argument: Path | None) -> Path:
    """The absolute path of the settings file, as `load_settings` finds it."""
    home = Path(os.environ.get("SYNCREC_HOME") or Path.cwd())
    return (home / (argument or os.environ.get("SYNCREC_CONFIG") or DEFAULT_CONFIG)).resolve()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: exit code 0 done, or nothing due; 1 a clear error; 70 a defect of ours."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.nightly", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parser.add_argument("--nights", type=positive, help="how many nights to run; default: as the settings say")
    arguments = parser.parse_args(argv)
    start_logging()
    try:
        private_files()
        config = config_file(arguments.config)
        settings = load_settings(config)
        with locked(settings.state) as lock:
            return Launcher(settings, config, lock).run(arguments.nights)
    except JobError as error:
        print(f"error: nightly: {hide(str(error))}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print(
            "error: nightly: interrupted; the same command again runs this night's steps from the first",
            file=sys.stderr,
            flush=True,
        )
        return 130
    except Exception as error:
        if trouble := machine_trouble(error):
            print(f"error: nightly: {hide(trouble)}", file=sys.stderr, flush=True)
            return 1
        print(hide(traceback.format_exc()), end="", file=sys.stderr)
        print(f"error: nightly: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
        return 70


if __name__ == "__main__":
    sys.exit(main())
