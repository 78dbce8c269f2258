"""Draw interaction logs of any size that look like those of a shop: the laws, one landing day at a time.

What is real about them:
- Items of a domain follow a Zipf-Mandelbrot law: the r-th most popular is drawn as 1 / (r + 10). Half of them are
  there from the first day on, the others come one by one, up to the night.
- Activity of users is lognormal, so that many have a few events and some have thousands; one user (a robot, a
  shared account) has HEAVY_SHARE of all events, 1,000,000 of 50 million, and takes items evenly.
- Users come in sessions of three events on average, each within one domain. A user has a home domain, a second one,
  and now and then any other; the five domains differ in size.
- Three domains keep days only: all events of a day share one timestamp. Two have clocks, and a tenth of their
  sessions arrives one to fourteen days late.

A day depends on the seed, the size and its number alone, so days can be drawn in any order, by any process.
Shapes: E events, S sessions, U users, V items of a domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DOMAINS = ("books", "toys", "groceries", "music", "tools")
SHARES = (0.40, 0.25, 0.18, 0.12, 0.05)
"""Of sessions and of items, by domain."""
HAS_CLOCK = (False, True, True, False, False)
FIRST_DAY = date(2024, 1, 1)
HISTORY_DAYS = 100
HEAVY_SHARE = 0.02
HEAVY_USER = 0
LATE_SHARE, LATEST = 0.1, 14
SESSION = 3.0  # events, on average
ACTIVITY = 1.5  # sigma of the lognormal law
SHIFT = 10.0  # of the Zipf-Mandelbrot law
DAY = 86_400_000_000  # microseconds
_START = (FIRST_DAY - date(1970, 1, 1)).days


@dataclass(frozen=True, kw_only=True)
class LogSize:
    """How much to draw: `events` over the landing days 0 to HISTORY_DAYS - 1, and `new` on one night after them.

    heavy_share: of one user in all events; 0 gives the same log without that user.
    """

    events: int
    seed: int = 7
    heavy_share: float = HEAVY_SHARE

    def __post_init__(self) -> None:
        if self.events < 10 * HISTORY_DAYS:
            raise ValueError(f"a generated log has {10 * HISTORY_DAYS} events or more, not {self.events}")
        if not 0 <= self.heavy_share < 1:
            raise ValueError(f"heavy_share is a share below 1, not {self.heavy_share}")

    @property
    def new(self) -> int:
        """The events of the night: 1 %."""
        return self.events // 100

    @property
    def n_users(self) -> int:
        """Users there are; some never come."""
        return self.events // 15

    @property
    def n_items(self) -> tuple[int, ...]:
        """Items there are, by domain; some never occur."""
        return tuple(max(20, int(self.events / 50 * share)) for share in SHARES)

    def day_events(self, number: int) -> int:
        """How many events arrive on landing day `number`; HISTORY_DAYS is the night."""
        if number == HISTORY_DAYS:
            return self.new
        return self.events // HISTORY_DAYS + (number < self.events % HISTORY_DAYS)


def landing_day(number: int) -> date:
    """The date of landing day `number`."""
    return FIRST_DAY + timedelta(days=number)


class Day(NamedTuple):
    """The events of one landing day, sorted by user, item, domain and time, as ingest sorts a file."""

    user_E: Array  # user number, the digits of the id
    code_E: Array  # 1 to 5, place in DOMAINS + 1
    item_E: Array  # item number within the domain, the digits of the id
    micros_E: Array  # since 1970 UTC
    event_id_E: Array  # distinct among all events of the log with the same user and time


class World:
    """The users and items of one log, the same in every process.

    Numbers in ids are permuted: their order says nothing of popularity or activity.
    """

    def __init__(self, size: LogSize) -> None:
        self.size = size
        rng = np.random.default_rng([size.seed, size.events, 0])
        users = size.n_users
        self._activity_U = np.cumsum(rng.lognormal(sigma=ACTIVITY, size=users))
        self._home_U = rng.choice(len(DOMAINS), users, p=SHARES).astype(np.int8)
        self._second_U = rng.choice(len(DOMAINS), users, p=SHARES).astype(np.int8)
        self.user_number_U = rng.permutation(users).astype(np.int32)
        self._item_number_DV = [rng.permutation(count).astype(np.int32) for count in size.n_items]
        self._born_DV = [rng.integers(-HISTORY_DAYS, HISTORY_DAYS + 1, count, np.int16) for count in size.n_items]

    @cached_property
    def _shares(self) -> Array:
        return np.cumsum(SHARES)

    def day(self, number: int) -> Day:
        """Draw one landing day: exactly `size.day_events(number)` events, all distinct in user, item and time."""
        wanted = self.size.day_events(number)
        rng = np.random.default_rng([self.size.seed, self.size.events, 1 + number])
        drawn = self._sessions(rng, wanted, number)
        while True:
            # Two equal events have equal ids, so this also drops what ingest would drop.
            first_E = np.sort(np.unique(drawn.event_id_E, return_index=True)[1])
            if len(first_E) >= wanted:
                break
            more = self._sessions(rng, wanted - len(first_E), number)
            drawn = Day(*(np.concatenate(pair) for pair in zip(drawn, more, strict=True)))
        kept = Day(*(column[first_E[:wanted]] for column in drawn))
        order_E = np.lexsort((kept.micros_E, kept.code_E, kept.item_E, kept.user_E))
        return Day(*(column[order_E] for column in kept))

    def _sessions(self, rng: np.random.Generator, wanted: int, number: int) -> Day:
        """Draw sessions with about `wanted` events, rather more; copies of events may be among them."""
        length_S = rng.geometric(1 / SESSION, int(wanted / SESSION * 1.1) + 8)
        sessions = len(length_S)
        user_S = np.searchsorted(self._activity_U, rng.random(sessions) * self._activity_U[-1], side="right")
        user_S = np.where(rng.random(sessions) < self.size.heavy_share, HEAVY_USER, user_S)
        taste_S = rng.random(sessions)
        any_S = np.searchsorted(self._shares[:-1], rng.random(sessions), side="right")
        domain_S = np.where(
            taste_S < 0.6, self._home_U[user_S], np.where(taste_S < 0.9, self._second_U[user_S], any_S)
        )
        clock_S = np.asarray(HAS_CLOCK)[domain_S]
        late_S = clock_S & (rng.random(sessions) < LATE_SHARE)
        lag_S = np.where(late_S, np.minimum(rng.integers(1, LATEST + 1, sessions), number), 0)
        second_S = rng.integers(0, 80_000, sessions)
        session_E = np.repeat(np.arange(sessions), length_S)
        step_E = np.minimum(np.arange(len(session_E)) - (np.cumsum(length_S) - length_S)[session_E], 150)
        # The milliseconds of a clock say how late the session arrived, so that no other day draws the same time.
        clock_E = (second_S[session_E] + 40 * step_E) * 1_000_000 + (1 + lag_S[session_E]) * 1_000
        midnight_E = (_START + number - lag_S[session_E]).astype(np.int64) * DAY
        micros_E = midnight_E + np.where(clock_S[session_E], clock_E, 0)
        user_E, domain_E = self.user_number_U[user_S[session_E]], domain_S[session_E]
        item_E = self._items(rng, domain_E, (user_S == HEAVY_USER)[session_E], number)
        code_E = (domain_E + 1).astype(np.int32)
        return Day(user_E, code_E, item_E, micros_E, _ids(user_E, code_E, item_E, micros_E))

    def _items(self, rng: np.random.Generator, domain_E: Array, heavy_E: Array, number: int) -> Array:
        """Draw the numbers of items that are there, by popularity; the heavy user takes the catalogue evenly."""
        item_E = np.empty(len(domain_E), np.int32)
        for domain, (number_V, born_V) in enumerate(zip(self._item_number_DV, self._born_DV, strict=True)):
            open_E = np.flatnonzero(domain_E == domain)
            while len(open_E):  # who drew an item that is not there yet draws again
                place_E = rng.random(len(open_E))
                popular_E = SHIFT * ((len(number_V) / SHIFT + 1) ** place_E - 1)
                rank_E = np.where(heavy_E[open_E], len(number_V) * place_E, popular_E).astype(np.int64)
                rank_E = np.minimum(rank_E, len(number_V) - 1)
                item_E[open_E] = number_V[rank_E]
                open_E = open_E[born_V[rank_E] > number]
        return item_E


def _ids(*columns: Array) -> Array:
    """Mix columns into 64 bits, as a hash does (the finalizer of splitmix64, one column after the other)."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mixed += column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed.view(np.int64)
