"""The tables of the planted-transfer benchmark, in Markdown that reads in a terminal and in the documentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import table
from benchmarks.planted_figures import Interval
from benchmarks.planted_variants import ABLATION
from jobs.sample import PLANTED


def show(value: Interval, digits: int = 4) -> str:
    """Return a mean with its interval."""
    if not math.isfinite(value.mean):
        return "-"
    if not math.isfinite(value.low):
        return f"{value.mean:+.{digits}f}"
    return f"{value.mean:+.{digits}f} [{value.low:+.{digits}f}, {value.high:+.{digits}f}]"


def transfer_table(figures: dict[str, Any]) -> str:
    """Return the views of one model against each other: differences of NDCG@10 on test, per domain."""
    head = ("domain", "planted", "cases", "single view", "NTG: cross - single", "reads", "served - single")
    rows = [
        (domain, PLANTED[domain].expected, str(f["cases"]), f"{f['single'].mean:.4f}",
         show(f["ntg"]), f["ntg"].word, show(f["served"]))
        for domain, f in figures.items()
    ]  # fmt: skip
    return table(head, rows)


def twin_table(figures: dict[str, Any]) -> str:
    """Return the model of all domains against its twins: differences of NDCG@10 on test, per domain."""
    head = ("domain", "planted", "seeds", "twin", "cross - twin", "reads", "served - twin's served", "reads")
    rows = [
        (domain, PLANTED[domain].expected, str(f["twin"].n), f"{f['twin_alone'].mean:.4f}",
         show(f["twin"]), f["twin"].word, show(f["twin_served"]), f["twin_served"].word)
        for domain, f in figures.items()
    ]  # fmt: skip
    return table(head, rows)


def loss_table(figures: dict[str, Any]) -> str:
    """Return phi in nats a target, per domain, beside the NDCG form on validation."""
    head = ("domain", "planted", "phi, training", "phi, validation", "phi, test", "NTG, validation")
    keys = ("phi_train", "phi_valid", "phi_test", "ntg_valid")
    rows = [
        (domain, PLANTED[domain].expected, *(show(f[key], 4 if key == "ntg_valid" else 3) for key in keys))
        for domain, f in figures.items()
    ]
    return table(head, rows)


def guard_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return in words whether the served view ever lies below the single view."""
    judged = [row for row in rows if math.isfinite(row["valid"])]
    on_valid = [row for row in judged if row["valid"] < 0]
    on_test = [row for row in judged if row["test"] < 0]
    clear = [row for row in on_test if row["high"] < 0]
    lines = [
        f"- served below single on validation: {len(on_valid)} of {len(judged)} (seed, domain) pairs",
        f"- served below single on test: {len(on_test)} of {len(judged)}, "
        f"beyond its bootstrap interval: {len(clear)}",
    ]
    for row in on_test:
        lines.append(
            f"  - seed {row['seed']} {row['domain']} ({row['view']}): validation {row['valid']:+.4f}, "
            f"test {row['test']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        )
    return lines


def correction_table(figures: dict[str, Any]) -> str:
    """Return what each correction changes on test against uniform weights."""
    head = ("correction", "domain", "planted", "cross view", "served view", "lambda: mean (each seed)", "weight")
    rows = []
    for variant, by_domain in figures.items():
        for domain, f in by_domain.items():
            each = " ".join(f"{value:.3f}" for value in f["lambdas"])
            weight = f"{f['weight'].mean:.2f}"
            changes = (show(f["cross"]), show(f["served"]))
            rows.append(
                (variant, domain, PLANTED[domain].expected, *changes, f"{f['lambda'].mean:.3f} ({each})", weight)
            )
    return table(head, rows)


def ablation_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the views of every variant, and its differences from the whole model that it is a change of."""
    head = ("model", "domain", "seeds", "cross", "single", "served", "cross - whole", "served - whole")
    rows = []
    for name in [name for whole, parts in ABLATION.items() for name in (whole, *parts) if name in figures]:
        for domain, f in figures[name].items():
            means = [f"{f[view].mean:.4f}" for view in ("cross", "single", "served")]
            gaps = ["", ""] if name in ABLATION else [show(f["cross_gap"]), show(f["served_gap"])]
            rows.append((name, domain, str(f["seeds"]), *means, *gaps))
    return table(head, rows)
