"""The logarithm of a softmax's sum over many items, without ever holding the scores of all of them.

Shapes: N targets, S items, C channels; n and s: one tile of them.

6,400 targets against 200,000 items are 5 GB of scores, and as much again for their gradient. Here a tile of scores
is made, used and dropped; the backward pass makes it anew (one matrix product more), which on a CPU is faster than
fetching it from memory: 2,560 targets x 5,000 items x 64 channels on 2 cores, 118 ms against 624 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE = {"cpu": (256, 2048), "cuda": (8192, 16384)}  # targets, items: what a core's cache holds; what fills a GPU


def log_partition(
    y_NC: Tensor, items_SC: Tensor, log_count_S: Tensor | None = None, left_out_N2: Tensor | None = None
) -> Tensor:
    """Return log sum over s of exp(y . item_s - log_count_s), [N], float32 (float64 of float64).

    log_count_S: the logQ correction, none without it. left_out_N2: per target up to two places in S that do not
    count, -1: none. A target without any item left gets -inf. log_count_S gets no gradient. Products run in
    autocast's type.
    """
    kind = y_NC.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else y_NC.dtype
    sums = torch.promote_types(y_NC.dtype, torch.float32)
    if log_count_S is not None:
        log_count_S = log_count_S.to(sums)
    with torch.autocast(kind, enabled=False):
        result = _LogPartition.apply(y_NC.to(dtype), items_SC.to(dtype), log_count_S, left_out_N2, sums)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y_NC: Tensor, items_SC: Tensor, log_count_S: Tensor | None, left_out_N2: Tensor | None, sums: Any
    ) -> Tensor:
        total_N = torch.full((len(y_NC),), -torch.inf, dtype=sums, device=y_NC.device)
        for n, s in _tiles(y_NC, items_SC):
            score_ns = _scores(y_NC, items_SC, log_count_S, left_out_N2, n, s, sums)
            total_N[n] = torch.logaddexp(total_N[n], torch.logsumexp(score_ns, 1))
        ctx.save_for_backward(y_NC, items_SC, log_count_S, left_out_N2, total_N)
        return total_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y_NC, items_SC, log_count_S, left_out_N2, total_N = ctx.saved_tensors
        gradient_N1 = gradients[0][:, None]
        total_N1 = total_N.clamp(min=torch.finfo(total_N.dtype).min)[:, None]  # -inf - -inf is no number
        pulled_NC = (gradient_N1 * y_NC).to(y_NC.dtype)
        y_grad_NC = torch.zeros_like(y_NC, dtype=total_N.dtype)
        items_grad_SC = torch.zeros_like(items_SC, dtype=total_N.dtype)
        for n, s in _tiles(y_NC, items_SC):
            score_ns = _scores(y_NC, items_SC, log_count_S, left_out_N2, n, s, total_N.dtype)
            share_ns = score_ns.sub_(total_N1[n]).exp_().to(y_NC.dtype)
            _add_product(y_grad_NC[n], share_ns, items_SC[s])
            _add_product(items_grad_SC[s], share_ns.T, pulled_NC[n])
        y_grad_NC *= gradient_N1
        return y_grad_NC.to(y_NC.dtype), items_grad_SC.to(items_SC.dtype), None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, in one pass where all have one type."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _tiles(y_NC: Tensor, items_SC: Tensor) -> Iterator[tuple[slice, slice]]:
    rows, columns = _TILE.get(y_NC.device.type, _TILE["cuda"])
    for s in range(0, len(items_SC), columns):
        for n in range(0, len(y_NC), rows):
            yield slice(n, min(n + rows, len(y_NC))), slice(s, min(s + columns, len(items_SC)))


def _scores(
    y_NC: Tensor,
    items_SC: Tensor,
    log_count_S: Tensor | None,
    left_out_N2: Tensor | None,
    n: slice,
    s: slice,
    sums: torch.dtype,
) -> Tensor:
    """Return the corrected scores of one tile, [n, s], a new tensor; -inf where an item is left out."""
    score_ns = (y_NC[n] @ items_SC[s].T).to(sums)
    if log_count_S is not None:
        score_ns -= log_count_S[s]
    if left_out_N2 is not None:
        for place_n1 in torch.split(left_out_N2[n], 1, dim=1):
            inside_n1 = (place_n1 >= s.start) & (place_n1 < s.stop)
            column_n1 = (place_n1 - s.start).clamp(0, s.stop - s.start - 1)
            score_ns.scatter_(1, column_n1, score_ns.gather(1, column_n1).masked_fill(inside_n1, -torch.inf))
    return score_ns
