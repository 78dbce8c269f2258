"""Derive benchmarks/shapes/a5.json from the real logs: how long the rows of set A5 are, and over how many domains.

    python -m benchmarks.derive_shapes --data FOLDER

Counts alone, no user and no item: speed depends on the shapes of the data, and these counts give the shapes to
machines that do not have the logs. Set A5 and its data: benchmarks/prepare_amazon2014.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.prepare_amazon2014 import A5, DATA, five_core
from benchmarks.workload import A5_FILE

MAX_LENGTH = 50


def derive(log: pa.Table, max_length: int = MAX_LENGTH) -> dict[str, Any]:
    """Count the stored rows (the last `max_length` events of a user) of a log that is set A5 already.

    Parameters
    ----------
    log : columns `user_id`, `item_id`, `domain`, `ts`.

    Returns
    -------
    What benchmarks/shapes/a5.json holds; its `users_by_length` rows are [length, users with 1, 2, ... domains].
    """
    frame = log.to_pandas().sort_values("ts", kind="stable")
    stored = frame.groupby("user_id", sort=True).tail(max_length)
    per_user = stored.groupby("user_id", sort=True)["domain"].agg(["size", "nunique"])
    table = np.zeros((max_length + 1, len(A5) + 1), dtype=int)
    np.add.at(table, (per_user["size"].to_numpy(), per_user["nunique"].to_numpy()), 1)
    domains = {
        name: {
            "items": int(frame.loc[frame["domain"] == name, "item_id"].nunique()),
            "stored_events": int((stored["domain"] == name).sum()),
        }
        for name in A5
    }
    return {
        "source": "Amazon reviews 2014 (He & McAuley 2016, McAuley et al. 2015), set A5; derived counts alone",
        "made_by": "python -m benchmarks.derive_shapes",
        "max_length": max_length,
        "users": len(per_user),
        "events": len(frame),
        "stored_events": len(stored),
        "domains": domains,
        "users_by_length": [[length, *row[1:].tolist()] for length, row in enumerate(table) if row.any()],
    }


def text(counts: dict[str, Any]) -> str:
    """Return the counts as JSON with one length a line."""
    rows = ",\n".join(f"    {row}" for row in counts["users_by_length"])
    head = json.dumps({**counts, "users_by_length": []}, indent=2)
    return head.replace('"users_by_length": []', f'"users_by_length": [\n{rows}\n  ]') + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of interactions.parquet")
    path = parser.parse_args(argv).data / "interactions.parquet"
    if not path.is_file():
        print(f"derive_shapes: {path} is absent: give the folder of the real logs with --data", file=sys.stderr)
        return 2
    log = five_core(pq.read_table(path, columns=["user_id", "item_id", "domain", "ts"]))
    A5_FILE.write_text(text(derive(log)), encoding="utf-8")
    print(f"wrote {A5_FILE.name}: {log.num_rows:,} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
