"""Sequences by loops over a log, slow and plain: what `sequences` and its readers must give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from jobs.splits import Window, micros
from syncrec_model import SequenceSet

DOMAINS = ("books", "toys", "groceries")
N_ITEMS = 9


class Event(NamedTuple):
    """One row of interactions."""

    user: str
    domain: str
    item: int
    ts: datetime
    event_id: int
    arrival: date


def random_log(seed: int, first: date, n_days: int, n_users: int = 40) -> list[Event]:
    """Events of n_days landing days: ties in time, late ones, some that arrive again, users with many a day."""
    rng = np.random.default_rng(seed)
    events = []
    for user in range(n_users):
        busy = rng.random(n_days) < rng.choice([0.15, 0.5, 1.0])
        for day in np.flatnonzero(busy):
            for _ in range(rng.choice([1, 2, 9], p=[0.5, 0.35, 0.15])):
                late = int(rng.choice([0, 0, 0, 1, 3, n_days]))
                at = datetime(first.year, first.month, first.day, tzinfo=UTC) + timedelta(days=int(day) - late)
                if rng.random() < 0.5:  # else midnight, as in logs that know days only
                    at += timedelta(seconds=int(rng.integers(86_400)))
                domain = DOMAINS[rng.choice(3, p=[0.6, 0.3, 0.1])]
                event_id = int(rng.integers(-(2**62), 2**62))
                arrival = first + timedelta(days=int(day))
                event = Event(f"u{user}", domain, int(rng.integers(1, N_ITEMS + 1)), at, event_id, arrival)
                events.append(event)
                if rng.random() < 0.05:
                    again = first + timedelta(days=int(rng.integers(day, n_days)))
                    events.append(event._replace(arrival=again))
    return events


Row = tuple[list[int], list[int], list[bool], int]
Single = tuple[list[int], list[int], int]


def expected(
    events: Sequence[Event], window: Window, max_length: int
) -> tuple[dict[str, Row], dict[tuple[str, str], Single]]:
    """One split by loops: user -> items, codes, targets, length; (user, domain) -> items, places, length."""
    by_user: dict[str, list[Event]] = defaultdict(list)
    for event in {event._replace(arrival=date.min) for event in events}:
        by_user[event.user].append(event)
    cross, single = {}, {}
    for user, own in by_user.items():
        own.sort(key=lambda e: (e.ts, e.event_id))
        past = [e for e in own if e.ts < window.cut]
        if not past or past[-1].ts < window.start:
            continue
        kept = past[-max_length:]
        blank = max_length - len(kept)
        flags = [window.split in ("valid", "test") and e.ts >= window.start for e in kept]
        codes = [DOMAINS.index(e.domain) + 1 for e in kept]
        cross[user] = (
            [0] * blank + [e.item for e in kept],
            [0] * blank + codes,
            [False] * blank + flags,
            min(len(past), max_length + 1),
        )
        place = {id(e): blank + step for step, e in enumerate(kept)}
        for domain in {e.domain for e in past}:
            mine = [e for e in past if e.domain == domain]
            last = mine[-max_length:]
            pad = max_length - len(last)
            single[user, domain] = (
                [0] * pad + [e.item for e in last],
                [-1] * pad + [place.get(id(e), -1) for e in last],
                min(len(mine), max_length + 1),
            )
    return cross, single


def as_rows(made: SequenceSet) -> tuple[dict[str, Row], dict[tuple[str, str], Single]]:
    """A SequenceSet in the form of `expected`."""
    users = made.user_ids.tolist()
    assert users == sorted(users)
    cross = {
        user: (items.tolist(), codes.tolist(), targets.tolist(), int(length))
        for user, items, codes, targets, length in zip(
            users,
            made.cross_items_UT,
            made.cross_domains_UT,
            made.cross_targets_UT,
            made.cross_lengths_U,
            strict=True,
        )
    }
    single = {
        (users[user], made.domains[code - 1]): (items.tolist(), places.tolist(), int(length))
        for user, code, items, places, length in zip(
            made.single_users_N, made.single_domains_N, made.single_items_NT, made.single_places_NT,
            made.single_lengths_N, strict=True,
        )
    }  # fmt: skip
    return cross, single


def seen(rows: Sequence[dict[str, Any]]) -> dict[str, set[tuple[int, int]]]:
    """user -> (code, item) of everything that rows of `sequences` know."""
    return {
        row["user_id"]: set(zip(row["domains"], row["items"], strict=True))
        | {(key >> 32, key & 0xFFFF_FFFF) for key in row["older_items"]}
        for row in rows
    }


def expected_seen(events: Sequence[Event]) -> dict[str, set[tuple[int, int]]]:
    """The same by loops."""
    found: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for event in events:
        found[event.user].add((DOMAINS.index(event.domain) + 1, event.item))
    return dict(found)


Kept = list[tuple[int, int, int, int]]


def expected_kept(events: Sequence[Event], window_start: datetime, max_length: int) -> dict[str, Kept]:
    """user -> (micros, event_id, code, item) of the events that a full build keeps, in the total order."""
    buckets: dict[Any, list[Event]] = defaultdict(list)
    for event in {event._replace(arrival=date.min) for event in events}:
        bucket = event.ts.date() if event.ts >= window_start else None
        buckets[event.user, event.domain, bucket].append(event)
    kept: dict[str, Kept] = defaultdict(list)
    for (user, domain, _), own in buckets.items():
        own.sort(key=lambda e: (e.ts, e.event_id))
        code = DOMAINS.index(domain) + 1
        kept[user] += [(micros(e.ts), e.event_id, code, e.item) for e in own[-max_length - 1 :]]
    return {user: sorted(own) for user, own in kept.items()}
