"""Measure the planted transfer: does NTG find, per domain, what the sample's generator planted?

    make bench-planted                      # five seeds; a stopped run goes on where it was
    make bench-planted VARIANTS="uniform no-mim"        # train these only; tables of all that is there
    python -m benchmarks.planted_transfer --train 1     # train one missing cell, then show what is there
    python -m benchmarks.planted_transfer --quick       # a toy, to see that it runs

Each seed makes a sample of its own (the log up to the first published night, cut by time as the night cuts it) and
seeds the training. Cells: "uniform" (the sample project's model), "alone" (per domain a twin of the same class that
knows that domain only), and the changes of planted_variants.py. Figures go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.planted_cells import Cell, Experiment, Result, read, train
from benchmarks.planted_data import first_night
from benchmarks.planted_figures import Interval, ablation, correction, guard, transfer
from benchmarks.planted_tables import (
    ablation_table,
    correction_table,
    guard_lines,
    loss_table,
    transfer_table,
    twin_table,
)
from benchmarks.planted_variants import ABLATION, ALONE, CORRECTIONS, DEFAULT, VARIANTS, same_as
from jobs.sample import PLANTED, SAMPLE_VERSION
from jobs.settings import load_settings

FIRST_SEED = 7  # the sample project's own
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "planted-transfer.md"
MARKS = ("<!-- make bench-planted writes from here -->", "<!-- to here -->")


def all_cells(seeds: Sequence[int], domains: Sequence[str]) -> list[Cell]:
    """Return every cell in the order of training: what stands first is wanted most."""
    joint = [Cell(variant, seed) for variant in VARIANTS if variant != ALONE for seed in seeds]
    return joint + [Cell(ALONE, seed, domain) for seed in seeds for domain in domains]


def results_of(
    experiment: Experiment, cells: Sequence[Cell], variants: Sequence[str], at_most: int | None
) -> dict[Cell, Result]:
    """Return all finished cells after training at most so many missing ones of these variants (None: all)."""
    found, trained = {}, 0
    for cell in cells:
        result = read(experiment, cell)
        if result is None and cell.variant in variants and (at_most is None or trained < at_most):
            result = train(experiment, cell)
            trained += 1
            seconds, epoch = result.figures["seconds"], result.figures["best_epoch"]
            print(f"{cell.name}: {seconds:.0f} s, best epoch {epoch} of {result.figures['epochs']}", flush=True)
        if result is not None:
            found[cell] = result
    return found


def summarise(results: dict[Cell, Result], doubles: Mapping[str, str]) -> dict[str, Any]:
    """Return every figure of the report: transfer, correction and ablation per domain, guard per seed and domain.

    doubles: variants with the model of another one, which stands for them.
    """
    by_variant = {name: [r for c, r in results.items() if c.variant == name] for name in VARIANTS}
    joint = by_variant[DEFAULT]
    twins = {(r.cell.domain, r.cell.seed): r for r in by_variant[ALONE]}
    by_seed = {name: {r.cell.seed: r for r in by_variant[name]} for name in ABLATION}
    return {
        "transfer": {domain: transfer(joint, twins, domain) for domain in PLANTED} if joint else {},
        "guard": guard(joint),
        "correction": {
            variant: {domain: correction(by_variant[variant], by_seed[DEFAULT], domain) for domain in PLANTED}
            for variant in CORRECTIONS
            if by_variant[variant] and joint
        },
        "ablation": {
            name: ablation(by_variant[name], by_seed[whole], tuple(PLANTED))
            for whole, parts in ABLATION.items()
            for name in (whole, *parts)
            if by_variant[name] and by_seed[whole] and name not in doubles
        },
    }


def report(
    results: dict[Cell, Result], cells: Sequence[Cell], figures: dict[str, Any], doubles: Mapping[str, str]
) -> str:
    """Return all tables with a line on what they stand on, in Markdown that reads in a terminal."""
    lines = [
        f"Planted transfer on {SAMPLE_VERSION}; NDCG@10 over all items of a domain; mean over seeds [95 %].",
        "",
    ]
    for variant in VARIANTS:
        wanted = [cell for cell in cells if cell.variant == variant]
        found = sum(cell in results for cell in wanted)
        what = VARIANTS[variant].words
        if variant in doubles:
            lines.append(f"- {variant}: {what}; that is {doubles[variant]}, trained once")
        elif found == 0:
            lines.append(f"- {variant}: {what}; not trained, left out")
        else:
            compared = variant in (DEFAULT, ALONE) or variant in figures["ablation"]
            missing = "" if compared else "; its whole model is not trained, left out"
            lines.append(f"- {variant}: {what}; {found} of {len(wanted)} cells{missing}")
    codes = sorted({str(result.figures["code"])[:12] for result in results.values()})
    lines.append(f"- code: {', '.join(codes) or '-'}")
    if gaps := figures["transfer"]:
        lines += ["", "**NTG as NDCG@10 on test, views of one model**", "", transfer_table(gaps)]
        if any(f["twin"].n for f in gaps.values()):
            lines += ["", "**Against twins that know one domain, NDCG@10 on test**", "", twin_table(gaps)]
        lines += ["", "**NTG as loss, nats a target**", "", loss_table(gaps)]
        lines += ["", "**The guard**", "", *guard_lines(figures["guard"])]
    if figures["correction"]:
        lines += [
            "",
            "**LC-NTG and other rules less uniform weights, NDCG@10 on test**",
            "",
            correction_table(figures["correction"]),
        ]
    if figures["ablation"]:
        lines += ["", "**The paper's ablation on the planted sample, NDCG@10 on test**", ""]
        lines += [ablation_table(figures["ablation"])]
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
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="train these only"
    )
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
        toy = {"channels": 8}
        experiment = replace(experiment, users=150, epochs=1, threads=1, options=toy)
        seeds = range(FIRST_SEED, FIRST_SEED + min(arguments.seeds, 2))
    cells = all_cells(seeds, settings.domain_names)
    doubles = {name: same_as(name, experiment.model) for name in VARIANTS}
    doubles = {name: other for name, other in doubles.items() if name != other}
    results = results_of(experiment, cells, arguments.variants, arguments.train)
    figures = summarise(results, doubles)
    tables = report(results, cells, figures, doubles)
    print(tables)
    complete = all(Cell(DEFAULT, seed) in results for seed in seeds)
    if complete and not arguments.quick and not arguments.no_record:
        keep(results, figures, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
