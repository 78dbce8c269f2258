"""RecTools' preparation of sequences, as its SASRec makes them: one over all domains, then one a domain.

    .venv/bench/bin/python -m benchmarks.data_rectools ARRAYS --length 50

Runs in the environment of that library alone and imports nothing of ours. It makes lists of items; times and domain
codes are not among what it keeps. It reads user.npy, item.npy, code.npy and time.npy of the folder ARRAYS.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

Array = NDArray[Any]


def prepare(user: Array, item: Array, time: Array, length: int) -> tuple[int, int]:
    """Make sequences of the last `length` events of users with two events or more; count them and their items."""
    frame = pd.DataFrame({Columns.User: user, Columns.Item: item, Columns.Datetime: time.astype("datetime64[us]")})
    frame[Columns.Weight] = 1.0
    preparator = SASRecDataPreparator(session_max_len=length - 1, batch_size=128, dataloader_num_workers=0)
    preparator.process_dataset_train(Dataset.construct(frame))
    sessions = preparator.get_dataloader_train().dataset.sessions
    return len(sessions), sum(map(len, sessions))


def main() -> int:
    """Prepare and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("arrays", type=Path)
    parser.add_argument("--length", type=int, default=50)
    a = parser.parse_args()
    columns = {name: np.load(a.arrays / f"{name}.npy", mmap_mode="r") for name in ("user", "item", "code", "time")}
    for code in (0, *np.unique(columns["code"])):
        chosen = columns["code"] == code if code else slice(None)
        user, item, time = (columns[name][chosen] for name in ("user", "item", "time"))
        sequences, items = prepare(user, item, time, a.length)
        of = f"domain {code}" if code else "all domains"
        print(f"{of}: {sequences:,} sequences of {items:,} items", flush=True)
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
