"""Which nights are due: worked out from the days that landed, were ingested and were published."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.settings import Sample, Settings

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Plan:
    """What one call has to do: `bootstrap` is the first and last landing day to ingest at once, if any.

    `missing` are days without a landing folder before or between the nights: they are passed over.
    """

    bootstrap: tuple[date, date] | None
    nights: tuple[date, ...]
    missing: tuple[date, ...] = ()


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
    nights = tuple(sorted(day for day in landed if day > done_through)[:wanted])
    known_from = done_through if published or history else (min(landed) if landed else done_through)
    span = (nights[-1] - known_from).days if nights else 0
    expected = {known_from + DAY * n for n in range(1, span + 1)}
    return Plan(bootstrap, nights, tuple(sorted(expected - set(landed))))


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


def due(settings: Settings, lakehouse: Lakehouse, count: int | None) -> Plan:
    """Find the nights of one project that are due.

    Raises
    ------
    JobError
        No day has ever landed.
    """
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
