"""Which items occur near which, counted in the training sequences: where item vectors start, and item neighbours.

Neither needs a gradient, both see pairs of different domains, and on sparse logs both are what a sequence model
takes many epochs to find. Measured in docs/benchmarks/quality.md.

Shapes: U users, T steps, V items of all domains (stacked, row 0 is padding, so V + 1 rows), P pairs with a count,
C channels, K neighbours of an item in one domain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data import SequenceSet
from .embedding import SharedEmbedding
from .vocabulary import stacked_offsets

Array = NDArray[Any]
WINDOW = 10  # steps between two events that still count as near; a pair k steps apart counts 1 / k
_CONTEXT_POWER = 0.75  # of the contexts' frequencies, as in word2vec's negatives
_PAIRS_AT_ONCE = 20_000_000
_START_NORM = 0.8  # root mean square length of the started item vectors (a standard deviation of .1 at C = 64)


@dataclass(frozen=True)
class Cooccurrence:
    """Symmetric counts without the diagonal, sorted by (row, column): row_P, column_P stacked items, count_P."""

    n_items: tuple[int, ...]
    row_P: Array
    column_P: Array
    count_P: Array

    @property
    def size(self) -> int:
        """V + 1."""
        return 1 + sum(self.n_items)

    @property
    def totals(self) -> Array:
        """Sum of each item's counts, [V + 1]."""
        return np.bincount(self.row_P, weights=self.count_P, minlength=self.size)


def count_pairs(train: SequenceSet, window: int = WINDOW) -> Cooccurrence:
    """Count pairs of different items at most `window` steps apart in the cross sequences, each 1 / distance."""
    size = 1 + sum(train.n_items)
    codes, counts = np.zeros(0, np.int64), np.zeros(0)
    waiting: list[tuple[Array, Array]] = []
    held = 0
    for code_p, weight in _pairs(train, window, size):
        waiting.append((code_p, np.full(len(code_p), weight)))
        held += len(code_p)
        if held >= max(_PAIRS_AT_ONCE, len(codes)):  # so that what was merged is not sorted again every time
            codes, counts = _merged([(codes, counts), *waiting])
            waiting, held = [], 0
    codes, counts = _merged([(codes, counts), *waiting])
    # Counted once a pair, smaller item first: the other half is its mirror.
    codes = np.append(codes, codes % size * size + codes // size)
    order = np.argsort(codes)
    codes, counts = codes[order], np.append(counts, counts)[order]
    return Cooccurrence(train.n_items, codes // size, codes % size, counts)


def _pairs(train: SequenceSet, window: int, size: int) -> Iterator[tuple[Array, float]]:
    offsets = np.array([0, *stacked_offsets(train.n_items)])
    users_at_once = max(1, _PAIRS_AT_ONCE // train.max_length)
    for start in range(0, train.n_users, users_at_once):
        users = slice(start, start + users_at_once)
        stacked_UT = offsets[train.cross_domains_UT[users]] + train.cross_items_UT[users]
        for distance in range(1, min(window, train.max_length - 1) + 1):
            left, right = stacked_UT[:, :-distance], stacked_UT[:, distance:]
            real = (left > 0) & (left != right)
            low, high = np.minimum(left[real], right[real]), np.maximum(left[real], right[real])
            yield low.astype(np.int64) * size + high, 1 / distance


def _merged(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    codes, place = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    return codes, np.bincount(place, weights=np.concatenate([part[1] for part in parts]), minlength=len(codes))


def start_vectors(counts: Cooccurrence, channels: int, *, seed: int = 0) -> Tensor:
    """Return item vectors whose products approximate the positive pointwise mutual information, [V + 1, C].

    The rank-C factors U sqrt(S) of the PPMI matrix (Levy & Goldberg 2014, "Neural Word Embedding as Implicit
    Matrix Factorization"), computed by a randomised SVD; zeros for an item without any pair.
    """
    total = counts.totals
    context = total**_CONTEXT_POWER
    context /= max(context.sum(), 1e-12)
    expected_P = total[counts.row_P] * context[counts.column_P]
    information_P = np.log(counts.count_P / np.maximum(expected_P, 1e-300))
    positive = information_P > 0
    vectors_VC = torch.zeros(counts.size, channels)
    rank = min(channels, counts.size - 1)
    if not positive.any():
        return vectors_VC
    index = torch.from_numpy(np.stack([counts.row_P[positive], counts.column_P[positive]]))
    values = torch.from_numpy(information_P[positive].astype(np.float32))
    matrix = torch.sparse_coo_tensor(
        index, values, (counts.size, counts.size), is_coalesced=True, check_invariants=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        u_VC, s_C, _ = torch.svd_lowrank(matrix, q=rank, niter=4)
    known_V = torch.zeros(counts.size, dtype=torch.bool)
    known_V[index[0]] = True  # the SVD leaves rounding errors in the other rows
    vectors_VC[known_V, :rank] = (u_VC * s_C.sqrt())[known_V]
    return vectors_VC


@torch.no_grad()
def start_items(embedding: SharedEmbedding, counts: Cooccurrence) -> None:
    """Let every item that has a pair in training start at its vector; the others keep their random start."""
    vectors_VC = start_vectors(counts, embedding.items_VC.shape[1])
    known_V = vectors_VC.abs().sum(1) > 0
    if known_V.any():
        length = vectors_VC[known_V].square().sum(1).mean().sqrt()
        scaled_VC = (vectors_VC[known_V] * (_START_NORM / length)).to(embedding.items_VC)
        embedding.items_VC[known_V.to(embedding.items_VC.device)] = scaled_VC
