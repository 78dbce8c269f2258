"""Write what came out of `make chaos`, as benchmarks/results/chaos.json has it, into docs/chaos.md.

.venv/jobs/bin/python -m tests.chaos.page
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from benchmarks.record import RESULTS, ROOT
from tests.chaos.nights import StepNames
from tests.chaos.results import SUMMED

PAGE = ROOT / "docs/chaos.md"
PART = re.compile(r"(?<=### What came out\n\n).*?(?=\n### )", re.DOTALL)


def _rows(found: dict[str, Any]) -> Iterator[str]:
    figures, parts = found["figures"], found["parts"]
    yield "| step | kills | of them aimed | full runs after them | recovered | differences | orphans | commit |"
    yield "|---|---|---|---|---|---|---|---|"
    for step in StepNames:
        if part := parts.get(f"kill.{step}"):
            more, own = part["details"], {name: figures[f"{step}.{name}"] for name in (*SUMMED, "orphans")}
            yield (
                f"| {step} | {own['kills']} | {more['aimed']}, at {more['kinds']} kinds of happenings | "
                f"{more['again']} | {own['recovered']} | {own['differences']} | {own['orphans']} | "
                f"{part['commit']} |"
            )
    yield f"| all | {figures['kills']} | | | {figures['recovered']} | {figures['differences']} | | |"
    yield ""
    for words in parts.get("kill.maintain", {}).get("details", {}).get("words", ()):
        yield f"`maintain`: {words}."
    if "rollback" in parts:
        own = parts["rollback"]["details"]
        yield (
            f"An undisturbed `python -m jobs.rollback` took {figures['rollback_s']} s from its start to its end "
            f"(median of {len(own['seconds'])}), of which the job counted {own['job_seconds']} s; {own['load']} "
            f"processes wanted the {own['cores']} cores meanwhile."
        )
    machines = sorted({part["machine"] for name, part in parts.items() if name.startswith("kill.")})
    yield f"Machine: {'; '.join(machines)}."


def page() -> str:
    """The page as it should be."""
    found = json.loads((RESULTS / "chaos.json").read_text(encoding="utf-8"))
    return PART.sub(lambda _: "\n".join(_rows(found)) + "\n", PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
