"""The A/B test of a night: which version is the candidate, whether it may be served, what the night keeps of it.

Whatever is wrong with a candidate stops no night: the champion then serves everybody, and the night says why.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyiceberg.expressions import EqualTo

from jobs.arms import Split
from jobs.backfill import past_of
from jobs.command import Run, one_line
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.registry import Registry
from jobs.schemas import CANDIDATE_ARM, CHAMPION_ARM, EXPERIMENTS, NOT_SERVED, ROLLED_BACK, SERVED

log = logging.getLogger("syncrec")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The experiment of a night. version: the candidate's, None where the champion serves all users; then reason
    says why.
    """

    split: Split
    version: str | None = None
    reason: str = ""

    def refused(self, error: BaseException) -> Trial:
        """The same without a candidate."""
        reason = one_line(error)
        log.warning(
            "experiment %s: the candidate is not served, the champion serves all users: %s", self.split.name, reason
        )
        return replace(self, version=None, reason=reason)


def find_trial(run: Run, lakehouse: Lakehouse, registry: Registry) -> Trial | None:
    """The experiment of the settings, in a backfill that of the published night; None where there is none."""
    if past_of(lakehouse, run):
        return _trial_then(run, lakehouse, registry)
    experiment = run.settings.experiment
    if experiment is None:
        return None
    trial = Trial(split=Split(name=experiment.name, share=experiment.share))
    return _checked(trial, experiment.candidate, run, registry)


def _trial_then(run: Run, lakehouse: Lakehouse, registry: Registry) -> Trial | None:
    """What users saw on a past day is not changed by an experiment of today."""
    rows = lakehouse.read_arrow(
        EXPERIMENTS.name, lakehouse.current_snapshot(EXPERIMENTS.name), EqualTo("ds", run.ds.isoformat())
    ).to_pylist()
    for row in rows:
        if row["arm"] == CANDIDATE_ARM and row["outcome"] == SERVED:
            trial = Trial(split=Split(name=row["experiment"], share=row["share"]))
            return _checked(trial, row["model_version"], run, registry)
    return None


def _checked(trial: Trial, candidate: str, run: Run, registry: Registry) -> Trial:
    try:
        return replace(trial, version=_version(candidate, run, registry))
    except JobError as error:
        return trial.refused(error)


def _version(candidate: str, run: Run, registry: Registry) -> str:
    """The number of a version that may be served tonight.

    Raises
    ------
    JobError
        There is none, or it was rolled back, or it knows what happened after this night.
    """
    version = registry.version(candidate) if candidate.isdigit() else registry.at_alias(candidate)
    if version is None:
        raise JobError(f"no version has the alias {candidate}")
    if why := version.tags.get(ROLLED_BACK):
        raise JobError(f"version {version.number} was rolled back ({why})")
    if (trained := version.tags.get("ds", "")) > run.ds.isoformat():
        raise JobError(f"version {version.number} was trained on {trained}, after this night")
    return version.number


def experiment_rows(
    trial: Trial | None, champion: str, users: Mapping[str, int], run_id: str
) -> list[dict[str, Any]]:
    """What the table `experiments` keeps of the night, but for its day.

    champion: the version that serves the others. users: with lists, by arm.
    """
    if trial is None:
        return []
    whole = {"experiment": trial.split.name, "threshold": trial.split.threshold, "run_id": run_id}
    candidate_outcome = SERVED if trial.version else NOT_SERVED
    return [
        {**whole, "arm": CHAMPION_ARM, "share": 1 - trial.split.share, "model_version": champion, "reason": ""}
        | {"users": users.get(CHAMPION_ARM, 0), "outcome": SERVED},
        {**whole, "arm": CANDIDATE_ARM, "share": trial.split.share, "model_version": trial.version}
        | {"users": users.get(CANDIDATE_ARM, 0), "outcome": candidate_outcome, "reason": trial.reason},
    ]
