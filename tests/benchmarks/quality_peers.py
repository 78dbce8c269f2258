"""A tiny benchmark set and systems that score it by planted rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.quality.data import QualityData, cut
from benchmarks.quality.progress import Progress
from benchmarks.quality.protocol import Budget, Fitted, Peer, PeerAbsent, View

DOMAINS = ("books", "toys")
N_ITEMS = 25
BUDGET = Budget(threads=1, epochs=3)


def tiny(users: int = 60, split: str = "leave-one-out") -> QualityData:
    """Make every user's events of a domain follow one another: item 7, 8, 9, ..."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users):
        at = rng.integers(0, N_ITEMS, 2)
        for step in range(8):
            domain = int(rng.integers(2))
            at[domain] = (at[domain] + 1) % N_ITEMS
            rows.append((f"u{user:03}", f"{at[domain]:02}", DOMAINS[domain], 86_400 * step + 100 * user))
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "ts"])
    return cut("tiny", log, log.head(0), DOMAINS, split=split)


class Planted(Peer):
    """Score the targets of a part above all others in a share of its cases: quality by the settings.

    calls: a file with one line a training; scores are drawn by the seed, `spread` moves a seed's quality.
    """

    def __init__(self, calls: Path, name: str, kind: str, *search: Mapping[str, Any], **values: Any) -> None:
        self.calls, self.name, self.kind, self.source = calls, name, kind, "planted"
        self.search = search or ({},)
        for key in ("needs", "keeps_scores", "slow", "seeded"):
            if key in values:
                setattr(self, key, values.pop(key))
        self.values = {"valid": 0.5, "test": 0.5, "spread": 0.0, "views": ("",), **values}

    def fit(
        self, data: QualityData, settings: Mapping[str, Any], seed: int, budget: Budget, folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:  # fmt: skip
        with self.calls.open("a") as calls:
            calls.write(f"{self.name} {dict(settings)} {seed}\n")
        values = {**self.values, **settings}
        if values.get("absent"):
            raise PeerAbsent("its library is not installed")
        if values.get("crash") == seed or values.get("crash") == "always":
            raise RuntimeError("first line\nthe loss is not finite")
        for need in self.needs:
            kept(need).score("valid", np.flatnonzero(data.cases["valid"].domain_M == 1))
        moved = values["spread"] * np.random.default_rng(seed).standard_normal()

        def score(part: str, index: np.ndarray) -> np.ndarray:
            cases = data.cases[part]
            code = cases.domain_M[index[0]]
            share = values[part][code - 1] if isinstance(values[part], tuple) else values[part]
            known = np.random.default_rng([seed, 1]).random(len(cases))[index] < share + moved
            scores = np.random.default_rng([seed, *index[:2]]).random((len(index), data.n_items[code - 1]))
            scores[known, cases.target_M[index][known] - 1] = 2
            return scores.astype(np.float32)

        chosen = {"ntg_by_epoch": {d: [0.01 * seed, 0.02, 0.03] for d in DOMAINS}} if self.name == "default" else {}

        def other(part: str, index: np.ndarray) -> np.ndarray:  # of every third case the scores are turned round
            scores = score(part, index)
            return np.where(index[:, None] % 3 == 0, -scores, scores)

        views = {name: View(other if name == "cross" else score) for name in values["views"]}
        return Fitted(views, 10, 1.5, chosen, ["planted"])


def lines(file: Path) -> list[str]:
    """Return the trainings so far."""
    return file.read_text().splitlines() if file.exists() else []


class Silent(Progress):
    """A progress that keeps what it would print."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "progress.txt"
        super().__init__(self.file.open("a"))

    @property
    def lines(self) -> Sequence[str]:
        """What was printed."""
        self.console.file.flush()
        return self.file.read_text().splitlines()
