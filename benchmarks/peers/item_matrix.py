"""Systems that are an item-item matrix of a kept library: score = weighted history @ matrix.

The library fits in its own environment, .venv/bench (bench_worker.py); its matrix is multiplied here, because the
libraries' own lists are cut at k. Two things are ours, for every one of these systems: later events of a history
may weigh more (DECAYS, chosen on validation within the one fit), and what the matrix leaves at exactly 0
(no neighbour in the history, or no history) is ordered by popularity, below everything it likes.

Shapes: m cases of one domain, V items of the history, V_d candidates.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.peers.classic_logs import Log, domain_log, histories, mixed_log, offsets_D, sampled_items
from benchmarks.quality.cells import rank
from benchmarks.quality.data import Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, PeerAbsent, View
from benchmarks.record import ROOT
from syncrec_model.measures import case_values

BENCH_PYTHON = ROOT / ".venv" / "bench" / "bin" / "python"
WORKER = Path(__file__).with_name("bench_worker.py")
SCOPES = ("single", "all", "mixed")
MIXED_ALL = "mixed-all"  # of one that can hold it: EASE's dense matrices cannot
DECAYS = (1.0, 0.9, 0.7, 0.5, 0.3)
_BELOW = 1e-6  # popularity fills -_BELOW .. 0
NOTES = (
    f"weight of an event by its place from the end: decay ** place, decay of {DECAYS} chosen on validation",
    "what the matrix leaves at 0 is ordered by popularity",
)


class ItemMatrixPeer(Peer):
    """A system of one matrix a domain, or of one over all domains.

    scope: "single" learns from the benchmark's users in one domain; "all" from everybody in that domain; both see
    that domain's history. "mixed" learns one matrix over all items, and sees the whole history; "mixed-all" from
    everybody, too.
    """

    row: str
    seeded = False

    def __init__(self, scope: str) -> None:
        self.name, self.scope = f"{self.row}.{scope}", scope
        self.kind = "multi-domain" if scope.startswith("mixed") else "single-domain"

    @abstractmethod
    def job(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what bench_worker fits: {"model": ..., "settings": ...}."""

    def prepare(self, log: Log) -> Log:
        """Return the events that the library gets of a log."""
        return log

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Fit the matrices under one setting, then choose the decay of histories on validation.

        Raises
        ------
        PeerAbsent : .venv/bench is not there.
        RuntimeError : the library failed; the message is its last line.
        """
        is_mixed = self.scope.startswith("mixed")
        codes = range(1, len(data.domains) + 1)
        if is_mixed:
            logs, starts = [mixed_log(data, outside=self.scope == MIXED_ALL)], offsets_D(data)
            blocks = [[[int(at), int(at) + size] for at, size in zip(starts, data.n_items, strict=True)]]
            popularity = _below(logs[0].counts_V)
            below = [popularity[start:end] for start, end in blocks[0]]
        else:
            logs = [domain_log(data, code, outside=self.scope == "all") for code in codes]
            blocks = [[[0, log.n_ranked]] for log in logs]
            below = [_below(log.counts_V) for log in logs]
        job = self.job(settings) | {"blocks": blocks, "threads": budget.threads}
        done = _run(self.name, job, [self.prepare(log) for log in logs], folder)
        places = [(0, code - 1) if is_mixed else (code - 1, 0) for code in codes]
        matrices = [_read(folder, number, block) for number, block in places]
        began = time.perf_counter()
        views = {decay: matrix_view(data, matrices, below, decay, is_mixed=is_mixed) for decay in DECAYS}
        found = {decay: _macro(data, view) for decay, view in views.items()}
        best = max(DECAYS, key=lambda decay: found[decay])
        chosen = {"decay": best, "valid_macro_ndcg10": {str(decay): value for decay, value in found.items()}}
        train_s = done["fit_s"] + time.perf_counter() - began
        return Fitted({"": views[best]}, done["numbers"], train_s, chosen, (*NOTES, f"fitted by {done['library']}"))


def matrix_view(
    data: QualityData, matrices: Sequence[Any], below: Sequence[Array], decay: float, *, is_mixed: bool
) -> View:
    """Return the scores of one matrix [V, V_d] a domain; below: what stands for a 0, [V_d] each."""

    def times(history: sparse.csr_matrix, code: int) -> Array:
        product = history @ matrices[code - 1]
        scores: Array = np.asarray(product.toarray() if sparse.issparse(product) else product, dtype=np.float32)
        return np.where(scores == 0, below[code - 1], scores)

    def score(part: str, index: Array) -> Array:
        code = int(data.cases[part].domain_M[index[0]])
        return times(histories(data, part, index, code=None if is_mixed else code, decay=decay), code)

    def sampled(part: str, index: Array) -> Array:
        history = histories(data, part, index, code=None, decay=decay)
        everything = np.concatenate([times(history, code) for code in range(1, len(data.domains) + 1)], axis=1)
        taken: Array = np.take_along_axis(everything, sampled_items(data, part, index), axis=1)
        return taken

    return View(score, sampled if is_mixed else None)


def _below(counts_V: Array) -> Array:
    """Return popularity as numbers from -_BELOW up to just under 0."""
    share_V: Array = counts_V / (counts_V.max(initial=0) + 1)
    return np.asarray(_BELOW * (share_V - 1), dtype=np.float32)


def _macro(data: QualityData, view: View) -> float:
    """Return NDCG@10 on validation, mean over the domains that have cases."""
    ndcg_M = case_values(rank(data, "valid", View(view.score))["full"])["ndcg@10"]
    domain_M = data.cases["valid"].domain_M
    return float(np.mean([ndcg_M[domain_M == code].mean() for code in np.unique(domain_M)]))


def _run(name: str, job: Mapping[str, Any], logs: Sequence[Log], folder: Path) -> dict[str, Any]:
    """Let the library fit; return what it says."""
    if not BENCH_PYTHON.exists():
        raise PeerAbsent(f"{name}: .venv/bench is absent; `make bench-quality` makes it")
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    for number, log in enumerate(logs):
        np.savez(
            folder / f"log-{number}.npz",
            user_E=log.user_E, item_E=log.item_E, n_items=log.n_items, n_ranked=log.n_ranked,
        )  # fmt: skip
    threads = {key: str(job["threads"]) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [str(BENCH_PYTHON), "-P", str(WORKER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, no message (-9: out of memory)"]
        raise RuntimeError(f"{name}: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _read(folder: Path, number: int, block: int) -> Any:
    """Return one block of a matrix; a dense one stays on disk and is read where it is multiplied."""
    dense = folder / f"matrix-{number}-{block}.npy"
    if dense.exists():
        return np.asarray(np.load(dense, mmap_mode="r"))
    return sparse.load_npz(dense.with_suffix(".npz"))
