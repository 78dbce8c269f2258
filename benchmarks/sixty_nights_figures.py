"""The table, the figures and the picture of the sixty nights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Nights = Sequence[dict[str, Any]]
Floats = NDArray[np.float64]
WARM_UP = 3
"""The first nights are left out of slopes: one trains, and the JVM is still compiling."""
GROUPS = {"interactions": ("interactions",), "items": ("items",), "sequences": ("sequences",),
          "recommendations": ("recommendations",),
          "others": ("rejected_interactions", "nights", "domain_metrics", "audits")}  # fmt: skip
STEPS = ("ingest", "build_sequences", "gate", "score", "publish", "move_alias")


def seconds_of(nights: Nights, what: str = "seconds") -> Floats:
    """Seconds of every night's steps that all nights have, by the clock or ("cpu") of processor."""
    return np.array([sum(night["steps"][name][what] for name in STEPS) for night in nights])


def slope(values: Floats) -> tuple[float, float]:
    """The change of a value a night, by least squares after the warm-up, and half its 95 % interval (normal)."""
    y = values[WARM_UP:]
    x = np.arange(len(y), dtype=float)
    if len(y) < 4:
        return float("nan"), float("nan")
    rise, start = np.polyfit(x, y, 1)
    left = y - (rise * x + start)
    error = np.sqrt(left @ left / (len(y) - 2) / ((x - x.mean()) ** 2).sum())
    return float(rise), float(1.96 * error)


def total(nights: Nights, what: str, names: Sequence[str] = ()) -> Floats:
    """Files, bytes or the like over tables, a night."""
    return np.array(
        [sum(own[what] for name, own in n["tables"].items() if not names or name in names) for n in nights]
    )


def figures_of(nights: Nights) -> dict[str, float]:
    """The flat figures of the results file."""
    clock, cpu = seconds_of(nights), seconds_of(nights, "cpu")
    (rise, half), (cpu_rise, cpu_half) = slope(clock), slope(cpu)
    warm = [night["read"]["warm"] for night in nights]
    tidied = [night["maintain"]["seconds"] for night in nights if "maintain" in night]
    found = {
        "nights": float(len(nights)),
        "night.seconds": float(np.median(clock[WARM_UP:] if len(clock) > WARM_UP else clock)),
        "night.slope_s": rise,
        "night.slope_s_half": half,
        "night.cpu_s": float(np.median(cpu[WARM_UP:] if len(cpu) > WARM_UP else cpu)),
        "night.cpu_slope_s": cpu_rise,
        "night.cpu_slope_s_half": cpu_half,
        "maintain.seconds": float(np.median(tidied)) if tidied else 0.0,
        "read.warm_ms": float(np.median(warm)),
        "read.warm_ms_last": float(np.median(warm[-7:])),
        "read.warm_ms_worst": float(max(warm)),
        "files.last": float(total(nights, "files")[-1]),
        "disk.mb_last": float((total(nights, "disk_bytes")[-1] + total(nights, "metadata_bytes")[-1]) / 1e6),
        "metadata.mb_max": float(total(nights, "metadata_bytes").max() / 1e6),
    }
    for name in nights[-1]["tables"]:
        found[f"files.{name}_max"] = float(total(nights, "files", [name]).max())
    return {name: value for name, value in found.items() if np.isfinite(value)}


def table_of(nights: Nights) -> str:
    """One line for every week's last night."""
    head = " night      s  cpu s maintain s  files  on disk      MB metadata MB  read ms"
    lines = [head]
    clock, cpu = seconds_of(nights), seconds_of(nights, "cpu")
    for n, night in enumerate(nights):
        if "maintain" in night or n in (0, len(nights) - 1):
            one = [night]
            lines.append(
                f"{night['night']:>5} {clock[n]:>6.1f} {cpu[n]:>6.1f} "
                f"{night.get('maintain', {}).get('seconds', float('nan')):>10.1f} {total(one, 'files')[0]:>6} "
                f"{total(one, 'disk_files')[0]:>8} {total(one, 'disk_bytes')[0] / 1e6:>7.1f} "
                f"{total(one, 'metadata_bytes')[0] / 1e6:>11.2f} {night['read']['warm']:>8.1f}"
            )
    return "\n".join(lines)


def draw(nights: Nights, path: Path) -> None:
    """Four panels over the nights: time, files, megabytes, reading."""
    x = np.arange(1, len(nights) + 1)
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    time_axes, files_axes, size_axes, read_axes = figure.subplots(2, 2).ravel()
    clock, cpu = seconds_of(nights), seconds_of(nights, "cpu")
    rise, half = slope(clock)
    time_axes.plot(x, clock, ".-", lw=1, label="by the clock")
    time_axes.plot(x, cpu, ".-", lw=1, label="of processor")
    time_axes.set_title(f"Seconds of a night ({rise:+.3f} ± {half:.3f} a night)")
    for name, tables in GROUPS.items():
        files_axes.plot(x, total(nights, "files", tables), ".-", lw=1, label=name)
    files_axes.set_title("Data files of the newest snapshots")
    size_axes.plot(x, total(nights, "disk_bytes") / 1e6, ".-", lw=1, label="data files on disk")
    size_axes.plot(x, total(nights, "bytes") / 1e6, ".-", lw=1, label="of the newest snapshots")
    size_axes.plot(x, total(nights, "metadata_bytes") / 1e6, ".-", lw=1, label="metadata")
    size_axes.set_title("MB")
    read_axes.plot(x, [night["read"]["warm"] for night in nights], ".-", lw=1, label="one user's recommendations")
    read_axes.axhline(100, color="grey", ls="--", lw=1)
    read_axes.set_title("Milliseconds of a warm read by DuckDB")
    for axes in (time_axes, files_axes, size_axes, read_axes):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("night")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        for night in nights:
            if "maintain" in night:
                axes.axvline(night["night"], color="0.85", lw=0.8, zorder=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
