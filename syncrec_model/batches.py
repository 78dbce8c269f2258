"""Section 1: from stored rows to what the model reads: packed sequences and a target for every token.

Shapes: R input rows, N packed tokens, T steps, U users of the set, B users of the batch, D domains,
M cases, P places of targets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .data import SequenceSet
from .packing import OnDevice, PackedSequences, pack, tensor
from .vocabulary import stacked_offsets

Array = NDArray[Any]


@dataclass(frozen=True)
class TrainingBatch(OnDevice):
    """One batch of users: both families of inputs with a target for every token.

    cross_targets_N, single_targets_N: item index inside its domain; cross_domains_N, single_domains_N: that
    domain. shared_N: per single token, the cross token that predicts the SAME event, -1 where none does.
    views_N: per single token, the cross token that reads the same event, -1 where none does or it is [SOS].
    cross_users_R, single_users_R: the row's user, as a row of the set. seed: int64 without dimensions, decides what
    is drawn for the batch (negatives); None takes the global generator.
    """

    cross: PackedSequences
    single: PackedSequences
    cross_targets_N: Tensor
    cross_domains_N: Tensor
    single_targets_N: Tensor
    single_domains_N: Tensor
    shared_N: Tensor
    views_N: Tensor
    cross_users_R: Tensor
    single_users_R: Tensor
    n_users: int
    seed: Tensor | None = None


@dataclass(frozen=True)
class Cases:
    """Evaluation cases [M]: predict the event at `column` of the user's cross row from what lies before it."""

    user_M: Array
    domain_M: Array
    target_M: Array
    column_M: Array
    single_row_M: Array
    single_column_M: Array

    def __len__(self) -> int:
        return len(self.user_M)

    def take(self, index: Array | slice) -> Cases:
        """Return some of the cases."""
        return Cases(*(getattr(self, field.name)[index] for field in fields(self)))


