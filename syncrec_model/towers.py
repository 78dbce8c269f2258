"""Section 3: towers h^c and h^d, one per task: a feed-forward net with layer norm.

Shapes: N tokens ordered by task, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        if x_NC.device.type == "cuda" and sum(n > 0 for n in tokens_per_task) > 1:
            return self.together(x_NC, tokens_per_task)
        parts = zip(self.towers, torch.split(x_NC, list(tokens_per_task)), strict=True)
        return torch.cat([tower(x_nC) for tower, x_nC in parts if len(x_nC)])

    def together(self, x_NC: Tensor, tokens_per_task: Sequence[int]) -> Tensor:
        """Return the same from batched products over tasks, each padded to the longest: fewer launches on a GPU."""
        tasks = [task for task, n in enumerate(tokens_per_task) if n]
        towers = [cast(Tower, self.towers[task]) for task in tasks]
        longest = max(tokens_per_task)
        starts = [place * longest for place in range(len(tasks))]
        slots = [start + n for start, task in zip(starts, tasks, strict=True) for n in range(tokens_per_task[task])]
        slot_N = torch.tensor(slots).to(x_NC.device)
        x_DnC = x_NC.new_zeros(len(tasks) * longest, x_NC.shape[1]).index_copy(0, slot_N, x_NC)
        x_DnC = x_DnC.reshape(len(tasks), longest, -1)
        first, second, norm = (
            [torch.stack([getattr(part, name) for part in parts]) for name in ("weight", "bias")]
            for parts in zip(*((tower.ffn[0], tower.ffn[2], tower.norm) for tower in towers), strict=True)
        )
        inner_DnI = F.gelu(torch.baddbmm(first[1][:, None], x_DnC, first[0].mT))
        outer_DnC = torch.baddbmm(second[1][:, None], inner_DnI, second[0].mT)
        y_DnC = F.layer_norm(x_DnC + towers[0].ffn[3](outer_DnC), x_NC.shape[1:])
        y_DnC = torch.addcmul(norm[1][:, None], y_DnC, norm[0][:, None])
        return y_DnC.flatten(0, 1).index_select(0, slot_N)
