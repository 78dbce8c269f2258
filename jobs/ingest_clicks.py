"""Ingest the click logs of a day: landing files -> impressions and rejected_impressions.

    python -m jobs.ingest_clicks --ds 2024-01-31                       one day
    python -m jobs.ingest_clicks --ds 2024-01-31 --since 2024-01-25    every landing day from then on, at once

Without [[click_sources]] there is nothing to do. No recommendation waits for clicks: if this step fails, the night
goes on, and the step can be run again at any time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jobs.command import Run, parse_day, run_job
from jobs.errors import NothingToDo


def ingest_clicks(run: Run) -> str:
    """Read, stage, audit and publish the days, where there is a click log at all."""
    if not run.settings.click_sources:
        raise NothingToDo("the settings have no [[click_sources]]")
    from jobs.clicks import ingest  # Spark takes seconds to import, every night of a project without click logs

    return ingest(run)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since", type=parse_day, help="first landing day; every landing day from it to --ds is read at once"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    return run_job(ingest_clicks, argv, arguments=_add_arguments)


if __name__ == "__main__":
    raise SystemExit(main())
