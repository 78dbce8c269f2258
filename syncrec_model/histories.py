"""Plain histories as a caller sends them: checked, put in order, and turned into the events that the model knows.

Shapes: U histories, E known events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .vocabulary import Vocabulary

Array = NDArray[Any]
Event = tuple[str, str, Any]


@dataclass(frozen=True)
class KnownEvents:
    """user_E: place of the history; domain_E: code 1..D; item_E: index in the domain; histories one after the
    other, each oldest event first. ignored_U: events of each history whose item the vocabulary does not know.
    """

    user_E: Array
    domain_E: Array
    item_E: Array
    ignored_U: Array


def known_events(
    histories: Sequence[Sequence[Event]], vocabulary: Vocabulary, users: Sequence[object] | None = None
) -> KnownEvents:
    """Read histories, each a list of (item_id, domain, ts) in any order.

    ts: numbers of any one unit, or datetimes and ISO 8601 texts (without a zone: UTC). Ties keep the order of the
    list, and the same item at the same time is one event, as in the night. A history in which no event has a ts is
    taken as listed, oldest first. users: names for the sentences of refusals; by default the place alone.

    Raises
    ------
    ValueError
        An unknown domain, a history that is no list of triples, a ts that orders nothing; with user and place.
    """
    rows: list[tuple[int, int, int]] = []
    ignored_U = np.zeros(len(histories), dtype=np.int64)
    for place, history in enumerate(histories):
        who = f"history {place}" if users is None else f"history of user {users[place]!r} (row {place})"
        for item_id, domain in _in_order(history, who):
            if domain not in vocabulary.domains:
                known = ", ".join(vocabulary.domains)
                raise ValueError(f"{who}: unknown domain {domain!r}; this model knows {known}")
            index = vocabulary.index_of(domain, item_id)
            if index:
                rows.append((place, vocabulary.domain_code(domain), index))
            else:
                ignored_U[place] += 1
    user_E, domain_E, item_E = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return KnownEvents(user_E, domain_E, item_E, ignored_U)


def _in_order(history: Any, who: str) -> list[tuple[str, str]]:
    """Return the (item_id, domain) of a history, oldest first."""
    if isinstance(history, str) or not hasattr(history, "__len__"):
        raise ValueError(f"{who} is {history!r}; give a list of events, an empty one for a user without any")
    for number, event in enumerate(history):
        if not isinstance(event, tuple | list) or len(event) != 3:
            raise ValueError(f"{who}, event {number}: {event!r}; give (item_id, domain, ts)")
    timed = [not _is_missing(ts) for _, _, ts in history]
    if not any(timed):
        return [(item_id, domain) for item_id, domain, _ in history]
    if not all(timed):
        raise ValueError(
            f"{who}, event {timed.index(False)}: ts is missing while other events have one; give every event a ts, "
            "or none and list them oldest first"
        )
    keys = [_sort_key(ts, f"{who}, event {number}") for number, (_, _, ts) in enumerate(history)]
    if len({isinstance(key, datetime) for key in keys}) > 1:
        raise ValueError(f"{who}: ts mixes numbers with dates; give one kind in one history")
    order = sorted(range(len(keys)), key=keys.__getitem__)
    once = dict.fromkeys((keys[e], history[e][0], history[e][1]) for e in order)
    return [(item_id, domain) for _, item_id, domain in once]


def _is_missing(ts: Any) -> bool:
    return ts is None or (isinstance(ts, float | datetime | np.floating | np.datetime64) and bool(ts != ts))


def _sort_key(ts: Any, where: str) -> Any:
    """Return a number, or a datetime with its zone."""
    if isinstance(ts, str):
        try:
            ts = datetime.fromisoformat(ts)
        except ValueError:
            raise ValueError(
                f"{where}: ts = {ts!r} is no ISO 8601 time; give a number or a date and time"
            ) from None
    elif isinstance(ts, np.datetime64):
        ts = ts.astype("datetime64[us]").item()
    if isinstance(ts, date) and not isinstance(ts, datetime):
        ts = datetime.combine(ts, time())
    if isinstance(ts, datetime):
        return ts if ts.tzinfo else ts.replace(tzinfo=UTC)
    if isinstance(ts, bool | np.bool_) or not isinstance(ts, Real) or not math.isfinite(ts):
        raise ValueError(f"{where}: ts = {ts!r}; give a finite number, a datetime or an ISO 8601 text")
    return ts
