"""Item neighbours: scores of a history's near items, counted in training, for the blend of section 7.

Shapes: V items of all domains (stacked, row 0 is padding), D domains, P kept pairs, m rows, N tokens, V_d items
of one domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .cooccurrence import Cooccurrence

KEPT = 100  # neighbours of an item in one domain
DECAY = 0.8  # of an event's weight with every later event of the history
_ROW_POWER, _COLUMN_POWER = 0.5, 0.3  # how much frequent items are held back, as history and as candidate


class Neighbours(nn.Module):
    """Per item and target domain its nearest items, as buffers that travel with the model.

    starts: pair s of item i and domain d is in starts[i * D + d - 1] to the next start. items: index 1.. inside
    the domain. weights: how near. popularity: training events of every item, [V + 1].
    """

    starts: Tensor
    items: Tensor
    weights: Tensor
    popularity: Tensor

    def __init__(self, n_items: Sequence[int]) -> None:
        super().__init__()
        self.n_items = tuple(n_items)
        size = 1 + sum(n_items)
        self.register_buffer("starts", torch.zeros(size * len(n_items) + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))
        self.register_buffer("popularity", torch.zeros(size))

    def learn(self, counts: Cooccurrence, popularity: Tensor, kept: int = KEPT) -> None:
        """Take neighbours from counted pairs: count / (total of the row ** .5 * total of the column ** .3)."""
        n_domains = len(self.n_items)
        total = np.maximum(counts.totals, 1e-12)
        near_P = counts.count_P / (total[counts.row_P] ** _ROW_POWER * total[counts.column_P] ** _COLUMN_POWER)
        ends = np.cumsum([1, *self.n_items])  # stacked index of the first item of each domain, and the end
        code_P = np.searchsorted(ends, counts.column_P, side="right")
        group_P = counts.row_P * n_domains + code_P - 1
        order = np.lexsort((counts.column_P, -near_P.round(9), group_P))  # equal but for rounding: by index
        group_P, near_P = group_P[order], near_P[order]
        item_P = (counts.column_P - ends[code_P - 1] + 1)[order]
        first = np.searchsorted(group_P, np.arange(counts.size * n_domains + 1))
        keep = np.arange(len(group_P)) - first[group_P] < kept
        sizes = np.bincount(group_P[keep], minlength=counts.size * n_domains)
        device = self.starts.device
        self.starts = torch.from_numpy(np.append(0, np.cumsum(sizes))).to(device)
        self.items = torch.from_numpy(item_P[keep].astype(np.int32)).to(device)
        self.weights = torch.from_numpy(near_P[keep].astype(np.float32)).to(device)
        self.popularity = popularity.to(self.popularity)

    def start_from(self, older: Neighbours, codes: Sequence[int], older_codes: Sequence[int]) -> None:
        """Take an older model's pairs, whose domains (codes, pairwise the same) have grown; new items have none."""
        n_older, n_domains = len(older.n_items), len(self.n_items)
        code_of = torch.zeros(n_older + 1, dtype=torch.int64)  # today's code of an older one, 0: not there any more
        row_of = torch.zeros(len(older.popularity), dtype=torch.int64)  # today's row of an older item
        self.popularity.zero_()
        for code, older_code in zip(codes, older_codes, strict=True):
            code_of[older_code] = code
            first, older_first = 1 + sum(self.n_items[: code - 1]), 1 + sum(older.n_items[: older_code - 1])
            count = older.n_items[older_code - 1]
            row_of[older_first : older_first + count] = torch.arange(first, first + count)
            self.popularity[first : first + count] = older.popularity[older_first : older_first + count]
        starts = older.starts.cpu()
        group_P = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
        row_P, code_P = row_of[group_P // n_older], code_of[group_P % n_older + 1]
        kept = torch.nonzero((row_P > 0) & (code_P > 0)).squeeze(1)
        group_P = row_P[kept] * n_domains + code_P[kept] - 1
        order = torch.argsort(group_P, stable=True)
        sizes = torch.bincount(group_P, minlength=len(self.starts) - 1)
        device = self.starts.device
        self.starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).to(device)
        self.items = older.items.cpu()[kept][order].to(device)
        self.weights = older.weights.cpu()[kept][order].to(device)

    def scores(self, row_N: Tensor, item_N: Tensor, age_N: Tensor, n_rows: int, code: int) -> Tensor:
        """Return how near each item of a domain is to the histories, [m, V_d]; parameters as for `pairs`."""
        out_mV = self.weights.new_zeros(n_rows, self.n_items[code - 1])
        row_P, item_P, weight_P = self.pairs(row_N, item_N, age_N, code)
        return out_mV.view(-1).index_add_(0, row_P * out_mV.shape[1] + item_P, weight_P).view_as(out_mV)

    def pairs(self, row_N: Tensor, item_N: Tensor, age_N: Tensor, code: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return row, item of a domain (from 0) and weight of every near item of every event, [P], events in order.

        row_N, item_N: stacked items of the histories' events; age_N: events of the same history after it.
        """
        n_domains = len(self.n_items)
        group_N = item_N * n_domains + code - 1
        start_N = self.starts[group_N]
        size_N = self.starts[group_N + 1] - start_N
        token_P = torch.repeat_interleave(torch.arange(len(item_N), device=size_N.device), size_N)
        before_N = size_N.cumsum(0) - size_N
        place_P = start_N[token_P] + torch.arange(len(token_P), device=size_N.device) - before_N[token_P]
        weight_P = self.weights[place_P] * DECAY ** age_N[token_P].to(self.weights.dtype)
        return row_N[token_P], self.items[place_P].long() - 1, weight_P

    def log_popularity(self, code: int) -> Tensor:
        """Return log(1 + training events) of the items of a domain, [V_d]."""
        first = 1 + sum(self.n_items[: code - 1])
        return self.popularity[first : first + self.n_items[code - 1]].log1p()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the saved number of pairs, whatever this one held."""
        for name in ("items", "weights"):
            if (found := state.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(found, device=self.starts.device))
        super()._load_from_state_dict(state, prefix, *rest)
