"""Section 7: the blended view, a weighted sum per domain of both views, item neighbours and popularity.

Paper: predict with Y_cross alone. Here the served view is chosen per domain on validation (measures.py), and the
blend is the view that usually wins; fit_blend finds its weights on validation cases.

Shapes: D domains, F features, R rows, V items of one domain, m cases of a batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .cooccurrence import Cooccurrence
from .data import SequenceSet
from .neighbours import Neighbours
from .packing import PackedSequences
from .sampling import item_counts

FEATURES = ("cross", "single", "near", "near_own", "popularity")
_START = (1.0, 1.0, 0.0, 0.0, 0.0)  # until fitted: the sum of both views


class Blend(nn.Module):
    """What is added up, and how much of each per domain: weights_DF, in the order of FEATURES.

    cross, single: the scores of both views. near, near_own: neighbours of all events of the history, and of
    those of the target's domain alone. popularity: log(1 + training events).
    """

    weights_DF: Tensor

    def __init__(self, n_items: Sequence[int], n_neighbours: int) -> None:
        super().__init__()
        self.n_items, self.n_neighbours = tuple(n_items), n_neighbours
        self.register_buffer("weights_DF", torch.tensor([_START] * len(n_items)))
        self.neighbours = Neighbours(n_items) if n_neighbours else None

    @property
    def features(self) -> tuple[str, ...]:
        """The features that this model has."""
        return FEATURES if self.neighbours is not None else FEATURES[:2]

    def start_F(self) -> Tensor:
        """Return the weights before any fit, the sum of both views, [F] of the model's features."""
        return torch.tensor(_START[: len(self.features)])

    def learn(self, train: SequenceSet, counts: Cooccurrence) -> None:
        """Take neighbours from counted pairs and popularity from the training sequences; there is no gradient."""
        if self.neighbours is not None:
            events_V = np.concatenate([[0], *item_counts(train)])
            self.neighbours.learn(counts, torch.from_numpy(events_V), self.n_neighbours)

    def learnt(self, code: int) -> Tensor:
        """Return which items of a domain had a training event, [V_d] bool; all where no popularity is kept."""
        if self.neighbours is None:
            return torch.ones(self.n_items[code - 1], dtype=torch.bool, device=self.weights_DF.device)
        return self.neighbours.log_popularity(code) > 0

    def never_learnt(self, items_N: Tensor) -> Tensor:
        """Return which rows of the item table had no training event, [N] bool; row 0, padding, is none of them.

        None of them where no popularity is kept, or nothing was learnt yet.
        """
        if self.neighbours is None:
            return torch.zeros_like(items_N, dtype=torch.bool)
        never_N = (items_N > 0) & (self.neighbours.popularity[items_N] == 0)
        if bool(never_N.any()) and not bool(self.neighbours.popularity.any()):
            return torch.zeros_like(never_N)
        return never_N

    def start_from(self, older: Blend, domains: Tensor, older_domains: Tensor) -> None:
        """Take an older model's weights and neighbours for the domains (from 0) that both know."""
        n_features = min(len(self.features), len(older.features))
        self.weights_DF[domains, :n_features] = older.weights_DF[older_domains, :n_features]
        if self.neighbours is not None and older.neighbours is not None:
            codes, older_codes = (domains + 1).tolist(), (older_domains + 1).tolist()
            self.neighbours.start_from(older.neighbours, codes, older_codes)

    def feature(
        self,
        name: str,
        cross_RV: Tensor,
        single_RV: Tensor,
        cross: PackedSequences,
        single: PackedSequences,
        code: int,
    ) -> Tensor:
        """Return one feature of every row, [R, V] (popularity: [1, V]).

        cross, single: the histories that gave the scores, packed; of `single` the rows of domain `code` count, one
        for each row of `cross`.
        """
        if name == "cross":
            return cross_RV
        if name == "single":
            return single_RV
        assert self.neighbours is not None
        if name == "popularity":
            return self.neighbours.log_popularity(code)[None]
        return self.neighbours.scores(*self._events(name, cross, single, code), len(cross_RV), code)

    def near_pairs(
        self, name: str, cross: PackedSequences, single: PackedSequences, code: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return row, item (from 0) and value of what "near" or "near_own" adds up, [P], rows ascending."""
        assert self.neighbours is not None
        return self.neighbours.pairs(*self._events(name, cross, single, code), code)

    def _events(
        self, name: str, cross: PackedSequences, single: PackedSequences, code: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return row, stacked item and age of the events that a neighbour feature reads."""
        packed, first_row = (cross, 0) if name == "near" else (single, sum(single.rows_per_task[:code]))
        own_N = packed.items_N > 0
        if name == "near_own":
            own_N = own_N & (packed.tasks_N == code)
        row_n, item_n, age_n = (part[own_N] for part in (packed.rows_N, packed.items_N, packed.positions_N))
        return row_n - first_row, item_n, age_n

    def forward(
        self, cross_RV: Tensor, single_RV: Tensor, cross: PackedSequences, single: PackedSequences, code: int
    ) -> Tensor:
        """Return the blended scores, [R, V]; features without weight are not computed."""
        blended_RV = torch.zeros_like(cross_RV)
        for name, weight in zip(self.features, self.weights_DF[code - 1].tolist(), strict=False):
            if weight:
                blended_RV.add_(self.feature(name, cross_RV, single_RV, cross, single, code), alpha=weight)
        return blended_RV
