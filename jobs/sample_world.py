"""The people, items and days behind the sample logs: who wants what on which day, and why.

The world is simulated day by day from its start date. Each day draws from random streams of its own
(seed, day, purpose), so day N is the same whether 3 or 300 days are asked for. The laws it follows are in
`jobs.sample_laws`; the dirt that its days gather on their way into landing files is in `jobs.sample_dirt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from jobs.sample_laws import (
    DAY_SECONDS,
    DETOUR,
    DOMAINS,
    DRIVE_DAYS,
    HORIZON_DAYS,
    KEPT_FOR_REPEATS,
    LAWS,
    N_ROUTES,
    N_TASTES,
    PLACES_PER_DAY,
    ROUTE_LENGTH,
    TASTE_DOMAINS,
    DomainLaw,
    SampleSettings,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class DayEvents:
    """One day's true events, before any dirt, sorted by (domain, ts). All arrays have shape (n_events,).

    `domain` indexes DOMAINS, `user` and `item` number users and (per domain) items in order of
    arrival in the world, `ts` is in unix seconds (UTC) inside `day`, `rating` is 1 to 5.
    """

    day: date
    domain: Ints
    user: Ints
    item: Ints
    ts: Ints
    rating: Ints


def _arrivals(per_day: float, day_index: int) -> int:
    """How many arrive on this day when `per_day` arrive on average; none on the first day."""
    return int(per_day * day_index) - int(per_day * (day_index - 1)) if day_index > 0 else 0


@dataclass
class _Shop:
    """One taste domain's catalogue, and who has what of it. I items, U users."""

    law: DomainLaw
    taste: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # (I,)
    weight: Floats = field(default_factory=lambda: np.zeros(0))  # (I,) popularity inside the taste
    successor: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # (I,) next volume or -1
    owned: Bools = field(default_factory=lambda: np.zeros((0, 0), np.bool_))  # (U, I)
    last: Ints = field(default_factory=lambda: np.zeros((0, KEPT_FOR_REPEATS), np.int64))  # (U, 8) or -1

    def open(self, rng: np.random.Generator) -> None:
        """First day: series of 3 to 5 volumes, each series of one taste; Zipf popularity inside a taste."""
        n = self.law.n_items
        lengths = rng.integers(3, 6, size=n)
        series = np.repeat(np.arange(n), lengths)[:n]
        self.taste = rng.permutation(n)[series] % N_TASTES
        same = np.append(series[1:] == series[:-1], False)
        self.successor = np.where(same, np.arange(1, n + 1), -1)
        self.weight = np.zeros(n)
        for taste in range(N_TASTES):
            (mine,) = np.nonzero(self.taste == taste)
            self.weight[mine] = 1.0 / (1.0 + rng.permutation(mine.size)) ** 0.9

    def add_items(self, count: int, rng: np.random.Generator) -> None:
        """New items: each continues a series that had ended, in that series' taste."""
        for _ in range(count):
            last_volume = int(rng.choice(np.nonzero(self.successor < 0)[0]))
            self.successor[last_volume] = self.taste.size
            self.successor = np.append(self.successor, -1)
            self.taste = np.append(self.taste, self.taste[last_volume])
            self.weight = np.append(self.weight, 1.0 / rng.integers(1, 12) ** 0.9)

    def resize(self, n_users: int) -> None:
        owned = np.zeros((n_users, self.taste.size), np.bool_)
        owned[: self.owned.shape[0], : self.owned.shape[1]] = self.owned
        self.owned = owned
        fresh = np.full((n_users - self.last.shape[0], KEPT_FOR_REPEATS), -1, np.int64)
        self.last = np.concatenate([self.last, fresh])

    def choose(self, users: Ints, interest: Ints, rng: np.random.Generator) -> Ints:
        """One item for each of these users, (n,) -> (n,); -1 where nothing unowned was found."""
        law, n = self.law, users.size
        order = np.argsort(self.taste, kind="stable")
        edges = np.concatenate([[0.0], np.cumsum(self.weight[order])])
        starts = np.searchsorted(self.taste[order], np.arange(N_TASTES + 1))
        taste = np.where(rng.random(n) < law.noise, rng.integers(0, N_TASTES, size=n), interest)
        low, high = edges[starts[taste]], edges[starts[taste + 1]]
        item = np.full(n, -1, np.int64)
        for _ in range(12):  # draws by popularity until one is new to the user
            at = np.searchsorted(edges, low + rng.random(n) * (high - low), side="right") - 1
            drawn = order[np.clip(at, starts[taste], np.maximum(starts[taste + 1] - 1, starts[taste]))]
            fits = (high > low) & (law.repeats | ~self.owned[users, drawn])
            item = np.where((item < 0) & fits, drawn, item)
        newest = self.last[users, 0]
        volume = np.where(newest >= 0, self.successor[newest], -1)
        follows = (rng.random(n) < law.series) & (volume >= 0) & ~self.owned[users, volume]
        item = np.where(follows, volume, item)
        earlier = self.last[users, rng.integers(0, KEPT_FOR_REPEATS, size=n)]
        item = np.where((rng.random(n) < law.again) & (earlier >= 0), earlier, item)
        got, what = users[item >= 0], item[item >= 0]
        self.owned[got, what] = True
        self.last[got] = np.concatenate([what[:, None], self.last[got, :-1]], axis=1)
        return item


