"""The cases of the quality benchmark: set A5 cut into training, validation and test, by user or by time.

What a system may read is all here: training sequences, the events of people outside the benchmark (`Outside`), and
for every case the events before it. Targets lie in `Cases.target_M`; adapters must not read those of the
split that they score for anything but the 100-negative protocol, whose scores name them.

Shapes: E events, U users, M cases, D domains, V_d items of a domain, S sampled candidates.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.prepare_amazon2014 import A5, DATA, five_core
from syncrec_model import SequenceSet
from syncrec_model.vocabulary import stacked_offsets

Array = NDArray[Any]
SPLITS = ("leave-one-out", "time")
PARTS = ("valid", "test")
TRAIN, VALID, TEST = 0, 1, 2
TIME_SHARE = 0.1  # of the events, the last tenth is the test window, the tenth before it validation
QUICK_USERS = 8_500
STRATA = ("0", "1-2", "3-5", "6+")  # events of the user in the target's domain before the case
TARGET_STRATA = ("0", "1-3", "4-10", "11-30", "31+")  # training events of the target, of everybody
NEWEST_STRATA = ("none", "new", "known")  # the newest event before the case: of an item that training never had?
N_NEGATIVES = 100


class DataAbsent(Exception):
    """The real logs are not where they should be; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Events:
    """A log, ordered by user and time. item_E: 1.. inside the domain; domain_E: code 1..D; ts_E: unix seconds."""

    user_E: Array
    item_E: Array
    domain_E: Array
    ts_E: Array

    def __len__(self) -> int:
        return len(self.user_E)

    def take(self, index: Array) -> Self:
        """Return some of the events."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Cases:
    """What to predict: event_M is the place of the target in `QualityData.events`.

    user_M: row of the user; domain_M, target_M: the target; seen_M: events of the user in the target's domain
    before it. negatives_MS: stacked items (1..V over all domains) for the 100-negative protocol, from all domains;
    own_negatives_MS: items of the target's domain. Neither holds the target or an item of the user's.
    """

    event_M: Array
    user_M: Array
    domain_M: Array
    target_M: Array
    seen_M: Array
    negatives_MS: Array
    own_negatives_MS: Array

    def __len__(self) -> int:
        return len(self.event_M)

    @property
    def stratum_M(self) -> Array:
        """Place in STRATA."""
        return np.digitize(self.seen_M, [1, 3, 6])


@dataclass(frozen=True, eq=False)
class QualityData:
    """One benchmark set under one split.

    n_items: V_d, the candidates of each domain. events: all events of the benchmark's users; part_E: TRAIN, VALID
    or TEST. outside: events of everybody else in these domains (users of one domain included); their items may
    exceed n_items: those are trained on, never ranked; n_outside_items counts both.
    """

    name: str
    domains: tuple[str, ...]
    n_items: tuple[int, ...]
    n_users: int
    events: Events
    part_E: Array
    outside: Events
    n_outside_items: tuple[int, ...]
    cases: dict[str, Cases]

    @property
    def starts_U(self) -> Array:
        """Place of each user's first event."""
        return np.searchsorted(self.events.user_E, np.arange(self.n_users))

    @property
    def train(self) -> Events:
        """The events to learn from."""
        return self.events.take(self.part_E == TRAIN)

    def histories(self, part: str) -> Iterator[tuple[Array, Array, Array]]:
        """Yield for every case the events before it, oldest first: (item, domain, ts)."""
        cases, starts_U, log = self.cases[part], self.starts_U, self.events
        for event, user in zip(cases.event_M, cases.user_M, strict=True):
            before = slice(starts_U[user], event)
            yield log.item_E[before], log.domain_E[before], log.ts_E[before]

    def item_events(self, code: int) -> Array:
        """Return how many training events everybody has of each candidate of a domain, [V_d].

        0: it is a candidate because of what happened later, and no system had an event of it to learn from.
        """
        n_items, counts_V = self.n_items[code - 1], np.zeros(self.n_items[code - 1], dtype=np.int64)
        for log in (self.train, self.outside):
            items = log.item_E[log.domain_E == code]
            counts_V += np.bincount(items[items <= n_items], minlength=n_items + 1)[1:]
        return counts_V

    def target_events(self, part: str) -> Array:
        """Return how many training events everybody has of each case's target, [M]."""
        return self._training_events(self.cases[part].domain_M, self.cases[part].target_M)

    def _training_events(self, domain_N: Array, item_N: Array) -> Array:
        """Return how many training events everybody has of some candidates, [N]."""
        found_N = np.zeros(len(item_N), dtype=np.int64)
        for code in range(1, len(self.domains) + 1):
            own_N = domain_N == code
            found_N[own_N] = self.item_events(code)[item_N[own_N] - 1]
        return found_N

    def target_stratum(self, part: str) -> Array:
        """Return the place in TARGET_STRATA of each case, [M]."""
        return np.digitize(self.target_events(part), [1, 4, 11, 31])

    def newest_stratum(self, part: str) -> Array:
        """Return the place in NEWEST_STRATA of each case, [M]; -1 where nobody had its target in training.

        Where the newest event is of a new item, a model has to read past it: in a night that is the assortment's
        latest day.
        """
        cases, log = self.cases[part], self.events
        newest_M = np.maximum(cases.event_M - 1, 0)
        known_M = self._training_events(log.domain_E[newest_M], log.item_E[newest_M]) > 0
        place_M = np.where(self.starts_U[cases.user_M] == cases.event_M, 0, 1 + known_M)
        return np.where(self.target_events(part) > 0, place_M, -1)

    def train_sequences(self, max_length: int) -> SequenceSet:
        """Return what syncrec_model learns from: one row a user."""
        log = self.train
        return SequenceSet.from_events(
            user_ids=log.user_E, item_indexes=log.item_E, domain_codes=log.domain_E,
            users=np.arange(self.n_users), domains=self.domains, n_items=self.n_items, max_length=max_length,
        )  # fmt: skip

    def case_sequences(self, part: str, max_length: int, *, most: int = 1_000) -> SequenceSet:
        """Return one row a CASE, in the order of the cases: its history (at most `most` events) and its target.

        A row a case and not a user: so that a user with many events in a test window loses none of them.
        """
        cases, log = self.cases[part], self.events
        first_M = np.maximum(self.starts_U[cases.user_M], cases.event_M - most)
        length_M = cases.event_M - first_M + 1
        case_E = np.repeat(np.arange(len(cases)), length_M)
        event_E = np.arange(length_M.sum()) - np.repeat(np.cumsum(length_M) - length_M - first_M, length_M)
        is_target_E = event_E == cases.event_M[case_E]
        return SequenceSet.from_events(
            user_ids=case_E, item_indexes=log.item_E[event_E], domain_codes=log.domain_E[event_E],
            timestamps=is_target_E.astype(np.int64), window=(1, 2), users=np.arange(len(cases)),
            domains=self.domains, n_items=self.n_items, max_length=max_length,
        )  # fmt: skip

    def seen(self, part: str, index: Array) -> tuple[Array, Array]:
        """Return (row of `index`, item) of the target's domain before each of some cases: never candidates."""
        cases, starts_U, log = self.cases[part], self.starts_U, self.events
        rows, items = [], []
        for row, case in enumerate(index):
            before = slice(starts_U[cases.user_M[case]], cases.event_M[case])
            own = log.item_E[before][log.domain_E[before] == cases.domain_M[case]]
            rows.append(np.full(len(own), row))
            items.append(own)
        return np.concatenate(rows), np.concatenate(items)

    def fingerprint(self) -> str:
        """Return a short mark of everything here: results of another set or split never mix with these."""
        found = hashlib.sha256(f"{self.name} {self.domains} {self.n_items}".encode())
        for values in (
            self.events.user_E,
            self.events.item_E,
            self.events.domain_E,
            self.part_E,
            self.outside.item_E,
        ):
            found.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
        for cases in self.cases.values():
            found.update(np.ascontiguousarray(cases.event_M).tobytes())
            found.update(np.ascontiguousarray(cases.negatives_MS).tobytes())
        return found.hexdigest()[:12]


