"""Section 3: towers h^c and h^d, one per task: a feed-forward net with layer norm.

Shapes: N tokens ordered by task, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .dropout import Dropout


class Tower(nn.Module):
    """y = LN(x + FFN(x))."""

    def __init__(self, channels: int, ffn_multiplier: int, dropout: float) -> None:
        super().__init__()
        self.ffn = nn.Sequential(
            nn.Linear(channels, ffn_multiplier * channels),
            nn.GELU(),
            nn.Linear(ffn_multiplier * channels, channels),
            Dropout(dropout),
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return the task's view, [N, C]."""
        return self.norm(x_NC + self.ffn(x_NC))  # type: ignore[no-any-return]


class Towers(nn.Module):
    """Tower 0 belongs to the cross task, tower d to the single task of domain d."""

    def __init__(self, n_tasks: int, channels: int, ffn_multiplier: int, dropout: float) -> None:
        super().__init__()
        self.towers = nn.ModuleList(Tower(channels, ffn_multiplier, dropout) for _ in range(n_tasks))

    def forward(self, x_NC: Tensor, tokens_per_task: Sequence[int]) -> Tensor:
        """Send every token through its task's tower."""
        parts = zip(self.towers, torch.split(x_NC, list(tokens_per_task)), strict=True)
        return torch.cat([tower(x_nC) for tower, x_nC in parts if len(x_nC)])
