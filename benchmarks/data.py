"""The data plane at size: what sequences cost, beside DuckDB, RecTools and the released code.

    make bench-data SIZES="1 5 20 50"          (python -m benchmarks.data --sizes 1 5 20 50)
    make bench-data SIZES=50                   one size more, merged into the same data.json

Logs are generated (generated_logs.py), a size in millions of events. Every row is a process of its own whose whole
tree is measured; rows of DuckDB and ours are compared by content. docs/benchmarks/data.md says what is in each row.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.data_rows import ROWS, Limits, Reading, Rows
from benchmarks.generated_files import write_log
from benchmarks.generated_logs import LogSize
from benchmarks.record import RESULTS, ROOT, record
from benchmarks.released_code import add_argument

SIZES = (1.0, 5.0, 20.0, 50.0)
QUICK = (0.2,)
EXPONENT_FROM = 5.0
"""Millions of events: below, the start of Spark is most of the time."""
TURNS = ("full", "duckdb.separate", "duckdb.derived")
"""Rows that take turns, round by round; the others run once."""
BYTES_AN_EVENT = 400
"""Of disk, at most: log, shuffles, spills and results together."""
Readings = dict[str, list[Reading]]


def measure_size(
    size: float, a: argparse.Namespace, limits: Limits, *, lighter: bool, console: Console
) -> Readings:
    """Run all rows of one size (millions of events); `lighter`: also the log without its heavy user."""

    def tell(line: str) -> None:
        console.print(line, style="dim", highlight=False)

    whole = LogSize(events=round(size * 1e6), seed=a.seed)
    found: Readings = {}
    logs = [("", whole, [name for name in a.rows if name != "lighter"])]
    if lighter:
        logs.append(("-light", replace(whole, heavy_share=0.0), ["lighter"]))
    for suffix, drawn, names in logs:
        log = write_log(drawn, a.folder / "logs" / f"{size:g}m{suffix}", processes=limits.threads, tell=tell)
        rows = Rows(log, a.folder / "scratch", limits)
        turns = [name for name in names if name in (*TURNS, "lighter")]
        for name in turns * a.rounds + [name for name in names if name not in turns]:
            reading = rows.run(name)
            found.setdefault(name, []).append(reading)
            words = reading.cost.failed or f"{reading.cost.seconds:.1f} s, {reading.cost.peak_gib:.2f} GiB"
            tell(f"{size:g} million, {ROWS[name]}: {words}")
        shutil.rmtree(rows.folder)
    return compared(found)


def compared(found: Readings) -> Readings:
    """Say of the readings of ours and of DuckDB's whether their sequences are those of its first form that ran."""
    expected = next(
        (one.digest for name in TURNS[1:] for one in found.get(name, []) if one.digest is not None), None
    )
    return {
        name: [
            replace(one, same=one.digest == expected) if name in TURNS and one.digest and expected else one
            for one in readings
        ]
        for name, readings in found.items()
    }


