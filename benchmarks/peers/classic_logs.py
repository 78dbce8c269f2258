"""What the classic systems of the quality benchmark learn from and score with: logs of items, weighted histories.

Shapes: E events, m cases, V items that are ranked: those of one domain, or of all domains, stacked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from benchmarks.quality.data import TRAIN, VALID, Array, Events, QualityData
from syncrec_model.vocabulary import stacked_offsets


@dataclass(frozen=True, eq=False)
class Log:
    """Who had which item. item_E: 1..n_items; histories and candidates hold the items 1..n_ranked alone."""

    user_E: Array
    item_E: Array
    n_items: int
    n_ranked: int

    @property
    def counts_V(self) -> Array:
        """Return the events of each ranked item."""
        return np.bincount(self.item_E, minlength=self.n_items + 1)[1 : self.n_ranked + 1].astype(np.float32)

    def without_rare(self, least: int) -> Log:
        """Drop items that are not ranked and have fewer events than `least`; the numbers stay."""
        kept_E = (self.item_E <= self.n_ranked) | (np.bincount(self.item_E)[self.item_E] >= least)
        return Log(self.user_E[kept_E], self.item_E[kept_E], self.n_items, self.n_ranked)


def domain_log(data: QualityData, code: int, *, outside: bool) -> Log:
    """Return the training events of one domain. outside: with those of everybody outside the benchmark."""
    logs, n_items = [data.train], data.n_items[code - 1]
    if outside:
        logs.append(known_outside(data))
        n_items = data.n_outside_items[code - 1]
    own = [events.take(events.domain_E == code) for events in logs]
    users = [events.user_E + number * data.n_users for number, events in enumerate(own)]
    items = np.concatenate([events.item_E for events in own])
    return Log(np.concatenate(users), items, n_items, data.n_items[code - 1])


def mixed_log(data: QualityData, *, outside: bool = False) -> Log:
    """Return the training events of all domains, their items stacked.

    outside: with those of everybody outside the benchmark, of its items and of its domains.
    """
    logs, n_items = [data.train], sum(data.n_items)
    if outside:
        others = known_outside(data)
        logs.append(others.take(others.item_E <= np.array(data.n_items)[others.domain_E - 1]))
    users = [events.user_E + number * data.n_users for number, events in enumerate(logs)]
    items = [offsets_D(data)[events.domain_E - 1] + events.item_E for events in logs]
    return Log(np.concatenate(users), np.concatenate(items), n_items, n_items)


def offsets_D(data: QualityData) -> Array:
    """Return how many stacked items lie before each domain's."""
    return np.array(stacked_offsets(data.n_items))


def known_outside(data: QualityData) -> Events:
    """Return the events of everybody else; under a split by time only those before the first validation event.

    By user, parts overlap in time and nothing of the others is ever predicted: all of their events are there.
    """
    events_ts, part_E = data.events.ts_E, data.part_E
    valid_from = events_ts[part_E == VALID].min()
    if events_ts[part_E == TRAIN].max() >= valid_from:
        return data.outside
    return data.outside.take(data.outside.ts_E < valid_from)


def histories(data: QualityData, part: str, index: Array, *, code: int | None, decay: float) -> sparse.csr_matrix:
    """Return [m, V]: the events before each case, the last one weighs 1, each earlier one `decay` times the next.

    code: events of this domain alone, items 1..V of it; None: of all domains, stacked. Repeats add up.
    """
    cases, log = data.cases[part], data.events
    first_m = data.starts_U[cases.user_M[index]]
    length_m = cases.event_M[index] - first_m
    row_E = np.repeat(np.arange(len(index)), length_m)
    event_E = np.arange(length_m.sum()) - np.repeat(np.cumsum(length_m) - length_m - first_m, length_m)
    item_E = log.item_E[event_E] - 1
    if code is None:
        item_E = item_E + offsets_D(data)[log.domain_E[event_E] - 1]
    else:
        own_E = log.domain_E[event_E] == code
        row_E, item_E = row_E[own_E], item_E[own_E]
    end_m = np.cumsum(np.bincount(row_E, minlength=len(index)))
    age_E = end_m[row_E] - 1 - np.arange(len(row_E))
    n_items = sum(data.n_items) if code is None else data.n_items[code - 1]
    weight_E = (decay**age_E).astype(np.float32)
    return sparse.csr_matrix((weight_E, (row_E, item_E)), shape=(len(index), n_items))


def sampled_items(data: QualityData, part: str, index: Array) -> Array:
    """Return [m, 1 + S] stacked items, 0 the first: the target, then the negatives of all domains."""
    cases = data.cases[part]
    target_m = offsets_D(data)[cases.domain_M[index] - 1] + cases.target_M[index]
    return np.concatenate([target_m[:, None], cases.negatives_MS[index]], axis=1) - 1
