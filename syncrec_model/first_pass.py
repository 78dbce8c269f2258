"""Ranking's first pass on a CPU: which items of a block of rows could be among the best k. See ranking.py.

Shapes: b rows of a block, V items, v items of a tile, m items of a group, G groups x rows, W large groups,
K channels of the first pass, P pairs, H groups that reach a cut, N candidates.

Numbers are compared by their bits, which is fast in bfloat16, too: read as integers, positive numbers keep their
order and are above all negative ones. Where a threshold is not positive, the tile's bits are put in order first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .coarse_scores import CoarseTable

Array = NDArray[Any]

_CPU = torch.device("cpu")
ITEMS_AT_ONCE = 1 << 15  # of a tile
_MEMBERS = 16  # items of a group, at most
_GROUPS = 12  # times k: as many groups as that, or a hit says too little
_LARGE_GROUPS = 4  # times k: so many give a threshold that about 1.15 k items reach
_MOST_CANDIDATES = 1 << 21
_INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_MINUS_INFINITY = {torch.bfloat16: -0x80, torch.float32: -0x800000}  # its bits
_LOWEST = np.float32(-2e38)  # below all scores that CoarseTable.query lets pass, and above -inf


class Pairs(NamedTuple):
    """Pairs of a row and an item (both from 0, rows ascending), and what is added to their scores: [P] each.

    value: float64; the values of a pair that comes twice are added up.
    """

    row: Array
    item: Array
    value: Array

    @classmethod
    def none(cls) -> Pairs:
        """Return no pairs."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    def of_rows(self, start: int, stop: int) -> Pairs:
        """Return the pairs of rows start to stop - 1, as rows from 0."""
        first, last = np.searchsorted(self.row, [start, stop])
        return Pairs(self.row[first:last] - start, self.item[first:last], self.value[first:last])

    def where(self, kept: Array) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.row[kept], self.item[kept], self.value[kept])

    @classmethod
    def join(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return the pairs of all parts; rows are as they come."""
        return cls(*(np.concatenate(columns) for columns in zip(cls.none(), *parts, strict=True)))


class Workspace:
    """Memory that blocks of rows use one after the other: fresh pages would cost as much as the product."""

    _spare: ClassVar[list[Workspace]] = []

    def __init__(self) -> None:
        self._rooms: dict[str, Tensor] = {}

    @classmethod
    @contextmanager
    def borrowed(cls) -> Iterator[Workspace]:
        """Lend one that nobody else uses."""
        try:
            space = cls._spare.pop()
        except IndexError:
            space = cls()
        try:
            yield space
        finally:
            cls._spare.append(space)

    def room(self, name: str, kind: torch.dtype, *shape: int, device: torch.device = _CPU) -> Tensor:
        """Return an array of whatever content."""
        size = math.prod(shape) * kind.itemsize
        kept = self._rooms.get(name)
        if kept is None or len(kept) < size or kept.device != device:
            kept = self._rooms[name] = torch.empty(size, dtype=torch.int8, device=device)
        return kept[:size].view(kind).view(shape)


class TooManyCandidates(Exception):
    """So many scores are equal, or nearly, that fewer rows must be ranked at once."""


class FirstPass:
    """The candidates of one block of rows, tile after tile.

    rows_bK, bound_b: of CoarseTable.query. reached_bk: first-pass scores of k different items, the least first;
    least_b: an exact score that k items reach; cut_b: the bits that an item needs to be a candidate.
    """

    def __init__(self, coarse: CoarseTable, rows_bK: Tensor, bound_b: Array, k: int, space: Workspace) -> None:
        self.coarse, self.rows_bK, self.bound_b, self.k, self.space = coarse, rows_bK, bound_b, k, space
        self.reached_bk = np.full((len(rows_bK), k), -np.inf, np.float32)
        self.least_b, self.cut_b = self._thresholds(self.reached_bk)

    def candidates(self, excluded: Pairs, added: Pairs) -> Pairs:
        """Return all pairs that could be among the best k of their row, with what is added to them.

        excluded, added: as for best_items, but an added pair that comes twice has its whole value each time.
        Raises TooManyCandidates where a block of several rows has millions.
        """
        n_items, n_rows = len(self.coarse.items_VK), len(self.rows_bK)
        plain: list[tuple[Array, Array, Array]] = []
        others: list[tuple[Pairs, Array]] = []
        for start in range(0, n_items, ITEMS_AT_ONCE):
            stop = min(start + ITEMS_AT_ONCE, n_items)
            members = max(1, min(_MEMBERS, (stop - start) // (_GROUPS * self.k)))
            padded = -(-(stop - start) // members) * members
            scores_vb = self.space.room("scores", self.rows_bK.dtype, padded, n_rows)
            torch.mm(self.coarse.items_VK[start:stop], self.rows_bK.T, out=scores_vb[: stop - start])
            scores_vb[stop - start :] = -torch.inf
            _hide(scores_vb, _inside(excluded, start, stop), start)
            if len(added.row):
                others.append(self._take_out(scores_vb, _inside(added, start, stop), start))
            row_N, item_N, bits_N = self._above_cut(scores_vb, members)
            plain.append((row_N, item_N + start, bits_N))
            if n_rows > 1 and sum(len(found[0]) for found in plain) > _MOST_CANDIDATES:
                raise TooManyCandidates
        parts = [pairs.where(most_P >= self.least_b[pairs.row]) for pairs, most_P in others]
        for row_N, item_N, bits_N in plain:  # what an early tile took for possible may not be so any more
            kept = slice(None) if len(plain) == 1 else bits_N >= self.cut_b[row_N]
            parts.append(Pairs(row_N[kept], item_N[kept], np.zeros(len(row_N[kept]))))
        return Pairs.join(parts)

    def _take_out(self, scores_vb: Tensor, pairs: Pairs, start: int) -> tuple[Pairs, Array]:
        """Return the pairs and what their whole scores are at most; they leave the tile."""
        bits = scores_vb.view(_INTEGERS[scores_vb.dtype]).numpy().reshape(-1)
        place_P = (pairs.item - start) * scores_vb.shape[1] + pairs.row
        coarse_P = torch.from_numpy(bits[place_P]).view(scores_vb.dtype).double().numpy()
        bits[place_P] = _MINUS_INFINITY[scores_vb.dtype]
        hidden_P = coarse_P == -np.inf
        coarse_P[hidden_P] = 0
        most_P = coarse_P + pairs.value + self.bound_b[pairs.row]
        most_P += np.abs(coarse_P) * self.coarse.output_unit
        most_P += np.abs(pairs.value) * 2.0**-22  # the exact score is rounded to float32
        most_P[hidden_P] = -np.inf
        return pairs, most_P

    def _above_cut(self, scores_vb: Tensor, members: int) -> tuple[Array, Array, Array]:
        """Raise the thresholds by a tile; return row, item and bits of what reaches them."""
        bits_vb, n_rows = scores_vb.view(_INTEGERS[scores_vb.dtype]), scores_vb.shape[1]
        bits_mG = bits_vb.view(members, -1)  # G: groups times rows; a group's items lie evenly over the tile
        maxima_G = bits_mG.amax(0) if members > 1 else bits_mG[0]
        reached_bk = self._raised(_large_groups(maxima_G.view(-1, n_rows), self.k).view(scores_vb.dtype))
        least_b, cut_b = self._thresholds(reached_bk)
        if cut_b.min() <= 0:
            _put_in_order(bits_vb)
            maxima_G = bits_mG.amax(0)
            large_Wb = _large_groups(maxima_G.view(-1, n_rows), self.k).clone()
            _put_in_order(large_Wb)
            reached_bk = self._raised(large_Wb.view(scores_vb.dtype))
            least_b, cut_b = self._thresholds(reached_bk)
        self.reached_bk, self.least_b, self.cut_b = reached_bk, least_b, cut_b
        return self._reaching(bits_mG.numpy(), maxima_G.numpy())

    def _reaching(self, bits_mG: Array, maxima_G: Array) -> tuple[Array, Array, Array]:
        """Return row, item and bits of what reaches its row's cut: inside the groups whose maximum does."""
        n_rows, size = len(self.cut_b), len(maxima_G)
        hits_G = self.space.room("hits", torch.bool, size).numpy()
        # Many copies of the cuts: long rows are compared much faster than short ones.
        cuts = np.resize(self.cut_b, n_rows * max(1, min(1 << 13, size) // n_rows))
        whole = size // len(cuts) * len(cuts)
        np.greater_equal(maxima_G[:whole].reshape(-1, len(cuts)), cuts, out=hits_G[:whole].reshape(-1, len(cuts)))
        np.greater_equal(maxima_G[whole:], cuts[: size - whole], out=hits_G[whole:])
        if n_rows > 1 and np.count_nonzero(hits_G) * len(bits_mG) > 4 * _MOST_CANDIDATES:
            raise TooManyCandidates
        at_H = np.flatnonzero(hits_G)
        group_H = at_H // n_rows
        row_H = at_H - group_H * n_rows
        if len(bits_mG) == 1:
            return row_H, group_H, maxima_G[at_H]
        bits_mH = bits_mG.take(at_H, axis=1)
        found_N = np.flatnonzero(bits_mH >= self.cut_b[row_H])
        member_N = found_N // len(at_H)
        hit_N = found_N - member_N * len(at_H)
        return row_H[hit_N], member_N * (size // n_rows) + group_H[hit_N], bits_mH.reshape(-1)[found_N]

    def _raised(self, maxima_Wb: Tensor) -> Array:
        """Return reached_bk with the group maxima of one more tile."""
        both_bW = np.ascontiguousarray(maxima_Wb.float().numpy().T)
        if both_bW.shape[1] < self.k or self.reached_bk[0, -1] > -np.inf:  # not the first tile, or a small one
            both_bW = np.concatenate([self.reached_bk, both_bW], axis=1)
        both_bW.partition(both_bW.shape[1] - self.k, axis=1)
        return both_bW[:, -self.k :]

    def _thresholds(self, reached_bk: Array) -> tuple[Array, Array]:
        """Return (least_b; the ordered bits of a number that no candidate is below, above those of -inf)."""
        least_b = np.maximum(reached_bk[:, 0], _LOWEST).astype(np.float64)
        least_b -= np.abs(least_b) * self.coarse.output_unit + self.bound_b
        low_b = np.maximum(least_b - self.bound_b, _LOWEST).astype(np.float32)
        bits_b = np.nextafter(low_b, np.float32(-np.inf)).view(np.int32)
        bits_b = bits_b ^ ((bits_b >> 31) & 0x7FFFFFFF)
        if self.rows_bK.dtype == torch.bfloat16:
            # The bits of a negative bfloat16 are followed by ones here: one less is surely not above.
            bits_b = ((bits_b >> 16) - (bits_b < 0)).astype(np.int16)
        return least_b, bits_b


def _inside(pairs: Pairs, start: int, stop: int) -> Pairs:
    """Return the pairs of a tile."""
    if not len(pairs.item) or (start == 0 and pairs.item.max() < stop):
        return pairs
    return pairs.where((pairs.item >= start) & (pairs.item < stop))


def _hide(scores_vb: Tensor, pairs: Pairs, start: int) -> None:
    """Let no list hold these pairs."""
    if len(pairs.item):
        bits = scores_vb.view(_INTEGERS[scores_vb.dtype]).numpy().reshape(-1)
        bits[(pairs.item - start) * scores_vb.shape[1] + pairs.row] = _MINUS_INFINITY[scores_vb.dtype]


def _put_in_order(bits: Tensor) -> None:
    """Make numbers' bits integers in the numbers' order, in place; of ordered bits, the bits."""
    width = 8 * bits.itemsize
    values = bits.numpy()
    signs = values >> (width - 1)
    signs &= (1 << (width - 1)) - 1
    values ^= signs


def _large_groups(maxima_Gb: Tensor, k: int) -> Tensor:
    """Return maxima of at least k groups, or all of them, [W, b]; some groups may be left out."""
    n_groups, n_rows = maxima_Gb.shape
    members = max(1, n_groups // (_LARGE_GROUPS * k))
    n_large = n_groups // members
    return maxima_Gb[: n_large * members].view(members, n_large * n_rows).amax(0).view(n_large, n_rows)