class World:
    """All state of the simulation. `step` makes the next day; the arrays grow as users and items arrive.

    Attributes
    ----------
    settings : what it was made from.
    day_index : days made so far.
    interest : (n_users,) every user's taste on the last day made.
    route : (n_users,) every driver's routine, 0 to 46, independent of taste.
    """

    def __init__(self, settings: SampleSettings) -> None:
        self.settings = settings
        self.day_index = 0
        self.interest: Ints = np.zeros(0, np.int64)
        self.route: Ints = np.zeros(0, np.int64)
        self.n_places = N_ROUTES * ROUTE_LENGTH
        self._days_left: Ints = np.zeros(0, np.int64)
        self._rate: Floats = np.zeros((0, len(DOMAINS)))  # (U, D): expected events, or drives, a day
        self._place: Ints = np.zeros(0, np.int64)
        self._shops = {name: _Shop(law) for name, law in LAWS.items()}
        rng = settings.stream(0, 0)
        for shop in self._shops.values():
            shop.open(rng)

    def n_items(self, domain: str) -> int:
        """Items of a domain that exist by the last day made."""
        return self.n_places if domain == "navigation" else self._shops[domain].taste.size

    def item_taste(self, domain: str) -> Ints:
        """(n_items,) the taste, 0 to 9, of every item of one of the four taste domains."""
        return self._shops[domain].taste

    def step(self) -> DayEvents:
        """Make the next day."""
        self._welcome()
        self._drift()
        midnight = (self.settings.start - date(1970, 1, 1)).days + self.day_index
        parts = [self._shopping(name) for name in TASTE_DOMAINS] + [self._driving()]
        domain = np.repeat(np.arange(len(DOMAINS)), [users.size for users, _, _ in parts])
        user, item, second = (np.concatenate(column) for column in zip(*parts, strict=True))
        # One weekday in seven the books feed knows only the date, as many real logs do: ties.
        second = np.where((domain == 0) & (self.day_index % 7 == 6), 0, second)
        rating = 5 - self.settings.stream(self.day_index, 3).binomial(4, 0.15, size=user.size)
        order = np.lexsort((second, domain))
        key = np.stack([domain, user, item, second])[:, order]
        _, first = np.unique(key, axis=1, return_index=True)
        order = order[np.sort(first)]  # nobody does the same thing twice in a second
        day = self.settings.start + timedelta(days=self.day_index)
        self.day_index += 1
        ts = midnight * DAY_SECONDS + second[order]
        return DayEvents(day, domain[order], user[order], item[order], ts, rating[order])

    def _welcome(self) -> None:
        """New users and items of the day; nine users in ten are there from the first day."""
        rng = self.settings.stream(self.day_index, 1)
        first_day = self.settings.n_users * 9 // 10
        inflow = (self.settings.n_users - first_day) / (HORIZON_DAYS - 1)
        n = first_day if self.day_index == 0 else _arrivals(inflow + 1e-9, self.day_index)
        self.interest = np.concatenate([self.interest, rng.integers(0, N_TASTES, size=n)])
        self._days_left = np.concatenate([self._days_left, rng.integers(1, 13, size=n)])
        self._rate = np.concatenate([self._rate, _habits(n, rng)])
        self.route = np.concatenate([self.route, rng.integers(0, N_ROUTES, size=n)])
        self._place = np.concatenate([self._place, np.full(n, -1, np.int64)])
        for shop in self._shops.values():
            shop.add_items(_arrivals(shop.law.items_per_day, self.day_index), rng)
            shop.resize(self.interest.size)
        self.n_places += _arrivals(PLACES_PER_DAY, self.day_index)

    def _drift(self) -> None:
        """An interest lasts 6 to 12 days; the next is a neighbouring taste or, two times in five, any."""
        rng, n = self.settings.stream(self.day_index, 2), self.interest.size
        neighbour = (self.interest + rng.choice([-1, 1], size=n)) % N_TASTES
        turned = np.where(rng.random(n) < 0.6, neighbour, rng.integers(0, N_TASTES, size=n))
        lasts = rng.integers(6, 13, size=n)
        if self.day_index > 0:
            self._days_left -= 1
        over = self._days_left <= 0
        self.interest = np.where(over, turned, self.interest)
        self._days_left = np.where(over, lasts, self._days_left)

    def _shopping(self, name: str) -> tuple[Ints, Ints, Ints]:
        """One taste domain's events of the day: users, items, seconds of the day, each (n,)."""
        code = DOMAINS.index(name)
        rng = self.settings.stream(self.day_index, 10 + code)
        counts = rng.poisson(self._rate[:, code])
        user = np.repeat(np.arange(counts.size), counts)
        second = rng.integers(6 * 3600, 23 * 3600, size=user.size)
        order = np.lexsort((second, user))
        second = second[order]
        rank = np.arange(user.size) - np.repeat(np.cumsum(counts) - counts, counts)
        item = np.full(user.size, -1, np.int64)
        for turn in range(int(counts.max(initial=0))):  # a user's second choice knows the first
            (now,) = np.nonzero(rank == turn)
            item[now] = self._shops[name].choose(user[now], self.interest[user[now]], rng)
        kept = item >= 0
        return user[kept], item[kept], second[kept]

    def _driving(self) -> tuple[Ints, Ints, Ints]:
        """The day's drives: a burst of 2 to 5 stops along the driver's route. Each array (n,)."""
        rng = self.settings.stream(self.day_index, 10 + DOMAINS.index("navigation"))
        (drivers,) = np.nonzero(rng.random(self.route.size) < self._rate[:, -1])
        n_stops = rng.integers(2, 6, size=drivers.size)
        second = rng.integers(6 * 3600, 22 * 3600, size=drivers.size)
        stops = []
        for stop in range(5):
            route, place = self.route[drivers], self._place[drivers]
            on_route = place // ROUTE_LENGTH == route
            ahead = np.where(on_route, (place + 1) % ROUTE_LENGTH, rng.integers(0, ROUTE_LENGTH, place.size))
            here = route * ROUTE_LENGTH + ahead
            detour = rng.random(place.size) < DETOUR
            here = np.where(detour, rng.integers(0, self.n_places, size=place.size), here)
            second = second + rng.integers(120, 1_200, size=place.size)
            goes = n_stops > stop
            self._place[drivers[goes]] = here[goes]
            stops.append((drivers[goes], here[goes], second[goes]))
        user, place, at = (np.concatenate(column) for column in zip(*stops, strict=True))
        return user, place, at


def _habits(n: int, rng: np.random.Generator) -> Floats:
    """(n, D) expected events, or drives, a day. 12 % of users live in one domain, 18 % in two."""
    member = rng.random((n, len(DOMAINS))) < np.array([0.9, 0.9, 0.9, 0.6, 0.6])
    kind = rng.random(n)
    liking = rng.random((n, len(DOMAINS))) + np.array([0.0, 0.0, 0.0, -0.5, 0.0])  # few live off coupons
    rank = np.argsort(np.argsort(-liking, axis=1), axis=1)
    member = np.where((kind < 0.30)[:, None], rank < np.where(kind < 0.12, 1, 2)[:, None], member)
    rates = np.array([*(LAWS[name].rate for name in TASTE_DOMAINS), DRIVE_DAYS])
    activity = rng.gamma(2.0, 0.5, size=n)
    habits: Floats = member * rates * activity[:, None]
    return habits


def simulate(settings: SampleSettings) -> Iterator[DayEvents]:
    """The world's days without end, from `settings.start` on."""
    world = World(settings)
    while True:
        yield world.step()