def typical(readings: Sequence[Reading]) -> Reading:
    """The reading of median time; one that failed where any did."""
    failed = [one for one in readings if one.cost.failed]
    if failed:
        return failed[0]
    return sorted(readings, key=lambda one: one.cost.seconds)[(len(readings) - 1) // 2]


def seconds_of(found: Readings, name: str) -> float | None:
    """The median time of a row, None where it failed or did not run."""
    reading = typical(found[name]) if name in found else None
    return None if reading is None or reading.cost.failed else reading.cost.seconds


def rival_seconds(found: Readings) -> float | None:
    """The time of DuckDB's faster form."""
    times = [seconds for name in TURNS[1:] if (seconds := seconds_of(found, name)) is not None]
    return min(times, default=None)


def figures_of(size: float, found: Readings) -> dict[str, float]:
    """Return the figures of one size to keep, flat; rows that failed keep none."""
    kept: dict[str, float] = {}
    for name, readings in found.items():
        one = typical(readings)
        if not one.cost.failed:
            prefix = f"{name.split('.')[0]}.{size:g}m." + "".join(f"{part}." for part in name.split(".")[1:])
            kept |= {prefix + key: value for key, value in _row_figures(one).items()}
    full = seconds_of(found, "full")
    for figure, other, upside_down in (
        ("full.{}m.vs_duckdb", rival_seconds(found), False),
        ("incremental.{}m.share_of_full", seconds_of(found, "incremental"), True),
        ("full.{}m.vs_no_heavy_user", seconds_of(found, "lighter"), False),
    ):
        if full is not None and other is not None:
            kept[figure.format(f"{size:g}")] = other / full if upside_down else full / other
    return {name: float(f"{value:.4g}") for name, value in kept.items()}


def _row_figures(one: Reading) -> dict[str, float]:
    kept = {key: getattr(one.cost, key) for key in ("seconds", "cpu_seconds", "peak_gib")}
    if one.work:
        kept |= {key: getattr(one.cost, key) for key in ("jvm_gib", "python_gib")}
        kept |= {"shuffle_gib": one.work["shuffle_bytes"] / 2**30, "shuffles": one.work["shuffles"]}
        kept |= {"spilled_gib": one.work["spilled_bytes"] / 2**30, "longest_task_s": one.work["longest_task"]}
    if one.output_bytes is not None:
        kept["output_gib"] = one.output_bytes / 2**30
    if one.same is not None:
        kept["same_as_duckdb"] = float(one.same)
    return kept


def growth(seconds: Mapping[float, float]) -> float | None:
    """The exponent of growth of the full build's time: the slope of log time over log events."""
    known = [(size, own) for size, own in seconds.items() if size >= EXPONENT_FROM]
    if len(known) < 2:
        return None
    log_size, log_seconds = np.log(np.array(known)).T
    return float(f"{np.polyfit(log_size, log_seconds, 1)[0]:.4g}")


def keep(size: float, found: Readings, folder: Path, log: Path) -> Path:
    """Record one size, with its log's bytes, as a part of its own, and the exponent of all sizes in data.json.

    So sizes can be run one by one, on the hours when a machine is quiet; running one again replaces it alone.
    """
    details = {name: [one.to_dict() for one in readings] for name, readings in found.items()}
    log_bytes = sum(file.stat().st_size for file in log.rglob("*.parquet"))
    figures = figures_of(size, found) | {f"log.{size:g}m.gib": float(f"{log_bytes / 2**30:.4g}")}
    path = record("data", figures, part=f"data.{size:g}m", details=details, folder=folder)
    seconds = recorded_seconds(path)
    exponent = growth(seconds)
    slope = {} if exponent is None else {"full.exponent": exponent}
    return record(
        "data", slope, part="exponent", details={f"{own:g}m": seconds[own] for own in seconds}, folder=folder
    )


def recorded_seconds(path: Path) -> dict[float, float]:
    """The full build's seconds that a results file holds, by millions of events."""
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    found = {name: re.fullmatch(r"full\.([0-9.e+-]+)m\.seconds", name) for name in figures}
    return dict(sorted((float(hit[1]), figures[name]) for name, hit in found.items() if hit))


def table_of(sizes: Mapping[float, Readings]) -> Table:
    """Return the table, in a form that Markdown reads; x DuckDB: time over that of DuckDB's faster form."""
    table = Table(box=box.MARKDOWN)
    for name in (
        "events", "", "s", "CPU s", "peak GiB", "JVM", "others", "shuffled GiB", "written GiB", "x DuckDB", "rows",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name in ("", "rows") else "right")
    for size, found in sizes.items():
        rival = rival_seconds(found)
        for name, readings in found.items():
            one = typical(readings)
            head = (f"{size:g} M", ROWS[name])
            if one.cost.failed:
                table.add_row(*head, *["-"] * 8, one.cost.failed)
                continue
            cost, work = one.cost, one.work
            table.add_row(
                *head, f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f}", f"{cost.peak_gib:.2f}",
                f"{cost.jvm_gib:.2f}" if work else "-", f"{cost.python_gib:.2f}" if work else "-",
                f"{work['shuffle_bytes'] / 2**30:.2f}" if work else "-",
                "-" if one.output_bytes is None else f"{one.output_bytes / 2**30:.2f}",
                f"{cost.seconds / rival:.2f}" if rival else "-",
                ", ".join(filter(None, [_sameness(one.same), one.note])),
            )  # fmt: skip
    return table


