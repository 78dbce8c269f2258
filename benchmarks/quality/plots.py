"""The plots of the quality benchmark, as SVG: gains, cost against quality, transfer, sweeps, NTG over epochs.

Colours are Okabe and Ito's, which people with any colour vision tell apart; shapes and words say the same again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmarks.quality.bootstrap import Interval
from benchmarks.quality.figures import Comparison, Figures, SystemFigures
from benchmarks.quality.systems import DEFAULT, Row
from benchmarks.quality.tables import RIVALS, marked, ranked, short

INK, SOFT, GRID = "#1b2430", "#5b6675", "#e3e6ea"
BLUE, ORANGE, GREEN, RED, SKY, PINK, YELLOW = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#c9b800",
)  # fmt: skip
KIND_MARKS = {
    "ours": (BLUE, "*", 15.0), "single-domain": (ORANGE, "o", 7.0), "multi-domain": (GREEN, "s", 7.0),
    "ensemble": (PINK, "D", 7.0), "trivial": (SOFT, "v", 7.0),
}  # fmt: skip
RIVAL_MARKS = ((BLUE, "o"), (GREEN, "s"), (SOFT, "v"), (PINK, "D"))
DOMAIN_MARKS = ((BLUE, "o"), (RED, "s"), (GREEN, "^"), (PINK, "D"), (ORANGE, "v"), (SKY, "P"), (YELLOW, "X"))
_RC = {
    "svg.fonttype": "none", "svg.hashsalt": "syncrec", "font.family": "sans-serif", "font.size": 10,
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"], "text.color": INK, "axes.edgecolor": SOFT,
    "axes.labelcolor": INK, "axes.titlesize": 11, "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
}  # fmt: skip
_LEAST = 1e-3  # of seconds and milliseconds, for an axis of logarithms
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:+.0f} %" if value else "0")


def draw(figures: Figures, rows: Mapping[str, Row], folder: Path, name: str = "quality") -> list[Path]:
    """Write every plot that these figures allow into a folder; return their files."""
    found = []
    if figures.versus:
        found.append(forest(figures, folder / f"{name}-gains.svg"))
    if figures.systems:
        found.append(frontier(figures, folder / f"{name}-cost.svg"))
    if figures.transfer:
        found.append(heat(figures, folder / f"{name}-transfer.svg"))
    curves = ntg_curves(rows[DEFAULT]) if DEFAULT in rows else {}
    if curves:
        found.append(ntg_over_epochs(curves, folder / f"{name}-ntg.svg"))
    return found


def forest(figures: Figures, file: Path) -> Path:
    """Draw our gains per domain, each rival a mark with its 95 % interval."""
    with matplotlib.rc_context(_RC):
        labels = [*map(short, figures.domains), "macro mean"]
        figure = Figure(figsize=(7.6, 0.95 + 0.2 * len(labels) * (len(figures.versus) + 1)), layout="constrained")
        axes: Axes = figure.subplots()
        step = 1 / (len(figures.versus) + 1)
        for place, (key, found) in enumerate(figures.versus.items()):
            gained = [gain.ratio for gain in [*found.domains.values(), found.macro]]
            colour, mark = RIVAL_MARKS[place % len(RIVAL_MARKS)]
            at = np.arange(len(labels)) + (place - (len(figures.versus) - 1) / 2) * step
            _marks(axes, [each.value for each in gained], at, gained, colour, mark, f"against {RIVALS[key]}")
        axes.axvline(0, color=INK, linewidth=1)
        axes.axhspan(len(labels) - 1.5, len(labels) - 0.5, color="#f4f5f7", zorder=0)
        for line in range(len(labels) - 1):
            axes.axhline(line + 0.5, color=GRID, linewidth=0.8)
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("NDCG@10 of our default above the rival's, of the rival's; 95 % over users and seeds")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=9)
        return _save(figure, file)


def frontier(figures: Figures, file: Path) -> Path:
    """Draw quality against processor seconds of training and milliseconds a user; the steps are the best so far."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        lines = [line for line in ranked(figures) if line.name == line.row]  # another view costs the same
        _cost(
            left, lines, [line.cost.train_core_s for line in lines], "processor seconds of training, one seed (log)"
        )
        _cost(right, lines, [line.cost.user_ms for line in lines], "ms to score and rank one user (log)")
        left.set_ylabel("macro NDCG@10 on test, 95 %")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=5, fontsize=9)
        figure.draw_without_rendering()  # names stand clear of one another on the finished layout
        named = _worth_a_name(lines, {*figures.rivals.single.values()})
        _names(left, [(line.cost.train_core_s, line) for line in lines], named, figure.dpi)
        _names(right, [(line.cost.user_ms, line) for line in lines], named, figure.dpi)
        return _save(figure, file)


