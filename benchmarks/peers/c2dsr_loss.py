"""The loss of C2DSR's trainer, computed on the steps that count alone. See c2dsr.py.

Shapes: B sequences of a batch, T steps, C channels, N steps that count, V items of one side and padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_LEARNT = 10  # it reads the newest 10 steps


def loss(trainer: Any, batch: Sequence[Tensor]) -> Tensor:
    """Return the loss of its trainer on a batch of its loader.

    Four predictions: of X and of Y, by the shared state and by the sum with the state of that domain alone, each
    over the domain's items and padding. And for both domains a discriminator, which tells the shared states of the
    other domain's steps from those of a sequence with false items there.
    """
    model = trainer.model
    model.graph_convolution()
    (shared_BT, x_BT, y_BT, place_BT, x_place_BT, y_place_BT, _, *targets, _, to_x_BT, to_y_BT, x_BM, y_BM,
     false_x_BT, false_y_BT) = batch  # fmt: skip
    to_x_BT, to_y_BT, x_learnt_BT, y_learnt_BT = (mask.bool() for mask in (to_x_BT, to_y_BT, x_BM, y_BM))
    shared_BTC, x_BTC, y_BTC = model(shared_BT, x_BT, y_BT, place_BT, x_place_BT, y_place_BT)
    both_BTC = {"x": shared_BTC + x_BTC, "y": shared_BTC + y_BTC}
    predictions = zip(
        (model.lin_X, model.lin_Y, model.lin_X, model.lin_Y),
        (shared_BTC, shared_BTC, both_BTC["x"], both_BTC["y"]),
        (shared_BTC, shared_BTC, x_BTC, y_BTC),  # what the logit of padding is made of
        targets,
        (to_x_BT, to_y_BT, x_learnt_BT, y_learnt_BT),
        strict=True,
    )
    predicted = shared_BTC.new_zeros(())
    for items, state_BTC, padding_BTC, target_BT, mask_BT in predictions:
        kept = mask_BT.clone()
        kept[:, :-_LEARNT] = False
        logits_NV = torch.cat([items(state_BTC[kept]), model.lin_PAD(padding_BTC[kept])], dim=-1)
        predicted = predicted + functional.cross_entropy(logits_NV, target_BT[kept], reduction="sum")
    predicted = predicted / (len(shared_BT) * _LEARNT)
    told = _told_apart(
        model.D_X, _mean(x_BTC, x_learnt_BT), _mean(shared_BTC, y_learnt_BT),
        _mean(model.false_forward(false_y_BT, place_BT), y_learnt_BT),
    ) + _told_apart(
        model.D_Y, _mean(y_BTC, y_learnt_BT), _mean(shared_BTC, x_learnt_BT),
        _mean(model.false_forward(false_x_BT, place_BT), x_learnt_BT),
    )  # fmt: skip
    weight = trainer.opt["lambda"]
    total: Tensor = weight * predicted + (1 - weight) * told
    return total


def _mean(x_BTC: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean of the steps of a mask, [B, C]."""
    return (x_BTC * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)


def _told_apart(discriminator: Any, own_BC: Tensor, real_BC: Tensor, false_BC: Tensor) -> Tensor:
    """Return the loss of a discriminator that should say 1 to the real and 0 to the false."""
    real_B1, false_B1 = discriminator(own_BC, real_BC), discriminator(own_BC, false_BC)
    return functional.softplus(-real_B1).mean() + functional.softplus(false_B1).mean()
