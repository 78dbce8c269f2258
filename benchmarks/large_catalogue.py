"""A catalogue of 1,000,000 items in five domains: memory, users/s and where a step's time goes.

    make bench-catalogue          (python -m benchmarks.large_catalogue)

Every row is a process of its own, so that its peak memory is its own. Rows: what fit does by default (sampled
softmax, AdamW by rows), the same with a dense gradient and dense AdamW, and the full softmax. The first row also
ranks validation cases among all items of their domain and writes a checkpoint, within the same peak.
Shapes: E events, U users, D domains, V items of a domain.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measure import peak_gib
from benchmarks.record import RESULTS, ROOT, record
from syncrec_model import ModelConfig, SequenceSet, SyNCRec, TrainingConfig
from syncrec_model.reports import validation_figures
from syncrec_model.training import TrainingRun

ROWS = {
    "sampled": "sampled softmax, AdamW by rows (default)",
    "dense": "sampled softmax, dense AdamW",
    "full": "full softmax, dense AdamW",
}
DOMAINS = ("books", "toys", "food", "music", "tools")
TASTES = 2_000
LAST = 1e9  # the time of every user's last event: the validation window
MEMORY_GIB = 12


def make_sets(n_items: int, n_users: int, n_valid: int, seed: int = 0) -> tuple[SequenceSet, SequenceSet]:
    """Return (train, valid) of a power-law log in which every user has a taste that spans all domains.

    Item v of a domain belongs to taste v mod TASTES; seven of ten events are of the user's taste, the others
    of the whole domain; inside both popularity falls as 1 / rank. Histories have 5 to 100 events, 20 on average.
    """
    rng = np.random.default_rng(seed)
    tastes = min(TASTES, n_items)
    lengths_U = 5 + np.minimum(rng.geometric(1 / 16, n_users) - 1, 95)
    user_E = np.repeat(np.arange(n_users), lengths_U)
    first_U = np.cumsum(lengths_U) - lengths_U
    time_E = (np.arange(len(user_E)) - first_U[user_E]).astype(np.float64)
    time_E[first_U + lengths_U - 1] = LAST
    liking_UD = rng.dirichlet(np.full(len(DOMAINS), 0.7), n_users).cumsum(1)
    domain_E = 1 + np.minimum((rng.random((len(user_E), 1)) > liking_UD[user_E]).sum(1), len(DOMAINS) - 1)
    taste_E = _rank(rng, tastes, n_users)[user_E]
    own_E = taste_E + tastes * _rank(rng, n_items // tastes, len(user_E))
    item_E = 1 + np.where(rng.random(len(user_E)) < 0.7, own_E, _rank(rng, n_items, len(user_E)))
    train, valid = (
        SequenceSet.from_events(
            user_ids=user_E, item_indexes=item_E, domain_codes=domain_E, timestamps=time_E, window=window,
            domains=DOMAINS, n_items=(n_items,) * len(DOMAINS), max_length=50,
        )
        for window in ((LAST, LAST), (LAST, np.inf))
    )  # fmt: skip
    return train, valid.select(np.sort(rng.permutation(n_users)[:n_valid]))


def _rank(rng: np.random.Generator, n: int, size: int) -> NDArray[np.int64]:
    """Draw ranks 0 to n - 1 whose frequency falls as 1 / rank."""
    return np.minimum(np.exp(rng.random(size) * np.log(n + 1)).astype(np.int64) - 1, n - 1)


class Stopwatch:
    """Keeps the seconds of every call that it watches."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Time every call of owner.name under the label."""
        work: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                self.seconds[label].append(time.perf_counter() - began)

        setattr(owner, name, timed)


