"""Draw the figures of the nightly report as inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jobs.schemas import ROLLED_BACK

INK, SOFT, GAP, WEIGHT = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", GAP: "var(--gap)", WEIGHT: "var(--weight)"}
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "syncrec",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def transfer_figures(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One figure a domain: NTG with its interval over the nights, lambda below; same scales for all domains.

    Parameters
    ----------
    history
        By domain, rows of the view ntg_by_night, oldest night first. macro and min get no figure.
    """
    shown = {name: rows for name, rows in history.items() if name not in ("macro", "min")}
    everything = [row for rows in shown.values() for row in rows]
    gaps = [row[key] for row in everything for key in ("ntg_ndcg", "ntg_ndcg_low", "ntg_ndcg_high")]
    reach = max((abs(gap) for gap in gaps if gap is not None), default=0.01) * 1.1 or 0.01
    heaviest = max((row["lambda_weight"] or 0.0 for row in everything), default=0.0) * 1.1 or 1.0
    days = [row["ds"] for row in everything]
    return [
        {
            "domain": name,
            "svg": _draw(rows, f"f{number}", reach, heaviest, (min(days), max(days))),
            "alt": _words(name, rows),
        }
        for number, (name, rows) in enumerate(shown.items())
    ]


SERIES = (
    ("popularity", "popularity", SOFT, "x"),
    ("single", "single view", WEIGHT, "^"),
    ("champion", "champion", INK, "D"),
    ("challenger", "challenger", GAP, "o"),
)


def quality_figure(quality: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One figure of ndcg@10 by domain with its intervals: champion, challenger, single view, popularity.

    Parameters
    ----------
    quality
        A row a domain: by name of the series the row of quality_by_version, or None. macro and min are left out.

    Returns
    -------
    dict or None
        svg and alt; None where nothing was measured.
    """
    shown = [row for row in quality if row["domain"] not in ("macro", "min")]
    series = [own for own in SERIES if any(row[own[0]] for row in shown)]
    if not series:
        return None
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(3.4, 0.8 + 0.11 * len(shown) * (len(series) + 1.5)), layout="constrained")
        axes = figure.subplots()
        step = 0.75 / max(len(series), 2)
        for number, (name, label, colour, marker) in enumerate(series):
            rows = [(place, row[name]) for place, row in enumerate(shown) if row[name]]
            places = [place + (len(series) - 1 - 2 * number) / 2 * step for place, _ in rows]
            sure = [(y, row) for y, (_, row) in zip(places, rows, strict=True) if row["ndcg_10_low"] is not None]
            axes.hlines(
                [y for y, _ in sure],
                [row["ndcg_10_low"] for _, row in sure],
                [row["ndcg_10_high"] for _, row in sure],
                color=colour,
                linewidth=2,
                alpha=0.5,
            )
            axes.plot(
                [row["ndcg_10"] for _, row in rows],
                places,
                color=colour,
                marker=marker,
                markersize=4.5,
                linestyle="",
                label=label,
            )
        axes.set_yticks(range(len(shown)), [row["domain"] for row in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel("ndcg@10")
        axes.tick_params(axis="y", length=0)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles[::-1], labels[::-1], loc="outside upper center", ncols=2, frameon=False, labelcolor=INK
        )
        svg = _svg(figure, "quality")
    return {"svg": svg, "alt": _quality_words(shown, series)}


def _quality_words(shown: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str, str, str]]) -> str:
    parts = []
    for row in shown:
        values = [f"{label} {row[name]['ndcg_10']:.3f}" for name, label, _, _ in reversed(series) if row[name]]
        parts.append(f"{row['domain']}: {', '.join(values)}")
    return f"ndcg@10 by domain. {'; '.join(parts)}."


def steps_figure(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One bar a step as long as it took, in minutes where it is long, with a mark at what is usual.

    Parameters
    ----------
    steps
        Rows of the view steps_by_run, in the order in which they began.

    Returns
    -------
    dict or None
        svg and alt; None where no step has ended.
    """
    shown = [step for step in steps if step["seconds"] is not None]
    if not shown:
        return None
    longest = max(max(step["seconds"], step["usual_seconds"] or 0.0) for step in shown)
    unit, size = ("minutes", 60.0) if longest >= 300 else ("seconds", 1.0)
    usual = [(n, step["usual_seconds"] / size) for n, step in enumerate(shown) if step["usual_seconds"] is not None]
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(3.4, 0.5 + 0.2 * len(shown)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(shown)), [step["seconds"] / size for step in shown], color=GAP, height=0.6)
        axes.plot(
            [value for _, value in usual],
            [place for place, _ in usual],
            color=INK,
            marker="|",
            markersize=11,
            markeredgewidth=1.6,
            linestyle="",
        )
        axes.set_yticks(range(len(shown)), [step["step"] for step in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, longest / size * 1.05)
        axes.set_xlabel(unit)
        axes.tick_params(axis="y", length=0)
        svg = _svg(figure, "steps")
    words = ", ".join(f"{step['step']} {step['seconds'] / size:.1f}" for step in shown)
    return {"svg": svg, "alt": f"{unit.capitalize()} by step: {words}."}


def _svg(figure: Figure, name: str) -> Markup:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), name)


