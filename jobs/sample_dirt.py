"""The dirt of the sample: the days of its world as lines of landing files, a few spoiled, late or doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta

from jobs.sample_laws import DAY_SECONDS, DOMAINS, SampleSettings, item_id, user_id
from jobs.sample_world import DayEvents, World

_TEXT_CSV = ("books", "toys", "groceries")
FAULTS: dict[str, tuple[str, ...]] = {
    "bad_time": DOMAINS,  # a time nobody can parse; a null in Parquet
    "missing_user": DOMAINS,
    "missing_item": DOMAINS,
    "wrong_columns": _TEXT_CSV,
    "broken_json": ("coupons",),
    "future": DOMAINS,  # at or after the end of the landing day
    "duplicate": DOMAINS,  # the same line twice
    "late": DOMAINS,  # sound, 1 to 3 days old: to be kept
}
"""Every kind of planted fault, and the domains it can strike."""


@dataclass(frozen=True)
class LandingRow:
    """One line to be written: an event, or what was left of one. `ts` in unix seconds."""

    user: str | None
    item: str | None
    rating: int
    ts: int
    fault: str = ""
    bad_time: str = ""


class _Feed:
    """Turns the world's days into landing rows, day by day, with the dirt of each day."""

    def __init__(self, settings: SampleSettings) -> None:
        self.settings = settings
        self.world = World(settings)
        self._users: list[str] = []
        self._items: dict[str, list[str]] = {domain: [] for domain in DOMAINS}
        self._on_the_way: dict[int, list[tuple[str, LandingRow]]] = {}

    def next_day(self) -> tuple[date, dict[str, list[LandingRow]]]:
        """The next day and its rows by domain, in file order."""
        index = self.world.day_index
        events = self.world.step()
        self._name_newcomers()
        rows = self._on_time(events, index)
        arrived = self._on_the_way.pop(index, [])
        dirt = self.settings.stream(index, 20)
        for domain in DOMAINS:
            spoiled = self._spoiled(domain, events.day, rows[domain], _day_plan(self.settings, index)[domain])
            extra = [row for late_domain, row in arrived if late_domain == domain] + spoiled
            for row in extra:  # anywhere in the file
                rows[domain].insert(int(dirt.integers(0, len(rows[domain]) + 1)), row)
        return events.day, rows

    def _name_newcomers(self) -> None:
        seed, world = self.settings.seed, self.world
        self._users += [user_id(seed, n) for n in range(len(self._users), world.interest.size)]
        for domain, names in self._items.items():
            names += [item_id(domain, seed, n) for n in range(len(names), world.n_items(domain))]

    def _on_time(self, events: DayEvents, index: int) -> dict[str, list[LandingRow]]:
        """The day's events as rows; those that will be late go on their way."""
        late = self.settings.stream(index, 21)
        n_late = int(late.integers(1, 4)) if self.settings.late else 0
        delayed = set(late.choice(events.ts.size, size=min(n_late, events.ts.size), replace=False).tolist())
        rows: dict[str, list[LandingRow]] = {domain: [] for domain in DOMAINS}
        columns = (events.domain, events.user, events.item, events.rating, events.ts)
        for n, (code, user, item, rating, ts) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            domain = DOMAINS[code]
            row = LandingRow(self._users[user], self._items[domain][item], rating, ts)
            if n in delayed:
                arrival = self._on_the_way.setdefault(index + int(late.integers(1, 4)), [])
                arrival.append((domain, replace(row, fault="late")))
            else:
                rows[domain].append(row)
        return rows

    def _spoiled(self, domain: str, day: date, sound: list[LandingRow], plan: Counter[str]) -> list[LandingRow]:
        """The planned broken rows and copies of one domain and day."""
        index = (day - self.settings.start).days
        rng = self.settings.stream(index, 30 + DOMAINS.index(domain))
        end = _unix(day + timedelta(days=1))
        out = []
        for fault, count in sorted(plan.items()):
            for n in range(count):
                if fault == "duplicate":
                    if sound:
                        out.append(replace(sound[int(rng.integers(0, len(sound)))], fault=fault))
                    continue
                row = LandingRow(
                    user=str(rng.choice(self._users)),
                    item=str(rng.choice(self._items[domain])),
                    rating=5,
                    ts=end - int(rng.integers(1, DAY_SECONDS)),
                    fault=fault,
                )
                if fault == "future":  # the first one sits exactly on the cutoff
                    row = replace(row, ts=end + (0 if n == 0 else int(rng.integers(1, 30 * DAY_SECONDS))))
                elif fault == "bad_time":
                    row = replace(row, bad_time=str(rng.choice(["n/a", "yesterday", "12:30"])))
                elif fault == "missing_user":
                    row = replace(row, user=None)
                elif fault == "missing_item":
                    row = replace(row, item=None)
                out.append(row)
        return out


def _day_plan(settings: SampleSettings, index: int) -> dict[str, Counter[str]]:
    """How many lines of which fault each domain gets on a day: 1 to 3 of each kind, spread by chance."""
    rng = settings.stream(index, 22)
    plan: dict[str, Counter[str]] = {domain: Counter() for domain in DOMAINS}
    for fault, domains in FAULTS.items():
        if fault != "late":
            for _ in range(int(rng.integers(1, 4))):
                plan[str(rng.choice(domains))][fault] += 1
    return plan


def _unix(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_SECONDS


def landing_days(settings: SampleSettings, last: date) -> Iterator[tuple[date, dict[str, list[LandingRow]]]]:
    """Every day from the start to `last`, with its rows by domain in file order."""
    feed = _Feed(settings)
    for _ in range((last - settings.start).days + 1):
        yield feed.next_day()
