"""First step of a night: wait until the landing folder of the day is complete.

A day is complete when its marker file is there ([landing] marker) and every source with `required = true` has a
file. With `marker = ""` there is no marker: at least one file of some source must be there, too, and none of them
may have changed for `poll_seconds`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.command import Run, log, run_job
from jobs.errors import JobError
from jobs.landing import NO_MARKER
from jobs.model_settings import check_options
from jobs.settings import Landing, Source

SOURCE = "source "


def source_files(folder: Path, source: Source) -> list[Path]:
    """The files of one source in one day folder, by name."""
    return sorted(file for file in folder.glob(source.files) if file.is_file())


def missing(folder: Path, landing: Landing, sources: Sequence[Source]) -> list[str]:
    """Name everything that the day still lacks, in words; an empty list: the day is complete."""
    if not folder.is_dir():
        return ["the folder itself"]
    lacks = [
        f"{SOURCE}'{source.name}' ({source.files})"
        for source in sources
        if source.required and not source_files(folder, source)
    ]
    if landing.marker:
        if not (folder / landing.marker).is_file():
            lacks.append(f"the marker file {landing.marker} ({NO_MARKER})")
    elif not lacks:
        lacks = _unsettled(folder, sources, landing.poll_seconds)
    return lacks


def _unsettled(folder: Path, sources: Sequence[Source], quiet_seconds: float) -> list[str]:
    """Without a marker nobody says that a file is whole: one that has just changed may still grow."""
    files = {file for source in sources for file in source_files(folder, source)}
    if not files:
        return ["any file of a configured source (" + ", ".join(source.files for source in sources) + ")"]
    newest = time.time() - quiet_seconds
    changing = sorted(file.name for file in files if file.stat().st_mtime > newest)
    return [f"the end of writing {name} (changed within {quiet_seconds:g} s)" for name in changing]


def wait(
    look: Callable[[], list[str]],
    *,
    place: object = "the landing folder",
    timeout_seconds: float,
    poll_seconds: float,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[str], float]:
    """Look until nothing is missing or the time is over.

    Parameters
    ----------
    look
        Names what is missing; an empty list ends the wait.
    place
        Where it is looked for, for the log.
    timeout_seconds, poll_seconds
        How long to wait, and between two looks.
    sleep, clock
        The time, for tests.

    Returns
    -------
    tuple
        What was still missing at the last look, and the seconds waited.
    """
    started = clock()
    told: list[str] = []
    while True:
        lacks = look()
        waited = clock() - started
        if not lacks or waited >= timeout_seconds:
            return lacks, waited
        if lacks != told:
            minutes = (timeout_seconds - waited) / 60
            log.info("waiting for %s: %s; at most %.3g minutes", place, "; ".join(lacks), minutes)
            told = lacks
        sleep(min(poll_seconds, timeout_seconds - waited))


def wait_for_landing(run: Run) -> str:
    """Wait for the day of this run.

    Raises
    ------
    JobError
        The time is over; the message names what is missing, what is there, and where. Or a setting is wrong that
        training would refuse an hour later.
    """
    check_options(run.settings)
    landing, sources = run.settings.landing, run.settings.sources
    folder = run.settings.landing_path / run.ds.isoformat()
    lacks, waited = wait(
        lambda: missing(folder, landing, sources),
        place=folder,
        timeout_seconds=landing.timeout_minutes * 60,
        poll_seconds=landing.poll_seconds,
    )
    if lacks:
        raise JobError(_timeout_message(folder, landing, lacks))
    files = {file for source in sources for file in source_files(folder, source)}
    return f"complete: {len(files)} files in {folder}" + (f", waited {waited:.0f} s" if waited >= 1 else "")


def _timeout_message(folder: Path, landing: Landing, lacks: list[str]) -> str:
    there = sorted(entry.name for entry in os.scandir(folder))[:10] if folder.is_dir() else []
    found = f"there is {', '.join(there)}" if there else "it is empty" if folder.is_dir() else "no such folder"
    absent = any(lack.startswith(SOURCE) for lack in lacks)
    return (
        f"{folder} is not complete after {landing.timeout_minutes:g} minutes: missing {'; '.join(lacks)}; {found}. "
        "Deliver what is missing and run this step again"
        + ("; a source that may be absent has required = false" if absent else "")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return run_job(wait_for_landing, argv)


if __name__ == "__main__":
    sys.exit(main())
