"""Ranking at size: users/s, share of the matrix-product peak and memory, beside FAISS and RecTools' torch ranker.

    make bench-score          (python -m benchmarks.score)

100,000 and 1,000,000 users x 10,000, 100,000 and 1,000,000 items in five domains, and 100,000 items in one; the
best 100 of each domain, 64 channels. Every row ranks the same vectors, in a process of its own, with the same
threads; rows take turns, and products are measured before each round. Shapes: U users, V items, C channels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, ROOT, record

BENCH_PYTHON = ROOT / ".venv" / "bench" / "bin" / "python"
ROWS = {
    "ours": "ours, seen items left out",
    "fp32": "ours, first pass in float32",
    "blend": "ours, with popularity and 1,000 near items a user",
    "topk": "torch: product, then topk",
    "faiss": "FAISS IndexFlatIP",
    "rectools": "RecTools TorchRanker",
}
SIZES = {"10k": (10_000, 5), "100k": (100_000, 5), "1m": (1_000_000, 5), "100k_one": (100_000, 1)}
USERS = {"100k_users": 100_000, "1m_users": 1_000_000}


@dataclass
class Found:
    """What one size gave: per row the readings, or why there are none; per round the rates of products."""

    items: int
    domains: int
    channels: int
    peaks: list[dict[str, float]] = field(default_factory=list)
    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def columns(self, row: str) -> dict[str, float]:
        """Return the medians of a row, and ratios of medians; of a row that failed nothing."""
        if not self.rows.get(row):
            return {}
        rate = self._rate(row)
        gflop = 2 * self.items * self.channels / 1e9
        columns = {
            "users_per_s": rate,
            "peak_share": rate * gflop / statistics.median(peak["fp32"] for peak in self.peaks),
            "peak_gib": max(reading["peak_gib"] for reading in self.rows[row]),
        }
        columns |= {f"{name}_s": users / rate for name, users in USERS.items()}
        for rival in ("faiss", "rectools"):
            if self.rows.get(rival) and row != rival:
                columns[f"vs_{rival}"] = statistics.median(
                    (mine["users"] / mine["seconds"]) / (theirs["users"] / theirs["seconds"])
                    for mine, theirs in zip(self.rows[row], self.rows[rival], strict=False)
                )
        return columns

    def _rate(self, row: str) -> float:
        return statistics.median(reading["users"] / reading["seconds"] for reading in self.rows[row])


def make_vectors(folder: Path, items: int, domains: int, channels: int, users: int) -> None:
    """Write query.npy and one items-*.npy a domain: normal vectors, those of items of log-normal lengths."""
    rng = np.random.default_rng(0)
    np.save(folder / "query.npy", rng.standard_normal((users, channels), dtype=np.float32))
    for domain in range(domains):
        items_VC = rng.standard_normal((items // domains, channels), dtype=np.float32)
        items_VC *= rng.lognormal(0, 0.2, (len(items_VC), 1)).astype(np.float32)
        np.save(folder / f"items-{domain}.npy", items_VC)


class RowFailed(Exception):
    """A process ended with an error."""


def child(python: Path, *words: str, threads: int) -> dict[str, float]:
    """Run one process and return the JSON of its last line."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [str(python), "-m", "benchmarks.score_rows", *words, "--threads", str(threads)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    except OSError as error:
        raise RowFailed(f"{python} does not run: {error.strerror}; make bench-score makes .venv/bench") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, no message (memory?)"]
        raise RowFailed(lines[-1])
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run_size(name: str, a: argparse.Namespace) -> Found:
    """Measure all rows of one size, round by round."""
    items, domains = SIZES[name]
    found = Found(max(items // a.shrink, domains), domains, a.channels)
    pythons = {"faiss": a.faiss_python, "rectools": a.rectools_python}
    with tempfile.TemporaryDirectory() as folder:
        make_vectors(Path(folder), found.items, domains, a.channels, a.distinct)
        for _ in range(a.rounds):
            found.peaks.append(child(Path(sys.executable), "--row", "peak", threads=a.threads))
            for row in a.rows:
                if row in found.failed:
                    continue
                words = ["--row", row, "--folder", folder, "--n", str(a.n), "--seconds", str(a.seconds)]
                words += ["--users", str(max(USERS.values()) // a.shrink)]
                try:
                    reading = child(pythons.get(row, Path(sys.executable)), *words, threads=a.threads)
                except RowFailed as error:
                    found.failed[row] = str(error)
                    continue
                found.rows.setdefault(row, []).append(reading)
    return found


def figures_of(name: str, found: Found) -> dict[str, float]:
    """Return the figures to keep: rank.SIZE.FIGURE of ours, rank.SIZE.ROW.FIGURE of the others."""
    figures = {f"rank.{name}.matrix_fp32_gflop_per_s": statistics.median(p["fp32"] for p in found.peaks)}
    for row in found.rows:
        middle = "" if row == "ours" else f"{row}."
        figures |= {f"rank.{name}.{middle}{key}": value for key, value in found.columns(row).items()}
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


def table_of(name: str, found: Found) -> Table:
    """Return the table, in a form that Markdown reads."""
    peak = statistics.median(p["fp32"] for p in found.peaks)
    title = f"{found.items:,} items, domains: {found.domains}; large products: {peak:.0f} GFLOP/s fp32"
    table = Table(title=title, title_justify="left", box=box.MARKDOWN, title_style="bold")
    names = ("", "users/s", "of fp32 peak", "x FAISS", "x RecTools", "peak GiB", "100 k users", "1 M users")
    for column in names:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in [*found.rows, *found.failed]:
        c: Mapping[str, float] = found.columns(row)
        if not c:
            table.add_row(ROWS[row], *["-"] * (len(names) - 1))
            continue
        done = min(reading["users"] for reading in found.rows[row])
        times = [f"{c[f'{key}_s']:,.0f} s{'' if done >= users else ' *'}" for key, users in USERS.items()]
        ratios = [f"{c[key]:.2f}" if key in c else "-" for key in ("vs_faiss", "vs_rectools")]
        table.add_row(
            ROWS[row], f"{c['users_per_s']:,.0f}", f"{c['peak_share']:.0%}", *ratios, f"{c['peak_gib']:.2f}", *times
        )
    return table


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="a reading ends after so long; the rest is scaled"
    )
    parser.add_argument("--n", type=int, default=100, help="items of a list")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--distinct", type=int, default=32_768, help="different users; more are these again")
    parser.add_argument(
        "--shrink", type=int, default=1, help="so many times fewer items and users, for a quick look"
    )
    parser.add_argument("--faiss-python", type=Path, default=BENCH_PYTHON, help="python that has faiss-cpu")
    parser.add_argument("--rectools-python", type=Path, default=BENCH_PYTHON, help="python that has RecTools")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of score.json")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sizes, print tables, keep figures. Returns 1 when a row failed."""
    a = parse(argv)
    console = Console(width=None if sys.stdout.isatty() else 140, soft_wrap=True)
    failed = False
    for name in a.sizes:
        try:
            found = run_size(name, a)
        except RowFailed as error:
            print(f"bench-score: {error}", file=sys.stderr)
            return 2
        console.print(f"load {os.getloadavg()[0]:.1f}, {a.threads} threads, {a.rounds} rounds")
        console.print(table_of(name, found))
        console.print("* scaled from the users that were ranked in the time of a reading")
        for row, reason in found.failed.items():
            print(f"{ROWS[row]}: failed: {reason}", file=sys.stderr)
            failed = True
        if a.shrink == 1:
            details: dict[str, Any] = {"peaks": found.peaks} | {ROWS[r]: found.rows[r] for r in found.rows}
            record("score", figures_of(name, found), part=f"rank.{name}", details=details, folder=a.results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