def load_a5(data: Path = DATA, *, split: str = "leave-one-out", users: int | None = None) -> QualityData:
    """Read set A5. users: as many of its 16,065, drawn with a fixed seed, and the same share of the people outside
    it; None: all. See `cut` for the splits.

    Raises
    ------
    DataAbsent : the logs are not there.
    """
    path = data / "interactions.parquet"
    if not path.is_file():
        raise DataAbsent(
            f"{path} is absent: give the folder of the real logs with DATA=; "
            "docs/benchmarks/quality.md, The data, says what they are"
        )
    print(f"reading {path} ...", file=sys.stderr, flush=True)
    columns = ["user_id", "item_id", "domain", "ts"]
    everything = pq.read_table(path, columns=columns)
    core = five_core(everything).to_pandas()
    everyone = everything.to_pandas()
    # Users of A5 that were not drawn stay out of it altogether: they are no people of one domain.
    others = everyone[everyone["domain"].isin(A5) & ~everyone["user_id"].isin(set(core["user_id"]))]
    if users is not None:
        share = users / core["user_id"].nunique()
        core = drawn(core, users)
        others = drawn(others, round(share * others["user_id"].nunique()))
    name = f"a5-{users or 'all'}-{split}"
    return cut(name, core, others, A5, split=split)