def _worth_a_name(lines: Sequence[SystemFigures], rivals: Collection[str]) -> list[SystemFigures]:
    """Return the default, the rivals, the ensembles, and the best of each other family (its name up to the dot)."""
    best: dict[str, SystemFigures] = {}
    for line in lines:
        family = line.name.partition(".")[0]
        if family != DEFAULT and (family not in best or line.macro.value > best[family].macro.value):
            best[family] = line
    kept = {DEFAULT, *rivals, *(line.name for line in best.values())}
    return [line for line in lines if line.name in kept or line.kind == "ensemble"]


def _cost(axes: Axes, lines: Sequence[SystemFigures], costs: Sequence[float], label: str) -> None:
    shown = [(max(cost, _LEAST), line) for cost, line in zip(costs, lines, strict=True)]
    for kind, (colour, mark, size) in KIND_MARKS.items():
        own = [(cost, line) for cost, line in shown if line.kind == kind]
        if own:
            x, y = [cost for cost, _ in own], [line.macro.value for _, line in own]
            bounds = _bounds([line.macro for _, line in own])
            axes.errorbar(x, y, yerr=bounds, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
            axes.plot(x, y, mark, color=colour, markersize=size, markeredgecolor="white", label=kind)
    best: list[tuple[float, float]] = []
    for cost, line in sorted(shown, key=lambda pair: pair[0]):
        if not best or line.macro.value > best[-1][1]:
            best.append((cost, line.macro.value))
    axes.plot(*zip(*best, strict=True), color=SOFT, linewidth=1, drawstyle="steps-post", zorder=1)
    axes.set_xscale("log")
    wide = max(cost for cost, _ in shown) > 100 * min(cost for cost, _ in shown)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.12, 0.1)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(label)


def _names(
    axes: Axes, found: Sequence[tuple[float, SystemFigures]], named: Sequence[SystemFigures], dpi: float
) -> None:
    """Name some of the points: at its right, or lower where a name would touch another or a point."""
    points = [(max(cost, _LEAST), line.macro.value, line.name) for cost, line in found]
    scale = 72 / dpi
    marks = [axes.transData.transform((x, y)) * scale for x, y, _ in points]
    taken: list[tuple[float, float, float]] = [(x - 4, x + 4, y) for x, y in marks]
    edge = axes.transAxes.transform((1, 1))[0] * scale
    worth = {line.name for line in named}
    for x, y, name in sorted((point for point in points if point[2] in worth), key=lambda point: -point[1]):
        left, middle = axes.transData.transform((x, y)) * scale
        width = 4.8 * len(name)
        start = left + 7 if left + 7 + width < edge else left - 7 - width
        down = 0.0
        while any(abs(middle - down - other) < 10 and start < b and a < start + width for a, b, other in taken):
            down += 3
        taken.append((start, start + width, middle - down))
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4}
        line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(name, (x, y), (start - left, -down), textcoords="offset points", fontsize=8.5, va="center",
                      bbox=box, zorder=1.5, arrowprops=line if down else None)  # fmt: skip


def heat(figures: Figures, file: Path) -> Path:
    """Draw what every row that learns from all domains gains or loses against the best of one domain (RQ2)."""
    with matplotlib.rc_context(_RC):
        names = [line.name for line in ranked(figures) if line.name in figures.transfer]
        found: list[Comparison] = [figures.transfer[name] for name in names]
        ratios = [[gain.ratio for gain in [*each.domains.values(), each.macro]] for each in found]
        values = np.array([[ratio.value for ratio in row] for row in ratios])
        figure = Figure(figsize=(8.4, 1.5 + 0.34 * len(names)), layout="constrained")
        axes: Axes = figure.subplots()
        reach = min(max(float(np.nanmax(np.abs(values), initial=0.01)), 0.01), 0.5)
        image = axes.imshow(values, aspect="auto", cmap="PuOr", norm=TwoSlopeNorm(0, -reach, reach))
        for y, row in enumerate(ratios):
            for x, ratio in enumerate(row):
                strong = abs(ratio.value) > 0.65 * reach
                axes.text(x, y, marked(ratio), ha="center", va="center", color="white" if strong else INK,
                          fontsize=9, fontweight="bold" if ratio.word != "unclear" else "normal")  # fmt: skip
        against = [f"{short(domain)}\n{figures.rivals.single[domain]}" for domain in figures.domains]
        axes.set_xticks(range(len(against) + 1), [*against, "macro\n"], fontsize=9)
        axes.set_yticks(range(len(names)), names)
        axes.axvline(len(against) - 0.5, color="white", linewidth=4)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, format=PERCENT, pad=0.02, aspect=12, shrink=0.9)
        bar.outline.set_visible(False)
        axes.set_xlabel(
            "NDCG@10 against the one-domain system below each domain's name; * and bold: 95 % leaves out 0"
        )
        return _save(figure, file)