def measure_row(name: str, a: argparse.Namespace) -> dict[str, Any]:
    """Train some steps in this process and return what was measured."""
    torch.set_num_threads(a.threads)
    train, valid = make_sets(a.items // len(DOMAINS), a.users, a.valid)
    torch.manual_seed(0)
    full = {"full_softmax_items": a.items} if name == "full" else {}
    model = SyNCRec(replace(a.config, **full), train.domains, train.n_items)
    if name == "dense":
        model.embedding.row_gradients = False
    run = TrainingRun(model, train, valid, TrainingConfig(batch_size=a.batch, device="cpu"))
    steps = a.steps if name == "sampled" else a.other_steps
    batches = [users for _, users in zip(range(a.warm + steps), run._batches(1), strict=False)]
    model.train()
    for step, users in enumerate(batches[: a.warm]):
        run.step(users, step)
    watch = Stopwatch()
    for owner, method, label in (
        (run, "step", "step"), (run.reader, "training", "batch"), (run, "forward", "forward"),
        (run.optimizer, "step", "optimizer"),
    ):  # fmt: skip
        watch.watch(owner, method, label)
    for step, users in enumerate(batches[a.warm :], start=a.warm):
        losses, _ = run.step(users, step)
    # Medians, as the machine may pause: what is left of the step is the backward pass and the clipping.
    parts = {label: float(np.median(seconds)) for label, seconds in watch.seconds.items()}
    step_s = parts.pop("step")
    parts["backward, clipping"] = step_s - sum(parts.values())
    found: dict[str, Any] = {
        "step_s": step_s,
        "parts": parts,
        "loss": losses.total.item(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": steps,
    }
    if name == "sampled":
        found |= _validated_and_saved(run, valid)
    return found | {"peak_gib": peak_gib(torch.device("cpu"))}


def _validated_and_saved(run: TrainingRun, valid: SequenceSet) -> dict[str, float]:
    began = time.perf_counter()
    _, overall = validation_figures(run.model, valid, ())
    validation = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run.save(Path(folder) / "checkpoint.safetensors")
        checkpoint = time.perf_counter() - began
    return {
        "validation_s": validation,
        "cases": int(valid.cross_targets_UT.sum()),
        "checkpoint_s": checkpoint,
        "ndcg": overall["macro.blend.ndcg@10"],
    }


def child(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """Measure one row in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.large_catalogue", *argv, "--row", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, no message (memory?)"]
        return {"failed": lines[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table_of(found: dict[str, dict[str, Any]], batch: int) -> Table:
    """Return the table, in a form that Markdown reads; x: users/s over the full softmax's."""
    table = Table(box=box.MARKDOWN)
    parts = list(next(row["parts"] for row in found.values() if "parts" in row))
    for name in ("", "users/s", "x full", "s a step", *parts, "peak GiB"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in found.items():
        if "failed" in row:
            table.add_row(ROWS[name], *["-"] * (4 + len(parts)))
            continue
        rival = found.get("full", {}).get("step_s")
        table.add_row(
            ROWS[name], f"{batch / row['step_s']:.1f}", f"{rival / row['step_s']:.1f}" if rival else "-",
            f"{row['step_s']:.3f}", *(f"{row['parts'][part]:.3f}" for part in parts), f"{row['peak_gib']:.2f}",
        )  # fmt: skip
    return table


def figures_of(found: dict[str, dict[str, Any]], batch: int) -> dict[str, float]:
    """Return the figures to keep; a row that failed keeps none."""
    kept: dict[str, float] = {}
    for name, row in found.items():
        if "failed" not in row:
            prefix = "catalogue_1m." + ("" if name == "sampled" else f"{name}.")
            kept |= {f"{prefix}users_per_s": batch / row["step_s"], f"{prefix}peak_gib": row["peak_gib"]}
            kept |= {f"{prefix}{key}": row[key] for key in ("validation_s", "checkpoint_s") if key in row}
    return {name: float(f"{value:.4g}") for name, value in kept.items()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="in all five domains together")
    parser.add_argument("--users", type=int, default=60_000)
    parser.add_argument("--valid", type=int, default=1_000, help="users whose last event is ranked")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of the first row")
    parser.add_argument("--other-steps", type=int, default=5, help="timed steps of the other rows")
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=json.loads, default={}, help="ModelConfig fields as JSON")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--row", choices=list(ROWS), help="measure this one here and print JSON")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of train.json")
    arguments = parser.parse_args(argv)
    arguments.config = ModelConfig.from_dict(arguments.model)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows, print the table, keep the figures of a whole run."""
    words = list(sys.argv[1:] if argv is None else argv)
    a = parse(words)
    if a.row:
        print(json.dumps(measure_row(a.row, a)))
        return 0
    console = Console(width=140)
    found: dict[str, dict[str, Any]] = {}
    for name in a.rows:
        found[name] = child(name, words)
        if "failed" in found[name]:
            print(f"{ROWS[name]}: failed: {found[name]['failed']}", file=sys.stderr)
    if all("failed" in row for row in found.values()):
        return 1
    console.print(f"{a.items:,} items in {len(DOMAINS)} domains, B {a.batch}, {a.threads} threads")
    console.print(table_of(found, a.batch))
    first = found.get("sampled", {})
    if "ndcg" in first:
        console.print(
            f"first row: {first['cases']} cases ranked among {a.items // len(DOMAINS):,} items by three views in "
            f"{first['validation_s']:.1f} s, checkpoint written in {first['checkpoint_s']:.1f} s, all within "
            f"{first['peak_gib']:.2f} GiB of {MEMORY_GIB}; {first['parameters'] / 1e6:.1f} M parameters"
        )
    if a.items == 1_000_000 and list(a.rows) == list(ROWS):
        path = record("train", figures_of(found, a.batch), part="catalogue", details=found, folder=a.results)
        console.print(f"kept in {path.name}")
    return 1 if "failed" in found.get("sampled", {}) or first.get("peak_gib", 0) > MEMORY_GIB else 0


if __name__ == "__main__":
    sys.exit(main())
