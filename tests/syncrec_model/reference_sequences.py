"""MODEL.md section 1 in plain loops: from an event log to X and X^d. Numpy and torch are not needed here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CROSS = 0  # the task of X; the task of X^d is d


@dataclass(frozen=True)
class Event:
    """One line of a log; number: its place in the log, which breaks ties in time."""

    user: int
    item: int
    domain: int
    time: float
    number: int


@dataclass(frozen=True)
class Sequence:
    """What a task reads of one user, oldest first; None is [SOS]. targets[t] is the event after inputs[t]."""

    user: int
    task: int
    inputs: tuple[Event | None, ...]
    targets: tuple[Event, ...]


def history(events: Iterable[Event], user: int, domain: int | None = None) -> list[Event]:
    """All events of the user (in the domain), in time order, however many."""
    mine = [e for e in events if e.user == user and domain in (None, e.domain)]
    return sorted(mine, key=lambda e: (e.time, e.number))


def training_sequence(user: int, task: int, past: list[Event], window: int) -> Sequence:
    """Predict each of the last `window` events from those of them before it.

    [SOS] stands before the user's very first event: it is in sight only while nothing older was cut off, and
    the oldest event of a cut window then has nothing before it, so it is no target.
    """
    kept = past[-window:]
    inputs = ([] if len(past) > window else [None]) + kept[:-1]
    return Sequence(user, task, tuple(inputs), tuple(kept[len(kept) - len(inputs) :]))


def serving_sequence(user: int, task: int, past: list[Event], window: int) -> Sequence:
    """The last `window` steps of [SOS] and all events; [SOS] alone for a user without events."""
    return Sequence(user, task, tuple([None, *past][-window:]), ())


def training_sequences(
    events: Iterable[Event], users: Iterable[int], n_domains: int, window: int
) -> tuple[list[Sequence], list[Sequence]]:
    """X of every user with events; X^d of every domain and user with events there, by domain, then user."""
    events, users = list(events), list(users)
    cross = [training_sequence(u, CROSS, past, window) for u in users if (past := history(events, u))]
    single = [
        training_sequence(u, d, past, window)
        for d in range(1, n_domains + 1)
        for u in users
        if (past := history(events, u, d))
    ]
    return cross, single


def serving_sequences(
    events: Iterable[Event], users: Iterable[int], n_domains: int, window: int
) -> tuple[list[Sequence], list[Sequence]]:
    """X of every user, and X^d of every domain and user, with or without events."""
    events, users = list(events), list(users)
    cross = [serving_sequence(u, CROSS, history(events, u), window) for u in users]
    single = [serving_sequence(u, d, history(events, u, d), window) for d in range(1, n_domains + 1) for u in users]
    return cross, single