def sweep(
    lines: Mapping[str, Sequence[tuple[float, Interval]]], label: str, file: Path, *, log: bool = False
) -> Path:
    """Draw macro NDCG@10 with its interval over a parameter (RQ4). lines: name -> points (value, quality)."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes: Axes = figure.subplots()
        every = sorted({value for points in lines.values() for value, _ in points})
        for place, (name, points) in enumerate(lines.items()):
            aside = 0.012 * (place - (len(lines) - 1) / 2)  # intervals stand side by side
            wide = (every[-1] / every[0]) ** aside if log else aside * (every[-1] - every[0])
            x = [value * wide if log else value + wide for value, _ in points]
            quality = [found for _, found in points]
            colour, mark = DOMAIN_MARKS[place % len(DOMAIN_MARKS)]
            y = [found.value for found in quality]
            axes.errorbar(x, y, yerr=_bounds(quality), color=colour, marker=mark, markersize=6, linewidth=1.6,
                          elinewidth=1.2, capsize=3, label=name)  # fmt: skip
        if log:
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(every, [f"{value:g}" for value in every])
        axes.set_xlabel(label)
        axes.set_ylabel("macro NDCG@10 on test, 95 %")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        if len(lines) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=9)
        return _save(figure, file)


def ntg_curves(row: Row) -> dict[str, list[list[float]]]:
    """Return by domain the NTG of every epoch, one list a seed, as the row kept it (chosen["ntg_by_epoch"])."""
    found: dict[str, list[list[float]]] = {}
    for result in row.results.values():
        by_epoch: Mapping[str, Sequence[Any]] = result.figures["chosen"].get("ntg_by_epoch") or {}
        for domain, values in by_epoch.items():
            known = [math.nan if value is None else float(value) for value in values]
            found.setdefault(domain, []).append(known)
    return found


def ntg_over_epochs(curves: Mapping[str, Sequence[Sequence[float]]], file: Path) -> Path:
    """Draw NTG over the epochs, a colour a domain: thin the seeds, thick their mean as far as all went."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes: Axes = figure.subplots()
        for place, (domain, seeds) in enumerate(curves.items()):
            colour, mark = DOMAIN_MARKS[place % len(DOMAIN_MARKS)]
            for values in seeds if len(seeds) > 1 else ():
                axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=0.8, alpha=0.35)
            common = min(map(len, seeds))
            mean = np.mean([values[:common] for values in seeds], axis=0)
            axes.plot(
                range(1, common + 1),
                mean,
                color=colour,
                linewidth=2,
                marker=mark,
                markersize=5,
                label=short(domain),
            )
        axes.axhline(0, color=INK, linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("NTG: NDCG@10 on validation, cross − single")
        axes.set_title(
            "Thin: a seed. Thick: their mean, as far as all went. Above 0: the other domains help", fontsize=9
        )
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=9)
        return _save(figure, file)


def _marks(
    axes: Axes, x: Sequence[float], y: Any, found: Sequence[Interval], colour: str, mark: str, label: str
) -> None:
    axes.errorbar(x, y, xerr=_bounds(found), fmt="none", ecolor=colour, elinewidth=2, alpha=0.55)
    axes.plot(x, y, mark, color=colour, markersize=7, markeredgecolor="white", label=label)


def _bounds(found: Iterable[Interval]) -> Any:
    """Return the lengths of the bars below and above each value, [2, n]; nothing where there is no interval."""
    pairs = [(each.value - each.low, each.high - each.value) for each in found]
    return np.maximum(np.nan_to_num(np.array(pairs).T), 0)


def _save(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(
        file, format=file.suffix[1:], metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110
    )
    return file
