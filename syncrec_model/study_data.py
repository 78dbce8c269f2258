"""The study kit's data: an ordered log, what is learned from it and the cases, as sequences and as plain events.

Shapes: E events, M cases, m cases of one domain, V items of one domain, S seen items, U users, D domains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import SequenceSet
from .vocabulary import Vocabulary

Array = NDArray[Any]
TRAIN, VALID, TEST = 0, 1, 2
PARTS = {"valid": VALID, "test": TEST}
_MOST_EVENTS = 1_000  # of a case's history that are kept; the model reads its last max_length


@dataclass(frozen=True, eq=False)
class StudyData:
    """A log ordered by user and time, and which of its events are cases.

    user_E: place in `users`; domain_E: code 1..D; item_E: 1.. inside its domain; part_E: TRAIN, VALID or TEST, and
    is_case_E whether the event is to be predicted. repeats: domains in which items of the history stay candidates.
    facts and notes: what was read, in figures and in sentences.
    """

    path: Path
    vocabulary: Vocabulary
    users: list[str]
    user_E: Array
    item_E: Array
    domain_E: Array
    ts_E: Array
    part_E: Array
    is_case_E: Array
    split: str
    repeats: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains; code 1 is the first."""
        return self.vocabulary.domains

    def title(self) -> str:
        """Return what was read, in a line."""
        facts = self.facts
        return (
            f"{facts['log']}: {facts['users']:,} users, {facts['events']:,} events, {facts['first']} to "
            f"{facts['last']}; {'split by time' if self.split == 'time' else self.split}"
        )

    @cached_property
    def starts_U(self) -> Array:
        """The place of each user's first event."""
        return np.searchsorted(self.user_E, np.arange(len(self.users)))

    def cases(self, part: str = "test") -> Array:
        """Return the places of the events to be predicted, ordered by domain, then by user and time, [M]."""
        event_M = np.flatnonzero(self.is_case_E & (self.part_E == PARTS[part]))
        return event_M[np.argsort(self.domain_E[event_M], kind="stable")]

    def train_sequences(self, max_length: int) -> SequenceSet:
        """Return what a model learns from: a row a user."""
        learned_E = self.part_E == TRAIN
        return SequenceSet.from_rows(
            domains=self.domains, n_items=self.vocabulary.n_items, user_ids=np.arange(len(self.users)),
            rows_E=self.user_E[learned_E], items_E=self.item_E[learned_E], domains_E=self.domain_E[learned_E],
            targets_E=np.zeros(learned_E.sum(), dtype=bool), max_length=max_length,
        )  # fmt: skip

    def case_sequences(self, part: str, max_length: int) -> SequenceSet:
        """Return a row a case, in the order of `cases`: its history and, flagged, its target."""
        event_M = self.cases(part)
        row_E, event_E = self._before(event_M, max(_MOST_EVENTS, max_length + 1), and_target=True)
        return SequenceSet.from_rows(
            domains=self.domains, n_items=self.vocabulary.n_items, user_ids=np.arange(len(event_M)),
            rows_E=row_E, items_E=self.item_E[event_E], domains_E=self.domain_E[event_E],
            targets_E=event_E == event_M[row_E], max_length=max_length,
        )  # fmt: skip

    def history(self, event: int) -> list[tuple[str, str, Any]]:
        """Return what a user did before an event, oldest first: (item, domain, ts)."""
        before = np.arange(self.starts_U[self.user_E[event]], event)
        return list(zip(*self._named(before), strict=True))

    def train_events(self) -> dict[str, list[Any]]:
        """Return the events to learn from as columns user, item, domain, ts: for a model of your own."""
        learned = np.flatnonzero(self.part_E == TRAIN)
        item, domain, ts = self._named(learned)
        return {
            "user": [self.users[user] for user in self.user_E[learned]],
            "item": item,
            "domain": domain,
            "ts": ts,
        }

    def _named(self, events: Array) -> tuple[list[str], list[str], list[Any]]:
        codes, items = self.domain_E[events].tolist(), self.item_E[events].tolist()
        ids = [self.vocabulary.item_ids[code - 1][item - 1] for code, item in zip(codes, items, strict=True)]
        return ids, [self.domains[code - 1] for code in codes], self.ts_E[events].tolist()

    def popularity(self) -> list[Array]:
        """Return per domain how often each item occurs in the events to learn from, [V]."""
        learned_E = self.part_E == TRAIN
        return [
            np.bincount(self.item_E[learned_E & (self.domain_E == code)], minlength=n_items + 1)[1:]
            for code, n_items in enumerate(self.vocabulary.n_items, start=1)
        ]

    def learned(self, event_M: Array) -> Array:
        """Return whether the item of each event occurs in the events to learn from, [M]."""
        known_M = np.zeros(len(event_M), dtype=bool)
        for code, counts_V in enumerate(self.popularity(), start=1):
            own_M = self.domain_E[event_M] == code
            known_M[own_M] = counts_V[self.item_E[event_M[own_M]] - 1] > 0
        return known_M

    def seen_again(self, event_M: Array) -> Array:
        """Return whether the user had the item of each event before it, [M]."""
        row_S, item_S = self.seen(event_M)
        again_M = np.zeros(len(event_M), dtype=bool)
        again_M[row_S[item_S == self.item_E[event_M[row_S]]]] = True
        return again_M

    def seen(self, event_M: Array) -> tuple[Array, Array]:
        """Return (row of event_M, item) of what each event's user had before it in the event's domain, [S]."""
        row_E, event_E = self._before(event_M, len(self.user_E), and_target=False)
        own_E = self.domain_E[event_E] == self.domain_E[event_M[row_E]]
        return row_E[own_E], self.item_E[event_E[own_E]]

    def _before(self, event_M: Array, most: int, *, and_target: bool) -> tuple[Array, Array]:
        """Return (row of event_M, event) of at most so many events before each, oldest first."""
        first_M = np.maximum(self.starts_U[self.user_E[event_M]], event_M - most)
        length_M = event_M - first_M + and_target
        row_E = np.repeat(np.arange(len(event_M)), length_M)
        return row_E, np.arange(length_M.sum()) - np.repeat(np.cumsum(length_M) - length_M - first_M, length_M)

    def fingerprint(self) -> str:
        """Return a short mark of everything that decides about results."""
        found = hashlib.blake2b(f"{self.split} {self.repeats}".encode(), digest_size=8)
        for ids in (self.users, self.domains, *self.vocabulary.item_ids):
            found.update("\n".join(ids).encode() + b"\0")
        for values in (self.user_E, self.item_E, self.domain_E, self.part_E, self.is_case_E):
            found.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
        return found.hexdigest()
