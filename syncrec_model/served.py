"""Section 7: the served view of a domain as one product: a query a user, a vector an item, and what else is added.

All views are linear in the item vectors: the blend of both is (w_cross y_cross + w_single y_single) . e, plus
w_popularity log popularity, the same for all users, plus what near items add, which few items have (blend.py).
Shapes: B users, D domains, C channels, V items of one domain, F features of the blend, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from .first_pass import Pairs
from .model import SyNCRec
from .packing import PackedSequences
from .ranking import ItemTable

_Key = tuple[object, ...]
_TABLES: WeakKeyDictionary[SyNCRec, dict[int, tuple[_Key, ItemTable]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class EncodedUsers:
    """What scoring reads of B users: the cross view [B, C] and the single views [D, B, C] after the newest event,
    and the packed histories that gave them.
    """

    y_cross_BC: Tensor
    y_single_DBC: Tensor
    cross: PackedSequences
    single: PackedSequences


class Served(NamedTuple):
    """What best_items reads: scores are query . item + the table's bias + the values of pairs."""

    query_BC: Tensor
    table: ItemTable
    added: list[Pairs]


def served_view(model: SyNCRec, code: int, view: str, users: EncodedUsers) -> Served:
    """Return the view of a domain (1-based code) as products."""
    y_single_BC = users.y_single_DBC[code - 1]
    if view != "blend":
        return Served(users.y_cross_BC if view == "cross" else y_single_BC, _table(model, code, 0.0), [])
    blend = model.blend
    weight = dict(zip(blend.features, blend.weights_DF[code - 1].double().tolist(), strict=False))
    query_BC = weight["cross"] * users.y_cross_BC.double() + weight["single"] * y_single_BC.double()
    added = []
    for name in ("near", "near_own"):
        if weight.get(name):
            row_P, item_P, value_P = (
                x.cpu().numpy() for x in blend.near_pairs(name, users.cross, users.single, code)
            )
            added.append(Pairs(row_P, item_P, weight[name] * value_P.astype(np.float64)))
    return Served(query_BC, _table(model, code, weight.get("popularity", 0.0)), added)


def _table(model: SyNCRec, code: int, popularity: float) -> ItemTable:
    """Return the domain's items, prepared once for as long as the model keeps its numbers."""
    items_VC, bias_V = model.embedding.tables()[code - 1], None
    sources: list[Tensor] = [model.embedding.items_VC]
    if popularity and model.blend.neighbours is not None:
        bias_V = popularity * model.blend.neighbours.log_popularity(code).double()
        sources.append(model.blend.neighbours.popularity)
    key = (popularity, *((x.data_ptr(), x.dtype, x.shape, 0 if x.is_inference() else x._version) for x in sources))
    kept = _TABLES.setdefault(model, {})
    if code not in kept or kept[code][0] != key:
        kept[code] = (key, ItemTable(items_VC, bias_V))
    return kept[code][1]
