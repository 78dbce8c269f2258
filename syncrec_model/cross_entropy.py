"""The cross-entropy of each target among all items, with scores that are made once and passed over seldom.

Shapes: N targets, n of them in one tile, S items, C channels.

What a step of the default preset spends most on. torch's own cross-entropy reads and writes the scores [N, S] five
times and gives the item table two gradients as large as itself; log_partition (partition.py) makes scores twice so
that they never leave the cache. Up to a few million scores this is in between: exponentials are taken in place,
kept, and are all that the backward pass needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_KEPT = 4_000_000  # scores; more would leave every cache before the backward pass
_TILE = 400_000  # scores that one core's cache holds


def can_keep(y_NC: Tensor, n_items: int) -> bool:
    """Whether the scores are few enough to be kept for the backward pass, in the type they are made in."""
    return len(y_NC) * n_items <= _KEPT and not torch.is_autocast_enabled(y_NC.device.type)


def cross_entropy(y_NC: Tensor, items_SC: Tensor, target_N: Tensor) -> Tensor:
    """Return -log softmax(y . items)[target] of every row, [N]. target_N: places in S, from 0."""
    loss_N = _CrossEntropy.apply(y_NC, items_SC, target_N)  # type: ignore[no-untyped-call]
    assert isinstance(loss_N, Tensor)
    return loss_N


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_NC: Tensor, items_SC: Tensor, target_N: Tensor) -> Tensor:
        weight_NS = y_NC.new_empty(len(y_NC), len(items_SC))  # exp(score - highest of the row)
        loss_N, sum_N = y_NC.new_empty(len(y_NC)), y_NC.new_empty(len(y_NC))
        rows = max(1, _TILE // len(items_SC)) if y_NC.device.type == "cpu" else max(1, len(y_NC))
        for start in range(0, len(y_NC), rows):
            n = slice(start, start + rows)
            weight_nS = torch.mm(y_NC[n], items_SC.T, out=weight_NS[n])
            highest_n1 = weight_nS.amax(1, keepdim=True)
            weight_nS.sub_(highest_n1)
            target_n = weight_nS.gather(1, target_N[n, None]).squeeze(1)
            torch.sum(weight_nS.exp_(), 1, out=sum_N[n])
            torch.sub(sum_N[n].log(), target_n, out=loss_N[n])
        ctx.save_for_backward(y_NC, items_SC, target_N, weight_NS, sum_N)
        return loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        y_NC, items_SC, target_N, weight_NS, sum_N = ctx.saved_tensors
        gradient_N1 = gradients[0][:, None]
        share_N1 = gradient_N1 / sum_N[:, None]
        y_grad_NC = (weight_NS @ items_SC).mul_(share_N1)
        y_grad_NC.addcmul_(items_SC.index_select(0, target_N), gradient_N1, value=-1)
        items_grad_SC = weight_NS.T @ (share_N1 * y_NC)
        items_grad_SC.index_add_(0, target_N, gradient_N1 * y_NC, alpha=-1)
        return y_grad_NC, items_grad_SC, None
