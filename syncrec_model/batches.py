"""Section 1: from stored rows to what the model reads: packed tokens without padding, and their targets.

Shapes: R input rows, N packed tokens, T steps, U users of the set, B users of the batch, D domains,
M cases, P places of targets; in the attention rectangles K experts, S slots, C channels.

Work follows events: only the N real tokens pass the experts. Attention alone needs rectangles; there rows of
similar length share one, right-padded, so that the causal mask also hides the padding (a real step only sees the
real steps before it, and what a padded step computes is never read).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data import SequenceSet
from .vocabulary import stacked_offsets

Array = NDArray[Any]
CROSS = 0  # task code of the cross-domain sequence; the single task of domain d has code d
_WASTE = 1 / 256  # padded slots that one rectangle may add, as a share of the batch's tokens


class _OnDevice:
    """Moves every tensor of a record."""

    def to(self, device: torch.device) -> Self:
        """Return the record with its tensors on the device."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), Tensor | _OnDevice)
        }
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class PackedSequences(_OnDevice):
    """N tokens of R rows, rows ordered by task, each row oldest step first.

    items_N: stacked item row, 0 where the token is [SOS]. tasks_N, tasks_R: task code. rows_N: row of the token.
    columns_N: stored column of the input event ([SOS]: the column before the first event). positions_N: steps
    before the row's newest token. last_R: the row's newest token. slots_N: where the token lies in the attention
    rectangles, laid end to end; rectangles: (rows, width) of each. tokens_per_task, rows_per_task: [D + 1].
    packed_is_slots: whether slots_N is 0..N-1 and nothing is padded.
    """

    items_N: Tensor
    tasks_N: Tensor
    rows_N: Tensor
    columns_N: Tensor
    positions_N: Tensor
    tasks_R: Tensor
    last_R: Tensor
    slots_N: Tensor
    rectangles: tuple[tuple[int, int], ...]
    tokens_per_task: tuple[int, ...]
    rows_per_task: tuple[int, ...]
    packed_is_slots: bool

    def into_slots(self, x_NC: Tensor) -> Tensor:
        """Lay tokens into their slots, [S, C]; slots without a token are zero."""
        if self.packed_is_slots:
            return x_NC
        n_slots = sum(rows * width for rows, width in self.rectangles)
        return x_NC.new_zeros(n_slots, x_NC.shape[1]).index_copy(0, self.slots_N, x_NC)

    def out_of_slots(self, x_KSC: Tensor) -> Tensor:
        """Take tokens out of their slots, [K, N, C]."""
        return x_KSC if self.packed_is_slots else x_KSC.index_select(1, self.slots_N)


@dataclass(frozen=True)
class TrainingBatch(_OnDevice):
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


def pack(
    items_RT: Array, first_R: Array, end_R: Array, sos_R: Array, tasks_R: Array, n_domains: int
) -> tuple[PackedSequences, Array, Array]:
    """Pack rows whose inputs are [SOS] (where sos_R) and the columns first_R to end_R - 1.

    Rows must be ordered by task and hold at least one token. Returns the tokens and their (row, column).
    """
    lengths_R = end_R - first_R + sos_R
    row_N = np.repeat(np.arange(len(lengths_R)), lengths_R)
    start_R = np.cumsum(lengths_R) - lengths_R
    step_N = np.arange(len(row_N)) - start_R[row_N]
    column_N = (first_R - sos_R)[row_N] + step_N
    is_sos_N = sos_R[row_N] & (step_N == 0)
    items_N = np.where(is_sos_N, 0, items_RT[row_N, np.maximum(column_N, 0)])
    slots_R, rectangles = _rectangles(lengths_R)
    tasks_N = tasks_R[row_N]
    packed = PackedSequences(
        items_N=_tensor(items_N),
        tasks_N=_tensor(tasks_N),
        rows_N=_tensor(row_N),
        columns_N=_tensor(column_N),
        positions_N=_tensor(lengths_R[row_N] - 1 - step_N),
        tasks_R=_tensor(tasks_R),
        last_R=_tensor(start_R + lengths_R - 1),
        slots_N=_tensor(slots_R[row_N] + step_N),
        rectangles=rectangles,
        tokens_per_task=tuple(np.bincount(tasks_N, minlength=n_domains + 1).tolist()),
        rows_per_task=tuple(np.bincount(tasks_R, minlength=n_domains + 1).tolist()),
        packed_is_slots=bool((slots_R == start_R).all()) and sum(r * w for r, w in rectangles) == len(row_N),
    )
    return packed, row_N, column_N


