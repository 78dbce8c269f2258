"""What maintenance must keep: what published nights pin, and what nights in progress have noted or build on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.schemas import INTERACTIONS, NIGHTS, SEQUENCES
from jobs.sequence_nights import past_nights
from jobs.settings import Maintenance

PINNED = ("interactions", "items", "sequences", "recommendations")
ABANDONED = timedelta(days=14)
"""A run of a day older than all kept nights counts as in progress until its notes have not changed for so long."""


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that is not published: its day, its pins by table, the files it staged, the versions it scores with."""

    ds: date
    snapshots: Mapping[str, int]
    files: frozenset[str]
    versions: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What must stay.

    newest: the day that days are counted back from. oldest: the oldest night whose pins stay. snapshots: by table.
    runs: the nights in progress.
    """

    newest: date
    oldest: date
    snapshots: Mapping[str, frozenset[int]]
    runs: tuple[OpenRun, ...]

    @property
    def days(self) -> frozenset[date]:
        """The days of the nights in progress."""
        return frozenset(run.ds for run in self.runs)

    @property
    def files(self) -> frozenset[str]:
        """The files that nights in progress have staged."""
        return frozenset().union(*(run.files for run in self.runs))

    @property
    def versions(self) -> frozenset[str]:
        """The model versions that nights in progress score with."""
        return frozenset().union(*(run.versions for run in self.runs))


def find_needs(lakehouse: Lakehouse, own: Maintenance, ds: date, now: datetime) -> Needs:
    """Read the table `nights`, which holds a night, and the notes of all runs.

    Parameters
    ----------
    lakehouse, own
        The tables, and the settings of maintenance.
    ds
        The logical day; one after the newest published night counts as that night, so that a slip drops nothing.
    now
        The time by the clock; only for runs of days that are older than all kept nights.

    Raises
    ------
    JobError
        The notes of a run cannot be read: nothing may be removed then.
    """
    rows = lakehouse.read_arrow(NIGHTS.name, lakehouse.current_snapshot(NIGHTS.name)).to_pylist()
    published = {row["ds"]: row for row in rows}
    newest = min(ds, max(published))
    last = sorted(published, reverse=True)[: own.nights]
    oldest = min([*last, newest - timedelta(days=own.nights - 1)])
    runs = tuple(_open_runs(lakehouse, {day: row["run_id"] for day, row in published.items()}, oldest, now))
    kept: dict[str, set[int]] = {name: set() for name in PINNED}
    for day in last:
        for name in PINNED:
            kept[name].add(published[day][f"{name}_snapshot"])
    for run in runs:
        for name, snapshot in run.snapshots.items():
            kept.setdefault(name, set()).add(snapshot)
    for night in _built_upon(lakehouse, runs):
        kept[SEQUENCES.name].add(night.snapshot)
        kept[INTERACTIONS.name].add(night.interactions_snapshot or -1)
    found = {name: frozenset(numbers - {None, -1}) for name, numbers in kept.items()}
    return Needs(newest=newest, oldest=oldest, snapshots=found, runs=runs)


def _open_runs(
    lakehouse: Lakehouse, published: Mapping[date, str], oldest: date, now: datetime
) -> Iterator[OpenRun]:
    for file in sorted((lakehouse.warehouse / "_nights").glob("*/*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            touched = datetime.fromtimestamp(file.stat().st_mtime, now.tzinfo)
            ds, run_id, snapshots = date.fromisoformat(file.parent.name), values["run_id"], values["snapshots"]
        except FileNotFoundError:  # another maintenance has just removed it
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JobError(
                f"cannot read the notes of a night, {file} ({error}): nothing is removed as long as it is unknown "
                "what that night needs; if no such night runs, remove the file"
            ) from error
        if published.get(ds) == run_id:
            continue
        if ds < oldest and now - touched > ABANDONED:
            continue
        versions = (values.get(name) for name in ("served_version", "candidate_version"))
        yield OpenRun(
            ds=ds,
            snapshots={name: number for name, number in snapshots.items() if number is not None},
            files=frozenset(_file_addresses(values)),
            versions=frozenset(str(version) for version in versions if version is not None),
        )


def _file_addresses(value: Any) -> Iterator[str]:
    """Every file that a run's notes name, however deep."""
    if isinstance(value, str):
        if value.startswith("file://"):
            yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _file_addresses(one)
    elif isinstance(value, list):
        for one in value:
            yield from _file_addresses(one)


def _built_upon(lakehouse: Lakehouse, runs: tuple[OpenRun, ...]) -> Iterator[Any]:
    """The night of `sequences` before each night in progress, which that one builds on."""
    nights = past_nights(lakehouse, lakehouse.current_snapshot(SEQUENCES.name))
    for run in runs:
        before = [night for night in nights if night.ds < run.ds]
        if before:
            newest = max(night.ds for night in before)
            yield next(night for night in before if night.ds == newest)


def local(address: str) -> Path:
    """The path of a file address."""
    return Path(address.removeprefix("file://"))
