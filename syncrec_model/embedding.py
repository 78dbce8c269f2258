"""Section 2: the shared embedding. Shapes: N packed tokens, T steps, C channels, V items, D domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dropout import Dropout
from .packing import PackedSequences

# Small scores at the start: on 1,928 users of A5, 8 epochs, blend NDCG@10 .015 against .006 at C ** -0.5.
_START_SCALE = 0.02


@dataclass(frozen=True)
class DomainTable:
    """M^d: n_items rows of the table M from row `start` on. row_gradients: only the rows taken get a gradient.

    own_VC: these rows as a part of one split of M, whose gradients make one pass over M and not one each.
    """

    items_VC: Tensor
    start: int
    n_items: int
    row_gradients: bool = False
    own_VC: Tensor | None = None

    def take(self, index_N: Tensor) -> Tensor:
        """Return the rows of items given by their 1-based index inside the domain, [N, C]."""
        return F.embedding(index_N + (self.start - 1), self.items_VC, sparse=self.row_gradients)

    def all(self) -> Tensor:
        """Return the rows of all items, [V_d, C]."""
        if self.own_VC is not None:
            return self.own_VC
        if not self.row_gradients:
            return self.items_VC.narrow(0, self.start, self.n_items)
        return self.take(torch.arange(1, self.n_items + 1, device=self.items_VC.device))


class SharedEmbedding(nn.Module):
    """E = M[X] + P, with one table M for all tasks, as input and as output.

    row_gradients: whether M's gradient is sparse, the rows that a batch names: for catalogues so large that a step
    touches few of them (optimizer.py).
    """

    def __init__(self, n_items: Sequence[int], max_length: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.row_gradients = False
        self.table_sizes = (1, *n_items)  # row 0 is padding
        self.items_VC = nn.Parameter(torch.randn(sum(self.table_sizes), channels) * _START_SCALE)
        self.positions_TC = nn.Parameter(torch.randn(max_length, channels) * _START_SCALE)  # row 0: the newest step
        self.sos_DC = nn.Parameter(torch.randn(len(n_items) + 1, channels) * _START_SCALE)  # one per task
        self.dropout = Dropout(dropout)
        with torch.no_grad():
            self.items_VC[0] = 0

    def forward(self, packed: PackedSequences) -> Tensor:
        """Return E, [N, C]."""
        is_sos_N1 = (packed.items_N == 0).unsqueeze(1)
        items_NC = F.embedding(packed.items_N, self.items_VC, padding_idx=0, sparse=self.row_gradients)
        first_NC = torch.where(is_sos_N1, F.embedding(packed.tasks_N, self.sos_DC), items_NC)
        return self.dropout(first_NC + F.embedding(packed.positions_N, self.positions_TC))  # type: ignore[no-any-return]

    def tables(self) -> tuple[Tensor, ...]:
        """Return M^d for every domain, [V_d, C]."""
        return torch.split(self.items_VC, list(self.table_sizes))[1:]

    def domain_tables(self) -> tuple[DomainTable, ...]:
        """Return M^d for every domain as something to take rows of: what the losses read."""
        starts = [sum(self.table_sizes[:code]) for code in range(1, len(self.table_sizes))]
        tables = [None] * len(starts) if self.row_gradients else self.tables()
        return tuple(
            DomainTable(self.items_VC, start, size, self.row_gradients, own_VC)
            for start, size, own_VC in zip(starts, self.table_sizes[1:], tables, strict=True)
        )
