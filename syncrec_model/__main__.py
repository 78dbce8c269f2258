"""python -m syncrec_model LOG: the study kit's command line."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence

import torch

from .config import PRESETS, ModelConfig, TrainingConfig
from .descriptions import DESCRIPTIONS
from .study_columns import UNITS, StudyError
from .study_cut import SPLITS
from .study_log import ROLES
from .study_run import study


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study; return 0, 2 where something must be changed first, 130 where it was interrupted."""
    given = parser().parse_args(argv)
    try:
        settings = dict(_setting(text) for text in given.set)
        if given.epochs is not None:
            if "epochs" in settings:
                raise StudyError(f"--epochs {given.epochs} and --set epochs={settings['epochs']}: give one of them")
            settings["epochs"] = given.epochs
        result = study(
            given.log, preset=given.preset, settings=settings, seeds=given.seeds, out=given.out,
            progress=not given.quiet, unit=given.unit, split=given.split, domains=given.domains, core=given.core,
            users=given.users, repeats=given.repeats,
            columns={role: getattr(given, role) for role in ROLES if getattr(given, role)},
        )  # fmt: skip
    except torch.OutOfMemoryError:
        return _refused("the GPU has too little memory: give a smaller --set batch_size=16, or --set device=cpu")
    except (ValueError, OSError, FloatingPointError) as error:
        return _refused(str(error))
    except KeyboardInterrupt:  # Ctrl-C, or a kill
        kept = f"the same command goes on from {given.out}" if given.out else "nothing is kept without --out FOLDER"
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        return 130
    print(result)
    if given.out is None:
        print("\nNothing was written: --out FOLDER keeps weights, table and JSON, and goes on after a kill.")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="python -m syncrec_model",
        usage="python -m syncrec_model LOG [options]",
        description="Train SyNCRec on a log of several domains and say, domain by domain, whether the others help.",
        epilog=_settings_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    found.add_argument(
        "log", metavar="LOG", help="a Parquet file, a folder of them, or a CSV file with a header (also .csv.gz)"
    )
    for role, names in ROLES.items():
        found.add_argument(
            f"--{role}", metavar="COLUMN", help=f"its name in the log; default: {' or '.join(names)}"
        )
    found.add_argument(
        "--unit", choices=list(UNITS), help="unit of numbers in the time column; default: seen from the values"
    )
    found.add_argument("--domains", nargs="+", metavar="DOMAIN", help="these domains alone; default: all")
    found.add_argument(
        "--repeats",
        nargs="+",
        default=(),
        metavar="DOMAIN",
        help="domains where users come back to items: seen items stay candidates; default: none",
    )
    found.add_argument(
        "--split", choices=SPLITS, default=SPLITS[0], help=f"how test cases are cut off; default: {SPLITS[0]}"
    )
    found.add_argument(
        "--core", type=int, default=0, metavar="K", help="iterated K-core of users and items; default: none"
    )
    found.add_argument("--users", type=int, metavar="N", help="a fixed sample of so many users; default: all")
    found.add_argument(
        "--preset", choices=PRESETS, default=PRESETS[0], help=f"the configuration; default: {PRESETS[0]}"
    )
    found.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help="change settings, see below"
    )
    found.add_argument("--epochs", type=int, metavar="N", help="as --set epochs=N")
    found.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="so many runs, figures are their means; default: 1"
    )
    found.add_argument("--out", metavar="FOLDER", help="keeps weights, table and JSON; goes on after a kill")
    found.add_argument("--quiet", action="store_true", help="the table alone")
    return found


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise StudyError(f"--set {text}: give NAME=VALUE, such as --set correction=bounded")
    return name.strip(), value.strip()


def _settings_text() -> str:
    lines = ["settings for --set, and their values in the preset default:"]
    for kind in (ModelConfig, TrainingConfig):
        for name, value in dataclasses.asdict(kind()).items():
            shown = str(value).lower() if isinstance(value, bool) else value
            lines.append(f"  {name}={shown}".ljust(30) + f" {DESCRIPTIONS[name]}")
    return "\n".join(lines)


def _refused(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 2


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    raise SystemExit(main())
