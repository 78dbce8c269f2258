"""The study kit's result: figures per domain, beside popularity and models of your own, as a table and as JSON.

Shapes: E events of the log, M cases.
"""

from __future__ import annotations

import json
import platform
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .config import ModelConfig, TrainingConfig
from .evaluation import CaseRanks
from .measures import bootstrap_interval, case_values
from .recommend import Recommender
from .study_columns import StudyError
from .study_data import StudyData

Array = NDArray[Any]
MEASURES = {"ndcg@10": "NDCG@10", "hr@10": "HR@10", "mrr": "MRR"}
VIEWS = ("served", "blend", "cross", "single")
_MAIN = "ndcg@10"


@dataclass(frozen=True)
class StudyRun:
    """One seed. ranks: of every test case by each of VIEWS, [M]; served: the view of each domain."""

    seed: int
    ranks: dict[str, Array]
    served: dict[str, str]
    best_epoch: int
    epochs: int
    seconds: float
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """Return everything but the ranks as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "ranks"}


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What a study found. others: ranks of what SyNCRec is compared with, by name: popularity, and your own.

    recommender: the model of the first seed, as it would be served. `print` shows the table.
    """

    data: StudyData
    preset: str
    model: ModelConfig
    training: TrainingConfig
    runs: list[StudyRun]
    others: dict[str, Array]
    recommender: Recommender

    def with_ranks(self, name: str, ranks: CaseRanks) -> StudyResult:
        """Return a copy that shows one more system beside ours. ranks: of `rank_scores` over the same study."""
        if name in (*VIEWS, *self.others):
            raise StudyError(f"with_ranks: {name!r} is in the table already; give another name")
        (found_M,) = ranks.ranks.values()
        event_M = self.data.cases("test")
        same = len(found_M) == len(event_M) and np.array_equal(ranks.user, self.data.user_E[event_M])
        if not same or not np.array_equal(ranks.domain, self.data.domain_E[event_M]):
            raise StudyError(
                f"with_ranks: the ranks of {name!r} are of other cases; rank the test cases of this study"
            )
        return replace(self, others={**self.others, name: found_M})

    @property
    def systems(self) -> tuple[str, ...]:
        """The columns of the table."""
        return (*VIEWS, *self.others)

    def values(self, system: str, measure: str = _MAIN) -> Array:
        """Return a measure of every test case, its mean over the seeds, [M]."""
        ranks = [run.ranks[system] for run in self.runs] if system in VIEWS else [self.others[system]]
        ks = [int(measure.rsplit("@", 1)[1])] if "@" in measure else []
        return np.asarray(np.mean([case_values(rank_M, ks)[measure] for rank_M in ranks], axis=0))

    def rows(self) -> list[dict[str, Any]]:
        """Return per domain the figures of all systems, NTG, and how far "served" is above each of the others."""
        code_M = self.data.domain_E[self.data.cases("test")]
        user_M = self.data.user_E[self.data.cases("test")]
        found = {(system, measure): self.values(system, measure) for system in self.systems for measure in MEASURES}
        gaps = {"ntg": found["cross", _MAIN] - found["single", _MAIN]}
        gaps |= {f"served - {name}": found["served", _MAIN] - found[name, _MAIN] for name in self.others}
        rows = []
        for code, domain in enumerate(self.data.domains, start=1):
            own_M = code_M == code
            row: dict[str, Any] = {"domain": domain, "cases": int(own_M.sum())}
            for system in self.systems:
                row[system] = {measure: _mean(found[system, measure][own_M]) for measure in MEASURES}
                row[system][f"{_MAIN} low"], row[system][f"{_MAIN} high"] = bootstrap_interval(
                    found[system, _MAIN][own_M], user_M[own_M]
                )
            for name, gap_M in gaps.items():
                low, high = bootstrap_interval(gap_M[own_M], user_M[own_M])
                row[name] = {"value": _mean(gap_M[own_M]), "low": low, "high": high}
            row["served_by"] = [run.served[domain] for run in self.runs]
            rows.append(row)
        return rows

    def mean(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the plain mean over the domains that have cases: a large domain cannot pay for a small one."""
        with_cases = [row for row in rows if row["cases"]]
        mean: dict[str, Any] = {"domain": "mean of domains", "cases": sum(row["cases"] for row in with_cases)}
        for system in self.systems:
            mean[system] = {name: _mean([row[system][name] for row in with_cases]) for name in MEASURES}
        gaps = ["ntg", *(f"served - {name}" for name in self.others)]
        return mean | {name: {"value": _mean([row[name]["value"] for row in with_cases])} for name in gaps}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; a figure without cases is None."""
        rows = self.rows()
        form = {
            "format": 1,
            "data": self.data.facts,
            "preset": self.preset,
            "model": self.model.to_dict(),
            "training": self.training.to_dict(),
            "domains": rows,
            "mean": self.mean(rows),
            "runs": [run.facts() for run in self.runs],
            "notes": self.notes(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        }
        plain: dict[str, Any] = _without_nan(form)
        return plain

    def notes(self) -> list[str]:
        """Return the sentences that a reader of the figures should know."""
        notes = [*self.data.notes, *dict.fromkeys(note for run in self.runs for note in run.notes)]
        if any("single" in run.served.values() for run in self.runs):
            notes.append(
                "Served by single: on validation no other view was clearly better there, whatever the test says."
            )
        if any(run.best_epoch >= self.training.epochs for run in self.runs):
            notes.append(
                "The best epoch is the last one allowed: with more (--epochs) figures and verdicts may change."
            )
        if self.preset == "paper":
            notes.append("This preset is judged by its cross column: the paper knows no view that is chosen.")
        if len(self.runs) > 1:
            code_M = self.data.domain_E[self.data.cases("test")]
            per_seed = []
            for run in self.runs:
                value_M = case_values(run.ranks["served"], [10])[_MAIN]
                per_seed.append(_mean([value_M[code_M == code].mean() for code in np.unique(code_M)]))
            notes.append(
                f"Figures are means over {len(self.runs)} seeds; the mean NDCG@10 of served lies between "
                f"{min(per_seed):.4f} and {max(per_seed):.4f}."
            )
        return notes

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = [*self._head(), ""]
        for head, *body in self._tables():
            widths = [max(len(row[place]) for row in (head, *body)) for place in range(len(head))]
            for row in (head, *body):
                cells = [cell.ljust(width) if place == 0 or place > len(self.systems) + 1 else cell.rjust(width)
                         for place, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
                lines.append("  ".join(cells).rstrip())
            lines.append("")
        return "\n".join([*lines, *(f"- {note}" for note in self.notes())]).rstrip()

    __str__ = text

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [*self._head(), ""]
        for head, *body in self._tables():
            ruler = ["---", *["---:"] * (len(self.systems) + 1), *["---"] * (len(head) - len(self.systems) - 2)]
            lines += ["| " + " | ".join(row) + " |" for row in (head, ruler, *body)] + [""]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes())]).rstrip() + "\n"

    def write(self, folder: Path) -> None:
        """Write result.json and table.md."""
        folder.mkdir(parents=True, exist_ok=True)
        form = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        (folder / "result.json").write_text(form + "\n", encoding="utf-8")
        (folder / "table.md").write_text(self.markdown(), encoding="utf-8")

    def _head(self) -> list[str]:
        seeds = f"{len(self.runs)} seed{'s' * (len(self.runs) > 1)}"
        best = ", ".join(f"{run.best_epoch} of {run.epochs}" for run in self.runs)
        title = f"{self.data.title()}; preset {self.preset}, {seeds}, best epoch {best}"
        changed = self.changed()
        return [title, *textwrap.wrap(f"changed from the preset: {', '.join(changed)}", 110) * bool(changed)]

    def changed(self) -> list[str]:
        """Return what of the configuration is not the preset's, as NAME=VALUE: what an ablation is told by."""
        preset = ModelConfig.preset(self.preset).to_dict() | TrainingConfig().to_dict()
        held = self.model.to_dict() | self.training.to_dict()
        changed = {name: value for name, value in held.items() if value != preset[name]}
        return [
            f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changed.items()
        ]

    def _tables(self) -> list[list[list[str]]]:
        rows = self.rows()
        tables = []
        for measure, title in MEASURES.items():
            main = measure == _MAIN
            gaps = ["ntg", *(f"served - {name}" for name in self.others if name != "popularity")] if main else []
            heads = ["NTG: cross - single [95 %]", *(f"{name} [95 %]" for name in gaps[1:]), "served by"]
            table = [[title, "cases", *self.systems, *(heads if main else [])]]
            for row in [*rows, self.mean(rows)]:
                line = [row["domain"], f"{row['cases']:,}", *(_figure(row[name][measure]) for name in self.systems)]
                line += [_gap(row[name], name == "ntg") for name in gaps]
                table.append(line + ([", ".join(dict.fromkeys(row.get("served_by", [])))] if main else []))
            tables.append(table)
        return tables


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _figure(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def _gap(gap: dict[str, float], with_word: bool) -> str:
    if np.isnan(gap["value"]):
        return "-"
    if "low" not in gap:
        return f"{gap['value']:+.4f}"
    word = "helped" if gap["low"] > 0 else "hurt" if gap["high"] < 0 else "unclear"
    return f"{gap['value']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" + (f" {word}" if with_word else "")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