def _sameness(same: bool | None) -> str:
    return "" if same is None else "the same" if same else "NOT THE SAME"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    defaults = Limits()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=None, help="in millions of events")
    parser.add_argument("--quick", action="store_true", help=f"sizes {QUICK}, nothing recorded")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=1, help="readings of the full build and of DuckDB, in turns")
    parser.add_argument("--seed", type=int, default=LogSize(events=1_000).seed)
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "bench-data", help="logs stay there")
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--memory-gib", type=float, default=defaults.memory_gib, help="of DuckDB")
    parser.add_argument("--full-memory", default=defaults.full_memory, help="Spark's driver memory in a full build")
    parser.add_argument("--night-memory", default=defaults.night_memory, help="and in a night")
    parser.add_argument("--java-options", default=defaults.java_options, help="of Spark's JVM, in both")
    parser.add_argument("--end-gib", type=float, default=defaults.end_gib, help="a row that needs more is ended")
    parser.add_argument("--end-seconds", type=float, default=defaults.end_seconds)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of data.json")
    add_argument(parser)
    a = parser.parse_args(argv)
    if a.rounds < 1 or any(size <= 0 for size in a.sizes or ()):
        parser.error("--rounds and --sizes are greater than 0")
    if "incremental" in a.rows and "full" not in a.rows:
        parser.error("the row 'incremental' goes on from the row 'full': give both to --rows")
    a.sizes = tuple(sorted(set(a.sizes))) if a.sizes else QUICK if a.quick else SIZES
    return a


def main(argv: Sequence[str] | None = None) -> int:
    """Run all sizes, print the table, keep the figures."""
    a = parse(argv)
    console = Console(width=180)
    a.folder.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(a.folder).free, max(a.sizes) * 1e6 * BYTES_AN_EVENT
    if free < needed:
        print(
            f"error: {a.folder} has {free / 2**30:.0f} GiB free, {max(a.sizes):g} million events need up to "
            f"{needed / 2**30:.0f}: give --folder on a larger disk, or smaller --sizes",
            file=sys.stderr,
        )
        return 1
    limits = Limits(
        threads=a.threads, memory_gib=a.memory_gib, full_memory=a.full_memory, night_memory=a.night_memory,
        java_options=a.java_options, end_gib=a.end_gib, end_seconds=a.end_seconds, released=a.released,
    )  # fmt: skip
    found: dict[float, Readings] = {}
    for size in a.sizes:
        lighter = "lighter" in a.rows and size == max(a.sizes)
        try:
            found[size] = measure_size(size, a, limits, lighter=lighter, console=console)
        except (RuntimeError, ValueError) as error:
            print(f"error: {size:g} million events: {error}", file=sys.stderr)
            return 1
        if not a.quick:
            path = keep(size, found[size], a.results, a.folder / "logs" / f"{size:g}m")
            console.print(f"kept in {path.name}", style="dim")
    console.print(f"T 50, five domains, {a.threads} threads; seconds of whole commands, median of {a.rounds}")
    console.print(table_of(found))
    for size, own in found.items():
        for name, value in figures_of(size, own).items():
            if name.endswith(("vs_duckdb", "share_of_full", "vs_no_heavy_user")):
                console.print(f"{name} = {value:g}", highlight=False)
    seconds = {size: own for size in found if (own := seconds_of(found[size], "full")) is not None}
    exponent = growth(seconds if a.quick else recorded_seconds(a.results / "data.json"))
    if exponent is not None:
        console.print(f"full.exponent = {exponent:g}, of all recorded sizes", highlight=False)
    ours = [one for rows in found.values() for name in ("full", "incremental") for one in rows.get(name, [])]
    return 1 if any(one.cost.failed or one.same is False for one in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
