"""A log of one's own as a benchmark set: any file that the study kit reads, cut and ranked as set A5 is.

    make bench-quality LOG=log.parquet ROWS="default sasrec.all item-knn.all ensemble.equipped"

Shapes: E events.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.prepare_amazon2014 import CORE, five_core
from benchmarks.quality.data import QualityData, cut, drawn
from syncrec_model.study_columns import StudyError
from syncrec_model.study_log import RawLog, read_log

_LEAST_CASES = 20  # of a domain's test cases; fewer tell nothing apart


def load_log(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    core: int = CORE,
    split: str = "leave-one-out",
    users: int | None = None,
) -> QualityData:
    """Read a log of users, items, domains and times (`syncrec_model.study_log.read_log`) as a benchmark set.

    The benchmark's users are those of two domains or more in the iterated core; everybody else is outside it. A
    user's later events with an item that they had before are left out: the harness never recommends an item again;
    so are users who have every item of a domain: nothing is left there to rank a target against.
    columns: names of the log's columns by role. core: least number of events of every user and item, from 3 on
    (two cases and something to learn from). users: as many of the benchmark's, drawn with a fixed seed, and the
    same share of the people outside; None, or more than there are: all.

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
    domains = sorted(raw.domains)
    if len(domains) < 2:
        raise StudyError(
            f"{path}: one domain only ({domains[0]}): the benchmark asks what domains give to each other"
        )
    table = pa.Table.from_pandas(everyone, preserve_index=False)
    inside, sated = _rankable(five_core(table, core, domains).to_pandas())
    others = everyone[~everyone["user_id"].isin(set(inside["user_id"]))]
    n_users = inside["user_id"].nunique()
    if users is not None and users < n_users:
        inside = drawn(inside, users)
        others = drawn(others, round(users / n_users * others["user_id"].nunique()))
    _check(path, inside, domains, core)
    print(
        f"{path}: {inside['user_id'].nunique():,} users of two domains or more with {len(inside):,} events, "
        f"{others['user_id'].nunique():,} people outside; left out: {repeated:,} events with an item had "
        f"before, {sated:,} users who had every item of a domain",
        file=sys.stderr,
    )
    return cut(f"{path.name.split('.')[0]}-{users or 'all'}-{split}", inside, others, domains, split=split)


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


def _rankable(log: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the log without users who have all items of a domain, and how many these are."""
    n_users = log["user_id"].nunique()
    while True:
        own = log.groupby(["user_id", "domain"])["item_id"].nunique().reset_index()
        of_domain = own["domain"].map(log.groupby("domain")["item_id"].nunique())
        sated = set(own.loc[own["item_id"] >= of_domain, "user_id"])
        if not sated:
            return log, n_users - log["user_id"].nunique()
        log = log[~log["user_id"].isin(sated)]


def _check(path: Path, inside: pd.DataFrame, domains: list[str], core: int) -> None:
    counts = inside["domain"].value_counts()
    missing = [domain for domain in domains if domain not in counts]
    if missing:
        raise StudyError(
            f"{path}: of domain {missing[0]!r} nothing is left of core {core} among users of two domains or more; "
            "give a smaller CORE= (--core), or a log without it"
        )
    if len(inside) < _LEAST_CASES * len(domains):
        raise StudyError(f"{path}: {len(inside)} events are left of core {core}, too few to compare anything")
