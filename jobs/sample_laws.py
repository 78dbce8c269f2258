"""What the sample depends on: its settings, the laws of its five domains, and how users and items are named."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import date

import numpy as np

DOMAINS: tuple[str, ...] = ("books", "toys", "groceries", "coupons", "navigation")
TASTE_DOMAINS: tuple[str, ...] = DOMAINS[:4]
N_TASTES = 10
ROUTE_LENGTH = 6
DAY_SECONDS = 86_400
HORIZON_DAYS = 28  # `n_users` counts the users of this many days; the same inflow goes on afterwards


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """What the sample depends on, and all it depends on.

    Parameters
    ----------
    seed : any non-negative integer; another seed is another world of the same laws.
    n_users : users who have joined by the end of the first 28 days; at least 10.
    start : the first day with events (UTC).
    late : whether a few events a day arrive 1 to 3 days late.
    """

    seed: int = 7
    n_users: int = 3_000
    start: date = date(2024, 1, 1)
    late: bool = True

    def __post_init__(self) -> None:
        if self.n_users < 10:
            raise ValueError(f"n_users is {self.n_users}; the sample needs at least 10 users")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")

    def stream(self, day_index: int, purpose: int) -> np.random.Generator:
        """The random stream of one day and one purpose; no two share draws."""
        return np.random.default_rng([self.seed, day_index, purpose])


@dataclass(frozen=True)
class DomainLaw:
    """How people choose in one taste domain. Rates are events a member and day."""

    n_items: int  # on the first day
    items_per_day: float  # new ones, every day
    rate: float
    noise: float  # share of choices outside the current interest
    series: float = 0.0  # share of choices that take the next volume of what was taken last
    again: float = 0.0  # share of choices that repeat one of the last eight
    repeats: bool = False


LAWS: dict[str, DomainLaw] = {
    "books": DomainLaw(n_items=450, items_per_day=2.0, rate=0.27, noise=0.12, series=0.35),
    "toys": DomainLaw(n_items=365, items_per_day=1.25, rate=0.19, noise=0.12, series=0.20),
    "groceries": DomainLaw(n_items=280, items_per_day=0.75, rate=0.19, noise=0.12, again=0.40, repeats=True),
    "coupons": DomainLaw(n_items=230, items_per_day=0.75, rate=0.045, noise=0.08),
}
N_ROUTES, PLACES_PER_DAY = 47, 0.6  # 47 routes of 6 places; new places lie off every route
DRIVE_DAYS, DETOUR = 0.11, 0.10  # chance of a drive a day; chance that a stop is off the routine
KEPT_FOR_REPEATS = 8


def _code(kind: str, seed: int, index: int, length: int) -> str:
    """A stable identifier that looks like a catalogue's: upper-case letters and digits."""
    digest = hashlib.blake2b(f"{kind}/{seed}/{index}".encode(), digest_size=16).digest()
    return base64.b32encode(digest).decode()[:length]


def user_id(seed: int, index: int) -> str:
    """The identifier of a user, the same in every domain, such as `A3QK7MZ2NB4XWT`."""
    return "A" + _code("user", seed, index, 13)


def item_id(domain: str, seed: int, index: int) -> str:
    """The identifier of an item. The first two toys carry the ids of the first two books, on purpose:
    an id in two domains is two items."""
    if domain == "toys" and index < 2:
        return item_id("books", seed, index)
    if domain == "books":  # digits, as an ISBN-10 has
        digest = hashlib.blake2b(f"books/{seed}/{index}".encode(), digest_size=8).digest()
        return f"{int.from_bytes(digest, 'big') % 10**9:09d}X"
    if domain == "navigation":
        return f"place-{_code(domain, seed, index, 7).lower()}"
    return "B0" + _code(domain, seed, index, 8)
