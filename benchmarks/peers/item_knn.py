"""Item-kNN: each item of the history votes for its nearest neighbours. Similarities of the library implicit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.item_matrix import SCOPES, ItemMatrixPeer


class ItemKNN(ItemMatrixPeer):
    """Neighbours by cosine of the items' users, plain, or the users weighted by TF-IDF or BM25."""

    row = "item-knn"
    source = "implicit 0.7.3 (pm-implicit), nearest_neighbours"
    search = tuple(
        {"weighting": weighting, "neighbours": neighbours}
        for weighting in ("cosine", "tfidf", "bm25")
        for neighbours in (50, 200, 1000)
    )

    def job(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See ItemMatrixPeer."""
        return {"model": "item-knn", "settings": dict(settings)}


PEERS = tuple(ItemKNN(scope) for scope in SCOPES)
