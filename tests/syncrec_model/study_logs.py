"""Logs for the study kit's tests: two domains with shared taste, so small that a training takes a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

START = 1_700_000_000
FAST = {"channels": 8, "max_length": 10, "n_experts": 2, "n_cross_experts": 1, "neighbours": 10, "threads": 1}
"""Settings of a quick training."""


def columns(n_users: int = 60, n_items: int = 12, n_events: int = 14, seed: int = 0) -> dict[str, Any]:
    """user, item, domain, ts: every user walks through items of one of three tastes, in books and toys."""
    rng = np.random.default_rng(seed)
    n = n_users * n_events
    user = np.repeat(np.arange(n_users), n_events)
    item = user % 3 + 3 * rng.integers(0, n_items // 3, n)
    return {
        "user": [f"u{number}" for number in user],
        "item": [f"i{number}" for number in item],
        "domain": [("books", "toys")[number] for number in rng.integers(0, 2, n)],
        "ts": (START + 3600 * np.tile(np.arange(n_events), n_users) + user).tolist(),
    }


def write(path: Path, log: dict[str, Any]) -> Path:
    """Write a log as what the path's name says."""
    table = pa.table(log)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path)
    return path
