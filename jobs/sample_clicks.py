"""A click log for the sample: who saw yesterday's lists on a day, and what they clicked, with a planted uplift.

    python -m jobs.sample_clicks --ds 2024-01-31 --uplift 0.25 [--config ab.toml]

Four of five users come by, each to one or two domains, and see the first five of a list; people differ in how much
they click, and the first places are clicked more. The candidate's lists are clicked `uplift` more, whatever is on
them: experiment_uplift finds that number but for chance, of which one day of clicks leaves much. Writes clicks.csv
into the landing folder of the day, whose lists are those of the newest published night before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zlib import crc32

import numpy as np
from pyiceberg.expressions import And, EqualTo, LessThanOrEqual

from jobs.clicks import nights_shown
from jobs.command import one_line, parse_day
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.night_files import write_whole
from jobs.sample import SampleSettings, write_days
from jobs.schemas import ANYONE, CANDIDATE_ARM, NIGHTS, RECOMMENDATIONS
from jobs.settings import Settings, load_settings

FILE = "clicks.csv"
HEADER = "user,domain,item,shown_at,clicked"
PLACES = (1.0, 0.7, 0.5, 0.4, 0.3)
Lists = dict[str, dict[str, list[str]]]


def click_lines(lists: Lists, candidates: frozenset[str], day: date, *, uplift: float, seed: int) -> Iterator[str]:
    """The lines of a day.

    Parameters
    ----------
    lists
        By user and domain the first items, best first.
    candidates
        Users who see the candidate's lists.
    day, uplift, seed
        When; how much more the candidate's lists are clicked, relative; the same gives the same lines.
    """
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    for user, domains in sorted(lists.items()):
        rng = np.random.default_rng([seed, day.toordinal(), crc32(user.encode())])  # nobody's depend on others'
        comes, eager = rng.random() < 0.8, rng.beta(3, 12)
        chosen = rng.permutation(sorted(domains))[: rng.integers(1, 3)]
        rate = eager * (1 + uplift * (user in candidates))
        for domain in chosen.tolist() if comes else ():
            at = int((midnight + timedelta(seconds=int(rng.integers(0, 86_000)))).timestamp())
            for place, item in enumerate(domains[domain]):
                clicked = rng.random() < min(rate * PLACES[place], 1)
                yield f"{user},{domain},{item},{at + place},{int(clicked)}"


def _lists_before(settings: Settings, day: date) -> tuple[Lists, frozenset[str], date]:
    """The lists that are shown on a day, the users of the candidate's, and the night that made them."""
    lakehouse = Lakehouse(settings)
    lakehouse.create_tables()
    nights = lakehouse.read_arrow(NIGHTS.name, lakehouse.current_snapshot(NIGHTS.name)).to_pylist()
    night = nights_shown(nights, [day]).get(day)
    if night is None:
        raise JobError(f"no published night before {day}: make nightly first")
    where = And(EqualTo("ds", night.isoformat()), LessThanOrEqual("rank", len(PLACES)))
    snapshot = lakehouse.current_snapshot(RECOMMENDATIONS.name)
    columns = ("user_id", "domain", "rank", "item_id", "arm")
    rows = lakehouse.read_arrow(RECOMMENDATIONS.name, snapshot, where, columns).to_pylist()
    lists: Lists = {}
    for row in sorted(rows, key=lambda row: int(row["rank"])):
        if row["user_id"] != ANYONE:
            lists.setdefault(row["user_id"], {}).setdefault(row["domain"], []).append(row["item_id"])
    candidates = {row["user_id"] for row in rows if row["arm"] == CANDIDATE_ARM}
    return lists, frozenset(candidates & lists.keys()), night


def write_clicks(settings: Settings, day: date, uplift: float) -> str:
    """Write the click log of a day; the sample's landing day comes with it where it is missing.

    Raises
    ------
    JobError
        The project is no sample, or no night is published before the day.
    """
    if settings.sample is None:
        raise JobError("the settings have no [sample]: clicks are made up for the sample alone")
    lists, candidates, night = _lists_before(settings, day)
    sample = SampleSettings(seed=settings.sample.seed, n_users=settings.sample.users, start=settings.sample.start)
    (folder,) = write_days(settings.landing_path, day, day, settings=sample)
    lines = list(click_lines(lists, candidates, day, uplift=uplift, seed=settings.sample.seed))
    write_whole(folder / FILE, "\n".join([HEADER, *lines, ""]))
    told = f"{len(lines):,} lines about the lists of {night}, {len(candidates):,} users in the candidate's arm"
    return f"{told}: {folder / FILE}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 done, 1 a clear error."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.sample_clicks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ds", type=parse_day, required=True, help="the day on which the lists are seen")
    parser.add_argument("--uplift", type=float, default=0.25, help="planted, relative; default 0.25")
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parsed = parser.parse_args(argv)
    try:
        print(write_clicks(load_settings(parsed.config), parsed.ds, parsed.uplift))
    except (JobError, ValueError) as error:
        print(f"error: sample_clicks: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
