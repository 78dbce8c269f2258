"""Sample landing files: five domains in the forms users really have, with planted relations and dirt.

    python -m jobs.sample --landing landing --from 2024-01-01 --to 2024-01-28
    python -m jobs.sample --describe

Who wants what, and why, is `jobs.sample_world`; this file writes it down, and spoils a few lines a day.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial as fixed
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.sample_world import DAY_SECONDS, DOMAINS, DayEvents, SampleSettings, World, item_id, user_id

__all__ = [
    "FAULTS",
    "PLANTED",
    "PlantedDomain",
    "SampleError",
    "SampleSettings",
    "day_accounts",
    "main",
    "planted_faults",
    "publish_day",
    "write_days",
]

MARKER = "_SUCCESS"


class SampleError(ValueError):
    """A request the sample cannot meet; the message says what to change."""


@dataclass(frozen=True)
class PlantedDomain:
    """What one domain of the sample is there for.

    `expected` is what the sign of its negative transfer gap should be: "helps" (phi > 0, the other domains
    help it), "hurts" (phi < 0) or "neutral". It follows from the laws of the world, not from any model.
    """

    role: str
    planted: str
    expected: Literal["helps", "hurts", "neutral"]
    file: str
    form: str
    repeats: bool


PLANTED: dict[str, PlantedDomain] = {
    "books": PlantedDomain(
        role="dense, shares taste",
        planted="interest shared with toys, groceries and coupons; series of 3 to 5 volumes read in order",
        expected="neutral",
        file="books.csv",
        form="CSV, no header: user,item,rating,timestamp (seconds)",
        repeats=False,
    ),
    "toys": PlantedDomain(
        role="medium, shares taste",
        planted="interest shared; the dense books feed tells tonight's interest sooner",
        expected="helps",
        file="toys.csv.gz",
        form="CSV gz, no header: item,user,rating,timestamp (seconds)",
        repeats=False,
    ),
    "groceries": PlantedDomain(
        role="medium, shares taste, people repeat",
        planted="interest shared, but two purchases in five repeat one of the last eight, in any taste",
        expected="helps",
        file="groceries.csv",
        form="CSV with header: user_id,parent_asin,rating,timestamp (milliseconds)",
        repeats=True,
    ),
    "coupons": PlantedDomain(
        role="sparse, lives off the others",
        planted="a tenth of the events of books; the current interest is known from the other domains alone",
        expected="helps",
        file="coupons.jsonl.gz",
        form="JSON lines gz: reviewerID, asin, overall, unixReviewTime (seconds)",
        repeats=False,
    ),
    "navigation": PlantedDomain(
        role="unrelated",
        planted="each driver goes round a fixed route of 6 places, drawn without regard to interest; "
        "the bursts of stops cut into the sequences of the others",
        expected="hurts",
        file="navigation.parquet",
        form="Parquet: driver, place, event_time (timestamp, microseconds, UTC)",
        repeats=True,
    ),
}

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


def _days(settings: SampleSettings, last: date) -> Iterator[tuple[date, dict[str, list[LandingRow]]]]:
    feed = _Feed(settings)
    for _ in range((last - settings.start).days + 1):
        yield feed.next_day()


def day_accounts(day: date, *, settings: SampleSettings | None = None) -> dict[str, dict[str, int]]:
    """What one landing day holds, counted, by domain.

    Returns
    -------
    For each domain: `lines` (data lines or rows in its file, headers not counted), `events` (sound lines,
    late ones among them, copies not), and each kind of FAULTS. It always holds that lines = events + every
    fault but `late`.

    Raises
    ------
    SampleError : the day lies before the sample's start.
    """
    settings = settings or SampleSettings()
    _check_days(day, day, settings)
    accounts = {}
    for made, rows in _days(settings, day):
        if made == day:
            accounts = {domain: _account(rows[domain]) for domain in DOMAINS}
    return accounts


def _account(rows: list[LandingRow]) -> dict[str, int]:
    count = Counter(row.fault for row in rows)
    account = {"lines": len(rows), "events": count[""] + count["late"]}
    return account | {fault: count[fault] for fault in FAULTS}


def planted_faults(day: date, *, settings: SampleSettings | None = None) -> dict[str, int]:
    """How many lines of each kind of FAULTS one landing day holds, over all domains."""
    accounts = day_accounts(day, settings=settings)
    return {fault: sum(account[fault] for account in accounts.values()) for fault in FAULTS}


# The forms. Each takes the rows of one domain and day and returns the bytes of its file.


def _csv_line(row: LandingRow, cells: list[str]) -> str:
    if row.fault == "wrong_columns":  # one too many, or one too few
        cells = [*cells, "extra"] if row.ts % 2 else cells[:-1]
    return ",".join(cells) + "\n"


def _time(row: LandingRow, factor: int = 1) -> str:
    return row.bad_time or str(row.ts * factor)


def _books(rows: list[LandingRow]) -> bytes:
    lines = [_csv_line(r, [r.user or "", r.item or "", f"{r.rating}.0", _time(r)]) for r in rows]
    return "".join(lines).encode()


def _toys(rows: list[LandingRow]) -> bytes:
    lines = [_csv_line(r, [r.item or "", r.user or "", f"{r.rating}.0", _time(r)]) for r in rows]
    return gzip.compress("".join(lines).encode(), mtime=0)


def _groceries(rows: list[LandingRow]) -> bytes:
    lines = [_csv_line(r, [r.user or "", r.item or "", f"{r.rating}.0", _time(r, 1_000)]) for r in rows]
    return ("user_id,parent_asin,rating,timestamp\n" + "".join(lines)).encode()


def _coupons(rows: list[LandingRow]) -> bytes:
    lines = []
    for r in rows:
        record = {"reviewerID": r.user, "asin": r.item, "overall": float(r.rating)}
        line = json.dumps(record | {"unixReviewTime": r.bad_time or r.ts})
        lines.append(line[: len(line) // 2] if r.fault == "broken_json" else line)
    return gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0)


def _navigation(rows: list[LandingRow]) -> bytes:
    times = [None if r.bad_time else datetime.fromtimestamp(r.ts, UTC) for r in rows]
    table = pa.table(
        {
            "driver": pa.array([r.user for r in rows], pa.string()),
            "place": pa.array([r.item for r in rows], pa.string()),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


_FORMS: dict[str, Callable[[list[LandingRow]], bytes]] = {
    "books": _books,
    "toys": _toys,
    "groceries": _groceries,
    "coupons": _coupons,
    "navigation": _navigation,
}


def publish_day(landing: Path, day: date, write: Callable[[Path], None]) -> Path:
    """Make one landing day folder appear whole or not at all.

    Parameters
    ----------
    landing : the folder of day folders; made if absent.
    day : names the folder, YYYY-MM-DD.
    write : writes the day's files into the folder it is given; the marker `_SUCCESS` comes after it.

    Returns the day's folder. A complete day is left alone (and `write` not called); one without its
    marker is replaced. Of two writers at once, one wins and the other's files are dropped.
    """
    final = landing / day.isoformat()
    if (final / MARKER).exists():
        return final
    partial = landing / f".{day.isoformat()}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir(parents=True)
    try:
        write(partial)
        (partial / MARKER).touch()
        if final.exists() and not (final / MARKER).exists():
            shutil.rmtree(final)
        partial.rename(final)
    except OSError:
        if not (final / MARKER).exists():  # else another writer was faster, and its day stands
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for left_behind in landing.glob(f".{day.isoformat()}.*.partial"):  # by a killed or a slower writer
        shutil.rmtree(left_behind, ignore_errors=True)
    return final


def _check_days(first: date, last: date, settings: SampleSettings) -> None:
    if last < first:
        raise SampleError(f"the last day {last} lies before the first day {first}: swap them")
    if first < settings.start:
        raise SampleError(f"{first} lies before the sample's first day {settings.start}: ask for a later day")


def write_days(landing: Path, first: date, last: date, *, settings: SampleSettings | None = None) -> list[Path]:
    """Write the landing folders of the days first..last, both included.

    Each folder holds one file a domain (see PLANTED) and, last, the empty marker `_SUCCESS`; it appears
    whole or not at all, and a complete one is left alone, so this can be killed and run again at any moment.
    The same settings give the same bytes, whichever days are asked for and in whichever order.

    Returns the folders of all the days asked for, in order.

    Raises
    ------
    SampleError : first after last, or before `settings.start`; `landing` is a file.
    """
    settings = settings or SampleSettings()
    _check_days(first, last, settings)
    if landing.exists() and not landing.is_dir():
        raise SampleError(f"{landing} is a file: name a folder for the landing days")
    wanted = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    missing = {day for day in wanted if not (landing / day.isoformat() / MARKER).exists()}
    if missing:
        for day, rows in _days(settings, max(missing)):
            if day in missing:
                publish_day(landing, day, fixed(_write_files, rows))
    return [landing / day.isoformat() for day in wanted]


def _write_files(rows: dict[str, list[LandingRow]], folder: Path) -> None:
    for domain, form in _FORMS.items():
        (folder / PLANTED[domain].file).write_bytes(form(rows[domain]))


def describe() -> str:
    """The planted relations, as text for a terminal."""
    out = ["Five domains over the same users; what each is there for:", ""]
    for domain, planted in PLANTED.items():
        out += [
            f"{domain}: {planted.role}. The other domains: {planted.expected} (expected).",
            f"    {planted.planted}.",
            f"    {planted.file}: {planted.form}; people {'repeat' if planted.repeats else 'never repeat'}.",
        ]
    kinds = ", ".join(FAULTS)
    return "\n".join([*out, "", f"Planted faults, 1 to 3 lines of each kind a day: {kinds}."])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.sample", description=(__doc__ or "").split("\n")[0])
    defaults = SampleSettings()
    parser.add_argument("--describe", action="store_true", help="print the planted relations and stop")
    parser.add_argument("--landing", type=Path, help="folder of landing day folders")
    parser.add_argument("--from", dest="first", type=date.fromisoformat, help="first day, YYYY-MM-DD")
    parser.add_argument("--to", dest="last", type=date.fromisoformat, help="last day, included")
    parser.add_argument("--users", type=int, default=defaults.n_users, help="users of the first 28 days")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--late", action=argparse.BooleanOptionalAction, default=True, help="plant a few late events"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 2 after a one-line error."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.describe:
        print(describe())
        return 0
    if not (arguments.landing and arguments.first):
        parser.error("--landing and --from are needed (or --describe)")
    try:
        settings = SampleSettings(seed=arguments.seed, n_users=arguments.users, late=arguments.late)
        last = arguments.last or arguments.first
        folders = write_days(arguments.landing, arguments.first, last, settings=settings)
    except (ValueError, OSError) as error:
        print(f"sample: {error}", file=sys.stderr)
        return 2
    days = f"{folders[0].name} to {folders[-1].name}" if len(folders) > 1 else folders[0].name
    print(f"sample: {days} ready in {arguments.landing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
