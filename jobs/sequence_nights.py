"""What the snapshots of `sequences` say about the nights that made them, and on which of them a night may build.

A night writes the rows of the users that changed; `base_ds` is the night whose rows hold every user. The state of a
night is thus the latest row of every user from base_ds to ds. All of this lies in the summaries of the snapshots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import takewhile
from typing import Any

from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, LessThanOrEqual

from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.schemas import INTERACTIONS, SEQUENCES
from jobs.settings import Settings

FORMAT = 1
"""Raise it where the rows of an older version of the jobs must not be built upon."""
_WORDS = {"format": "the form of the rows", "max_length": "T", "domains": "the list of domains"}


@dataclass(frozen=True, kw_only=True)
class SequenceNight:
    """One published night of `sequences`.

    base_ds: the night that wrote every user. previous_ds, previous_snapshot: what an incremental night built on.
    interactions_snapshot: what it read. shape: the settings that its rows depend on. kind: full, incremental or
    compacted. reason: why, in words. events: the events of all its users.
    """

    ds: date
    base_ds: date
    previous_ds: date | None
    previous_snapshot: int | None
    interactions_snapshot: int | None
    shape: Mapping[str, Any]
    kind: str
    reason: str
    events: int
    snapshot: int = -1

    def properties(self) -> dict[str, str]:
        """For the summary of the snapshot; it holds ds already."""
        return {
            "base_ds": self.base_ds.isoformat(),
            "previous_ds": self.previous_ds.isoformat() if self.previous_ds else "",
            "previous_snapshot": _text(self.previous_snapshot),
            "interactions_snapshot": _text(self.interactions_snapshot),
            "shape": json.dumps(dict(self.shape)),
            "kind": self.kind,
            "reason": self.reason,
            "events": str(self.events),
        }

    @classmethod
    def read(cls, snapshot: int, summary: Mapping[str, str]) -> SequenceNight:
        """From the summary of a snapshot."""
        return cls(
            ds=date.fromisoformat(summary["ds"]),
            base_ds=date.fromisoformat(summary["base_ds"]),
            previous_ds=date.fromisoformat(summary["previous_ds"]) if summary["previous_ds"] else None,
            previous_snapshot=_number(summary["previous_snapshot"]),
            interactions_snapshot=_number(summary["interactions_snapshot"]),
            shape=json.loads(summary["shape"]),
            kind=summary["kind"],
            reason=summary["reason"],
            events=int(summary["events"]),
            snapshot=snapshot,
        )

    def rows(self) -> BooleanExpression:
        """Where the rows of this night's state lie."""
        return And(GreaterThanOrEqual("ds", self.base_ds.isoformat()), LessThanOrEqual("ds", self.ds.isoformat()))


def _text(snapshot: int | None) -> str:
    return "" if snapshot is None else str(snapshot)


def _number(text: str) -> int | None:
    return int(text) if text else None


