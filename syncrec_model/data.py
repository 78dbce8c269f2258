"""Section 1: SequenceSet, the padded cross- and single-domain sequences of one split, as numpy arrays.

Shapes: U users, N rows (one per user and domain with events), T steps of the window, D domains,
E events of a log, S selected users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .event_columns import ordered_events
from .vocabulary import Vocabulary, stacked_offsets

__all__ = ["SequenceSet", "Vocabulary", "stacked_offsets"]

Array = NDArray[Any]

_TYPES = {
    "cross_items_UT": np.int32,
    "cross_domains_UT": np.int8,
    "cross_lengths_U": np.int32,
    "cross_targets_UT": np.bool_,
    "single_users_N": np.int32,
    "single_domains_N": np.int8,
    "single_items_NT": np.int32,
    "single_places_NT": np.int16,
    "single_lengths_N": np.int32,
}


@dataclass(frozen=True, eq=False)
class SequenceSet:
    """One split of the night. Rows hold the last T events, left-padded with 0 (MODEL.md section 1).

    user_ids: [U]. cross_items_UT: item index inside its domain. cross_domains_UT: domain code 1..D in the order
    of `domains`, 0 = padding. cross_lengths_U: the events before the cut, also those older than the window, all of
    them or counted up to T + 1: a length above T means that the row is truncated and [SOS] is out of sight.
    cross_targets_UT: the event lies in the evaluation window (all False for training and serving).
    single_users_N: row of the user. single_domains_N: 1..D. single_items_NT: item index. single_places_NT: the
    COLUMN of the same event in the user's cross row, -1 for padding and for events older than that row.
    single_lengths_N: the user's events in the domain, likewise. Only non-empty (user, domain) pairs have a row.
    """

    domains: tuple[str, ...]
    n_items: tuple[int, ...]
    user_ids: Array
    cross_items_UT: Array
    cross_domains_UT: Array
    cross_lengths_U: Array
    cross_targets_UT: Array
    single_users_N: Array
    single_domains_N: Array
    single_items_NT: Array
    single_places_NT: Array
    single_lengths_N: Array

    def __post_init__(self) -> None:
        for name, kind in _TYPES.items():
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))
        object.__setattr__(self, "user_ids", np.asarray(self.user_ids))
        object.__setattr__(self, "domains", tuple(self.domains))
        object.__setattr__(self, "n_items", tuple(int(count) for count in self.n_items))
        self._check_shapes()
        self._check_content()

    @property
    def max_length(self) -> int:
        """T, the width of the stored rows."""
        return int(self.cross_items_UT.shape[1])

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.user_ids)

    def single_rows_UD(self) -> Array:
        """Return [U, D] the row of each user's single-domain sequence, -1 where the user has none."""
        rows_UD = np.full((self.n_users, len(self.domains)), -1, dtype=np.int64)
        rows_UD[self.single_users_N, self.single_domains_N - 1] = np.arange(len(self.single_users_N))
        return rows_UD

    def select(self, users: ArrayLike) -> SequenceSet:
        """Return the set of the given user rows, in the given order."""
        users_S = np.asarray(users, dtype=np.int64)
        rows_SD = self.single_rows_UD()[users_S]
        place_S, _ = np.nonzero(rows_SD >= 0)
        rows = rows_SD[rows_SD >= 0]
        kept = {name: getattr(self, name)[rows] for name in _TYPES if name.startswith("single_")}
        kept |= {name: getattr(self, name)[users_S] for name in _TYPES if name.startswith("cross_")}
        kept |= {"single_users_N": place_S, "user_ids": self.user_ids[users_S]}
        return SequenceSet(domains=self.domains, n_items=self.n_items, **kept)

    def last(self, max_length: int) -> SequenceSet:
        """Return the set as a model with a shorter window reads it: the last `max_length` events of every row.

        Targets older than the window are no cases any more. A window at least as long changes nothing.
        """
        cut = self.max_length - max_length
        if cut <= 0:
            return self
        columns: dict[str, Any] = {
            name: values[:, cut:] for name, values in self.arrays().items() if name.endswith(("_UT", "_NT"))
        }
        columns["single_places_NT"] = np.maximum(columns["single_places_NT"] - cut, -1)
        return replace(self, **columns)

    def arrays(self) -> dict[str, Array]:
        """Return the arrays by field name (for fingerprints and copies)."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in _TYPES}

    def _check_shapes(self) -> None:
        if not self.domains or len(self.domains) != len(self.n_items):
            raise ValueError(f"SequenceSet: {len(self.domains)} domains but {len(self.n_items)} item counts")
        if self.cross_items_UT.ndim != 2:
            raise ValueError(
                f"SequenceSet.cross_items_UT: expected [users, steps], got {self.cross_items_UT.shape}"
            )
        size = {"U": self.n_users, "N": len(self.single_users_N), "T": self.max_length}
        for name in _TYPES:
            expected = tuple(size[letter] for letter in name.rsplit("_", 1)[1])
            if getattr(self, name).shape != expected:
                raise ValueError(f"SequenceSet.{name}: expected shape {expected}, got {getattr(self, name).shape}")

    def _check_content(self) -> None:
        """Refuse rows that contradict each other: better here than as a silent wrong score."""
        n_items = np.array([0, *self.n_items])
        codes = self.cross_domains_UT
        if codes.size and not 0 <= codes.min() <= codes.max() <= len(self.domains):
            raise ValueError(f"SequenceSet.cross_domains_UT: codes must lie in 0..{len(self.domains)}")
        if np.any((self.cross_items_UT > 0) != (codes > 0)) or np.any(self.cross_items_UT > n_items[codes]):
            raise ValueError("SequenceSet.cross_items_UT: an item index is outside 1..n_items of its domain")
        self._check_padding("cross", self.cross_items_UT, self.cross_lengths_U)
        rows, kinds = self.single_users_N, self.single_domains_N
        if rows.size == 0:
            return
        if not 0 <= rows.min() <= rows.max() < self.n_users or not 1 <= kinds.min() <= kinds.max() <= len(
            self.domains
        ):
            raise ValueError("SequenceSet.single_users_N / single_domains_N: a row points outside users or domains")
        pairs = np.sort(rows.astype(np.int64) * (len(self.domains) + 1) + kinds)
        if (pairs[1:] == pairs[:-1]).any():
            raise ValueError("SequenceSet: two single rows for one user and domain")
        items = self.single_items_NT
        if items.min() < 0 or np.any(items > n_items[kinds][:, None]) or np.any(self.single_lengths_N < 1):
            raise ValueError("SequenceSet.single_items_NT: an item index is outside 1..n_items of its domain")
        self._check_padding("single", items, self.single_lengths_N)
        row, column = np.nonzero(self.single_places_NT >= 0)
        place = self.single_places_NT[row, column]
        if np.any(place >= self.max_length) or np.any(
            (self.cross_items_UT[rows[row], place] != items[row, column])
            | (self.cross_domains_UT[rows[row], place] != kinds[row])
        ):
            raise ValueError("SequenceSet.single_places_NT: a place does not hold the same event in the cross row")

    def _check_padding(self, family: str, items: Array, lengths: Array) -> None:
        stored = np.minimum(lengths, self.max_length)
        expected = np.arange(self.max_length)[None, :] >= self.max_length - stored[:, None]
        if np.any((items > 0) != expected):
            raise ValueError(
                f"SequenceSet: {family} rows must hold the last min(length, T) events on the right, 0 before"
            )

    @classmethod
    def from_events(
        cls,
        *,
        user_ids: ArrayLike,
        item_indexes: ArrayLike,
        domain_codes: ArrayLike,
        domains: Sequence[str],
        n_items: Sequence[int],
        max_length: int,
        timestamps: ArrayLike | None = None,
        window: tuple[float, float] | None = None,
        users: ArrayLike | None = None,
    ) -> SequenceSet:
        """Build from an event log: one entry per event in each array.

        Events are ordered by timestamp, ties by their order in the log; without timestamps the log's order
        is the order. window = (start, end): events at or after `end` are dropped, those from `start` on are
        flagged as evaluation targets. users: the users and their order (also those without events); by default
        the sorted ids of the log.

        Raises
        ------
        ValueError : columns of different lengths; indexes or codes that are no whole numbers; timestamps that are
            no finite numbers; whatever SequenceSet refuses.
        """
        events = ordered_events(user_ids, item_indexes, domain_codes, timestamps, window)
        known = np.unique(events["user"]) if users is None else np.asarray(users)
        position = {user: row for row, user in enumerate(known.tolist())}
        row_E = np.array([position.get(user, -1) for user in events["user"].tolist()], dtype=np.int64)
        events = {name: values[row_E >= 0] for name, values in events.items()}
        row_E = row_E[row_E >= 0]
        return cls.from_rows(
            domains=domains,
            n_items=n_items,
            user_ids=known,
            rows_E=row_E,
            items_E=events["item"],
            domains_E=events["domain"],
            targets_E=events["target"],
            max_length=max_length,
        )

    @classmethod
    def from_rows(
        cls,
        *,
        domains: Sequence[str],
        n_items: Sequence[int],
        user_ids: ArrayLike,
        rows_E: Array,
        items_E: Array,
        domains_E: Array,
        targets_E: Array,
        max_length: int,
        count_to: int | None = None,
    ) -> SequenceSet:
        """Build from events that are in time order and know their user's row.

        rows_E: row of the user in `user_ids`. items_E, domains_E: item index, domain code from 1. targets_E: to be
        predicted. count_to: lengths are counted up to it; None: all events count.
        """
        users = np.asarray(user_ids)
        cross = _right_aligned(rows_E, len(users), max_length)
        pairs, single_row_E = np.unique(rows_E * (len(domains) + 1) + domains_E, return_inverse=True)
        single = _right_aligned(single_row_E, len(pairs), max_length)
        most = np.iinfo(np.int32).max if count_to is None else count_to
        return cls(
            domains=tuple(domains),
            n_items=tuple(n_items),
            user_ids=users,
            cross_items_UT=cross.place(items_E, np.int32, 0),
            cross_domains_UT=cross.place(domains_E, np.int8, 0),
            cross_lengths_U=np.minimum(cross.lengths, most),
            cross_targets_UT=cross.place(targets_E, np.bool_, False),
            single_users_N=pairs // (len(domains) + 1),
            single_domains_N=pairs % (len(domains) + 1),
            single_items_NT=single.place(items_E, np.int32, 0),
            single_places_NT=single.place(cross.columns_in_log_order(), np.int16, -1),
            single_lengths_N=np.minimum(single.lengths, most),
        )


@dataclass(frozen=True)
class _Alignment:
    """Where each event of a log lands when every row keeps its last T events, right-aligned."""

    row_E: Array
    column_E: Array
    lengths: Array
    width: int

    def place(self, values_E: Array, kind: type, fill: int | bool) -> Array:
        table: Array = np.full((len(self.lengths), self.width), fill, dtype=kind)
        kept = self.column_E >= 0
        table[self.row_E[kept], self.column_E[kept]] = values_E[kept]
        return table

    def columns_in_log_order(self) -> Array:
        return np.maximum(self.column_E, -1)


def _right_aligned(row_E: Array, n_rows: int, width: int) -> _Alignment:
    lengths = np.bincount(row_E, minlength=n_rows)
    order = np.argsort(row_E, kind="stable")
    first_of_row = np.cumsum(lengths) - lengths
    step_E = np.empty(len(row_E), dtype=np.int64)
    step_E[order] = np.arange(len(row_E)) - first_of_row[row_E[order]]
    return _Alignment(row_E, width - lengths[row_E] + step_E, lengths, width)
