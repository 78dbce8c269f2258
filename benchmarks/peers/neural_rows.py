"""Training rows and case histories of the neural peers: events laid end to end, cut into rows, packed by batch.

Shapes: E events, U users, R rows, B rows of a batch, N packed tokens, M cases, D domains of one model, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.quality.data import Array, QualityData
from syncrec_model.packing import PackedSequences, pack, tensor
from syncrec_model.vocabulary import stacked_offsets


@dataclass(frozen=True)
class Catalogue:
    """The items of one model. codes: its domains, in `QualityData`'s numbers; sizes: items that it learns, per
    domain; ranked: those of them that are candidates, the first of each domain.
    """

    codes: tuple[int, ...]
    sizes: tuple[int, ...]
    ranked: tuple[int, ...]

    @classmethod
    def of(cls, data: QualityData, codes: tuple[int, ...], *, outside_items: bool) -> Catalogue:
        """Return the catalogue of some domains, with the items that only outside users have or without them."""
        known = data.n_outside_items if outside_items else data.n_items
        return cls(codes, tuple(known[code - 1] for code in codes), tuple(data.n_items[code - 1] for code in codes))

    def number(self, item_E: Array, domain_E: Array) -> tuple[Array, Array]:
        """Return the domain as 1.. of this model, 0 where the event is not of this catalogue, and the item 1..V of
        all its domains, stacked.
        """
        own_E = np.zeros(len(item_E), dtype=np.int64)
        for place, code in enumerate(self.codes, start=1):
            own_E[(domain_E == code) & (item_E <= self.sizes[place - 1])] = place
        return own_E, np.array([0, *stacked_offsets(self.sizes)])[own_E] + item_E


@dataclass(frozen=True)
class Log:
    """Events of a catalogue's domains by user and time. user_E: the benchmark's users first, then outside users;
    stacked_E: item 1..V; item_E: item 1.. inside its domain; domain_E: 1.. of the model.
    """

    user_E: Array
    stacked_E: Array
    item_E: Array
    domain_E: Array


@dataclass(frozen=True)
class Rows:
    """Rows of a log. Inputs of row r: [SOS] where sos_R, then the events first_R to end_R - 1; every input predicts
    the event after it.
    """

    log: Log
    first_R: Array
    end_R: Array
    sos_R: Array

    def __len__(self) -> int:
        return len(self.first_R)

    def packed(self, index_B: Array, n_domains: int, device: str = "cpu") -> tuple[PackedSequences, Array]:
        """Return the inputs of some rows and the place in the log of the event after every token, [N].

        device: the type of the one that will compute, for `pack`.
        """
        first_B, sos_B = self.first_R[index_B], self.sos_R[index_B]
        length_B = self.end_R[index_B] - first_B
        column_T = np.arange(max(1, length_B.max()))
        real_BT = column_T < length_B[:, None]
        items_BT = np.zeros(real_BT.shape, dtype=np.int64)
        items_BT[real_BT] = self.log.stacked_E[(first_B[:, None] + column_T)[real_BT]]
        zeros_B = np.zeros(len(index_B), dtype=np.int64)
        inputs, row_N, column_N = pack(items_BT, zeros_B, length_B, sos_B, zeros_B, n_domains, device=device)
        return inputs, first_B[row_N] + column_N + 1

    def batch(self, index_B: Array, n_domains: int, device: str = "cpu") -> tuple[PackedSequences, Tensor, Tensor]:
        """Return the inputs of some training rows, and of every token's target the item and the domain, [N]."""
        inputs, target_N = self.packed(index_B, n_domains, device)
        return inputs, tensor(self.log.item_E[target_N]), tensor(self.log.domain_E[target_N])


def training_log(data: QualityData, catalogue: Catalogue, *, outside: bool) -> Log:
    """Return the training events of the benchmark's users and, with outside, of everybody else."""
    logs = [data.train, data.outside] if outside else [data.train]
    user_E = np.concatenate([log.user_E + start for log, start in zip(logs, (0, data.n_users), strict=False)])
    item_E = np.concatenate([log.item_E for log in logs])
    domain_E, stacked_E = catalogue.number(item_E, np.concatenate([log.domain_E for log in logs]))
    own_E = domain_E > 0
    return Log(user_E[own_E], stacked_E[own_E], item_E[own_E], domain_E[own_E])


def training_rows(log: Log, n_users: int, max_length: int) -> Rows:
    """Cut the log into rows of at most max_length targets, counted from each user's newest event: none is lost.

    The first event of the benchmark's n_users is a target too, predicted from [SOS]. Outside users' is not: [SOS]
    stands for a user of the benchmark, about whom nothing else is known.
    """
    start_U = np.flatnonzero(np.diff(log.user_E, prepend=-1))
    end_U = np.append(start_U[1:], len(log.user_E))
    lowest_U = start_U + (log.user_E[start_U] >= n_users)  # first target
    rows_U = -(-(end_U - lowest_U) // max_length)
    user_R = np.repeat(np.arange(len(start_U)), rows_U)
    back_R = np.arange(len(user_R)) - (np.cumsum(rows_U) - rows_U)[user_R]
    after_R = end_U[user_R] - back_R * max_length
    low_R = np.maximum(lowest_U[user_R], after_R - max_length)
    sos_R = low_R == start_U[user_R]
    return Rows(log, low_R - ~sos_R, after_R - 1, sos_R)


def case_rows(data: QualityData, part: str, catalogue: Catalogue, max_length: int) -> tuple[Array, Rows]:
    """Return the cases of the catalogue's domains (places in the part's cases) and their histories, a row each.

    A history is the events of these domains before the case, at most the newest max_length tokens with [SOS].
    """
    cases, events = data.cases[part], data.events
    domain_E, stacked_E = catalogue.number(events.item_E, events.domain_E)
    own_E = domain_E > 0
    log = Log(events.user_E[own_E], stacked_E[own_E], events.item_E[own_E], domain_E[own_E])
    before_E = np.append(0, np.cumsum(own_E))  # events of these domains before a place
    index = np.flatnonzero(np.isin(cases.domain_M, catalogue.codes))
    start_R = before_E[data.starts_U[cases.user_M[index]]]
    end_R = before_E[cases.event_M[index]]
    return index, Rows(log, np.maximum(start_R, end_R - max_length), end_R, end_R - start_R < max_length)


def by_length(rows: Rows, size: int) -> Iterator[Array]:
    """Yield batches of similar length, every row once."""
    order_R = np.argsort(rows.end_R - rows.first_R, kind="stable")
    for start in range(0, len(order_R), size):
        yield order_R[start : start + size]
