"""The training benchmark: ours, the released code and a kept library's SASRec on the same users, in one table.

    make bench-train RELEASED=../SyNCRec          (python -m benchmarks.train --released ../SyNCRec)

Every row of every shape runs in a process of its own, round by round, so that a machine that slows down slows all
rows alike. Figures are medians over the rounds. What is measured, and how: docs/benchmarks/training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, ROOT, record
from benchmarks.released_code import ReleasedCodeAbsent, add_argument, find_released
from benchmarks.workload import Shape, Users, a5, make_users

SPINNING = {"OMP_WAIT_POLICY": "active"}  # fastest for every row on a machine that does nothing else
KEPT_PYTHON = ROOT / ".venv" / "bench" / "bin" / "python"
SHAPES = ("r64.full", "r64.a5", "r512.full", "r512.a5")
LABELS = {
    "ours-fp32": "ours, paper preset, fp32",
    "ours-bf16": "ours, paper preset, bf16",
    "default-fp32": "ours, default preset, fp32",
    "ours-fp32-compiled": "ours, paper preset, fp32, compiled",
    "ours-bf16-compiled": "ours, paper preset, bf16, compiled",
    "released": "released code, fp32",
    "sasrec": "5 single-domain SASRecs of RecTools, fp32",
}
FIGURES = {  # row -> what its figures are called behind DEVICE.SHAPE
    "ours-fp32": "", "ours-bf16": "bf16.", "default-fp32": "default.", "ours-fp32-compiled": "compiled.",
    "ours-bf16-compiled": "bf16_compiled.", "released": "released.", "sasrec": "sasrec.",
}  # fmt: skip


class RowFailed(Exception):
    """A row's process stopped; the message is its last line."""


@dataclass
class Row:
    """One row of one shape: what each round measured, or why there is nothing."""

    name: str
    rounds: list[dict[str, Any]] = field(default_factory=list)
    absent: str = ""

    def median(self, key: str) -> float:
        """Return the median over the rounds."""
        return float(statistics.median(measured[key] for measured in self.rounds))


@dataclass
class Result:
    """One shape's rows, and the GFLOP/s of large matrix products, by precision, measured between them."""

    shape: Shape
    rows: dict[str, Row]
    peaks: list[dict[str, float]] = field(default_factory=list)
    device: str = ""

    def columns(self, name: str) -> dict[str, float]:
        """Return the figures of a row that was measured."""
        row = self.rows[name]
        precision = precision_of(name)
        gflop = self.rows[name.removesuffix("-compiled")].median("gflop")
        seconds = row.median("seconds")
        found = {
            "users_per_s": self.shape.batch / seconds,
            "step_s": seconds,
            "peak_gib": row.median("peak_gib"),
            "step_gflop": gflop,
            "peak_share": gflop / seconds / statistics.median(peak[precision] for peak in self.peaks),
        }
        rival = self.rows.get("released")
        if rival is not None and rival.rounds:
            found["vs_released"] = rival.median("seconds") / seconds
        return found


def precision_of(row: str) -> str:
    """Return the precision that a row computes in."""
    return "bf16" if "bf16" in row else "fp32"