def shape_of(settings: Settings) -> dict[str, Any]:
    """The settings that the rows depend on: another value of any of them asks for a full build."""
    own = settings.sequences
    return {
        "format": FORMAT,
        "max_length": own.max_length,
        "valid_days": own.valid_days,
        "test_days": own.test_days,
        "domains": list(settings.domain_names),
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two shapes, in words; '' for nothing."""
    changes = [
        f"{_WORDS.get(name, name)} changed from {_said(before.get(name))} to {_said(now.get(name))}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    return ", ".join(changes)


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def past_nights(lakehouse: Lakehouse, snapshot: int | None) -> list[SequenceNight]:
    """The nights of a snapshot and of all before it, newest commit first; a night built again is there again."""
    history = lakehouse.history(SEQUENCES.name, snapshot)
    return [SequenceNight.read(number, own) for number, own in history if "base_ds" in own]


def night_of(lakehouse: Lakehouse, snapshot: int | None, ds: date) -> SequenceNight:
    """The night of ds as a snapshot holds it.

    Raises
    ------
    JobError
        There is none, or rows that it counts on were replaced since: both say to run build_sequences.
    """
    nights = past_nights(lakehouse, snapshot)
    found = next((night for night in nights if night.ds == ds), None)
    if found is None:
        raise JobError(f"no sequences of {ds}: run build_sequences for that day first")
    if replaced := _replaced(nights, found.previous_snapshot, found, before=found.ds):
        raise JobError(f"the sequences of {replaced} were built again after those of {ds}: build these again too")
    if _dropped(lakehouse, found):
        raise JobError(
            f"the rows of {found.base_ds}, on which the sequences of {ds} stand, are no longer kept: "
            f"run build_sequences --full for {ds}"
        )
    return found


def _dropped(lakehouse: Lakehouse, night: SequenceNight) -> bool:
    """Whether maintenance dropped a night's base, and all before it, after the night had begun to build on it."""
    base = LessThanOrEqual("ds", night.base_ds.isoformat())
    number = night.snapshot
    return not lakehouse.files(SEQUENCES.name, number, base) and bool(lakehouse.files(SEQUENCES.name, number))


def _replaced(
    nights: list[SequenceNight], since: int | None, chain: SequenceNight, *, before: date | None = None
) -> date | None:
    """A day of the chain, base_ds..ds, whose rows a snapshot newer than `since` replaced."""
    if since is None:
        return None
    for night in takewhile(lambda night: night.snapshot != since, nights):
        if chain.base_ds <= night.ds <= chain.ds and (before is None or night.ds < before):
            return night.ds
    return None


def find_previous(
    lakehouse: Lakehouse, snapshot: int | None, ds: date, shape: Mapping[str, Any], interactions: int | None
) -> tuple[SequenceNight | None, str]:
    """The night before ds to build on, or None and why all must be built anew.

    Parameters
    ----------
    lakehouse, snapshot
        The table `sequences` at a snapshot.
    ds
        The night to build; nights from ds on do not count, so a re-run builds on what the first run built on.
    shape
        What the settings ask for now.
    interactions
        The snapshot of `interactions` that the night reads.
    """
    nights = past_nights(lakehouse, snapshot)
    newest = max((night.ds for night in nights if night.ds < ds), default=None)
    if newest is None:
        return None, "no sequences of an earlier night"
    previous = next(night for night in nights if night.ds == newest)
    if changes := difference(previous.shape, shape):
        return None, changes
    if replaced := _replaced(nights, previous.snapshot, previous):
        return None, f"the sequences of {replaced} were built again after those of {previous.ds}"
    if changes := _arrivals_changed(lakehouse, previous, interactions):
        return None, changes
    return previous, f"on the night of {previous.ds}"


def _arrivals_changed(lakehouse: Lakehouse, previous: SequenceNight, interactions: int | None) -> str:
    """What happened since to the landing days that a night has read, in words; '' if nothing did."""
    seen = previous.interactions_snapshot
    if seen is not None and not lakehouse.has_snapshot(INTERACTIONS.name, seen):
        return f"the interactions that the night of {previous.ds} read are no longer kept"
    where = LessThanOrEqual("arrival_ds", previous.ds.isoformat())
    before = lakehouse.partitions(INTERACTIONS.name, seen, where)
    now = lakehouse.partitions(INTERACTIONS.name, interactions, where)
    changed = sorted(_ingested(lakehouse, seen, interactions, where, _changed(before, now)))
    if not changed:
        return ""
    more = f" and {len(changed) - 1} more were" if len(changed) > 1 else " was"
    again = "again" if changed[0] in before else f"after the night of {previous.ds}"
    return f"the landing day{'s' if len(changed) > 1 else ''} {changed[0]}{more} ingested {again}"


def _changed(before: Mapping[date, Mapping[str, int]], now: Mapping[date, Mapping[str, int]]) -> set[date]:
    """The days whose data files differ."""
    return {day for day in {*before, *now} if before.get(day, {}).keys() != now.get(day, {}).keys()}


def _ingested(
    lakehouse: Lakehouse, seen: int | None, now: int | None, where: BooleanExpression, days: set[date]
) -> set[date]:
    """Those of the days whose files were changed by other than maintenance, which merges files."""
    found: set[date] = set()
    if not days:
        return found
    history = list(lakehouse.history(INTERACTIONS.name, now))
    numbers = [number for number, _ in history]
    if seen not in numbers:  # nothing can be said about what came in between
        return days
    for place, (number, own) in enumerate(history[: numbers.index(seen)]):
        if "maintenance" not in own:
            before = lakehouse.partitions(INTERACTIONS.name, numbers[place + 1], where)
            found |= _changed(before, lakehouse.partitions(INTERACTIONS.name, number, where))
    return found & days
