"""EASE (Steck, WWW'19): the linear item-item model with zero diagonal, in closed form. Fitted by RecTools.

The library holds and inverts dense matrices of all items it is given, 20,680 for A5's mixed items: minutes and
gigabytes. The rows "all" and "mixed" are therefore slow, and "all" leaves out what it never ranks and hardly saw:
items outside the benchmark with fewer than LEAST events (a third of the work remains).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.classic_logs import Log
from benchmarks.peers.item_matrix import SCOPES, ItemMatrixPeer

LEAST = 5


class Ease(ItemMatrixPeer):
    """l2: the paper's lambda."""

    row = "ease"
    source = "RecTools 0.19.0, EASEModel; scores by the paper (arXiv 1905.03375): history @ B"
    search = tuple({"l2": l2} for l2 in (50.0, 200.0, 500.0, 10.0))  # the first: see item_knn.py

    def __init__(self, scope: str) -> None:
        super().__init__(scope)
        self.slow = scope != "single"

    def job(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See ItemMatrixPeer."""
        return {"model": "ease", "settings": dict(settings)}

    def prepare(self, log: Log) -> Log:
        """Drop rare items that are never ranked."""
        return log.without_rare(LEAST)


PEERS = tuple(Ease(scope) for scope in SCOPES)
