"""Sample landing files: five domains in the forms users really have, with planted relations and dirt.

    python -m jobs.sample --landing landing --from 2024-01-01 --to 2024-01-28
    python -m jobs.sample --log log.parquet --from 2024-01-01 --to 2024-01-28     # for python -m syncrec_model
    python -m jobs.sample --describe

Who wants what, and why, is `jobs.sample_world` by the laws of `jobs.sample_laws`; `jobs.sample_dirt` spoils a few
lines a day, `jobs.sample_forms` writes them down.

Frozen since 2026-11-23 as SAMPLE_VERSION: figures measured on the sample are reported whatever they are, and the
sample is not tuned to them. A change of what is written needs a new version name and all figures anew;
tests/jobs/test_sample_frozen.py holds the hashes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial as fixed
from pathlib import Path
from typing import Literal

from jobs.sample_dirt import FAULTS, LandingRow, landing_days
from jobs.sample_forms import FORMS, study_log
from jobs.sample_laws import DOMAINS, SampleSettings

__all__ = [
    "FAULTS",
    "PLANTED",
    "SAMPLE_VERSION",
    "PlantedDomain",
    "SampleError",
    "SampleSettings",
    "day_accounts",
    "main",
    "planted_faults",
    "publish_day",
    "write_days",
    "write_log",
]

SAMPLE_VERSION = "sample-1"
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
    for made, rows in landing_days(settings, day):
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
        for day, rows in landing_days(settings, max(missing)):
            if day in missing:
                publish_day(landing, day, fixed(_write_files, rows))
    return [landing / day.isoformat() for day in wanted]


def _write_files(rows: dict[str, list[LandingRow]], folder: Path) -> None:
    for domain, form in FORMS.items():
        (folder / PLANTED[domain].file).write_bytes(form(rows[domain]))


def write_log(file: Path, first: date, last: date, *, settings: SampleSettings | None = None) -> int:
    """Write the sound events of the days first..last as one Parquet log, the form that the study kit reads.

    Parameters
    ----------
    file : columns user, item, domain (texts) and ts (UTC); replaced if it is there, whole or not at all.
    first, last : arrival days, both included.

    Returns the number of events.

    Raises
    ------
    SampleError : first after last, or before `settings.start`; a name that does not end in .parquet.
    """
    settings = settings or SampleSettings()
    _check_days(first, last, settings)
    if file.suffix != ".parquet":
        raise SampleError(f"--log {file}: a Parquet file is written, give it a name that ends in .parquet")
    days = [rows for day, rows in landing_days(settings, last) if day >= first]
    content, events = study_log(days)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return events


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
    parser.add_argument(
        "--log", type=Path, help="instead: one .parquet file of all sound events, for the study kit"
    )
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
    if bool(arguments.landing) == bool(arguments.log) or not arguments.first:
        parser.error("--landing or --log, and --from, are needed (or --describe)")
    try:
        settings = SampleSettings(seed=arguments.seed, n_users=arguments.users, late=arguments.late)
        last = arguments.last or arguments.first
        if arguments.log:
            events = write_log(arguments.log, arguments.first, last, settings=settings)
            print(f"sample: {events:,} events, {arguments.first} to {last}, in {arguments.log}")
            return 0
        folders = write_days(arguments.landing, arguments.first, last, settings=settings)
    except (ValueError, OSError) as error:
        print(f"sample: {error}", file=sys.stderr)
        return 2
    days = f"{folders[0].name} to {folders[-1].name}" if len(folders) > 1 else folders[0].name
    print(f"sample: {days} ready in {arguments.landing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
