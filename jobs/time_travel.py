"""Which snapshots the tables had when a night was published: reading the past as it was then."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from pyiceberg.expressions import And, EqualTo

from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.schemas import NIGHTS, TABLES

PINNED = ("interactions", "items", "sequences", "recommendations")


def snapshots_of(lakehouse: Lakehouse, as_of: date | None) -> dict[str, int | None]:
    """By table the newest snapshot; as of a night the one that it pinned, or that was newest when it was published.

    Raises
    ------
    JobError
        That night is not published, or a snapshot of it is no longer kept.
    """
    if as_of is None:
        return {name: lakehouse.current_snapshot(name) for name in TABLES}
    newest = lakehouse.current_snapshot(NIGHTS.name)
    rows = lakehouse.read_arrow(NIGHTS.name, newest, EqualTo("ds", as_of.isoformat())).to_pylist()
    if not rows:
        known = sorted(lakehouse.read_arrow(NIGHTS.name, newest, columns=("ds",))["ds"].to_pylist())
        nights = f"; the published ones are {known[0]} to {known[-1]}" if known else ""
        raise JobError(f"no night of {as_of} is published{nights}")
    (night,) = rows
    found: dict[str, int | None] = {name: night[f"{name}_snapshot"] for name in PINNED}
    found[NIGHTS.name] = _writer(lakehouse, as_of, night["run_id"])
    until = int(night["published_at"].timestamp() * 1000)
    for name in TABLES:
        if name not in found:
            found[name] = next((number for number, at in _history(lakehouse, name) if at <= until), None)
    for name, snapshot in found.items():
        if name in (*PINNED, NIGHTS.name) and (snapshot is None or not lakehouse.has_snapshot(name, snapshot)):
            raise JobError(
                f"the snapshot of {name} that the night of {as_of} had is no longer kept ([maintenance] nights, "
                "jobs.forget, or an upgrade since); its lists are rows of recommendations: where ds = "
                f"date '{as_of}'"
            )
    return found


def _history(lakehouse: Lakehouse, name: str) -> Iterator[tuple[int, int]]:
    """Snapshots with their times in milliseconds, newest first."""
    for snapshot in reversed(lakehouse.table(name).snapshots()):
        yield snapshot.snapshot_id, snapshot.timestamp_ms


def _writer(lakehouse: Lakehouse, ds: date, run_id: str) -> int | None:
    """The first snapshot of `nights` with the row of that run; one before it may drop that of an earlier run."""
    current = lakehouse.current_snapshot(NIGHTS.name)
    own = [
        number
        for number, said in lakehouse.history(NIGHTS.name, current)
        if (said.get("ds"), said.get("run_id")) == (ds.isoformat(), run_id)
    ]
    this = And(EqualTo("ds", ds.isoformat()), EqualTo("run_id", run_id))
    return next(
        (number for number in reversed(own) if lakehouse.read_arrow(NIGHTS.name, number, this).num_rows), None
    )
