"""RQ4, the sensitivity of the default: one setting at a time takes other values. Hours, resumable.

    make bench-sweep                          # every sweep, on the users of QUICK alone, two seeds
    make bench-sweep SWEEP="channels eta"     # some
    make bench-sweep REPORT=1                 # train nothing: the tables of what is there
    make bench-sweep RESTORE=1                # first take the cells that benchmarks/results/quality keeps

Every value is trained on the benchmark's users alone, as the paper's are: with everybody a sweep would take days.
Cells lie where those of `make bench-quality QUICK=1` lie; a value that is a row of that benchmark, as the
default's own is (default.own-users), reads that row's cells. More: docs/benchmarks/quality-sweeps.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.peers.ours import PEERS, Ours
from benchmarks.prepare_amazon2014 import DATA
from benchmarks.quality.__main__ import CACHE, IMAGES, ended, into_page
from benchmarks.quality.archive import archive
from benchmarks.quality.bootstrap import Bootstrap, Gain, gains
from benchmarks.quality.data import QUICK_USERS, QualityData, load_a5
from benchmarks.quality.figures import SystemFigures, plain, summarise
from benchmarks.quality.plan import Scale
from benchmarks.quality.plots import sweep as plot
from benchmarks.quality.progress import Progress
from benchmarks.quality.protocol import Budget
from benchmarks.quality.runner import Runner
from benchmarks.quality.systems import METRIC, Row, systems_of
from benchmarks.quality.tables import level, missing_table, number, short, signed
from benchmarks.record import RESULTS, ROOT, record

PAGE = ROOT / "docs" / "benchmarks" / "quality-sweeps.md"
WHOLE = "default.own-users"
"""The row that every sweep varies."""
SEEDS = 2
VIEWS = {"": "served", "cross": "cross view", "single": "single view"}


@dataclass(frozen=True)
class Sweep:
    """One setting. row(name, value): the system under a value, in all else the default preset, trained on the
    benchmark's users alone. log: its axis.
    """

    label: str
    values: tuple[float, ...]
    row: Callable[[str, Any], Ours]
    log: bool = False


def _own(name: str, changes: Mapping[str, Any] | None = None, *, users: float = 1.0) -> Ours:
    """Return our default with changes, trained on the benchmark's users alone."""
    return Ours(name, changes, outside=False, users=users)


def _experts(n_experts: int, n_cross_experts: int) -> dict[str, Any]:
    """Return ACMoE switched on, whatever the default is."""
    return {"n_experts": n_experts, "n_cross_experts": n_cross_experts, "stop_gradient": True}


def _eta(eta: float) -> dict[str, Any]:
    """Return SC-MIM with the rest of the weight; without any it is off."""
    return {"mim": True, "eta": eta} if eta < 1 else {"mim": False}


