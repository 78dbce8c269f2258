"""Packed sequences: the real steps of many rows laid end to end, and where each lies in attention's rectangles.

Shapes: R input rows, N packed tokens, S slots of the rectangles laid end to end, K experts, C channels, T steps.

Work follows events: only the N real tokens pass embedding, gates and towers. The experts work on S slots, because
attention needs rectangles: rows of similar length share one, right-padded, so that the causal mask also hides the
padding (a real step only sees the real steps before it, and what a padded slot computes is never read).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
CROSS = 0  # task code of the cross-domain sequence; the single task of domain d has code d
# Padded slots that one rectangle may add, as a share of the batch's tokens. A GPU waits for launches, not for
# arithmetic: two or three rectangles with padding beat a dozen without.
_WASTE = {"cpu": 1 / 256, "cuda": 0.5}


class OnDevice:
    """Moves every tensor of a record."""

    def to(self, device: torch.device) -> Self:
        """Return the record with its tensors on the device."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), Tensor | OnDevice)
        }
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class PackedSequences(OnDevice):
    """N tokens of R rows, rows ordered by task, each row oldest step first.

    items_N: stacked item row, 0 where the token is [SOS]. tasks_N, tasks_R: task code. rows_N: row of the token.
    columns_N: stored column of the input event ([SOS]: the column before the first event). positions_N: steps
    before the row's newest token. last_R: the row's newest token. slots_N: where the token lies in the attention
    rectangles, laid end to end; rectangles: (rows, width) of each. tokens_per_task, rows_per_task: [D + 1].
    packed_is_slots: whether slots_N is 0..N-1 and nothing is padded. waste, alone: how rows share rectangles.
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
    waste: float
    alone: bool

    def without(self, dropped_N: Tensor) -> PackedSequences:
        """Return the rows without some of their tokens; positions close up.

        A row that would lose all of them keeps one as [SOS]: nothing is known of it. A row that was cut to T steps
        stays the shorter: what lay before its oldest step is not in hand, nor does it begin with [SOS].
        """
        n_rows = len(self.last_R)
        lengths_R = torch.bincount(self.rows_N[~dropped_N], minlength=n_rows)
        empty_R = lengths_R == 0
        lengths_R = lengths_R.clamp(min=1)
        kept_N = ~dropped_N
        kept_N[self.last_R[empty_R]] = True
        items_N = self.items_N.masked_fill(dropped_N, 0)[kept_N]
        rows_N, tasks_N = self.rows_N[kept_N], self.tasks_N[kept_N]
        start_R = lengths_R.cumsum(0) - lengths_R
        step_N = torch.arange(len(rows_N), device=rows_N.device) - start_R[rows_N]
        lengths = lengths_R.cpu().numpy()
        slots_R, rectangles = _rectangles(lengths, self.waste, self.alone)
        return replace(
            self,
            items_N=items_N,
            tasks_N=tasks_N,
            rows_N=rows_N,
            columns_N=self.columns_N[kept_N],
            positions_N=lengths_R[rows_N] - 1 - step_N,
            last_R=start_R + lengths_R - 1,
            slots_N=tensor(slots_R).to(rows_N.device)[rows_N] + step_N,
            rectangles=rectangles,
            tokens_per_task=tuple(torch.bincount(tasks_N, minlength=len(self.tokens_per_task)).tolist()),
            packed_is_slots=_is_dense(slots_R, rectangles, lengths),
        )

    def into_slots(self, x_NC: Tensor) -> Tensor:
        """Lay tokens into their slots, [S, C]; slots without a token are zero."""
        if self.packed_is_slots:
            return x_NC
        n_slots = sum(rows * width for rows, width in self.rectangles)
        return x_NC.new_zeros(n_slots, x_NC.shape[1]).index_copy(0, self.slots_N, x_NC)

    def out_of_slots(self, x_KSC: Tensor) -> Tensor:
        """Take tokens out of their slots, [K, N, C]."""
        return x_KSC if self.packed_is_slots else x_KSC.index_select(1, self.slots_N)


def pack(
    items_RT: Array,
    first_R: Array,
    end_R: Array,
    sos_R: Array,
    tasks_R: Array,
    n_domains: int,
    *,
    alone: bool = False,
    device: str = "cpu",
) -> tuple[PackedSequences, Array, Array]:
    """Pack rows whose inputs are [SOS] (where sos_R) and the columns first_R to end_R - 1.

    Rows must be ordered by task and hold at least one token. alone: a row's place among padding depends on its own
    length and not on the other rows. device: the type of the one that will compute; decides how much padding is
    worth a rectangle less, and nothing else. Returns the tokens and their (row, column).
    """
    lengths_R = end_R - first_R + sos_R
    row_N = np.repeat(np.arange(len(lengths_R)), lengths_R)
    start_R = np.cumsum(lengths_R) - lengths_R
    step_N = np.arange(len(row_N)) - start_R[row_N]
    column_N = (first_R - sos_R)[row_N] + step_N
    is_sos_N = sos_R[row_N] & (step_N == 0)
    items_N = np.where(is_sos_N, 0, items_RT[row_N, np.maximum(column_N, 0)])
    waste = 0.0 if alone else _WASTE.get(device, 0.0)
    slots_R, rectangles = _rectangles(lengths_R, waste, alone)
    tasks_N = tasks_R[row_N]
    packed = PackedSequences(
        items_N=tensor(items_N),
        tasks_N=tensor(tasks_N),
        rows_N=tensor(row_N),
        columns_N=tensor(column_N),
        positions_N=tensor(lengths_R[row_N] - 1 - step_N),
        tasks_R=tensor(tasks_R),
        last_R=tensor(start_R + lengths_R - 1),
        slots_N=tensor(slots_R[row_N] + step_N),
        rectangles=rectangles,
        tokens_per_task=tuple(np.bincount(tasks_N, minlength=n_domains + 1).tolist()),
        rows_per_task=tuple(np.bincount(tasks_R, minlength=n_domains + 1).tolist()),
        packed_is_slots=_is_dense(slots_R, rectangles, lengths_R),
        waste=waste,
        alone=alone,
    )
    return packed, row_N, column_N


def _is_dense(slots_R: Array, rectangles: tuple[tuple[int, int], ...], lengths_R: Array) -> bool:
    """Return whether rows lie in their slots as they are packed, nothing between them."""
    n_slots = sum(rows * width for rows, width in rectangles)
    return bool((slots_R == np.cumsum(lengths_R) - lengths_R).all() and n_slots == lengths_R.sum())


def _rectangles(lengths_R: Array, waste: float, alone: bool) -> tuple[Array, tuple[tuple[int, int], ...]]:
    """Group rows of similar length; return where each row starts and the (rows, width) of each group.

    From the longest length down, a length joins the rectangle above it while that adds at most `waste` of all
    tokens as padding. alone: each length is rounded up by less than an eighth, to a width of its own.
    """
    order = np.argsort(-lengths_R, kind="stable")
    if alone:
        step_R = 2 ** np.maximum(np.ceil(np.log2(lengths_R)).astype(np.int64) - 3, 0)
        lengths_R = -(-lengths_R // step_R) * step_R
    widths, counts = np.unique(-lengths_R, return_counts=True)
    allowed = waste * lengths_R.sum()
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


def tensor(values: Array) -> Tensor:
    """Return the values as an int64 tensor."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
