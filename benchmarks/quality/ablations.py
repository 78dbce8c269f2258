"""RQ3: what each part does. Every variant of our default and of the paper's preset against the whole of it.

A variant is a row of ours named after its whole: "default.no-mim" of "default". All differences are of NDCG@10 on
test, paired over users, with 95 % intervals over users and seeds (bootstrap.py).

Shapes: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.markdown import table
from benchmarks.quality.bootstrap import Bootstrap, Gain, Interval, gains
from benchmarks.quality.data import Array
from benchmarks.quality.systems import DEFAULT, Row, System

WHOLES = {DEFAULT: "our default", "paper": "the paper's preset"}
VIEWS = {"": "served view", "cross": "cross view", "single": "single view"}
FOLLOWED = {"weight_by_epoch": "weight", "driver_by_epoch": "driver"}
UNIT = 1e-3  # of NDCG@10, in cells


@dataclass(frozen=True)
class Ablation:
    """A variant against its whole in one view: the variant's NDCG@10 less that of the whole. view "": as served.

    levels: NDCG@10 of the whole by domain, and "macro".
    """

    row: str
    whole: str
    view: str
    domains: dict[str, Gain]
    macro: Gain
    levels: dict[str, float]


def ablations_of(systems: Mapping[str, System], bootstrap: Bootstrap) -> tuple[Ablation, ...]:
    """Return every variant that is there beside its whole, by whole, view and the order of the rows."""
    found = []
    rows = list(dict.fromkeys(system.row for system in systems.values() if system.kind == "ours"))
    for whole in WHOLES:
        for view in VIEWS:
            known = systems.get(_name(whole, view))
            for row in rows:
                variant = systems.get(_name(row, view))
                if row.startswith(f"{whole}.") and known is not None and variant is not None:
                    found.append(_ablation(bootstrap, variant, known, view))
    return tuple(found)


def _name(row: str, view: str) -> str:
    return f"{row}.{view}" if view else row


def _ablation(bootstrap: Bootstrap, variant: System, whole: System, view: str) -> Ablation:
    domains = bootstrap.data.domains
    found, macro = gains(bootstrap, variant, [whole] * len(domains))
    values = map(float, whole.by_domain("test"))
    levels = {**dict(zip(domains, values, strict=True)), "macro": whole.macro("test")}
    return Ablation(variant.row, whole.row, view, dict(zip(domains, found, strict=True)), macro, levels)


def ablation_tables(found: Sequence[Ablation], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (title, table) of each whole and view. names: the domains, short."""
    parts = []
    for whole, words in WHOLES.items():
        for view, where in VIEWS.items():
            own = [each for each in found if (each.whole, each.view) == (whole, view)]
            title = (
                f"RQ3: {words} with a part changed, {where}; NDCG@10 on test less that of {whole}, in thousandths"
            )
            parts.append((title, _table(own, names)))
    return parts


def _table(found: Sequence[Ablation], names: Sequence[str]) -> str:
    """Return differences by domain and of the macro mean; the first line is the whole's own NDCG@10."""
    if not found:
        return ""
    levels = [f"{value / UNIT:.1f}" if math.isfinite(value) else "-" for value in found[0].levels.values()]
    rows = [
        [each.row, *(half(gain.difference) for gain in each.domains.values()), bounds(each.macro.difference)]
        for each in found
    ]
    return table(["row", *names, "macro [95 %]"], [[f"*{found[0].whole}*", *levels], *rows])


def half(gained: Interval) -> str:
    """Return a difference in thousandths and its interval's longer half; "*" where the interval leaves out 0."""
    if not math.isfinite(gained.value):
        return "-"
    width = max(gained.high - gained.value, gained.value - gained.low)
    sure = " *" if gained.word != "unclear" else ""
    return f"{gained.value / UNIT:+.1f}" + (f" ±{width / UNIT:.1f}{sure}" if math.isfinite(width) else "")


def bounds(gained: Interval) -> str:
    """Return a difference in thousandths with both bounds; "*" where they leave out 0."""
    if not math.isfinite(gained.value):
        return "-"
    limits = f" [{gained.low / UNIT:+.1f}, {gained.high / UNIT:+.1f}]" if math.isfinite(gained.low) else ""
    return f"{gained.value / UNIT:+.1f}{limits}" + (" *" if gained.word != "unclear" else "")


def followed(rows: Mapping[str, Row], domains: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return row -> "weight" or "driver" -> domain, in this order -> its value in the best epoch, mean over seeds.

    weight: what multiplied the domain's cross loss, mean over the epoch; rows that weigh all alike by 1 are left
    out. driver: what the weight follows (weightings.py), as it was after the epoch.
    """
    found = {}
    for row in rows.values():
        kept = [result.figures["chosen"] for result in row.results.values()]
        figures = {
            word: _of_best_epoch(
                [chosen[name] for chosen in kept], [chosen["best_epoch"] for chosen in kept], domains
            )
            for name, word in FOLLOWED.items()
            if kept and all(name in chosen for chosen in kept)
        }
        if any(abs(weight - 1) > 1e-6 for weight in figures.get("weight", {}).values()):
            found[row.peer.name] = figures
    return found


def _of_best_epoch(
    by_domain: Sequence[Mapping[str, Sequence[float]]], epochs: Sequence[int], domains: Sequence[str]
) -> dict[str, float]:
    values: dict[str, Array] = {
        domain: np.array([each[domain][epoch - 1] for each, epoch in zip(by_domain, epochs, strict=True)])
        for domain in domains  # their order, which a file of figures need not keep
    }
    return {domain: float(values_S.mean()) for domain, values_S in values.items()}


def weight_table(found: Mapping[str, Mapping[str, Mapping[str, float]]], names: Sequence[str]) -> str:
    """Return what multiplied every domain's cross loss, and what it followed."""
    rows = [
        [row, word, *(f"{value:.2f}" if word == "weight" else f"{value:+.3f}" for value in values.values())]
        for row, figures in found.items()
        for word, values in figures.items()
    ]
    return table(["row", "figure", *names], rows) if rows else ""
