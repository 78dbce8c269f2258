"""Section 7: the best N of all items by s = q . e + b + a, exactly: what sorting all float64 scores would give.

Shapes: B rows, b rows of a block, V items, C channels, P pairs of a row and an item (candidates, too), p at once,
M candidates of a row, R entries of lists, k items of a list, K channels of the first pass.

1. First pass (first_pass.py): scores of all items, items down and rows across, a tile at a time; in bfloat16 where
   the processor multiplies it, else float32, with a bound on their error (coarse_scores.py).
2. Of every group of items the largest score is kept: the k-th largest of these is one that k items reach.
3. Whatever reaches that score less twice the error bound is a candidate: a little more than k items.
4. Second pass: candidates' scores in float64, rounded to float32, sorted; ties go to the lower index.

The second pass decides, so the list of a row depends neither on the other rows nor on the processor's products.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .coarse_scores import CoarseTable, choose_precision
from .first_pass import FirstPass, Pairs, TooManyCandidates, Workspace
from .machine import threads
from .topk_pass import topk_candidates

Array = NDArray[Any]

_ROWS = 128  # of a block: what one product multiplies the items with
_ROOM = 1 << 22  # candidates of a block
_NOTHING = np.int64(np.iinfo(np.int64).max)  # behind all keys
_EXACT_AT_ONCE = 2048
_SUMS = 1 << 22  # rows times items whose additions are summed at once


class Ranked(NamedTuple):
    """One entry per item of a list, ordered by row and rank; rank and item from 0; score: float32."""

    row: Array
    rank: Array
    item: Array
    score: Array


class ItemTable:
    """The items of a domain, prepared to be ranked. bias_V: what is added to an item's score for every row.

    Copies of the vectors in the precision of the first pass are made when first needed, and kept.
    """

    def __init__(self, items_VC: Tensor, bias_V: Tensor | None = None) -> None:
        self.items_VC = items_VC.detach()
        self.bias_V = None if bias_V is None else bias_V.detach().double()
        self._coarse: dict[torch.dtype, CoarseTable] = {}

    def __len__(self) -> int:
        return len(self.items_VC)

    def coarse(self, precision: torch.dtype) -> CoarseTable:
        """Return the vectors in a precision."""
        if precision not in self._coarse:
            self._coarse[precision] = CoarseTable.of(self.items_VC, self.bias_V, precision)
        return self._coarse[precision]

    def exact(self, query_BC: Tensor, pairs: Pairs, space: Workspace | None = None) -> Array:
        """Return the scores of pairs: products and sum in float64, [P], rounded to float32."""
        space, channels, device = space or Workspace(), self.items_VC.shape[1], self.items_VC.device
        query_BC, sums_P = query_BC.double(), torch.empty(len(pairs.item), dtype=torch.float64, device=device)
        item_P, row_P = torch.from_numpy(pairs.item).to(device), torch.from_numpy(pairs.row).to(device)
        for start in range(0, len(item_P), _EXACT_AT_ONCE):
            part = slice(start, start + _EXACT_AT_ONCE)
            shape = (len(item_P[part]), channels)
            items_pC = space.room("items", self.items_VC.dtype, *shape, device=device)
            products_pC = space.room("products", torch.float64, *shape, device=device)
            query_pC = space.room("query", torch.float64, *shape, device=device)
            torch.index_select(self.items_VC, 0, item_P[part], out=items_pC)
            torch.index_select(query_BC, 0, row_P[part], out=query_pC)
            products_pC.copy_(items_pC)
            torch.sum(products_pC.mul_(query_pC), -1, out=sums_P[part])
        if self.bias_V is not None:
            sums_P += self.bias_V.index_select(0, item_P)
        score_P: Array = (sums_P.cpu().numpy() + pairs.value).astype(np.float32)
        return score_P + np.float32(0)  # no -0.0, which is equal to 0.0 and would be sorted behind it


@torch.inference_mode()
def best_items(
    query_BC: Tensor,
    table: ItemTable,
    n: int,
    *,
    excluded: Pairs | None = None,
    added: Sequence[Pairs] = (),
    precision: torch.dtype | None = None,
) -> Ranked:
    """Return every row's best n items, fewer where fewer are left; ties go to the lower index.

    excluded: pairs that are in no list (their values are not read). added: what pairs' scores have besides
    q . e + b. precision: of the first pass on a CPU; None: the fastest here. Uses torch's number
    of threads, a block of rows each; memory is bounded by a tile a thread and the pairs of a block.

    Raises ValueError on numbers that are not finite and on items outside the table.
    """
    excluded = excluded or Pairs.none()
    for pairs in (excluded, *added):
        _check(pairs, len(query_BC), len(table))
    by_topk = _by_topk(query_BC.device)
    precision = torch.float32 if by_topk else precision or choose_precision(len(query_BC), query_BC.device)
    coarse = table.coarse(precision)
    rows_BK, bound_B = coarse.query(query_BC)
    query_BC = query_BC.double()

    def block(start: int, stop: int) -> Ranked:
        parts = [pairs.of_rows(start, stop) for pairs in (excluded, *added)]
        try:
            with Workspace.borrowed() as space:
                first = (coarse, rows_BK[start:stop], bound_B[start:stop], min(n, len(table)))
                pairs = parts[0], _added_up(parts[1:], stop - start, len(table), space)
                found = topk_candidates(*first, *pairs) if by_topk else FirstPass(*first, space).candidates(*pairs)
                score_P = table.exact(query_BC[start:stop], found, space)
                ranked = _sorted(found, score_P, n, stop - start)
                return ranked._replace(row=ranked.row + start)
        except TooManyCandidates:
            middle = (start + stop) // 2
            return _joined([block(start, middle), block(middle, stop)])

    starts = range(0, len(query_BC), _ROWS)
    stops = [min(start + _ROWS, len(query_BC)) for start in starts]
    workers = 1 if by_topk else min(torch.get_num_threads(), len(starts))
    if workers <= 1:
        return _joined([block(*limits) for limits in zip(starts, stops, strict=True)])
    with threads(1), ThreadPoolExecutor(workers) as pool:
        return _joined(list(pool.map(torch.inference_mode()(block), starts, stops)))


def _by_topk(device: torch.device) -> bool:
    return device.type != "cpu"


def _check(pairs: Pairs, n_rows: int, n_items: int) -> None:
    if len(pairs.item) and not 0 <= pairs.item.min() <= pairs.item.max() < n_items:
        raise ValueError(f"ranking: an item of a pair is outside 0..{n_items - 1}")
    row_P = pairs.row
    if len(row_P) and (row_P[0] < 0 or row_P[-1] >= n_rows or (np.diff(row_P) < 0).any()):
        raise ValueError(f"ranking: rows of pairs are not ascending inside 0..{n_rows - 1}")
    if not np.isfinite(pairs.value).all():
        raise ValueError("ranking: what is added to a score is not a finite number; the model is broken")


def _joined(found: Sequence[Ranked]) -> Ranked:
    empty = Ranked(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.int64, np.float32)))
    return Ranked(*(np.concatenate(columns) for columns in zip(empty, *found, strict=True)))


def _added_up(parts: Sequence[Pairs], n_rows: int, n_items: int, space: Workspace) -> Pairs:
    """Return all pairs; a pair that comes several times has its whole value each time."""
    if not any(len(part.row) for part in parts):
        return Pairs.none()
    at_once = max(1, _SUMS // n_items)
    sums = space.room("sums", torch.float64, min(at_once, n_rows) * n_items).numpy()
    found = []
    for start in range(0, n_rows, at_once):
        some = Pairs.join([part.of_rows(start, start + at_once) for part in parts])
        place_P = some.row * n_items + some.item
        sums[place_P] = 0  # numpy's indexing: torch's takes ten times as long
        np.add.at(sums, place_P, some.value)
        found.append(Pairs(some.row + start, some.item, sums[place_P]))
    return Pairs.join(found)


def _sorted(found: Pairs, score_P: Array, k: int, n_rows: int) -> Ranked:
    """Return the best k of every row.

    One integer a candidate holds its score and item: a plain sort puts them in order, short rows much faster than
    a long one. Raises TooManyCandidates where one of several rows has so many that the others' room is a waste.
    """
    bits_P = score_P.view(np.int32)
    worse_P = 0x7FFFFFFF - (bits_P ^ ((bits_P >> 31) & 0x7FFFFFFF)).astype(np.int64)  # of the score: 32 bits
    count_b = np.bincount(found.row, minlength=n_rows)
    width = int(count_b.max())
    if n_rows > 1 and width * n_rows > _ROOM:
        raise TooManyCandidates
    order_P = np.argsort(found.row.astype(np.uint8), kind="stable")  # eight bits: a radix sort
    key_P = ((worse_P - 0x80000000) << 32 | found.item)[order_P]
    key_bM = np.full((n_rows, width), _NOTHING)
    key_bM[np.arange(width) < count_b[:, None]] = key_P
    key_bM.sort(axis=1)
    twice_bM = key_bM[:, 1:] == key_bM[:, :-1]  # what was added in several parts
    twice_bM &= key_bM[:, 1:] != _NOTHING
    if twice_bM.any():
        key_bM[:, 1:][twice_bM] = _NOTHING
        key_bM.sort(axis=1)
    key_bk = key_bM[:, :k]
    row_R, rank_R = np.nonzero(key_bk != _NOTHING)
    key_R = key_bk[row_R, rank_R]
    ordered_R = (-1 - (key_R >> 32)).astype(np.int32)
    score_R = (ordered_R ^ ((ordered_R >> 31) & 0x7FFFFFFF)).view(np.float32)
    return Ranked(row_R, rank_R, key_R & 0xFFFFFFFF, score_R)
