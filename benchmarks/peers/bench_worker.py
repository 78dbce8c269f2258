"""Fits item-item matrices with the kept libraries, in the libraries' own environment; writes them as files.

    .venv/bench/bin/python -P benchmarks/peers/bench_worker.py FOLDER

FOLDER/job.json says what (`item_matrix.py` writes it); log-N.npz holds user_E, item_E (1..n_items), n_items and
n_ranked. Of matrix N, rows and columns of items 1..n_ranked are kept: matrix-N-B.npz (sparse) or .npy (dense)
has the columns of block B. The last line printed is JSON: seconds, numbers kept, library and version.

Shapes: V ranked items, W items trained on.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy import sparse
from scipy.linalg.lapack import dpotrf, dpotri

_ROWS_AT_ONCE = 1_024


def item_knn(log: Mapping[str, Any], settings: Mapping[str, Any], threads: int) -> sparse.csc_matrix:
    """Return the similarities [V, V] of implicit; row: an item of the history, its entries: its neighbours.

    The library is asked for one neighbour more: an item is its own nearest, which is then removed.
    """
    from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender

    models = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender, "bm25": BM25Recommender}
    n_items, n_ranked = int(log["n_items"]), int(log["n_ranked"])
    users, user_E = np.unique(log["user_E"], return_inverse=True)
    held = sparse.csr_matrix((np.ones(len(user_E)), (user_E, log["item_E"] - 1)), shape=(len(users), n_items))
    held.data[:] = 1.0  # repeats do not count
    model = models[settings["weighting"]](K=min(settings["neighbours"] + 1, n_items), num_threads=threads)
    model.fit(held, show_progress=False)
    similarity = model.similarity[:n_ranked, :n_ranked].astype(np.float32)
    similarity.setdiag(0)
    similarity.eliminate_zeros()
    return similarity.tocsc()


def positive_inverse(matrix: Any) -> Any:
    """Return the inverse of a symmetric positive definite matrix, float32, computed by Cholesky in float64.

    Raises
    ------
    ValueError : the matrix is not positive definite.
    """
    factor, failed = dpotrf(np.array(matrix, dtype=np.float64, order="F"), lower=1, overwrite_a=1)
    lower, failed_too = dpotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise ValueError("the matrix of EASE is not positive definite: choose a greater l2")
    inverse = lower.astype(np.float32)
    for start in range(0, len(inverse), _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        corner = np.tril(inverse[start:end, start:end])
        inverse[start:end, start:end] = corner + np.tril(corner, -1).T
        inverse[start:end, end:] = inverse[end:, start:end].T
    return inverse


class EaseColumns:
    """The weights [V, V] of RecTools' EASE, given out in blocks of columns; items without events weigh 0.

    B of the paper: score = history @ B. (`recommend` of RecTools 0.19 multiplies by the transpose of B.) The
    library calls numpy's general inverse: at 14,645 items 6.2 GiB at the peak and 255 s, so 12 GiB for the 20,680
    mixed items of A5. While it fits it is given `positive_inverse` instead: 2.7 GiB and 65 s, the same ranking.
    """

    def __init__(self, log: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        # torch is optional in RecTools, and only its neural models need it: seconds of every start.
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        import pandas as pd
        from rectools import Columns
        from rectools.dataset import Dataset
        from rectools.models import EASEModel

        frame = pd.DataFrame({Columns.User: log["user_E"], Columns.Item: log["item_E"]})
        frame = frame.drop_duplicates().assign(**{Columns.Weight: 1.0, Columns.Datetime: pd.Timestamp(0)})
        dataset = Dataset.construct(frame)
        with mock.patch.object(np.linalg, "inv", positive_inverse):
            self.weight_WW = EASEModel(regularization=settings["l2"]).fit(dataset).weight
        self.item_W = np.asarray(dataset.item_id_map.external_ids) - 1
        self.n_ranked = int(log["n_ranked"])

    def write(self, file: Path, start: int, end: int) -> int:
        """Write columns start .. end - 1; return how many numbers."""
        shape = (self.n_ranked, end - start)
        block = np.lib.format.open_memmap(file, "w+", dtype=np.float32, shape=shape)
        rows = np.flatnonzero(self.item_W < self.n_ranked)
        columns = np.flatnonzero((self.item_W >= start) & (self.item_W < end))
        inside = np.ix_(self.item_W[rows], self.item_W[columns] - start)
        block[inside] = self.weight_WW[np.ix_(rows, columns)]
        block.flush()
        return len(rows) * len(columns)


def run(folder: Path) -> dict[str, Any]:
    """Fit and write every matrix of a job."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    is_ease, seconds, numbers = job["model"] == "ease", 0.0, 0
    for number, blocks in enumerate(job["blocks"]):
        with np.load(folder / f"log-{number}.npz") as file:
            log = dict(file)
        began = time.perf_counter()
        fitted = EaseColumns(log, job["settings"]) if is_ease else item_knn(log, job["settings"], job["threads"])
        seconds += time.perf_counter() - began
        for place, (start, end) in enumerate(blocks):
            name = f"matrix-{number}-{place}"
            if isinstance(fitted, EaseColumns):
                numbers += fitted.write(folder / f"{name}.npy", start, end)
            else:
                block = fitted[:, start:end].tocsr()
                sparse.save_npz(folder / f"{name}.npz", block, compressed=False)
                numbers += block.nnz
        del fitted
    library = f"RecTools {version('rectools')}" if is_ease else f"implicit {version('pm-implicit')}"
    return {"fit_s": seconds, "numbers": numbers, "library": library}


def main() -> int:
    """The command line. Returns 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    try:
        print(json.dumps(run(parser.parse_args().folder)))
    except (ImportError, ValueError, KeyError, OSError, MemoryError) as error:
        print(f"bench_worker: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
