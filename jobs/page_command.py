"""The command line of pages that are made from the code: write the page, or with --check compare it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def run_page(file: Path, page: Callable[[], str], module: str, doc: str, argv: Sequence[str] | None) -> int:
    """Write `file`; with --check say whether the one that is there is what `page` returns.

    Returns
    -------
    int
        0 written or current, 1 not current.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where it is not current")
    if not parser.parse_args(argv).check:
        file.write_text(page(), encoding="utf-8")
        print(f"wrote {file}")
        return 0
    if file.is_file() and file.read_text(encoding="utf-8") == page():
        return 0
    print(f"error: docs/{file.name} is not current: python -m {module}", file=sys.stderr)
    return 1
