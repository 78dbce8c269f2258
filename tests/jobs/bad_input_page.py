"""Write the list of all kinds of bad input that tests try into docs/bad-input.md.

.venv/jobs/bin/python -m tests.jobs.bad_input_page
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.jobs.bad_days import AUDITED, COLUMNS, DAYS, PACKING, PARQUET
from tests.jobs.bad_files import COPIES, FORMS, NAMES, Odd
from tests.jobs.bad_files import PARQUET as ODD_PARQUET
from tests.jobs.bad_lines import DOMAINS, ENCODINGS, FORM, IDS, NUMBERS, QUOTES, TIMES, Line

PAGE = Path(__file__).parents[2] / "docs/bad-input.md"
HEADING = "## Every kind that tests try"
LINE_PARTS = {
    "Encodings": ENCODINGS, "Quotes": QUOTES, "Form": FORM, "Ids": IDS, "Domains": DOMAINS,
    "Times in numbers": NUMBERS, "Times in ISO 8601": TIMES,
}  # fmt: skip
FILE_PARTS = {"Files": FORMS, "Copies and giants": COPIES, "File names": NAMES, "Parquet": ODD_PARQUET}
STOP_PARTS = {"Packing and encoding": PACKING, "Columns": COLUMNS, "Parquet files": PARQUET, "Days": DAYS,
              "Days that are not believed": AUDITED}  # fmt: skip


def counts() -> dict[str, int]:
    """How many kinds there are, and how many of them are accepted, kept apart (in part at least) and refused."""
    lines = [line for part in LINE_PARTS.values() for line in part]
    files = [kind for part in FILE_PARTS.values() for kind in part]
    apart = sum(not line.accepted for line in lines) + sum(bool(kind.rejected) for kind in files)
    stops = sum(map(len, STOP_PARTS.values())) + 1  # and the file that grows
    return {
        "kinds": len(lines) + len(files) + stops,
        "accepted": len(lines) + len(files) - apart,
        "quarantined": apart,
        "refused": stops,
    }


def in_words(found: dict[str, int]) -> str:
    return (
        f"{found['kinds']} kinds: {found['accepted']} accepted or passed over, {found['quarantined']} with lines "
        f"in `rejected_interactions`, {found['refused']} refused"
    )


def _of_line(line: Line) -> str:
    return f"`{line.becomes}`" if not line.accepted else f"accepted, {line.time} UTC" if line.time else "accepted"


def _of_file(kind: Odd) -> str:
    said = [f"{kind.events:,} event" + "s" * (kind.events > 1)] if kind.events else []
    said += [f"{count} `{reason}`" for reason, count in kind.rejected.items()]
    said += [f"{kind.duplicates} duplicate"] if kind.duplicates else []
    said += [kind.note] if kind.note else []
    return ", ".join(said) or "no line"


def _rows() -> Iterator[str]:
    yield f"{in_words(counts())[0].upper()}{in_words(counts())[1:]}."
    yield "The lists are made from the tables of `tests/jobs/bad_*.py`, and `make bad-input` tries each of them."
    for name, lines in LINE_PARTS.items():
        yield from ("", f"**{name}.** " + "; ".join(f"{line.name}: {_of_line(line)}" for line in lines) + ".")
    for name, kinds in FILE_PARTS.items():
        yield from ("", f"**{name}.** " + "; ".join(f"{kind.name}: {_of_file(kind)}" for kind in kinds) + ".")
    for name, stops in STOP_PARTS.items():
        yield from ("", f"**{name}**, refused. " + "; ".join(f"{s.name}: “{s.words[0]}”" for s in stops) + ".")


def page() -> str:
    """The page with the lists as they should be."""
    head = PAGE.read_text(encoding="utf-8").split(HEADING)[0]
    return f"{head.rstrip()}\n\n{HEADING}\n\n" + "\n".join(_rows()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
