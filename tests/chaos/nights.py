"""Prepare a night undisturbed, step by step; then hurt a step of it, run it again, compare."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.record import record
from jobs.orchestrator import REPOSITORY
from jobs.settings import Settings
from tests.chaos import contents
from tests.chaos.contents import Parts, Unreadable
from tests.chaos.kill import End, Happening, Moment, watched
from tests.chaos.maintenance import REWRITTEN, Maintained, Maintenance
from tests.chaos.moments import moments
from tests.chaos.project import SECOND, STEPS, Project, StepFailed
from tests.chaos.results import Outcome, Table

ROLLBACK, MAINTAIN = "rollback", "maintain"
StepNames = (*STEPS, ROLLBACK, MAINTAIN)
CHAIN = 3
"""Of so many kills one hits a run from the start, the others the run that should repair the kill before them."""
COMPLETE = "the last rollback is complete"
"""What a rollback says, with exit code 1, whose kill came after its last deed: another would go further back."""
DECIDING = ("jobs/*.py", "syncrec_model/*.py", "sql/**/*.sql", "tests/chaos/project.py", "syncrec.toml")
"""What a prepared night depends on."""


@dataclass(frozen=True)
class Undisturbed:
    """A step that nobody disturbed: how long it took, what it did to files, all parts before and after it."""

    seconds: float
    happenings: tuple[Happening, ...]
    before: Parts
    after: Parts


class Chaos:
    """The night and its steps.

    Parameters
    ----------
    home
        The project's folder.
    seed
        Decides all moments.
    """

    def __init__(self, home: Path, *, seed: int) -> None:
        self.home, self.seed = home.resolve(), seed
        self._note = self.home / "prepared.json"
        self._steps: dict[str, Undisturbed] = {}
        self.project: Project
        self.settings: Settings

    # --- the undisturbed night ----------------------------------------------------------------------------

    def prepare(self, steps: Sequence[str], say: Callable[[str], None]) -> None:
        """Run the nights before and the night itself as far as these steps need it; a call before may have.

        Raises
        ------
        StepFailed
            A step ended badly by itself.
        """
        known = self._known()
        self.project = Project(self.home, keep=known)
        self.settings = self.project.settings()
        wanted = [*STEPS, ROLLBACK] if {ROLLBACK, MAINTAIN} & set(steps) else list(STEPS)
        if not {ROLLBACK, MAINTAIN} & set(steps):
            wanted = wanted[: max(STEPS.index(step) for step in steps) + 1]
        if not known:
            began = time.monotonic()
            say("the history and a first night ...")
            self.project.first_night()
            self.project.save(f"before-{STEPS[0]}")
            self._remember()
            say(f"the history and a first night: {time.monotonic() - began:.0f} s")
        for step in wanted:
            if step not in self._steps:
                self._run_undisturbed(step)
                say(f"undisturbed {step}: {self.seconds(step):.1f} s")

    def _known(self) -> bool:
        """Whether this very code prepared the folder; reads what it noted."""
        if not self._note.is_file():
            return False
        noted = json.loads(self._note.read_text(encoding="utf-8"))
        if noted["code"] != _code():
            return False
        for step, values in noted["steps"].items():
            happenings = tuple(Happening(**one) for one in values.pop("happenings"))
            self._steps[step] = Undisturbed(**values, happenings=happenings)
        return True

    def _run_undisturbed(self, step: str) -> None:
        self.project.restore(f"before-{step}")
        before = contents.whole(self.settings)
        end = self.run(step)
        if end.code != 0:
            raise StepFailed(f"{step} ended with {end.code}, and nobody disturbed it: see {self.log(step)}")
        following = [*STEPS, ROLLBACK, "end"]
        self.project.save(f"before-{following[following.index(step) + 1]}")
        self._steps[step] = Undisturbed(end.seconds, end.happenings, before, contents.whole(self.settings))
        self._remember()

    def _remember(self) -> None:
        """Note what is prepared, so that another call need not do it again."""
        steps = {name: asdict(values) for name, values in self._steps.items()}
        self._note.write_text(json.dumps({"code": _code(), "steps": steps}), encoding="utf-8")

    def undisturbed(self, step: str) -> Undisturbed:
        """What an undisturbed run of a step was."""
        return self._steps[step]

    def seconds(self, step: str) -> float:
        """What an undisturbed run of a step takes; of maintenance, which goes with a whole night, all steps'."""
        if step == MAINTAIN:
            return sum(self._steps[one].seconds for one in STEPS) / len(STEPS)
        return self._steps[step].seconds

    def log(self, step: str) -> Path:
        """Where the output of a step's runs is."""
        return self.home / f"{step}.log"

    def command(self, step: str) -> list[str]:
        """The command of a step, or of a rollback."""
        if step == ROLLBACK:
            return [sys.executable, "-m", "jobs.rollback", "--reason", "chaos"]
        return self.project.command(step)

    def run(self, step: str, moment: Moment | None = None) -> End:
        """Run a step to its end, or to the moment at which it is killed."""
        process = self.project.start(self.command(step), SECOND, self.log(step))
        return watched(process, self.project.state, moment)

    # --- hurting a step -----------------------------------------------------------------------------------

    def hurt(self, step: str, kills: int, table: Table) -> Outcome:
        """Kill a step so often, in chains that each end with a full run, and compare.

        Returns
        -------
        Outcome
            What came of it; also told to the table.
        """
        outcome, began = Outcome(step), time.monotonic()
        rng = random.Random(f"{self.seed} {step}")
        if step == MAINTAIN:
            self._under_maintenance(outcome, kills, table, rng)
        else:
            own = self._steps[step]
            when = moments(own.seconds, own.happenings, rng)
            while outcome.kills < kills:
                self.project.restore(f"before-{step}")
                self._chain(step, kills, outcome, table, when, rng)
            self._tidy(step, outcome)
        outcome.seconds = time.monotonic() - began
        table.over(outcome)
        return outcome

    def time_rollback(self) -> None:
        """Time undisturbed rollbacks, and keep their median."""
        seconds, counted = [], []
        for _ in range(3):
            self.project.restore(f"before-{ROLLBACK}")
            self.log(ROLLBACK).unlink(missing_ok=True)
            seconds.append(round(self.run(ROLLBACK).seconds, 1))
            counted += re.findall(r"\((\d+\.\d) s\)$", self.log(ROLLBACK).read_text(encoding="utf-8"), re.MULTILINE)
        details = {
            "seconds": seconds,
            "job_seconds": statistics.median(map(float, counted)),
            "load": round(os.getloadavg()[0]),
            "cores": len(os.sched_getaffinity(0)),
        }
        record("chaos", {"rollback_s": statistics.median(seconds)}, part="rollback", details=details)

    def _chain(
        self, step: str, kills: int, outcome: Outcome, table: Table, when: Iterator[Moment], rng: random.Random
    ) -> None:
        """Some kills one after the other, each of the run that should repair the one before; then a full run."""
        hit, faults, code = 0, 0, None
        for moment in when:
            end = self.run(step, moment)
            code = end.code
            if not end.killed:  # it was over before
                break
            hit += 1
            self._count(outcome, moment, table)
            faults += self._look(step, outcome)
            if outcome.kills == kills or rng.random() < 1 / CHAIN:
                code = self.run(step).code
                outcome.again += 1
                break
        if hit or code not in (0, 99):
            self._judge(step, outcome, hit, faults, code)

    def _count(self, outcome: Outcome, moment: Moment, table: Table) -> None:
        outcome.kills += 1
        if moment.kind:
            outcome.aimed += 1
            outcome.kinds.add(moment.kind)
        table.killed(outcome, moment.words())

    def _look(self, step: str, outcome: Outcome, but: Collection[str] = ()) -> int:
        """After a kill: is every part of the tables as before the step or as after it?"""
        own = self._steps[step]
        try:
            found = contents.tables(self.settings)
        except Unreadable as error:
            faults = [f"cannot be read after a kill: {error}"]
        else:
            before, after = contents.of_readers(own.before), contents.of_readers(own.after)
            faults = contents.between(found, before, after, but)
        outcome.differences += len(faults)
        outcome.words += [f"kill {outcome.kills}: {fault}" for fault in faults]
        return len(faults)

    def _judge(
        self, step: str, outcome: Outcome, hit: int, faults: int, code: int | None, but: Collection[str] = ()
    ) -> None:
        """After the full run: is everything as in the undisturbed one?"""
        try:
            found = contents.differences(contents.whole(self.settings), self._steps[step].after, but)
        except Unreadable as error:
            found = [f"cannot be read: {error}"]
        if code != 0 and not (step == ROLLBACK and COMPLETE in _last_error(self.log(step))):
            found.append(f"ended with {code}: {_last_error(self.log(step))}")
        outcome.differences += len(found)
        outcome.words += [f"run again after {outcome.kills} kills: {fault}" for fault in found]
        if not found and not faults:
            outcome.recovered += hit

    # --- maintenance --------------------------------------------------------------------------------------

    def _tidy(self, step: str, outcome: Outcome) -> None:
        """What the last chain left behind goes with the next maintenance, and nothing else."""
        done = Maintenance(self.project, self.settings).once(self._steps[step].after)
        self._add(outcome, done)

    def _add(self, outcome: Outcome, done: Maintained) -> None:
        outcome.orphans += done.removed
        outcome.left += done.left
        outcome.differences += len(done.faults)
        outcome.words += [f"maintenance: {fault}" for fault in done.faults]

    def _under_maintenance(self, outcome: Outcome, kills: int, table: Table, rng: random.Random) -> None:
        """A whole night of killed steps while maintenance runs again and again, and is killed itself."""
        self.project.restore(f"before-{STEPS[0]}")
        each = [kills // len(STEPS) + (place < kills % len(STEPS)) for place in range(len(STEPS))]
        with Maintenance(self.project, self.settings).again_and_again(rng) as maintenance:
            for step, number in zip(STEPS, each, strict=True):
                own = self._steps[step]
                when, hit, faults, tries = moments(own.seconds, own.happenings, rng), 0, 0, 0
                code: int | None = None
                while hit < number and code is None and tries < 5 * number:
                    moment = next(when)
                    code, tries = self.run(step, moment).code, tries + 1
                    if code is None:
                        hit += 1
                        self._count(outcome, moment, table)
                        with maintenance.paused():
                            faults += self._look(step, outcome, REWRITTEN)
                            maintenance.age()
                if code is None:
                    code = self.run(step).code
                    outcome.again += 1
                with maintenance.paused():
                    self._judge(step, outcome, hit, faults, code, () if step == STEPS[-1] else REWRITTEN)
        outcome.words.append(
            f"beside it {maintenance.runs} runs of jobs.maintain, {maintenance.kills} of them killed"
        )
        self._add(outcome, maintenance.found)
        self._tidy(STEPS[-1], outcome)


def _code() -> str:
    """A hash of what a prepared night depends on."""
    digest = hashlib.sha256()
    for pattern in DECIDING:
        for file in sorted(REPOSITORY.glob(pattern)):
            digest.update(f"{file.relative_to(REPOSITORY)} ".encode() + file.read_bytes())
    return digest.hexdigest()


def _last_error(log: Path) -> str:
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said or ["no word"])[-1][:300]
