"""Item-kNN: each item of the history votes for its nearest neighbours. Similarities of the library implicit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.item_matrix import MIXED_ALL, SCOPES, ItemMatrixPeer


class ItemKNN(ItemMatrixPeer):
    """Neighbours by cosine of the items' users, plain, or the users weighted by TF-IDF or BM25."""

    row = "item-knn"
    source = "implicit 0.7.3 (pm-implicit), nearest_neighbours"
    search = tuple(  # the first is the best of set A5's leave-one-out validation: what a run of one trial takes
        {"weighting": weighting, "neighbours": neighbours}
        for weighting in ("tfidf", "cosine", "bm25")
        for neighbours in (1000, 3000, 200, 50)
    )

    def job(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See ItemMatrixPeer."""
        return {"model": "item-knn", "settings": dict(settings)}


PEERS = tuple(ItemKNN(scope) for scope in (*SCOPES, MIXED_ALL))
