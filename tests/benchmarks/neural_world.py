"""A world whose next event follows from the last one, for the tests of the neural peers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.quality.cells import rank
from benchmarks.quality.data import QualityData, cut
from benchmarks.quality.protocol import Budget, Fitted, Peer, View

DOMAINS = ("A", "B")
N_ITEMS = 20
SETTINGS = {"channels": 32, "n_layers": 1, "dropout": 0.0, "learning_rate": 1e-2, "batch_size": 16}
BUDGET = Budget(threads=1, epochs=12, patience=12)


def walks(users: range, n_items: int, seed: int) -> pd.DataFrame:
    """Users alternate between the domains: A_i, B_i, A_i+1, ...: the next event always follows from the last one,
    and inside each domain too.
    """
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{user:04}", f"{DOMAINS[(first + step) % 2]}{(start + (first + step) // 2) % n_items:03}", step)
        for user in users
        for first, start, length in [(rng.integers(2), rng.integers(n_items), rng.integers(8, 15))]
        for step in range(length)
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "ts"])
    return log.assign(domain=log["item_id"].str[0])


def planted(n_users: int = 200, split: str = "leave-one-out") -> QualityData:
    log = walks(range(n_users), N_ITEMS, 0)
    return cut("planted", log, walks(range(5000, 5060), N_ITEMS + 6, 1), DOMAINS, split=split)


def fit(
    peer: Peer,
    data: QualityData,
    folder: Path,
    settings: Mapping[str, Any],
    seed: int = 0,
    budget: Budget = BUDGET,
) -> Fitted:
    def no_kept(row: str) -> View:
        raise AssertionError(row)

    folder.mkdir(exist_ok=True)
    return peer.fit(data, settings, seed, budget, folder, no_kept)


def scores(fitted: Fitted, data: QualityData, part: str = "test") -> list[np.ndarray]:
    """Return the scores of the cases of each domain."""
    found = []
    for code in (1, 2):
        index = np.flatnonzero(data.cases[part].domain_M == code)
        found.append(fitted.views[""].score(part, index))
    return found


def share_first(fitted: Fitted, data: QualityData, part: str = "test") -> float:
    return float((rank(data, part, fitted.views[""])["full"] == 1).mean())
