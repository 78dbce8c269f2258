"""The table that a person watches while steps are killed, and the figures that are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.record import RESULTS, record

SUMMED = ("kills", "recovered", "differences")


@dataclass
class Outcome:
    """What came of one step.

    kills: how often its process tree was killed while it lived. recovered: those after which the step, run again,
    ended well with every part as in the undisturbed run. differences: parts that were neither the old nor the new
    ones after a kill, or not the undisturbed ones in the end. orphans: files that kills left behind and maintenance
    removed; left: those that it did not. aimed: kills at something that happened to a file; kinds: how many kinds
    of happenings were hit. again: full runs after kills.
    """

    step: str
    kills: int = 0
    recovered: int = 0
    differences: int = 0
    orphans: int = 0
    left: int = 0
    aimed: int = 0
    again: int = 0
    seconds: float = 0.0
    kinds: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every kill was recovered from and nothing differed or stayed behind."""
        return self.recovered == self.kills and not self.differences and not self.left


class Table:
    """Says how far it is, a line a step, with the time that is left.

    Parameters
    ----------
    steps, kills
        What is to be done.
    """

    def __init__(self, steps: Sequence[str], kills: int) -> None:
        self.steps, self.kills = steps, kills
        self.outcomes: list[Outcome] = []
        self._seconds: Mapping[str, float] = {}
        self._began = time.monotonic()
        self._spent = self._paid = 0.0

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        print(text, flush=True)

    def plan(self, seconds: Mapping[str, float]) -> None:
        """What an undisturbed run of each step takes: the time that is left is worked out from it."""
        self._seconds, self._began = seconds, time.monotonic()
        self.say(f"\n{'step':16} {'kills':>6} {'recovered':>10} {'differences':>12} {'orphans':>8} {'seconds':>8}")

    def killed(self, outcome: Outcome, where: str) -> None:
        """A kill has hit."""
        left = self._left(outcome)
        self.say(f"  {outcome.step} {outcome.kills}/{self.kills}: killed {where}{left}")

    def _left(self, current: Outcome) -> str:
        """The time that is left: what the kills so far took, against what their steps take undisturbed."""
        done = sum(self._seconds.get(one.step, 0.0) * one.kills for one in [*self.outcomes, current])
        whole = sum(self._seconds.get(step, 0.0) * self.kills for step in self.steps)
        if not done:
            return ""
        minutes = (time.monotonic() - self._began) * max(0.0, whole - done) / done / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"

    def over(self, outcome: Outcome) -> None:
        """A step is done."""
        self.outcomes.append(outcome)
        self.say(_row(outcome))
        for line in outcome.words:
            self.say(f"    {line}")

    def close(self) -> None:
        """All rows again, and their sum."""
        self.say(f"\n{'step':16} {'kills':>6} {'recovered':>10} {'differences':>12} {'orphans':>8} {'seconds':>8}")
        for outcome in self.outcomes:
            self.say(_row(outcome))
        whole = Outcome("all")
        for name in ("kills", "recovered", "differences", "orphans", "seconds"):
            setattr(whole, name, sum(getattr(outcome, name) for outcome in self.outcomes))
        self.say(_row(whole))

    @property
    def is_clean(self) -> bool:
        """Whether all steps are."""
        return all(outcome.is_clean for outcome in self.outcomes)


def _row(outcome: Outcome) -> str:
    return (
        f"{outcome.step:16} {outcome.kills:6} {outcome.recovered:10} {outcome.differences:12} {outcome.orphans:8} "
        f"{outcome.seconds:8.0f}"
    )


def keep(outcome: Outcome, folder: Path = RESULTS) -> None:
    """Write the figures of one step into chaos.json, and the sums over all steps that the file then holds."""
    own = {name: getattr(outcome, name) for name in (*SUMMED, "orphans")}
    details = {**asdict(outcome), "kinds": len(outcome.kinds), "seconds": round(outcome.seconds)}
    figures = {f"{outcome.step}.{name}": value for name, value in own.items()}
    file = record("chaos", figures, part=f"kill.{outcome.step}", details=details, folder=folder)
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    sums = {name: sum(value for key, value in figures.items() if key.endswith(f".{name}")) for name in SUMMED}
    record("chaos", sums, part="kill", folder=folder)
