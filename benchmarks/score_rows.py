"""One row of make bench-score in a process of its own: rank users' best items until all are done or time is up.

    python -m benchmarks.score_rows --row faiss --folder FOLDER --users 1000000 --seconds 10 ...

numpy alone at the top: every row runs in the environment of its library. Shapes: U users, B users of a batch, D
domains, V items of one domain, C channels, P pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.memory import resident_peak_gib

Array = NDArray[Any]
Rank = Callable[[Array], object]  # the users of a batch, as rows of the query file, in one domain

# Users at once: what is fastest for each, tried at 100,000 items. RecTools has batches of its own inside.
BATCHES = {"ours": 1024, "fp32": 1024, "blend": 1024, "topk": 128, "faiss": 4096, "rectools": 4096}
SEEN = 20  # items of a user and domain that are left out
NEAR = 1000  # items of a user and domain that near items add to, of the row "blend"
CHECKED = 16  # users whose lists are compared with a sort of all scores


def rankers(row: str, folder: Path, n: int, threads: int) -> Iterator[Rank]:
    """Yield what ranks one domain after the other."""
    query_UC = np.load(folder / "query.npy")
    for path in sorted(folder.glob("items-*.npy")):
        yield MAKERS[row](query_UC, np.load(path), n, threads)


def _faiss(query_UC: Array, items_VC: Array, n: int, threads: int) -> Rank:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(items_VC.shape[1])
    index.add(items_VC)
    return lambda users: index.search(query_UC[users], n)


def _rectools(query_UC: Array, items_VC: Array, n: int, threads: int) -> Rank:
    import torch
    from rectools.models.rank import Distance, TorchRanker

    torch.set_num_threads(threads)
    ranker = TorchRanker(Distance.DOT, "cpu", query_UC, items_VC)
    return lambda users: ranker.rank(users, n)


def _topk(query_UC: Array, items_VC: Array, n: int, threads: int) -> Rank:
    import torch

    torch.set_num_threads(threads)
    query, items = torch.from_numpy(query_UC), torch.from_numpy(items_VC)
    return lambda users: torch.topk(query[torch.from_numpy(users)] @ items.T, min(n, len(items)), dim=1)


def _ours(query_UC: Array, items_VC: Array, n: int, threads: int, precision: str = "", near: int = 0) -> Rank:
    import torch

    from syncrec_model.first_pass import Pairs
    from syncrec_model.ranking import ItemTable, best_items

    torch.set_num_threads(threads)
    rng = np.random.default_rng(len(items_VC))
    bias = torch.from_numpy(rng.exponential(1, len(items_VC))) if near else None
    query, table = torch.from_numpy(query_UC), ItemTable(torch.from_numpy(items_VC), bias)
    kind = torch.float32 if precision else None
    seen_S = rng.integers(0, len(items_VC), max(BATCHES.values()) * SEEN)
    near_S = rng.integers(0, len(items_VC), max(BATCHES.values()) * near)
    value_S = rng.exponential(1, len(near_S))

    def rank(users: Array) -> object:
        def pairs(each: int, item_S: Array, value_S: Array) -> Pairs:
            size = len(users) * each
            return Pairs(np.repeat(np.arange(len(users)), each), item_S[:size], value_S[:size])

        rows = query[torch.from_numpy(users)]
        hidden = pairs(SEEN, seen_S, np.zeros(len(seen_S)))
        added = [pairs(near, near_S, value_S)] if near else []
        return best_items(rows, table, n, excluded=hidden, added=added, precision=kind)

    users = np.arange(CHECKED)
    scores_BV = query_UC[users].astype(np.float64) @ items_VC.T.astype(np.float64)
    if near:
        scores_BV += bias.numpy()
        np.add.at(scores_BV, (users.repeat(near), near_S[: CHECKED * near]), value_S[: CHECKED * near])
    scores_BV = scores_BV.astype(np.float32)
    scores_BV[users.repeat(SEEN), seen_S[: CHECKED * SEEN]] = -np.inf
    for user in range(CHECKED):
        rank_user = np.argsort(-scores_BV[user], kind="stable")[:n]
        expected = rank_user[scores_BV[user, rank_user] > -np.inf]
        found = rank(users)
        if not np.array_equal(found.item[found.row == user], expected):
            raise AssertionError(f"user {user}: the list is not that of all scores sorted")
    return rank


MAKERS: dict[str, Callable[..., Rank]] = {
    "ours": _ours,
    "fp32": lambda *words: _ours(*words, precision="fp32"),
    "blend": lambda *words: _ours(*words, near=NEAR),
    "topk": _topk,
    "faiss": _faiss,
    "rectools": _rectools,
}


def measure(row: str, folder: Path, n: int, threads: int, n_users: int, seconds: float) -> dict[str, float]:
    """Rank users batch by batch in all domains, nothing kept; users beyond those of the file are those again."""
    distinct = len(np.load(folder / "query.npy", mmap_mode="r"))
    domains = list(rankers(row, folder, n, threads))
    batch = min(BATCHES[row], distinct)
    for rank in domains:
        rank(np.arange(batch))
    done, began = 0, time.perf_counter()
    while done < n_users and (not done or time.perf_counter() - began < seconds):
        users = np.arange(done, min(done + batch, n_users)) % distinct
        for rank in domains:
            rank(users)
        done += len(users)
    return {"users": done, "seconds": time.perf_counter() - began, "peak_gib": resident_peak_gib()}


def peak(threads: int) -> dict[str, float]:
    """Return the rate of large matrix products."""
    import torch

    from benchmarks.measure import matrix_peak

    torch.set_num_threads(threads)
    return matrix_peak(torch.device("cpu"), ["fp32"])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--row", choices=[*MAKERS, "peak"], required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args(argv)
    if a.row == "peak":
        print(json.dumps(peak(a.threads)))
    else:
        print(json.dumps(measure(a.row, a.folder, a.n, a.threads, a.users, a.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
