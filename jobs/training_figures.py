"""Figures of one training for its MLflow run: NTG and lambda over epochs, the use of experts by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from syncrec_model import EpochReport

PANELS = (
    ("ntg_loss", "NTG of the loss\n(training)"),
    ("ntg_ndcg", "NTG, ndcg@10\n(validation)"),
    ("lambda", "lambda"),
)
DOTS_PER_INCH = 130


def epochs_figure(epochs: Sequence[EpochReport], best_epoch: int) -> Figure:
    """NTG and lambda over epochs, a line a domain. Above 0 the other domains help; dashes mark the epoch kept."""
    domains = list(epochs[0].domains) if epochs else []
    figure = Figure(figsize=(7.5, 7), layout="constrained", dpi=DOTS_PER_INCH)
    panels = figure.subplots(len(PANELS), 1, sharex=True)
    colours = colormaps["tab10"]
    for axes, (name, label) in zip(panels, PANELS, strict=True):
        for place, domain in enumerate(domains):
            points = [(each.epoch, each.domains[domain].get(name)) for each in epochs]
            known = [(epoch, value) for epoch, value in points if value is not None and value == value]
            axes.plot(
                [epoch for epoch, _ in known],
                [value for _, value in known],
                label=domain,
                color=colours(place % 10),
                marker="os^Dv"[place // 10 % 5],
                markersize=4,
            )
        axes.axvline(best_epoch, color="0.5", linestyle="--", linewidth=1)
        if name == "lambda":
            axes.set_ylim(bottom=0)
        else:
            axes.axhline(0, color="0.3", linewidth=1)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[0].set_title(
        "Above 0: the other domains help (where the two NTGs differ,\n"
        f"believe ndcg). Dashes: epoch {best_epoch}, which is kept",
        fontsize=10,
        loc="left",
    )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def gates_figure(use: Mapping[str, Mapping[str, Sequence[float]]], n_cross_experts: int) -> Figure | None:
    """The mean gate of every task, a row a task and a column an expert; None where there is none.

    Parameters
    ----------
    use
        What `syncrec_model.gate_use` returns.
    n_cross_experts
        The first so many experts learn from the cross task alone, the others from the single tasks.
    """
    rows = [(f"{domain}, {view}", shares) for view, tasks in use.items() for domain, shares in tasks.items()]
    if not rows:
        return None
    n_experts = len(rows[0][1])
    figure = Figure(
        figsize=(2.6 + 0.8 * n_experts, 1.6 + 0.36 * len(rows)), layout="constrained", dpi=DOTS_PER_INCH
    )
    axes = figure.subplots()
    axes.imshow([shares for _, shares in rows], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, (_, shares) in enumerate(rows):
        for x, share in enumerate(shares):
            axes.text(x, y, f"{share:.3f}", ha="center", va="center", color="white" if share > 0.55 else "black")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    kinds = ["cross" if place < n_cross_experts else "single" for place in range(n_experts)]
    axes.set_xticks(range(n_experts), [f"{place + 1}\n{kind}" for place, kind in enumerate(kinds)])
    axes.set_xlabel("expert, and the tasks that it learns from")
    axes.axvline(n_cross_experts - 0.5, color="0.3", linewidth=1)
    axes.axhline(len(use.get("cross", ())) - 0.5, color="0.3", linewidth=1)
    axes.tick_params(length=0)
    axes.set_title("Mean weight of each expert in the gate of each task", fontsize=10)
    return figure
