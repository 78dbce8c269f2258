"""The quality benchmark: every system on the same cases of set A5, by one honest protocol. Hours, resumable.

    make bench-quality                  # all rows; a stopped run goes on where it was
    make bench-quality QUICK=1          # fewer users, one seed, no slow rows
    make bench-quality ROWS="default"   # a row and the rows whose scores it reads
    make bench-quality LOG=log.parquet  # the same systems on a log of your own

Finished cells lie in var/quality and are read, never trained again. How it is measured: docs/benchmarks/quality.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import all_peers
from benchmarks.prepare_amazon2014 import CORE, DATA
from benchmarks.quality.archive import archive
from benchmarks.quality.data import QUICK_USERS, SPLITS, DataAbsent, QualityData, load_a5
from benchmarks.quality.figures import Figures, flat, plain, summarise
from benchmarks.quality.own_log import load_log
from benchmarks.quality.plan import Scale, UnknownRow, order
from benchmarks.quality.plots import draw
from benchmarks.quality.progress import Progress
from benchmarks.quality.protocol import Budget, Peer
from benchmarks.quality.runner import Busy, Runner
from benchmarks.quality.systems import Row
from benchmarks.quality.tables import report
from benchmarks.record import RESULTS, ROOT, record
from syncrec_model.study_columns import StudyError
from syncrec_model.study_log import ROLES

PAGE = ROOT / "docs" / "benchmarks" / "quality.md"
IMAGES = ROOT / "docs" / "img"
CACHE = ROOT / "var" / "quality"


@dataclass(frozen=True)
class Places:
    """Where a run's outcome goes. page: None for a run that is not shown there."""

    results: Path
    page: Path | None


def part_of(arguments: argparse.Namespace) -> str:
    """Return the part of the results file, which is also the first word of its figures."""
    own = "log" if arguments.log else "a5"
    return own + ("quick" if arguments.quick else "") + ("time" if arguments.split == "time" else "")


def keep(part: str, figures: Figures, rows: dict[str, Row], about: dict[str, Any], places: Places) -> None:
    """Write the figures to the results file, the tables into their place on the page."""
    details = {
        **about,
        **plain(figures),
        "absent": {name: row.absent for name, row in rows.items() if row.absent},
        "failed": {name: row.errors for name, row in rows.items() if row.errors},
        "trials": [plain(trial) for row in rows.values() for trial in row.trials],
    }
    record("quality", flat(figures, part), part=part, details=details, folder=places.results)
    if places.page is not None:
        text = into_page(places.page.read_text(encoding="utf-8"), part, report(figures, rows, fold=True))
        places.page.write_text(text, encoding="utf-8")


def into_page(text: str, part: str, tables: str, target: str = "bench-quality") -> str:
    """Return the page with a part's tables between its two marks; what a person wrote around them stays.

    target: of the Makefile, whose name the first mark says.

    Raises
    ------
    ValueError : the page has lost a mark.
    """
    marks = f"<!-- make {target} writes {part} from here -->", f"<!-- {part} to here -->"
    before, first, rest = text.partition(marks[0])
    _, last, after = rest.partition(marks[1])
    if not (first and last):
        raise ValueError(f"the page says with {marks[0]!r} and {marks[1]!r} where the tables go; put them back")
    return f"{before}{first}\n\n{tables}\n\n{last}{after}"


def wanted_peers(arguments: argparse.Namespace) -> list[Peer]:
    """Return the rows of this run in their order; QUICK leaves slow ones out that nobody asked for."""
    peers = all_peers()
    if arguments.quick:  # a slow row that is asked for by name runs as it is
        small = {name: peer.quick() or (peer if arguments.rows else None) for name, peer in peers.items()}
        peers = {name: peer for name, peer in small.items() if peer}
    return order(peers, arguments.rows)


def scale_of(arguments: argparse.Namespace) -> Scale:
    """Return how many seeds: as many as asked for, in QUICK one, else more for the headline than for the rest."""
    trials = 1 if arguments.quick and arguments.trials is None else arguments.trials
    if arguments.seeds or arguments.quick:
        n_seeds = arguments.seeds or 1
        return Scale(n_seeds, n_seeds, trials)
    return Scale(trials=arguments.trials)


