"""The command line that every job has: `python -m jobs.NAME --ds 2024-03-01 [--config syncrec.toml]`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from jobs.errors import JobError, NothingToDo
from jobs.machine_errors import machine_trouble
from jobs.night_log import BESIDE, STEPS
from jobs.private import HidingFormatter, hide, private_files
from jobs.settings import Settings, load_settings
from jobs.step_times import DONE, FAILED, NOTHING, StepClock, process_age

SKIPPED_EXIT_CODE = 99
_RUN_ID = re.compile(r"^[A-Za-z0-9_.:+-]{1,200}$")
log = logging.getLogger("syncrec")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a job knows about the night it belongs to."""

    ds: date
    run_id: str
    settings: Settings
    arguments: argparse.Namespace

    @property
    def backfill(self) -> bool:
        """Whether a backfill runs this night: Airflow names its runs so, and the runbook those by hand."""
        return self.run_id.startswith("backfill")

    @property
    def cutoff(self) -> datetime:
        """Midnight UTC after ds: nothing at or after it may reach this night."""
        return datetime(self.ds.year, self.ds.month, self.ds.day, tzinfo=UTC) + timedelta(days=1)


def parse_day(text: str) -> date:
    """Read a day written as 2024-03-01."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a day like 2024-03-01") from None


def _parse_run_id(text: str) -> str:
    if not _RUN_ID.match(text):
        raise argparse.ArgumentTypeError("a run id holds letters, digits and _ . : + - only")
    return text


def run_job(
    job: Callable[[Run], str | None],
    argv: Sequence[str] | None = None,
    *,
    arguments: Callable[[argparse.ArgumentParser], object] | None = None,
) -> int:
    """Parse the command line, run the job, and turn its end into an exit code and one clear line.

    Parameters
    ----------
    job
        Takes the run and returns a closing line for the log, or None.
    argv
        The arguments; default: those of this process.
    arguments
        Adds the job's own arguments to the parser.

    Returns
    -------
    int
        0 done, 1 a clear error, 2 a wrong argument, 99 nothing to do tonight, 70 a defect of ours.
    """
    module = inspect.getmodule(job)
    full_name = module.__spec__.name if module and module.__spec__ else job.__module__
    if job.__module__ == "__main__" and full_name != "__main__":
        # `python -m` calls the module __main__; Spark's workers can only import it by its own name.
        job = getattr(importlib.import_module(full_name), job.__name__)
    name = full_name.removeprefix("jobs.")
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{name}",
        description=module.__doc__ if module else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ds", type=parse_day, required=True, help="the logical day, e.g. 2024-03-01")
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parser.add_argument(
        "--run-id",
        type=_parse_run_id,
        default=os.environ.get("SYNCREC_RUN_ID") or "manual",
        help="groups the jobs of one night; Airflow passes its own",
    )
    if arguments:
        arguments(parser)
    parsed = parser.parse_args(argv)
    start_logging()
    age = process_age() if argv is None else 0.0  # called with arguments, it is not this process's only work
    return _run(job, name, parsed, age)


def _run(job: Callable[[Run], str | None], name: str, parsed: argparse.Namespace, age: float) -> int:
    """Run the job, note how it went, say it in one line."""
    clock: StepClock | None = None
    began = time.monotonic() - age

    def ended(outcome: str, message: str = "") -> None:
        if clock is not None:
            clock.end(outcome, message, peak_memory())

    def error(text: str, message: str = "") -> None:
        print(f"error: {name} {parsed.ds}: {text}", file=sys.stderr, flush=True)
        ended(FAILED, message or text)

    try:
        private_files()
        settings = load_settings(parsed.config)
        if name in (*STEPS, BESIDE) and os.environ.get("RANK", "0") == "0":  # under torchrun rank 0 is the step
            clock = StepClock(settings.warehouse, parsed.ds, parsed.run_id, name, age)
        closing = job(Run(ds=parsed.ds, run_id=parsed.run_id, settings=settings, arguments=parsed))
    except NothingToDo as reason:
        log.info("%s %s: nothing to do: %s", name, parsed.ds, reason)
        ended(NOTHING, str(reason))
        return SKIPPED_EXIT_CODE
    except JobError as reason:
        error(one_line(reason))
        return 1
    except KeyboardInterrupt:
        error("interrupted; run it again")
        return 130
    except Exception as defect:
        if trouble := machine_trouble(defect):
            error(hide(trouble))
            return 1
        print(hide(traceback.format_exc()), end="", file=sys.stderr)
        kind = type(defect).__name__
        # what a library says may hold a user's row: the table and the report name its kind alone
        error(f"{kind}: {one_line(defect)}", f"{kind}; the log says more")
        return 70
    took = f"{time.monotonic() - began:.1f} s"
    if (peak := peak_memory()) is not None:
        took += f", at most {peak / 2**30:.1f} GiB"
    log.info("%s %s: %s (%s)", name, parsed.ds, closing or "done", took)
    ended(DONE)
    return 0


def add_full(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --full; the DAG asks for it by SYNCREC_FULL, which the parameter `full` of a run sets."""
    asked = os.environ.get("SYNCREC_FULL") == "True"
    parser.add_argument("--full", action="store_true", default=asked, help=what)


def peak_memory() -> int | None:
    """The sum of the peaks of this process and the processes it started that still live, bytes; Linux only.

    An upper bound: the peaks need not have come at once, and forked workers share pages.
    """
    total = 0
    open_pids = [os.getpid()]
    try:
        while open_pids:
            task = Path(f"/proc/{open_pids.pop()}")
            peak = re.search(r"VmHWM:\s+(\d+) kB", (task / "status").read_text())
            total += int(peak[1]) * 1024 if peak else 0
            for thread in (task / "task").iterdir():
                open_pids += map(int, (thread / "children").read_text().split())
    except OSError:  # another system, or a process that has just ended
        return total or None
    return total


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 on")
    return int(text)


def one_line(error: BaseException, limit: int = 600) -> str:
    """Fold an error's text into one line that fits a terminal and an alert, and that holds no secret."""
    said = str(error)
    if "Traceback (most recent call last)" in said:  # a Spark worker's: its last line is the cause
        said = [line for line in said.splitlines() if line.strip()][-1]
    text = hide(" ".join(said.split()))
    return text if len(text) <= limit else text[:limit] + " ..."


def start_logging() -> None:
    """One fact a line: time, then text."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(HidingFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    # By its file: it uses the root logger, too, and Great Expectations sets its own one's level anew.
    handler.addFilter(lambda record: "py4j" not in Path(record.pathname).parts)
    logging.basicConfig(level=os.environ.get("SYNCREC_LOG_LEVEL", "INFO"), handlers=[handler], force=True)
    for noisy in ("great_expectations", "mlflow", "alembic", "urllib3", "pyiceberg", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # This and py4j log an error's trace, then raise it: we say it in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
