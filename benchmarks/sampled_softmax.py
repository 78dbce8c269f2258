"""What the sampled softmax and row-wise AdamW cost in quality: the same model, users and epochs on set A5.

    make bench-sampled          (python -m benchmarks.sampled_softmax --epochs 12)

A5's domains are small (2,095 to 7,449 items): the full softmax is there to compare with. Every user's last event
is ranked among all items of its domain, the best of the epochs counts for every variant. This is validation: a
comparison of variants, no result of the model. Data: benchmarks/prepare_amazon2014.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.prepare_amazon2014 import A5, DATA, five_core
from benchmarks.record import RESULTS, record
from syncrec_model import (
    CaseRanks,
    ModelConfig,
    SequenceSet,
    SyNCRec,
    TrainingConfig,
    fit,
    metrics,
    paired_difference,
    rank_cases,
)

# negatives (0: full softmax), gradient by rows
VARIANTS = {"full": (0, False), "64.rows": (64, True), "64.dense": (64, False), "256.rows": (256, True)}


def a5_sets(data: Path, n_users: int, max_length: int = 50) -> tuple[SequenceSet, SequenceSet]:
    """Return (train, valid) of n_users users drawn from A5: all events but the last, and the last as the case."""
    path = data / "interactions.parquet"
    if not path.is_file():
        raise SystemExit(f"{path} is absent: give the folder of the real logs with --data")
    log = five_core(pq.read_table(path, columns=["user_id", "item_id", "domain", "ts"]))
    log = log.sort_by([("user_id", "ascending"), ("ts", "ascending"), ("item_id", "ascending")])
    user_E = pc.dictionary_encode(log["user_id"]).combine_chunks().indices.to_numpy().astype(np.int64)
    domain_E = 1 + np.array([A5.index(name) for name in log["domain"].to_pylist()])
    items = np.array(log["item_id"].to_pylist())
    item_E, n_items = np.zeros(len(items), dtype=np.int64), []
    for code in range(1, len(A5) + 1):
        known, index = np.unique(items[domain_E == code], return_inverse=True)
        item_E[domain_E == code] = index + 1
        n_items.append(len(known))
    is_last_E = np.append(user_E[1:] != user_E[:-1], True)
    drawn = np.random.default_rng(0).permutation(user_E.max() + 1)[:n_users]
    kept_E = np.isin(user_E, drawn)
    sets = [
        SequenceSet.from_events(
            user_ids=user_E[kept_E], item_indexes=item_E[kept_E], domain_codes=domain_E[kept_E],
            timestamps=np.where(is_last_E, len(user_E), np.arange(len(user_E)))[kept_E],
            window=(len(user_E), end), domains=A5, n_items=tuple(n_items), max_length=max_length,
        )
        for end in (len(user_E), np.inf)
    ]  # fmt: skip
    return sets[0], sets[1]


def train_variant(
    name: str, train: SequenceSet, valid: SequenceSet, epochs: int, seed: int, threads: int
) -> tuple[CaseRanks, float]:
    """Return the ranks of the best epoch and the seconds of training."""
    negatives, rows = VARIANTS[name]
    sampled = {"full_softmax_items": negatives, "sampled_negatives": negatives} if negatives else {}
    torch.manual_seed(seed)
    model = SyNCRec(ModelConfig(max_length=train.max_length, **sampled), train.domains, train.n_items)
    model.embedding.row_gradients = rows
    config = TrainingConfig(epochs=epochs, patience=epochs, seed=seed, threads=threads, device="cpu")
    began = time.perf_counter()
    fit(model, train, valid, config, progress=sys.stderr.isatty())
    return rank_cases(model, valid, views=("blend",)), time.perf_counter() - began


def macro(ranks: CaseRanks) -> float:
    """Return the mean over domains of NDCG@10 of the blend view."""
    codes = [code for code in range(1, len(ranks.domains) + 1) if (ranks.domain == code).any()]
    return float(np.mean([metrics(ranks.ranks["blend"][ranks.domain == code])["ndcg@10"] for code in codes]))


def show(found: Mapping[str, tuple[CaseRanks, float]], console: Console) -> dict[str, float]:
    """Print the table; return the figures to keep."""
    table = Table(box=box.MARKDOWN)
    for column in ("", "macro NDCG@10", "NDCG@10 of all cases", "difference to full, 95 %", "seconds"):
        table.add_column(column, justify="right" if column else "left")
    figures: dict[str, float] = {}
    full = found.get("full", (None, 0.0))[0]
    for name, (ranks, seconds) in found.items():
        blend, difference = ranks.ranks["blend"], "-"
        if full is not None and name != "full":
            gap, low, high = paired_difference(blend, full.ranks["blend"], ranks.user)
            difference = f"{gap:+.4f} [{low:+.4f}, {high:+.4f}]"
            figures |= {
                f"sampled.{name}.gap": gap,
                f"sampled.{name}.gap_low": low,
                f"sampled.{name}.gap_high": high,
            }
        figures[f"sampled.{name}.macro_ndcg10"] = macro(ranks)
        overall = metrics(blend)["ndcg@10"]
        table.add_row(name, f"{macro(ranks):.4f}", f"{overall:.4f}", difference, f"{seconds:.0f}")
    console.print(table)
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Train every variant and print them side by side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--users", type=int, default=16_065, help="of A5's 16,065")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of train.json")
    a = parser.parse_args(argv)
    train, valid = a5_sets(a.data, a.users)
    print(f"{train.n_users} users, items {dict(zip(train.domains, train.n_items, strict=True))}", file=sys.stderr)
    found = {}
    for name in a.variants:
        found[name] = train_variant(name, train, valid, a.epochs, a.seed, a.threads)
        print(f"{name}: macro NDCG@10 {macro(found[name][0]):.4f}, {found[name][1]:.0f} s", file=sys.stderr)
    figures = show(found, Console(width=140))
    details = {"users": train.n_users, "epochs": a.epochs, "seed": a.seed}
    record("train", figures, part="sampled", details=details, folder=a.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
