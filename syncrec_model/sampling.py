"""Section 4 for large domains: which items of a domain are the negatives of a sampled softmax.

Shapes: V items of one domain, S negatives of one domain and batch; of a SequenceSet N rows, T steps.

One draw per domain and batch serves all its targets, of the cross and of the single task: phi then compares the
same event with the same negatives. Items that are expected more than once are always in, once; the rest of the
draw falls into the tail, one item a stratum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .data import SequenceSet
from .draws import event_draws

_POWER = 0.75  # of popularity; word2vec's, between uniform (0) and the log itself (1)


class Negatives(NamedTuple):
    """items_S: 1-based indexes inside the domain, ascending; log_count_S: log of how often each is expected."""

    items_S: Tensor
    log_count_S: Tensor


class NegativeSampler(nn.Module):
    """Draws negatives of the domains that have more than `full_softmax_items` items.

    The proposal follows the popularity of the training split, which `set_popularity` sets (uniform until then). Its
    tables are no part of the state: a model is served, saved and loaded without them.
    """

    def __init__(self, n_items: Sequence[int], full_softmax_items: int, n_negatives: int) -> None:
        super().__init__()
        self.n_items = tuple(n_items)
        self.n_negatives = n_negatives
        self.sampled = tuple(code for code, n in enumerate(self.n_items, start=1) if n > full_softmax_items)
        self.set_popularity([np.zeros(count) for count in self.n_items])

    def set_popularity(self, counts: Sequence[ArrayLike]) -> None:
        """Set the proposal from each item's number of training events, per domain [V_d]."""
        if [np.shape(count) for count in counts] != [(n,) for n in self.n_items]:
            raise ValueError(
                f"NegativeSampler.set_popularity: counts of shapes {[np.shape(count) for count in counts]} for "
                f"domains of {list(self.n_items)} items; give one count an item"
            )
        for code in self.sampled:
            count_V = np.asarray(counts[code - 1], dtype=np.float64)
            if not (np.isfinite(count_V).all() and count_V.min() >= 0):
                raise ValueError(f"NegativeSampler.set_popularity: domain {code} has a count below 0 or no number")
            expected_V = expected_counts((count_V + 1) ** _POWER, self.n_negatives)
            tail = np.flatnonzero(expected_V < 1)
            for name, values in (
                ("log_count", np.log(expected_V)),
                ("always", np.flatnonzero(expected_V >= 1)),
                ("tail", tail),
                ("cumulative", np.cumsum(expected_V[tail])),
            ):
                self._table(f"{name}_{code}", values)

    def _table(self, name: str, values: NDArray[np.generic]) -> None:
        before = getattr(self, name, None)
        device = before.device if isinstance(before, Tensor) else None
        self.register_buffer(name, torch.from_numpy(values).to(device), persistent=False)

    def draw(self, code: int, seed: Tensor | None = None) -> Negatives | None:
        """Return S negatives of the domain, None where it takes the full softmax.

        S = min(n_negatives, V). Each item is drawn log_count_S's exponential times on average; the tail of the
        catalogue is cut into strata of one expected item each, so an item may come twice, never more often.
        seed: decides the draw, int64 without dimensions (the batch's: all ranks then draw the same); None takes
        torch's generator of the device.
        """
        if code not in self.sampled:
            return None
        always, tail = self.get_buffer(f"always_{code}"), self.get_buffer(f"tail_{code}")
        cumulative = self.get_buffer(f"cumulative_{code}")
        strata = min(self.n_negatives, self.n_items[code - 1]) - len(always)
        items_S = always
        if strata > 0:
            stratum = torch.arange(strata, device=cumulative.device)
            if seed is None:
                u = torch.rand(strata, dtype=torch.float64, device=stratum.device)
            else:
                u = event_draws(seed, torch.full_like(stratum, code), stratum)
            points = (stratum + u) * (cumulative[-1] / strata)
            place = torch.searchsorted(cumulative, points, right=True).clamp(max=len(tail) - 1)
            items_S = torch.cat([always, tail[place]]).sort().values
        return Negatives(items_S + 1, self.get_buffer(f"log_count_{code}")[items_S])


def expected_counts(weight_V: NDArray[np.float64], n_negatives: int) -> NDArray[np.float64]:
    """Return min(1, c * weight), [V], with c such that the sum is n_negatives (all ones where V is no larger)."""
    n_items = len(weight_V)
    if n_negatives >= n_items:
        return np.ones(n_items)
    descending = np.sort(weight_V)[::-1]
    # Where the k heaviest are certain, the others share n_negatives - k: the least k that keeps them below one.
    rest = np.cumsum(descending[::-1])[::-1]
    k = np.arange(min(n_negatives, n_items))
    scale = (n_negatives - k) / rest[k]
    certain = int(np.argmax(scale * descending[k] < 1))
    expected_V = np.minimum(1.0, scale[certain] * weight_V)
    return np.asarray(expected_V, dtype=np.float64)


def item_counts(data: SequenceSet) -> list[NDArray[np.int64]]:
    """Return how many of the set's stored events each item has, per domain [V_d]."""
    return [
        np.bincount(data.single_items_NT[data.single_domains_N == code].ravel(), minlength=n_items + 1)[1:]
        for code, n_items in enumerate(data.n_items, start=1)
    ]
