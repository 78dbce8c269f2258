"""Popularity: an item's score is how many training events it has. What every system must beat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.classic_logs import domain_log, sampled_items
from benchmarks.quality.data import Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View


class Popularity(Peer):
    """Counts of a domain's events. outside: those of everybody outside the benchmark count, too."""

    kind = "trivial"
    source = "counts"
    seeded = False

    def __init__(self, name: str, *, outside: bool) -> None:
        self.name, self.outside = name, outside

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Count; nothing is searched, drawn or written."""
        began = time.perf_counter()
        codes = range(1, len(data.domains) + 1)
        counts = [domain_log(data, code, outside=self.outside).counts_V for code in codes]
        stacked_V = np.concatenate(counts)

        def score(part: str, index: Array) -> Array:
            counts_V = counts[data.cases[part].domain_M[index[0]] - 1]
            return np.tile(counts_V, (len(index), 1))

        def sampled(part: str, index: Array) -> Array:
            return stacked_V[sampled_items(data, part, index)]

        return Fitted({"": View(score, sampled)}, len(stacked_V), time.perf_counter() - began)


PEERS = (Popularity("popularity", outside=False), Popularity("popularity.all", outside=True))