class SequenceReader:
    """Cuts training, serving and evaluation batches out of a SequenceSet.

    device: the type of the one that will compute with them ("cpu", "cuda"), for `pack`.
    """

    def __init__(self, data: SequenceSet, device: str = "cpu") -> None:
        self.data, self.device = data, device
        self.n_domains = len(data.domains)
        self.width = data.max_length
        self.offsets = np.array([0, *stacked_offsets(data.n_items)])

    @cached_property
    def single_rows_UD(self) -> Array:
        """Row of each user's single-domain sequence, -1 where there is none."""
        return self.data.single_rows_UD()

    def _cross_rows(self, users: Array) -> tuple[Array, Array, Array]:
        """Return stacked items [B, T], the column of the first stored event [B] and the true length [B]."""
        items = self.data.cross_items_UT[users] + self.offsets[self.data.cross_domains_UT[users]]
        lengths = self.data.cross_lengths_U[users].astype(np.int64)
        return items, self.width - np.minimum(lengths, self.width), lengths

    def _single_rows(self, rows: Array, domains: Array) -> tuple[Array, Array, Array]:
        """As _cross_rows, for single rows; row -1 means no events."""
        exists = rows >= 0
        items, lengths = (
            np.zeros((len(rows), self.width), dtype=np.int64),
            np.zeros(len(rows), dtype=np.int64),
        )
        stored = self.data.single_items_NT[rows[exists]]
        items[exists] = stored + np.where(stored > 0, self.offsets[domains[exists]][:, None], 0)
        lengths[exists] = self.data.single_lengths_N[rows[exists]]
        return items, self.width - np.minimum(lengths, self.width), lengths

    def training(self, users: Array) -> TrainingBatch:
        """Inputs are all events but the newest, targets all that have an input before them."""
        data = self.data
        users = users[data.cross_lengths_U[users] > 0]
        items, first, lengths = self._cross_rows(users)
        end = np.full(len(users), self.width - 1)
        cross, user_N, column_N = pack(
            items, first, end, lengths <= self.width, np.zeros(len(users), dtype=np.int64), self.n_domains,
            device=self.device,
        )  # fmt: skip
        cross_token_BT = np.full((len(users), self.width + 1), -1, dtype=np.int64)  # by the column it predicts
        cross_token_BT[user_N, column_N + 1] = np.arange(len(user_N))

        rows_DB = self.single_rows_UD[users].T
        kind_R, batch_user_R = np.nonzero(rows_DB >= 0)
        row_R, task_R = rows_DB[kind_R, batch_user_R], kind_R + 1
        s_items, s_first, s_lengths = self._single_rows(row_R, task_R)
        s_end = np.full(len(row_R), self.width - 1)
        single, row_N, s_column_N = pack(
            s_items, s_first, s_end, s_lengths <= self.width, task_R, self.n_domains, device=self.device
        )

        places_RT = data.single_places_NT[row_R].astype(np.int64)
        places_RT = np.where(np.arange(self.width) >= s_first[:, None], places_RT, -1)
        target_place_N = places_RT[row_N, s_column_N + 1]
        input_place_N = np.where(s_column_N >= s_first[row_N], places_RT[row_N, np.maximum(s_column_N, 0)], -1)
        owner_N = batch_user_R[row_N]
        shared_N = np.where(target_place_N >= 0, cross_token_BT[owner_N, np.maximum(target_place_N, 0)], -1)
        views_N = np.where(input_place_N >= 0, cross_token_BT[owner_N, np.maximum(input_place_N, 0) + 1], -1)
        return TrainingBatch(
            cross=cross,
            single=single,
            cross_targets_N=tensor(data.cross_items_UT[users[user_N], column_N + 1]),
            cross_domains_N=tensor(data.cross_domains_UT[users[user_N], column_N + 1]),
            single_targets_N=tensor(data.single_items_NT[row_R[row_N], s_column_N + 1]),
            single_domains_N=single.tasks_N,
            shared_N=tensor(shared_N),
            views_N=tensor(views_N),
            cross_users_R=tensor(users),
            single_users_R=tensor(users[batch_user_R]),
            n_users=len(users),
        )

    def serving_cross(self, users: Array) -> PackedSequences:
        """One row per user: all stored events."""
        items, first, lengths = self._cross_rows(users)
        end = np.full(len(users), self.width)
        tasks = np.zeros(len(users), np.int64)
        return pack(items, first, end, lengths < self.width, tasks, self.n_domains, alone=True)[0]

    def serving_single(self, users: Array) -> PackedSequences:
        """D * B rows, domain by domain; [SOS_d] alone where the user has no events in d."""
        rows = self.single_rows_UD[users].T.reshape(-1)
        tasks = np.repeat(np.arange(1, self.n_domains + 1), len(users))
        items, first, lengths = self._single_rows(rows, tasks)
        end = np.full(len(rows), self.width)
        return pack(items, first, end, lengths < self.width, tasks, self.n_domains, alone=True)[0]

    def case_cross(self, cases: Cases) -> PackedSequences:
        """One row per case: the stored events strictly before the target."""
        items, first, lengths = self._cross_rows(cases.user_M)
        sos = (lengths <= self.width) | (cases.column_M <= first)
        tasks = np.zeros(len(cases), dtype=np.int64)
        return pack(items, first, cases.column_M, sos, tasks, self.n_domains, device=self.device)[0]

    def case_single(self, cases: Cases) -> PackedSequences:
        """One row per case (cases ordered by domain): that domain's stored events strictly before the target."""
        items, first, lengths = self._single_rows(cases.single_row_M, cases.domain_M)
        sos = (lengths <= self.width) | (cases.single_column_M <= first)
        end = cases.single_column_M
        return pack(items, first, end, sos, cases.domain_M, self.n_domains, device=self.device)[0]

    def cases(self) -> Cases:
        """Every flagged event is one case, ordered by domain, then by user and time."""
        data = self.data
        single_column_UT = np.full(data.cross_items_UT.shape, -1, dtype=np.int64)
        row_P, column_P = np.nonzero(data.single_places_NT >= 0)
        single_column_UT[data.single_users_N[row_P], data.single_places_NT[row_P, column_P]] = column_P
        user, column = np.nonzero(data.cross_targets_UT)
        domain = data.cross_domains_UT[user, column].astype(np.int64)
        if np.any(domain == 0):
            raise ValueError("SequenceSet.cross_targets_UT: a padded step is flagged as target")
        found = Cases(
            user_M=user,
            domain_M=domain,
            target_M=data.cross_items_UT[user, column].astype(np.int64),
            column_M=column,
            single_row_M=self.single_rows_UD[user, domain - 1],
            single_column_M=single_column_UT[user, column],
        )
        if np.any(found.single_row_M < 0) or np.any(found.single_column_M < 0):
            raise ValueError("SequenceSet: a target of the cross rows is missing in its user's single row (places)")
        return found.take(np.argsort(domain, kind="stable"))
