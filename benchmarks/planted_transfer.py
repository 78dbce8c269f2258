"""Measure the planted transfer: does NTG find, per domain, what the sample's generator planted?

    make bench-planted                      # five seeds; a stopped run goes on where it was
    python -m benchmarks.planted_transfer --train 1     # train one missing cell, then show what is there
    python -m benchmarks.planted_transfer --quick       # a toy, to see that it runs

Each seed makes a sample of its own (the log up to the first published night, cut by time as the night cuts it) and
seeds the training. Cells: "uniform" (the sample project's model), "bounded" and "paper" (what LC-NTG changes), and
"alone" (per domain a twin of the same class that knows that domain only). Figures go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.planted_cells import ALONE, VARIANTS, Cell, Experiment, Result, read, train
from benchmarks.planted_data import first_night
from benchmarks.planted_figures import Interval, correction, guard, transfer
from jobs.sample import PLANTED, SAMPLE_VERSION
from jobs.settings import load_settings

FIRST_SEED = 7  # the sample project's own
CORRECTIONS = ("bounded", "paper")
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "planted-transfer.md"
MARKS = ("<!-- make bench-planted writes from here -->", "<!-- to here -->")


def all_cells(seeds: Sequence[int], domains: Sequence[str]) -> list[Cell]:
    """Return every cell in the order of training: what stands first is wanted most."""
    joint = [Cell(variant, seed) for variant in VARIANTS if variant != ALONE for seed in seeds]
    return joint + [Cell(ALONE, seed, domain) for seed in seeds for domain in domains]


def results_of(experiment: Experiment, cells: Sequence[Cell], at_most: int | None) -> dict[Cell, Result]:
    """Return the finished cells after training at most so many missing ones (None: all)."""
    found, trained = {}, 0
    for cell in cells:
        result = read(experiment, cell)
        if result is None and (at_most is None or trained < at_most):
            result = train(experiment, cell)
            trained += 1
            seconds, epoch = result.figures["seconds"], result.figures["best_epoch"]
            print(f"{cell.name}: {seconds:.0f} s, best epoch {epoch} of {result.figures['epochs']}", flush=True)
        if result is not None:
            found[cell] = result
    return found


def summarise(results: dict[Cell, Result]) -> dict[str, Any]:
    """Return every figure of the report: transfer and correction per domain, guard per seed and domain."""
    by_variant = {name: [r for c, r in results.items() if c.variant == name] for name in VARIANTS}
    joint = by_variant["uniform"]
    twins = {(r.cell.domain, r.cell.seed): r for r in by_variant[ALONE]}
    uniform = {result.cell.seed: result for result in joint}
    return {
        "transfer": {domain: transfer(joint, twins, domain) for domain in PLANTED} if joint else {},
        "guard": guard(joint),
        "correction": {
            variant: {domain: correction(by_variant[variant], uniform, domain) for domain in PLANTED}
            for variant in CORRECTIONS
            if by_variant[variant]
        },
    }


def show(value: Interval, digits: int = 4) -> str:
    """Return a mean with its interval."""
    if not math.isfinite(value.mean):
        return "-"
    if not math.isfinite(value.low):
        return f"{value.mean:+.{digits}f}"
    return f"{value.mean:+.{digits}f} [{value.low:+.{digits}f}, {value.high:+.{digits}f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, aligned, so that it reads in a terminal and in the documentation."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in [head, *rows]
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


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


def report(results: dict[Cell, Result], cells: Sequence[Cell], figures: dict[str, Any]) -> str:
    """Return all tables with a line on what they stand on, in Markdown that reads in a terminal."""
    lines = [
        f"Planted transfer on {SAMPLE_VERSION}; NDCG@10 over all items of a domain; mean over seeds [95 %].",
        "",
    ]
    for variant in VARIANTS:
        wanted = [cell for cell in cells if cell.variant == variant]
        lines.append(f"- {variant}: {sum(cell in results for cell in wanted)} of {len(wanted)} cells")
    codes = sorted({str(result.figures["code"])[:12] for result in results.values()})
    lines.append(f"- code: {', '.join(codes) or '-'}")
    if found := figures["transfer"]:
        lines += ["", "**NTG as NDCG@10 on test, views of one model**", "", transfer_table(found)]
        if any(f["twin"].n for f in found.values()):
            lines += ["", "**Against twins that know one domain, NDCG@10 on test**", "", twin_table(found)]
        lines += ["", "**NTG as loss, nats a target**", "", loss_table(found)]
        lines += ["", "**The guard**", "", *guard_lines(figures["guard"])]
    if figures["correction"]:
        lines += [
            "",
            "**LC-NTG less uniform weights, NDCG@10 on test**",
            "",
            correction_table(figures["correction"]),
        ]
    return "\n".join(lines)


def flat(figures: dict[str, Any]) -> dict[str, float]:
    """Return the figures that the results file shows: NTG in the ndcg and the loss form, mean over seeds."""
    names = {"ntg": "ntg", "ntg_loss": "phi_valid", "ntg_twin": "twin"}
    return {
        f"planted.{name}.{domain}": found[key].mean
        for name, key in names.items()
        for domain, found in figures["transfer"].items()
        if math.isfinite(found[key].mean)
    }


def plain(value: Any) -> Any:
    """Return JSON values; a figure that is not defined becomes null."""
    if isinstance(value, Interval):
        return plain(value.to_dict())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def into_page(text: str, tables: str) -> str:
    """Return the page with the tables between its two marks; what a person wrote around them stays.

    Raises
    ------
    ValueError
        The page has lost a mark.
    """
    before, first, rest = text.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not (first and last):
        raise ValueError(f"{PAGE}: the lines {MARKS[0]!r} and {MARKS[1]!r} say where the tables go; put them back")
    return f"{before}{first}\n\n{tables}\n\n{last}{after}"


def keep(results: dict[Cell, Result], figures: dict[str, Any], tables: str) -> None:
    """Write the figures to benchmarks/results/train.json, all details to planted.json, the tables to their page."""
    from benchmarks.record import record

    cells = {
        result.cell.name: {key: result.figures[key] for key in ("best_epoch", "epochs", "train", "seconds", "code")}
        for result in results.values()
    }
    record("train", flat(figures), part="planted")
    details = plain({"sample": SAMPLE_VERSION, **figures, "cells": cells})
    record("planted", flat(figures), part="planted", details=details)
    PAGE.write_text(into_page(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted_transfer", description="Planted transfer.")
    parser.add_argument("--seeds", type=int, default=5, help=f"how many, from {FIRST_SEED} on (default 5)")
    parser.add_argument("--epochs", type=int, help="at most so many (default: the sample project's)")
    parser.add_argument("--train", type=int, metavar="N", help="train at most N missing cells (default: all)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the sample project's)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--cache", type=Path, default=ROOT / "var" / "planted", help="folder of finished cells")
    parser.add_argument("--quick", action="store_true", help="a toy model on 150 users; nothing is recorded")
    parser.add_argument("--no-record", action="store_true", help="print only")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, print the tables, record the figures once all uniform cells are there."""
    arguments = _arguments(argv)
    settings = load_settings(ROOT / "syncrec.toml")
    experiment = Experiment(
        settings, first_night(settings), arguments.cache, epochs=arguments.epochs, threads=arguments.threads
    )
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    if arguments.quick:
        toy = {"channels": 8, "n_experts": 2, "n_cross_experts": 1}
        experiment = replace(experiment, users=150, epochs=1, threads=1, options=toy)
        seeds = range(FIRST_SEED, FIRST_SEED + min(arguments.seeds, 2))
    cells = [cell for cell in all_cells(seeds, settings.domain_names) if cell.variant in arguments.variants]
    results = results_of(experiment, cells, arguments.train)
    figures = summarise(results)
    tables = report(results, cells, figures)
    print(tables)
    complete = all(Cell("uniform", seed) in results for seed in seeds)
    if complete and not arguments.quick and not arguments.no_record:
        keep(results, figures, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