def _draw(
    rows: Sequence[Mapping[str, Any]], name: str, reach: float, heaviest: float, ends: tuple[date, date]
) -> Markup:
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(3.3, 2.5), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        _plot_gap(above, [row for row in rows if row["ntg_ndcg"] is not None], reach)
        weights = [row for row in rows if row["lambda_weight"] is not None]
        _line(below, weights, "lambda_weight", WEIGHT, "s")
        below.set_ylim(0, heaviest)
        below.set_ylabel("lambda")
        _day_axis(below, *ends)
        figure.align_ylabels()
        return _svg(figure, name)


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, colour: str, marker: str) -> None:
    """A line over the nights; those that were rolled back have a large × in the colour of the text."""
    axes.plot([row["ds"] for row in rows], [row[name] for row in rows], color=colour)
    for withdrawn, look in ((False, (colour, marker, 4)), (True, (INK, "x", 7))):
        own = [row for row in rows if (row["decision"] == ROLLED_BACK) is withdrawn]
        days, values = [row["ds"] for row in own], [row[name] for row in own]
        axes.plot(days, values, color=look[0], marker=look[1], markersize=look[2], linestyle="", zorder=4)


def _plot_gap(axes: Axes, rows: Sequence[Mapping[str, Any]], reach: float) -> None:
    axes.axhline(0, color=SOFT, linewidth=1)
    _line(axes, rows, "ntg_ndcg", GAP, "o")
    sure = [row for row in rows if row["ntg_ndcg_low"] is not None and row["ntg_ndcg_high"] is not None]
    axes.vlines(
        [row["ds"] for row in sure],
        [row["ntg_ndcg_low"] for row in sure],
        [row["ntg_ndcg_high"] for row in sure],
        color=GAP,
        linewidth=2.5,
        alpha=0.45,
    )
    axes.set_ylim(-reach, reach)
    axes.yaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    axes.set_ylabel("NTG")


def _day_axis(axes: Axes, first: date, last: date) -> None:
    """Name the first, the middle and the last night; of up to four each."""
    begin, end = float(date2num(first)), float(date2num(last))
    margin = max((end - begin) * 0.08, 0.3)
    axes.set_xlim(begin - margin, end + margin)
    apart = (last - first).days
    days = [first + timedelta(n) for n in sorted({*range(apart + 1)} if apart < 4 else {0, apart // 2, apart})]
    axes.set_xticks([float(date2num(day)) for day in days], [f"{day:%d %b}" for day in days])


def _inline(svg: str, name: str) -> Markup:
    """Make one SVG part of a page: no prolog, ids of its own, the page's colours and width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#|url\(#', lambda found: f"{found[0]}{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = svg.replace("xlink:href", "href")
    return Markup(re.sub(r">\s+<", "><", svg))


def _words(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What the figure shows, for those who do not see it."""
    points = [
        f"{row['ds']:%d %b} {row['ntg_ndcg']:+.3f}{' (rolled back)' if row['decision'] == ROLLED_BACK else ''}"
        for row in rows[-7:]
        if row["ntg_ndcg"] is not None
    ]
    return f"NTG of {name} by night: {', '.join(points) or 'not measured'}; lambda below."