def _rectangles(lengths_R: Array) -> tuple[Array, tuple[tuple[int, int], ...]]:
    """Group rows of similar length; return where each row starts and the (rows, width) of each group.

    From the longest length down, a length joins the rectangle above it while that adds little padding.
    """
    order = np.argsort(-lengths_R, kind="stable")
    widths, counts = np.unique(-lengths_R, return_counts=True)
    allowed = _WASTE * lengths_R.sum()
    rectangles: list[tuple[int, int]] = []
    wasted = 0.0
    for length, count in zip((-widths).tolist(), counts.tolist(), strict=True):
        if rectangles:
            rows, width = rectangles[-1]
            wasted += count * (width - length)
            if wasted <= allowed:
                rectangles[-1] = (rows + count, width)
                continue
        rectangles.append((count, length))
        wasted = 0.0
    row_widths = np.repeat([width for _, width in rectangles], [rows for rows, _ in rectangles])
    slots_R = np.empty(len(lengths_R), dtype=np.int64)
    slots_R[order] = np.cumsum(row_widths) - row_widths
    return slots_R, tuple(rectangles)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))


class SequenceReader:
    """Cuts training, serving and evaluation batches out of a SequenceSet."""

    def __init__(self, data: SequenceSet) -> None:
        self.data = data
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
            items, first, end, lengths <= self.width, np.zeros(len(users), dtype=np.int64), self.n_domains
        )
        cross_token_BT = np.full((len(users), self.width + 1), -1, dtype=np.int64)  # by the column it predicts
        cross_token_BT[user_N, column_N + 1] = np.arange(len(user_N))

        rows_DB = self.single_rows_UD[users].T
        kind_R, batch_user_R = np.nonzero(rows_DB >= 0)
        row_R, task_R = rows_DB[kind_R, batch_user_R], kind_R + 1
        s_items, s_first, s_lengths = self._single_rows(row_R, task_R)
        s_end = np.full(len(row_R), self.width - 1)
        single, row_N, s_column_N = pack(s_items, s_first, s_end, s_lengths <= self.width, task_R, self.n_domains)

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
            cross_targets_N=_tensor(data.cross_items_UT[users[user_N], column_N + 1]),
            cross_domains_N=_tensor(data.cross_domains_UT[users[user_N], column_N + 1]),
            single_targets_N=_tensor(data.single_items_NT[row_R[row_N], s_column_N + 1]),
            single_domains_N=single.tasks_N,
            shared_N=_tensor(shared_N),
            views_N=_tensor(views_N),
            cross_users_R=_tensor(users),
            single_users_R=_tensor(users[batch_user_R]),
            n_users=len(users),
        )

    def serving_cross(self, users: Array) -> PackedSequences:
        """One row per user: all stored events."""
        items, first, lengths = self._cross_rows(users)
        end = np.full(len(users), self.width)
        return pack(items, first, end, lengths < self.width, np.zeros(len(users), np.int64), self.n_domains)[0]

    def serving_single(self, users: Array) -> PackedSequences:
        """D * B rows, domain by domain; [SOS_d] alone where the user has no events in d."""
        rows = self.single_rows_UD[users].T.reshape(-1)
        tasks = np.repeat(np.arange(1, self.n_domains + 1), len(users))
        items, first, lengths = self._single_rows(rows, tasks)
        return pack(items, first, np.full(len(rows), self.width), lengths < self.width, tasks, self.n_domains)[0]

    def case_cross(self, cases: Cases) -> PackedSequences:
        """One row per case: the stored events strictly before the target."""
        items, first, lengths = self._cross_rows(cases.user_M)
        sos = (lengths <= self.width) | (cases.column_M <= first)
        tasks = np.zeros(len(cases), dtype=np.int64)
        return pack(items, first, cases.column_M, sos, tasks, self.n_domains)[0]

    def case_single(self, cases: Cases) -> PackedSequences:
        """One row per case (cases ordered by domain): that domain's stored events strictly before the target."""
        items, first, lengths = self._single_rows(cases.single_row_M, cases.domain_M)
        sos = (lengths <= self.width) | (cases.single_column_M <= first)
        return pack(items, first, cases.single_column_M, sos, cases.domain_M, self.n_domains)[0]

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