def drawn(log: pd.DataFrame, users: int) -> pd.DataFrame:
    """Return the rows of so many users, always the same."""
    names = np.sort(log["user_id"].unique())
    return log[log["user_id"].isin(set(np.random.default_rng(0).permutation(names)[:users]))]


def cut(name: str, log: pd.DataFrame, others: pd.DataFrame, domains: Sequence[str], *, split: str) -> QualityData:
    """Number users and items, order events (ties of a user's clock by a hash, as in the night), divide them.

    leave-one-out: each user's last event is the test case, the one before it the validation case. time: the last
    tenth of all events is the test window, the tenth before it validation; every event of a window is a case.
    log, others: columns user_id, item_id, domain, ts.

    Raises
    ------
    ValueError : an unknown split, or a user with fewer than 3 events under leave-one-out.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    log = _ordered(log)
    code = {domain: number for number, domain in enumerate(domains, start=1)}
    vocabulary = [pd.Index(np.sort(log.loc[log["domain"] == domain, "item_id"].unique())) for domain in domains]
    events = _number(log, pd.Index(np.sort(log["user_id"].unique())), vocabulary, code)
    others = _ordered(others)
    wider = []
    for known, domain in zip(vocabulary, domains, strict=True):
        of_domain = pd.Index(np.sort(others.loc[others["domain"] == domain, "item_id"].unique()))
        wider.append(known.append(of_domain.difference(known)))
    outside = _number(others, pd.Index(np.sort(others["user_id"].unique())), wider, code)
    part_E = _parts(events, split)
    if not np.bincount(part_E, minlength=3).all():
        raise ValueError("the times are too coarse to split by: one moment holds the start of two parts")
    if split == "time":  # nobody learns from what happens during validation or later
        outside = outside.take(outside.ts_E < events.ts_E[part_E == VALID].min())
    n_items = tuple(len(items) for items in vocabulary)
    n_users = int(events.user_E.max()) + 1
    cases = {
        part: _cases(events, np.flatnonzero(part_E == number), n_items, seed=number)
        for part, number in (("valid", VALID), ("test", TEST))
    }
    return QualityData(
        name, tuple(domains), n_items, n_users, events, part_E, outside, tuple(map(len, wider)), cases
    )


def _ordered(log: pd.DataFrame) -> pd.DataFrame:
    """Order by user, time and a hash of the event: an order inside a day that no title or number decides."""
    tie = pd.util.hash_pandas_object(log[["user_id", "item_id", "domain"]], index=False)
    return log.assign(tie=tie.to_numpy()).sort_values(["user_id", "ts", "tie"], kind="stable")


def _number(log: pd.DataFrame, users: pd.Index, items: Sequence[pd.Index], code: dict[str, int]) -> Events:
    domain_E = log["domain"].map(code).to_numpy(dtype=np.int64)
    item_E = np.zeros(len(log), dtype=np.int64)
    names = log["item_id"].to_numpy()
    for number, known in enumerate(items, start=1):
        own = domain_E == number
        item_E[own] = known.get_indexer(names[own]) + 1
    return Events(
        users.get_indexer(log["user_id"]).astype(np.int64), item_E, domain_E, log["ts"].to_numpy(np.int64)
    )


def _parts(events: Events, split: str) -> Array:
    if split == "time":
        ordered = np.sort(events.ts_E)
        valid_from, test_from = (ordered[int(len(ordered) * (1 - share))] for share in (2 * TIME_SHARE, TIME_SHARE))
        return TRAIN + (events.ts_E >= valid_from).astype(np.int64) + (events.ts_E >= test_from)
    counts_U = np.bincount(events.user_E)
    if counts_U.min() < 3:
        raise ValueError("leave-one-out needs 3 events or more of every user: one to learn from, two cases")
    ends_E = np.cumsum(counts_U)[events.user_E]
    to_end_E = ends_E - np.arange(len(events))
    return np.where(to_end_E == 1, TEST, np.where(to_end_E == 2, VALID, TRAIN))


def _cases(events: Events, event_M: Array, n_items: tuple[int, ...], seed: int) -> Cases:
    starts_U = np.searchsorted(events.user_E, np.arange(int(events.user_E.max()) + 1))
    ends_U = np.append(starts_U[1:], len(events))
    offsets_D1 = np.array([0, *stacked_offsets(n_items)])
    user_M, domain_M = events.user_E[event_M], events.domain_E[event_M]
    rng = np.random.default_rng([seed, len(events)])
    n_all = sum(n_items)
    seen_M = np.zeros(len(event_M), dtype=np.int64)
    negatives_MS = np.zeros((len(event_M), N_NEGATIVES), dtype=np.int64)
    own_MS = np.zeros_like(negatives_MS)
    for row, (event, user, code) in enumerate(zip(event_M, user_M, domain_M, strict=True)):
        whole = slice(starts_U[user], ends_U[user])
        mine = offsets_D1[events.domain_E[whole]] + events.item_E[whole]
        before = events.domain_E[starts_U[user] : event]
        seen_M[row] = (before == code).sum()
        negatives_MS[row] = _draw(rng, 0, n_all, mine)
        own_MS[row] = _draw(rng, offsets_D1[code], n_items[code - 1], mine) - offsets_D1[code]
    return Cases(event_M, user_M, domain_M, events.item_E[event_M], seen_M, negatives_MS, own_MS)


def _draw(rng: np.random.Generator, offset: int, n_items: int, not_these: Array) -> Array:
    """Draw N_NEGATIVES different stacked items of offset + 1 .. offset + n_items (repeated where too few)."""
    taken = not_these[(not_these > offset) & (not_these <= offset + n_items)] - offset - 1
    wanted = min(n_items, N_NEGATIVES + len(np.unique(taken)))
    free = np.setdiff1d(rng.choice(n_items, wanted, replace=False), taken, assume_unique=False)
    if not len(free):
        raise ValueError("a user has every item of a domain: there is nothing to rank a target against")
    rng.shuffle(free)
    return offset + 1 + np.resize(free, N_NEGATIVES)
