"""Ranking's first pass on a GPU: the product and torch.topk, a few more than k items. See ranking.py.

Shapes: B rows, V items, v items of a tile, K channels of the first pass, P pairs, N candidates, M of a row
(m: of a tile).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .coarse_scores import CoarseTable
from .first_pass import Pairs

Array = NDArray[Any]

_SCORES = 1 << 28  # of a tile: 1 GiB
_MORE = 32  # candidates beyond k at first; eight times as many while these are too few


def topk_candidates(
    coarse: CoarseTable, rows_BK: Tensor, bound_B: Array, k: int, excluded: Pairs, added: Pairs
) -> Pairs:
    """Return for every row pairs among which its best k surely are, with what is added to their scores.

    excluded, added: as for best_items, but an added pair that comes twice has its whole value each time.
    """
    n_items, device = len(coarse.items_VK), rows_BK.device
    added_P = torch.from_numpy(added.value).to(device)
    at_P = torch.from_numpy(added.row).to(device), torch.from_numpy(added.item).to(device)
    most_B = torch.zeros(len(rows_BK), dtype=torch.float64, device=device)
    most_B.scatter_reduce_(0, at_P[0], added_P.abs(), "amax")
    slack_B = torch.from_numpy(bound_B).to(device) + 2.0**-22 * most_B  # the latter: of adding in float32
    more = _MORE
    while True:
        m = min(k + more, n_items)
        score_BM, item_BM = _topk(coarse, rows_BK, m, excluded, added)
        # k items reach the k-th score - bound, and nothing that was left out reaches the last score + bound.
        last_B, reached_B = score_BM[:, -1].double(), score_BM[:, k - 1].double() - 2 * slack_B
        if m == n_items or bool(((last_B < reached_B) | (last_B == -torch.inf)).all()):
            break
        more *= 8
    row_N, place_N = (score_BM > -torch.inf).nonzero(as_tuple=True)
    found = Pairs(row_N.cpu().numpy(), item_BM[row_N, place_N].cpu().numpy(), np.zeros(len(row_N)))
    if not len(added.row):
        return found
    pair_P, pair_N = added.row * n_items + added.item, found.row * n_items + found.item
    order_P = np.argsort(pair_P, kind="stable")
    at_N = order_P[np.minimum(np.searchsorted(pair_P[order_P], pair_N), len(order_P) - 1)]
    return found._replace(value=np.where(pair_P[at_N] == pair_N, added.value[at_N], 0.0))


def _topk(coarse: CoarseTable, rows_BK: Tensor, m: int, excluded: Pairs, added: Pairs) -> tuple[Tensor, Tensor]:
    """Return the first pass's best m of every row, [B, M] each."""
    n_items, n_rows = len(coarse.items_VK), len(rows_BK)
    at_once = max(m, _SCORES // max(n_rows, 1))
    score_BM = rows_BK.new_empty(n_rows, 0)
    item_BM = torch.empty(n_rows, 0, dtype=torch.int64, device=rows_BK.device)
    for start in range(0, n_items, at_once):
        stop = min(start + at_once, n_items)
        scores_Bv = rows_BK @ coarse.items_VK[start:stop].T
        for pairs, hidden in ((added, False), (excluded, True)):
            inside = pairs.where((pairs.item >= start) & (pairs.item < stop))
            at = tuple(torch.from_numpy(x).to(rows_BK.device) for x in (inside.row, inside.item - start))
            if hidden:
                scores_Bv[at] = -torch.inf
            else:
                scores_Bv[at] += torch.from_numpy(inside.value).to(scores_Bv)
        score_Bm, item_Bm = scores_Bv.topk(min(m, stop - start), dim=1)
        both_BM, items_BM = torch.cat([score_BM, score_Bm], 1), torch.cat([item_BM, item_Bm + start], 1)
        score_BM, place_BM = both_BM.topk(min(m, both_BM.shape[1]), dim=1)
        item_BM = items_BM.gather(1, place_BM)
    return score_BM, item_BM