class Bench:
    """Starts the processes of the rows."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        self.folder = folder

    def child(self, *words: str, python: str = sys.executable) -> dict[str, Any]:
        """Run one process and return the JSON of its last line."""
        command = [python, "-m", *words, "--device", self.arguments.device]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=SPINNING | os.environ)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, no message"]
            raise RowFailed(lines[-1])
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    def row(self, name: str, shape: Shape, users: Path) -> dict[str, Any]:
        """Measure one row once."""
        a = self.arguments
        timed, seconds = plan(shape, a)
        words = ["--users", str(users), "--channels", str(shape.channels), "--batch", str(shape.batch)]
        words += ["--warm", str(a.warm), "--timed", str(timed), "--seconds", str(seconds)]
        if name == "sasrec":
            return self.child("benchmarks.kept_sasrec", *words, python=str(a.kept_python))
        if name == "released":
            words += ["--released", str(a.released)]
        if name.endswith("-compiled"):
            words += ["--compiled"]
        return self.child("benchmarks.train_row", name.removesuffix("-compiled"), *words)

    def shape(self, shape: Shape) -> Result:
        """Measure all rows of one shape, round by round."""
        a = self.arguments
        path = self.folder / f"{shape.name}.npz"
        make_users(shape, a.warm + plan(shape, a)[0]).save(path)
        result = Result(shape, {name: Row(name, absent=self.why_absent(name)) for name in a.rows})
        for number in range(1, a.rounds + 1):
            wanted = sorted({precision_of(name) for name in a.rows}, reverse=True)
            found = self.child("benchmarks.train_row", "peak", "--precisions", *wanted)
            result.device = found["device"]
            result.peaks.append(found["peak"])
            for row in result.rows.values():
                if row.absent:
                    continue
                try:
                    row.rounds.append(self.row(row.name, shape, path))
                    seconds = f"{row.rounds[-1]['seconds']:.3f} s a step"
                except RowFailed as error:
                    row.absent, row.rounds = f"failed: {error}", []
                    seconds = row.absent
                print(f"{shape.name}, round {number} of {a.rounds}, {LABELS[row.name]}: {seconds}", file=sys.stderr)
        return result

    def why_absent(self, name: str) -> str:
        """Say why a row cannot run here, or nothing."""
        if name == "released":
            try:
                find_released(self.arguments.released)
            except ReleasedCodeAbsent as error:
                return str(error)
        if name == "sasrec" and not Path(self.arguments.kept_python).is_file():
            return "its environment is absent: make bench-train makes .venv/bench"
        return ""

    def whole(self) -> dict[str, Any]:
        """Train our default preset on all users of A5, in one process."""
        a = self.arguments
        shape = Shape.parse("r64.a5", a.batch)
        path = self.folder / "whole.npz"
        all_users(shape).save(path)
        words = ["--users", str(path), "--batch", str(shape.batch), "--epochs", str(a.whole_epochs)]
        return self.child("benchmarks.train_row", "whole", *words, "--precision", a.whole_precision)


def all_users(shape: Shape) -> Users:
    """Return as many users of A5 as whole batches hold, 65 of 16,065 short at most for B 128."""
    return make_users(shape, a5()["users"] // shape.batch)


def plan(shape: Shape, arguments: argparse.Namespace) -> tuple[int, float]:
    """Return how many batches are timed and for how many seconds at least."""
    timed = arguments.timed or (5 if shape.channels <= 128 else 3)
    return timed, arguments.seconds


def figures_of(device: str, result: Result) -> dict[str, float]:
    """Return the figures to keep, by the names that the issue and docs/benchmarks/training.md use."""
    prefix = f"{prefix_of(device)}.{result.shape.name}."
    kept: dict[str, float] = {}
    for name, row in result.rows.items():
        if row.rounds:
            columns = result.columns(name)
            kept |= {prefix + FIGURES[name] + key: rounded(value) for key, value in columns.items()}
    for precision in result.peaks[0]:
        kept[f"{prefix}matrix_{precision}_gflop_per_s"] = rounded(
            statistics.median(peak[precision] for peak in result.peaks)
        )
    if device == "cuda" and result.shape.name == "r512.full":
        shares = [f"{prefix}{FIGURES[name]}peak_share" for name in ("ours-bf16", "ours-bf16-compiled")]
        if found := [kept[share] for share in shares if share in kept]:
            kept["gpu.r512.mfu"] = max(found)
    if device == "cuda" and result.shape.name == "r64.a5" and f"{prefix}vs_released" in kept:
        kept["gpu.r64.vs_released"] = kept[f"{prefix}vs_released"]
    return kept


def prefix_of(device: str) -> str:
    """Return what names of figures start with."""
    return "gpu" if device == "cuda" else "cpu"


def rounded(value: float) -> float:
    """Four figures: more would be noise."""
    return float(f"{value:.4g}")


def table_of(result: Result) -> Table:
    """Return the table of one shape, in a form that Markdown reads."""
    table = Table(title=heading(result), title_justify="left", box=box.MARKDOWN, title_style="bold")
    for name in ("", "users/s", "s a step", "peak GiB", "GFLOP a step", "of matrix peak", "x released"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, row in result.rows.items():
        if not row.rounds:
            table.add_row(LABELS[name], *["-"] * 6)
            continue
        c = result.columns(name)
        ratio = f"{c['vs_released']:.2f}" if "vs_released" in c else "-"
        table.add_row(
            LABELS[name], f"{c['users_per_s']:.1f}", f"{c['step_s']:.3f}", f"{c['peak_gib']:.2f}",
            f"{c['step_gflop']:.1f}", f"{c['peak_share']:.0%}", ratio,
        )  # fmt: skip
    return table


def heading(result: Result) -> str:
    """Name the shape and the machine's matrix peak."""
    lengths = "rows of T 50 events" if result.shape.lengths == "full" else "rows as long as those of A5"
    peaks = [f"{statistics.median(p[k] for p in result.peaks):.0f} GFLOP/s {k}" for k in result.peaks[0]]
    return f"r {result.shape.channels}, B {result.shape.batch}, {lengths}; large products: {', '.join(peaks)}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_argument(parser)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="SHAPE", help="r64.a5, r512.full, ...")
    parser.add_argument("--rows", nargs="+", choices=list(LABELS), help="default: all; compiled ones on a GPU only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="users a step (default 128, above 128 channels 32)")
    parser.add_argument("--warm", type=int, default=2, help="steps before the timed ones")
    parser.add_argument("--timed", type=int, help="batches that are timed (default 5, above 128 channels 3)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="repeat the timed batches for at least this long"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--whole-epochs", type=int, default=0, help="also train on all A5 users so many epochs")
    parser.add_argument("--whole-precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--kept-python", type=Path, default=KEPT_PYTHON, help="python that has RecTools")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of train.json")
    arguments = parser.parse_args(argv)
    if arguments.rows is None:
        arguments.rows = [name for name in LABELS if arguments.device == "cuda" or "compiled" not in name]
    if arguments.released is not None:
        arguments.released = arguments.released.resolve()
    return arguments


def show_and_keep(result: Result, arguments: argparse.Namespace) -> bool:
    """Print one shape's table and record its figures; return whether a row failed."""
    console = Console(width=None if sys.stdout.isatty() else 140, soft_wrap=True)
    console.print(f"{result.device}, load {os.getloadavg()[0]:.1f}")
    console.print(table_of(result))
    for name, row in result.rows.items():
        if row.absent:
            console.print(f"{LABELS[name]}: {row.absent}")
    details = {LABELS[name]: row.absent or row.rounds for name, row in result.rows.items()}
    part = f"{prefix_of(arguments.device)}.{result.shape.name}"
    figures = figures_of(arguments.device, result)
    record("train", figures, part=part, details=details, folder=arguments.results)
    return any(row.absent.startswith("failed") for row in result.rows.values())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, 1 when a row failed, or 2 after a one-line error."""
    arguments = parse(argv)
    failed = False
    try:
        shapes = [Shape.parse(name, arguments.batch) for name in arguments.shapes]
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(arguments, Path(folder))
            for shape in shapes:
                failed |= show_and_keep(bench.shape(shape), arguments)
            if arguments.whole_epochs:
                found = bench.whole()
                print(f"whole A5, default preset: {found['seconds']:.1f} s ({found['note']})")
                part = f"{prefix_of(arguments.device)}.a5"
                kept = {f"{part}.train_s": rounded(found["seconds"])}
                record("train", kept, part=f"{part}.whole", details=found, folder=arguments.results)
    except (ValueError, RowFailed) as error:
        print(f"bench-train: {str(error).removeprefix('train_row: ')}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
