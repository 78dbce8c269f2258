"""Rows of `sequences` as arrays, and how a split cuts them: for jobs and for Spark's workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.splits import Window, micros
from syncrec_model import SequenceSet, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Histories:
    """The kept events of users, one after the other.

    user_ids: [U]. rows_E: each event's user row, ascending; items_E: item index; codes_E: domain code in the order
    of the settings, from 1; times_E: microseconds since 1970 UTC, ascending within a user.
    """

    user_ids: NDArray[Any]
    rows_E: NDArray[np.int64]
    items_E: NDArray[Any]
    codes_E: NDArray[Any]
    times_E: NDArray[Any]

    @classmethod
    def of(cls, rows: pa.Table) -> Histories:
        """From rows of `sequences`, one a user."""
        counts = pc.list_value_length(rows["items"]).to_numpy().astype(np.int64)
        items, codes, times = (pc.list_flatten(rows[name]).to_numpy() for name in ("items", "domains", "times"))
        return cls(
            user_ids=np.asarray(rows["user_id"].to_pylist(), dtype=object),
            rows_E=np.repeat(np.arange(len(counts)), counts),
            items_E=items,
            codes_E=codes.astype(np.int64),
            times_E=times,
        )

    def cut(self, window: Window, vocabulary: Vocabulary, domains: tuple[str, ...], max_length: int) -> SequenceSet:
        """One split: the last `max_length` events before the cut, as the model reads them.

        Parameters
        ----------
        window
            Events from its start on are the ones to predict, but in train and serve, which predict none.
        vocabulary
            Gives the model's domains and their sizes.
        domains
            The domains of the settings: the codes of the rows count in their order.
        max_length
            T; the lengths are counted up to T + 1, which is all that the rows can tell.
        """
        start, cut = micros(window.start), micros(window.cut)
        before_E = self.times_E < cut
        rows_E, times_E = self.rows_E[before_E], self.times_E[before_E]
        has_row_U = np.zeros(len(self.user_ids), bool)
        has_row_U[rows_E[times_E >= start]] = True
        own_E = has_row_U[rows_E]
        own_codes = [vocabulary.domains.index(d) + 1 if d in vocabulary.domains else 0 for d in domains]
        targets_E = times_E[own_E] >= start if window.split in ("valid", "test") else np.zeros(own_E.sum(), bool)
        return SequenceSet.from_rows(
            domains=vocabulary.domains,
            n_items=vocabulary.n_items,
            user_ids=self.user_ids[has_row_U],
            rows_E=(np.cumsum(has_row_U) - 1)[rows_E[own_E]],
            items_E=self.items_E[before_E][own_E],
            domains_E=np.array([0, *own_codes])[self.codes_E[before_E][own_E]],
            targets_E=targets_E,
            max_length=max_length,
            count_to=max_length + 1,
        )
