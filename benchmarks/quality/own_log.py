"""A log of one's own as a benchmark set: any file that the study kit reads, cut and ranked as set A5 is.

    make bench-quality LOG=log.parquet ROWS="default sasrec.all item-knn.all ensemble.equipped"

Shapes: E events.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.prepare_amazon2014 import CORE, five_core
from benchmarks.quality.data import QualityData, cut, drawn
from syncrec_model.study_columns import StudyError
from syncrec_model.study_cut import chosen_domains
from syncrec_model.study_log import RawLog, read_log

_LEAST = 10  # of a domain's training events and cases of each part; fewer tell nothing apart


def load_log(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    domains: Sequence[str] | None = None,
    core: int = CORE,
    split: str = "leave-one-out",
    users: int | None = None,
) -> QualityData:
    """Read a log of users, items, domains and times (`syncrec_model.study_log.read_log`) as a benchmark set.

    The benchmark's users are those of two domains or more in the iterated core; everybody else is outside it. A
    user's later events with an item that they had before are left out: the harness never recommends an item again.
    Users who have every item of a domain count among the people outside: nothing is left to rank a target against.
    columns: names of the log's columns by role. domains: these alone; None: all. core: least number of events of
    every user and item, from 3 on (two cases and something to learn from). users: as many of the benchmark's, drawn
    with a fixed seed, and the same share of the people outside; None, or more than there are: all.

    Raises
    ------
    StudyError : a file, a column or a log that cannot be used, with what to do.
    """
    if core < 3:
        raise StudyError(
            f"core {core}: give 3 or more; of each user two events are cases, and one is to learn from"
        )
    print(f"reading {path} ...", file=sys.stderr, flush=True)
    raw = read_log(path, columns)
    everyone, repeated = _first_times(raw)
    names = chosen_domains(raw, domains)
    everyone = everyone[everyone["domain"].isin(names)]
    inside = five_core(pa.Table.from_pandas(everyone, preserve_index=False), core, names).to_pandas()
    _check(path, inside, names, core)
    others = everyone[~everyone["user_id"].isin(set(inside["user_id"]))]
    n_users = inside["user_id"].nunique()
    if users is not None and users < n_users:
        inside = drawn(inside, users)
        others = drawn(others, round(users / n_users * others["user_id"].nunique()))
    inside, sated = _rankable(path, inside)
    if inside.empty:
        raise StudyError(f"{path}: every user had every item of a domain: there is nothing to rank")
    others = pd.concat([others, sated])
    print(
        f"{path}: {inside['user_id'].nunique():,} users of two domains or more with {len(inside):,} events, "
        f"{others['user_id'].nunique():,} people outside, {sated['user_id'].nunique():,} of them because they had "
        f"every item of a domain; {repeated:,} events with an item had before are left out",
        file=sys.stderr,
    )
    name = f"{path.name.split('.')[0]}-{users or 'all'}-{split}"
    try:
        data = cut(name, inside, others, names, split=split)
    except ValueError as mistake:
        raise StudyError(f"{path}: {mistake}") from None
    _check_cut(path, data)
    return data


def _first_times(raw: RawLog) -> tuple[pd.DataFrame, int]:
    """Return the log without what a user had before, and how many events that were. Times become their order."""
    _, order_E = np.unique(raw.ts_E, return_inverse=True)
    log = pd.DataFrame(
        {
            "user_id": np.array(raw.users, dtype=object)[raw.user_E],
            "item_id": np.array(raw.items, dtype=object)[raw.item_E],
            "domain": np.array(raw.domains, dtype=object)[raw.domain_E],
            "ts": order_E.astype(np.int64),
        }
    )
    first = log.sort_values("ts", kind="stable").drop_duplicates(["user_id", "item_id", "domain"])
    return first, len(log) - len(first)


def _rankable(path: Path, log: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the log without users who have all items of a domain, and the events of these."""
    kept = log
    while True:
        n_items = kept.groupby("domain")["item_id"].nunique()
        if few := [str(name) for name in n_items.index[n_items < 2]]:
            raise StudyError(
                f"{path}: domain {few[0]!r} has one item, so there is nothing to rank; name the others with "
                "DOMAINS= (--domains)"
            )
        own = kept.groupby(["user_id", "domain"])["item_id"].nunique().reset_index()
        sated = set(own.loc[own["item_id"] >= own["domain"].map(n_items), "user_id"])
        if not sated:
            return kept, log[~log["user_id"].isin(set(kept["user_id"]))]
        kept = kept[~kept["user_id"].isin(sated)]


def _check(path: Path, inside: pd.DataFrame, domains: Sequence[str], core: int) -> None:
    found = set(inside["domain"])
    missing = [domain for domain in domains if domain not in found]
    if missing:
        raise StudyError(
            f"{path}: of domain {missing[0]!r} nothing is left of core {core} among users of two domains or more; "
            "give a smaller CORE= (--core) or name the others with DOMAINS= (--domains)"
        )


def _check_cut(path: Path, data: QualityData) -> None:
    """Every domain needs something to learn from and cases of both parts: no row can be compared without."""
    learned = np.bincount(data.train.domain_E, minlength=len(data.domains) + 1)[1:]
    counts = {"training events": learned}
    for part, word in (("valid", "validation cases"), ("test", "test cases")):
        counts[word] = np.bincount(data.cases[part].domain_M, minlength=len(data.domains) + 1)[1:]
    for word, found_D in counts.items():
        for domain, found in zip(data.domains, found_D.tolist(), strict=True):
            if found < _LEAST:
                raise StudyError(
                    f"{path}: domain {domain!r} has {found} {word}, fewer than {_LEAST}: too few to tell systems "
                    "apart; name the others with DOMAINS= (--domains)"
                )
