"""Dropout at a fraction of its usual cost on the CPU, where drawing one random number an element is slow."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BYTE = 256


class Dropout(nn.Module):
    """Zero each element with probability p and scale the others to keep the mean, in training only.

    On the CPU one random byte decides an element, so p acts in steps of 1/256 (0.2 as 51/256); the scale is
    exact for the p that acts. Draws come from torch's generator. Elsewhere this is torch's dropout.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return x with elements dropped, of the same shape."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p, True)
        return x * self.keep(x)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual + dropout(x)."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return residual + self.forward(x)
        return torch.addcmul(residual, x, self.keep(x))

    def keep(self, x: Tensor) -> Tensor:
        """Draw what multiplies x: 0 or 1 / (1 - p)."""
        dropped = round(self.p * _BYTE)
        n_words = -(-x.numel() // 8)
        words = torch.empty(n_words, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        drawn = words.view(torch.uint8)[: x.numel()].view(x.shape)
        kept = torch.ge(drawn, dropped, out=torch.empty_like(x))  # 0 or 1 in x's own type: no pass to convert
        return kept.mul_(_BYTE / (_BYTE - dropped))

    def extra_repr(self) -> str:
        """Return p for the printed model."""
        return f"p={self.p}"