SWEEPS = {
    "channels": Sweep("channels C", (8, 16, 32, 64, 128), lambda name, C: _own(name, {"channels": C}), log=True),
    "n_experts": Sweep(
        "experts K, with j = K // 2", (2, 3, 4, 5, 6), lambda name, K: _own(name, _experts(K, K // 2))
    ),
    "n_cross_experts": Sweep(
        "experts j of the cross task, of K = 4", (1, 2, 3), lambda name, j: _own(name, _experts(4, j))
    ),
    "max_length": Sweep("steps T", (10, 20, 50, 100), lambda name, T: _own(name, {"max_length": T}), log=True),
    "temperature": Sweep(
        "temperature delta, under the bounded correction", (0.25, 0.5, 1, 2, 4),
        lambda name, delta: _own(name, {"correction": "bounded", "temperature": delta}), log=True,
    ),
    "eta": Sweep(
        "eta (1: without SC-MIM)", (0.5, 0.6, 0.7, 0.8, 0.9, 1), lambda name, eta: _own(name, _eta(eta))
    ),
    "users": Sweep("training users, %", (10, 25, 50, 100), lambda name, share: _own(name, users=share / 100)),
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What a value gave on test. views: "" (served), "cross", "single". ntg: domain or "macro" -> the cross view
    against the single view of the same models.
    """

    value: float
    row: str
    views: dict[str, SystemFigures]
    ntg: dict[str, Gain]


def rows_of(known: Sequence[Ours] = PEERS) -> dict[tuple[str, float], Ours]:
    """Return (sweep, value) -> its row: a row of the benchmark that is configured so, else one of its own.

    Always of all sweeps, so that no row's name depends on which of them run.
    """
    rows, found = list(known), {}
    for name, sweep in SWEEPS.items():
        for value in sweep.values:
            own = sweep.row(f"sweep.{name}={value:g}", value)
            found[name, value] = next((row for row in rows if _configured(row) == _configured(own)), own)
            rows.append(own)
    return found


def _configured(row: Ours) -> tuple[type, dict[str, Any]]:
    return type(row), {name: value for name, value in vars(row).items() if name not in ("name", "slow")}


def points(chosen: Mapping[float, Ours], rows: Mapping[str, Row], data: QualityData) -> list[Point]:
    """Return what is there of a sweep, in the order of its values."""
    systems, figures, bootstrap = systems_of(rows.values(), data), summarise(rows, data).systems, Bootstrap(data)
    found = []
    for value, row in chosen.items():
        names = {view: f"{row.name}.{view}" if view else row.name for view in VIEWS}
        if row.name in systems:
            cross, single = systems[names["cross"]], systems[names["single"]]
            by_domain, macro = gains(bootstrap, cross, [single] * len(data.domains))
            ntg = {**dict(zip(data.domains, by_domain, strict=True)), "macro": macro}
            found.append(Point(value, row.name, {view: figures[name] for view, name in names.items()}, ntg))
    return found


def quality_table(found: Sequence[Point], domains: Sequence[str]) -> str:
    """Return NDCG@10 of the served view, NTG of the macro mean, what a value costs."""
    head = ["value", "seeds", "macro [95 %]", *map(short, domains), "NTG macro [95 %]", "train s", "parameters"]
    lines = []
    for point in found:
        served = point.views[""]
        lines.append(
            [_value(point), str(len(served.seeds)), level(served.macro),
             *(number(served.test[METRIC][domain]) for domain in domains), signed(point.ntg["macro"].difference),
             f"{served.cost.train_s:.1f}", f"{served.cost.parameters:,}"]
        )  # fmt: skip
    return table(head, lines)


def ntg_table(found: Sequence[Point], domains: Sequence[str]) -> str:
    """Return NTG by domain; "*" where the interval leaves out 0."""
    lines = []
    for point in found:
        gaps = [point.ntg[domain].difference for domain in domains]
        cells = [f"{gap.value:+.4f}{' *' if gap.word != 'unclear' else ''}" for gap in gaps]
        lines.append([_value(point), *cells])
    return table(["value", *map(short, domains)], lines)


def _value(point: Point) -> str:
    return f"{point.value:g}" + (" (default)" if point.row == WHOLE else "")


def report(name: str, found: Sequence[Point], rows: Mapping[str, Row], data: QualityData) -> str:
    """Return the tables of a sweep with their headings."""
    where = f"{data.n_users:,} users, NDCG@10 on test, all items of the domain"
    parts = [("Rows without a result", missing_table(rows))]
    if found:
        parts += [
            (f"{SWEEPS[name].label}: {where}", quality_table(found, data.domains)),
            (f"{SWEEPS[name].label}: NTG, the cross view less the single view", ntg_table(found, data.domains)),
        ]
    return "\n\n".join(f"**{title}**\n\n{text}" for title, text in parts if text)


def draw(name: str, found: Sequence[Point], file: Path) -> Path:
    """Draw the macro mean of the three views over the values."""
    lines = {words: [(point.value, point.views[view].macro) for point in found] for view, words in VIEWS.items()}
    return plot(lines, SWEEPS[name].label, file, log=SWEEPS[name].log)


def flat(found: Sequence[Point], prefix: str) -> dict[str, float]:
    """Return the figures for the results file, rounded: PREFIX.VALUE.ndcg10.macro and the like."""
    figures: dict[str, float] = {}
    for point in found:
        at, served, gap = f"{prefix}.{point.value:g}", point.views[""], point.ntg["macro"].difference
        for domain in (*served.test[METRIC], "macro"):
            if domain != "min":
                figures[f"{at}.ndcg10.{domain}"] = served.test[METRIC][domain]
        figures |= {f"{at}.ndcg10.macro_low": served.macro.low, f"{at}.ndcg10.macro_high": served.macro.high}
        for view in ("cross", "single"):
            figures[f"{at}.ndcg10.macro_{view}"] = point.views[view].macro.value
        figures |= {f"{at}.ntg.{domain}": gain.difference.value for domain, gain in point.ntg.items()}
        figures |= {f"{at}.ntg.macro_low": gap.low, f"{at}.ntg.macro_high": gap.high}
        figures |= {f"{at}.train_s": served.cost.train_s, f"{at}.parameters": served.cost.parameters}
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in finite.items()}


def unlike_the_sweep(arguments: argparse.Namespace, name: str, found: Sequence[Point], n_seeds: int) -> str:
    """Return why these are not the figures of the whole sweep, "" where they are."""
    whole = {point.value for point in found if len(point.views[""].seeds) == n_seeds}
    missing = [f"{value:g}" for value in SWEEPS[name].values if value not in whole]
    asked = {"EPOCHS": arguments.epochs, "SEEDS": arguments.seeds}
    reasons = [f"with {words}" for words, value in asked.items() if value]
    return " and ".join([*reasons, *([f"without {', '.join(missing)}"] if missing else [])])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    budget = Budget()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.sweeps", description="Sweeps of settings.")
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS), help="default: all")
    parser.add_argument("--full", action="store_true", help=f"all users of set A5, not {QUICK_USERS}")
    parser.add_argument("--seeds", type=int, help=f"of every value (default {SEEDS})")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of interactions.parquet")
    parser.add_argument("--epochs", type=int, help=f"at most so many (default {budget.epochs})")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=budget.threads, help=f"default {budget.threads}")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of finished cells")
    parser.add_argument("--report", action="store_true", help="train nothing: the figures of what is there")
    parser.add_argument("--record", action="store_true", help="record also what is not the whole sweep")
    parser.add_argument(
        "--restore", action="store_true", help="first take the finished cells that the results' folder keeps"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of quality-sweep.json")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the plots")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose tables are written anew")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep by sweep: train what is missing, print, draw, record. 1 where a row crashed, 130 where stopped."""
    arguments = _arguments(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    data = load_a5(arguments.data, users=None if arguments.full else QUICK_USERS)
    budget = Budget(threads=arguments.threads, epochs=arguments.epochs or Budget().epochs, device=arguments.device)
    crashed = 0
    for place, name in enumerate(arguments.sweeps, start=1):
        print(f"sweep {place} of {len(arguments.sweeps)}: {name}", file=sys.stderr)
        crashed |= _sweep(name, arguments, data, budget)
    return crashed


def _sweep(name: str, arguments: argparse.Namespace, data: QualityData, budget: Budget) -> int:
    chosen = {value: row for (sweep, value), row in rows_of().items() if sweep == name}
    n_seeds, progress = arguments.seeds or SEEDS, Progress(at_once=2)
    try:
        peers, scale = list(chosen.values()), Scale(n_seeds, n_seeds)
        runner = Runner(data, budget, arguments.cache, peers, scale, progress, train=not arguments.report, jobs=2)
        archived = arguments.results / "quality" / runner.cache.folder.name
        if arguments.restore:
            print(f"{runner.restore(archived)} finished cells taken from {archived}", file=sys.stderr)
        rows = runner.run()
    finally:
        progress.stop()
    found = points(chosen, rows, data)
    text = report(name, found, rows, data)
    print(text + "\n")
    unlike = unlike_the_sweep(arguments, name, found, n_seeds)
    if found and (arguments.record or not unlike):
        file = draw(name, found, arguments.images / f"quality-sweep-{name}.png")
        details = {
            "users": data.n_users, "epochs": budget.epochs, "patience": budget.patience, "seeds": n_seeds,
            "rows": {f"{point.value:g}": point.row for point in found},
            "trials": [plain(trial) for row in rows.values() for trial in row.trials],
        }  # fmt: skip
        part = f"sweep{'full' if arguments.full else ''}.{name}"
        record("quality-sweep", flat(found, part), part=part, details=details, folder=arguments.results)
        archive(runner.cache.folder, archived, rows.values())
        shown = f"{text}\n\n![Macro NDCG@10 over {SWEEPS[name].label}](../img/{file.name})"
        page = into_page(arguments.page.read_text(encoding="utf-8"), name, shown, "bench-sweep")
        arguments.page.write_text(page, encoding="utf-8")
    elif found:
        print(f"not recorded: {unlike} it is not the whole sweep (RECORD=1 records it)", file=sys.stderr)
        file = draw(name, found, runner.cache.folder / "img" / f"quality-sweep-{name}.png")
    if found:
        print(f"plot: {file}", file=sys.stderr)
    return int(any(row.errors for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
