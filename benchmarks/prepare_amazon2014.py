"""Split the real Amazon 2014 logs into landing day folders, so that a night can run on them.

    python benchmarks/prepare_amazon2014.py --landing landing/a5 --set a5 --history-until 2014-06-30 --nights 9

The history, up to and including one date, goes into the landing folder of that date; each later day into its
own. Sets: `nine` (all domains), `a5` (five dense domains, users active in two or more of them, iterated
5-core; the core is taken over the whole log, as benchmarks do, so who is in it depends on later days too),
`fashion` (the genuine 2018 JSON lines, copied as they are).
Data: He & McAuley 2016, McAuley et al. 2015; for research, not part of this repository.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from jobs.sample import publish_day

A5 = ("Beauty", "Sports_and_Outdoors", "Toys_and_Games", "Grocery_and_Gourmet_Food", "Home_and_Kitchen")
CORE = 5
FASHION = "AMAZON_FASHION_5.json.gz"
DATA = Path(__file__).resolve().parents[2] / "shared/data/amazon2014"
DAY_SECONDS = 86_400
EPOCH = date(1970, 1, 1)
DEFAULT_HISTORY = {"nine": date(2014, 6, 30), "a5": date(2014, 6, 30), "fashion": date(2018, 7, 6)}


class DataError(Exception):
    """The logs cannot be prepared; the message says why and what to do."""


def five_core(log: pa.Table, core: int = CORE, domains: Sequence[str] = A5) -> pa.Table:
    """Set A5 of a log: its dense domains, users active in at least two of them, then the iterated core.

    Parameters
    ----------
    log : columns `user_id`, `item_id`, `domain` (strings). An id in two domains is two items.
    core : least number of events of every user and of every item that remains.
    domains : others than those of A5.
    """
    log = log.filter(pc.is_in(log["domain"], pa.array(domains, log["domain"].type)))
    user, domain = _codes(log["user_id"]), _codes(log["domain"])
    item = _codes(log["item_id"]) * len(domains) + domain
    pairs = np.unique(user * len(domains) + domain) // len(domains)
    kept = np.bincount(pairs, minlength=user.max(initial=0) + 1)[user] >= 2
    while True:
        of_user = np.bincount(user[kept], minlength=user.max(initial=0) + 1)[user]
        of_item = np.bincount(item[kept], minlength=item.max(initial=0) + 1)[item]
        smaller = kept & (of_user >= core) & (of_item >= core)
        if smaller.sum() == kept.sum():
            return log.filter(pa.array(kept))
        kept = smaller


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return pc.dictionary_encode(column).combine_chunks().indices.to_numpy().astype(np.int64)


def _end(day: date) -> int:
    """The first unix second after a day."""
    return ((day - EPOCH).days + 1) * DAY_SECONDS


def _write_ratings(log: pa.Table, domains: Sequence[str], empty_year: int, folder: Path) -> None:
    """`DOMAIN-YEAR.csv` for each domain and year, in the 2014 ratings form; the logs hold no rating.

    A domain without events gets one empty file, of `empty_year`: a missing file would mean a missing feed.
    """
    years = pc.year(pc.cast(log["ts"], pa.timestamp("s")))
    for domain in domains:
        of_domain = pc.equal(log["domain"], domain)
        found = pc.unique(years.filter(of_domain)).to_pylist() or [empty_year]
        for year in found:
            part = log.filter(pc.and_(of_domain, pc.equal(years, year)))
            part = part.sort_by([("ts", "ascending"), ("user_id", "ascending"), ("item_id", "ascending")])
            rating = pa.nulls(part.num_rows, pa.string())
            table = pa.table([part["user_id"], part["item_id"], rating, part["ts"]], names=list("uirt"))
            options = pcsv.WriteOptions(include_header=False, quoting_style="none")
            pcsv.write_csv(table, folder / f"{domain}-{year}.csv", options)


def _write_fashion(lines: list[bytes], folder: Path) -> None:
    (folder / FASHION).write_bytes(gzip.compress(b"".join(lines), mtime=0))


def _need(path: Path) -> Path:
    if not path.is_file():
        raise DataError(
            f"{path} is absent: give the folder of the real logs with --data (docs/benchmarks/quality.md, The data)"
        )
    return path


def prepare(data: Path, landing: Path, which: str, history_until: date, nights: int) -> list[tuple[Path, int]]:
    """Write the landing folders of one set; complete ones are left alone.

    Returns
    -------
    Each folder with the number of events that belong in it: the history first, then the nights.

    Raises
    ------
    DataError : the data file is absent, or nothing happened by `history_until`.
    """
    if which == "fashion":
        with gzip.open(_need(data / "raw" / FASHION)) as file:
            lines = list(file)
        ts = np.array([json.loads(line)["unixReviewTime"] for line in lines])
    else:
        columns = ["user_id", "item_id", "domain", "ts"]
        log = pq.read_table(_need(data / "interactions.parquet"), columns=columns)
        log = five_core(log) if which == "a5" else log
        ts = log["ts"].to_numpy()
        domains = sorted(pc.unique(log["domain"]).to_pylist())
    if not (ts < _end(history_until)).any():
        raise DataError(f"no event of set {which} lies on or before {history_until}: choose a later date")
    folders = []
    for night in range(nights + 1):
        day = history_until + timedelta(days=night)
        inside = (ts < _end(day)) & ((ts >= _end(day) - DAY_SECONDS) | (night == 0))
        if which == "fashion":
            write = partial(_write_fashion, [lines[n] for n in np.nonzero(inside)[0]])
        else:
            write = partial(_write_ratings, log.filter(pa.array(inside)), domains, day.year)
        folders.append((publish_day(landing, day, write), int(inside.sum())))
    if which != "fashion":
        print(f"set {which}: {log.num_rows:,} events of {pc.count_distinct(log['user_id']).as_py():,} users")
    return folders


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--landing", type=Path, required=True, help="folder of landing day folders; one a set")
    parser.add_argument("--set", dest="which", choices=sorted(DEFAULT_HISTORY), required=True)
    parser.add_argument("--data", type=Path, default=DATA, help="default: ../shared/data/amazon2014")
    parser.add_argument(
        "--history-until",
        type=date.fromisoformat,
        help="last day of the history; default 2014-06-30, for fashion 2018-07-06 (after its last event)",
    )
    parser.add_argument("--nights", type=int, default=0, help="days after the history, a folder each")
    arguments = parser.parse_args(argv)
    until = arguments.history_until or DEFAULT_HISTORY[arguments.which]
    try:
        folders = prepare(arguments.data, arguments.landing, arguments.which, until, arguments.nights)
    except (DataError, OSError) as error:
        print(f"prepare_amazon2014: {error}", file=sys.stderr)
        return 2
    for folder, events in folders:
        print(f"{folder}: {events:,} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