def unlike_the_benchmark(arguments: argparse.Namespace, incomplete: Sequence[str]) -> str:
    """Return why a run's figures are not the benchmark's, "" where they are: "with ROWS and without all of ease".

    incomplete: rows that lack a seed or a setting.
    """
    asked = {
        "ROWS": arguments.rows, "EPOCHS": arguments.epochs, "TRIALS": arguments.trials, "SEEDS": arguments.seeds,
        "CORE_MINUTES": arguments.core_minutes,
    }  # fmt: skip
    changed = [name for name, value in asked.items() if value]
    reasons = [f"with {' and '.join(changed)}"] if changed else []
    return " and ".join([*reasons, *([f"without all of {', '.join(incomplete)}"] if incomplete else [])])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    budget = Budget()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="The quality benchmark.")
    parser.add_argument("--rows", nargs="+", default=[], help="these rows and those they need (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_USERS} users, one seed, no slow rows, no searches"
    )
    parser.add_argument("--seeds", type=int, help="of every row (default: 5 for the headline rows, else 3)")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0])
    parser.add_argument(
        "--data", type=Path, help=f"folder of interactions.parquet (default: ../shared/data/{DATA.name})"
    )
    parser.add_argument("--log", type=Path, help="a log of your own instead: Parquet, a folder of it, or CSV")
    for role, names in ROLES.items():
        parser.add_argument(f"--{role}", metavar="COLUMN", help=f"of --log (default: {' or '.join(names)})")
    parser.add_argument("--domains", nargs="+", metavar="DOMAIN", help="of --log: these alone (default: all)")
    parser.add_argument("--core", type=int, help=f"of --log: least events, 3 or more (default {CORE})")
    parser.add_argument("--peers", type=Path, help="folder of public repositories by name")
    parser.add_argument("--epochs", type=int, help=f"at most so many (default {budget.epochs})")
    parser.add_argument(
        "--core-minutes", type=float,
        help="a published system starts no further epoch after so many processor minutes (default: no limit)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=budget.threads, help=f"default {budget.threads}")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, sharing the threads (default 2)")
    parser.add_argument("--trials", type=int, help="at most so many settings of each search (default: all)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of finished cells")
    parser.add_argument("--report", action="store_true", help="train nothing: the figures of what is there")
    parser.add_argument("--record", action="store_true", help="record also what is not the whole benchmark")
    parser.add_argument(
        "--restore", action="store_true", help="first take the finished cells that the results' folder keeps"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of quality.json")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the plots")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose tables are written anew")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, print the tables, record the figures. 1 where a row crashed, 130 where stopped."""
    arguments = _arguments(argv)
    return ended(lambda: _run(arguments))


def ended(run: Callable[[], int]) -> int:
    """Return the exit code of a run; a mistake of the user's is one line and 2, a stop is 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run()
    except (DataAbsent, StudyError, UnknownRow, Busy) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    peers = wanted_peers(arguments)
    users = QUICK_USERS if arguments.quick else None
    if arguments.log:
        if idle := [name for name in ("data", "record", "restore") if getattr(arguments, name)]:
            raise StudyError(f"--{idle[0]} is for set A5 and does nothing for a log of your own: leave it away")
        columns = {role: name for role in ROLES if (name := getattr(arguments, role))}
        data = load_log(
            arguments.log, columns=columns, domains=arguments.domains, split=arguments.split, users=users,
            core=CORE if arguments.core is None else arguments.core,
        )  # fmt: skip
    elif given := [name for name in (*ROLES, "domains", "core") if getattr(arguments, name) is not None]:
        raise StudyError(f"--{given[0]} is for a log of your own: give LOG= (--log), too")
    else:
        data = load_a5(arguments.data or DATA, split=arguments.split, users=users)
    budget = Budget(
        threads=arguments.threads, epochs=arguments.epochs or Budget().epochs, device=arguments.device,
        checkouts=arguments.peers.resolve() if arguments.peers else None, core_minutes=arguments.core_minutes,
    )  # fmt: skip
    scale = scale_of(arguments)
    progress = Progress(at_once=arguments.jobs)
    try:
        runner = Runner(
            data, budget, arguments.cache, peers, scale, progress, train=not arguments.report, jobs=arguments.jobs
        )
        archived = arguments.results / "quality" / runner.cache.folder.name
        if arguments.restore:
            print(f"{runner.restore(archived)} finished cells taken from {archived}", file=sys.stderr)
        rows = runner.run()
    finally:
        progress.stop()
    figures = summarise(rows, data)
    text = report(figures, rows)
    print(text)
    folder = runner.cache.folder
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    unlike, shown = unlike_the_benchmark(arguments, runner.incomplete()), False
    if arguments.log and figures.systems:  # its figures are its owner's, not this repository's
        keep(part_of(arguments), figures, rows, _about(data, budget, scale), Places(folder, None))
    elif unlike and not arguments.record and not arguments.log:
        print(f"not recorded: {unlike} it is not the whole benchmark (RECORD=1 records it)", file=sys.stderr)
    elif figures.systems and not arguments.log:
        places = Places(arguments.results, None if arguments.quick else arguments.page)
        keep(part_of(arguments), figures, rows, _about(data, budget, scale), places)
        archive(runner.cache.folder, archived, rows.values())
        shown = places.page is not None
    images = arguments.images if shown else folder / "img"
    draw(figures, rows, images, f"quality-{part_of(arguments)}")
    print(f"tables, trials and finished cells: {folder}; plots: {images}", file=sys.stderr)
    return 1 if any(row.errors for row in rows.values()) else 0


def _about(data: QualityData, budget: Budget, scale: Scale) -> dict[str, Any]:
    return {
        "set": data.name, "users": data.n_users, "items": dict(zip(data.domains, data.n_items, strict=True)),
        "events": len(data.events), "cases": {part: len(cases) for part, cases in data.cases.items()},
        "epochs": budget.epochs, "patience": budget.patience, "threads": budget.threads,
        "headline_seeds": scale.headline, "other_seeds": scale.other, "trials_at_most": scale.trials,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
