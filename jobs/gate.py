"""The promotion gate: decide which version scores tonight, and say why.

The challenger replaces the champion unless, in a domain with enough test cases, its served view falls by more
than the tolerance below the champion, its own single view or popularity. So that noise does not decide, a drop
counts only when the rival lies above the upper end of the served view's bootstrap interval as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from pyiceberg.expressions import EqualTo

from jobs.command import Run, run_job
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.night import Night
from jobs.registry import CHAMPION, Registry, Version
from jobs.settings import Gate, Settings

log = logging.getLogger("syncrec")
Figures = Mapping[tuple[str, str, str], Mapping[str, Any]]
"""(role, view, domain) -> the row of domain_metrics of the gate's metric on the test split."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate says: promoted, refused or no_challenger; the version that scores; why."""

    decision: str
    served_version: str
    reason: str


def objections(figures: Figures, domains: Sequence[str], gate: Gate) -> list[str]:
    """Each domain in which the challenger's served view falls too far, in words; empty: it may replace.

    Parameters
    ----------
    figures
        The gate's metric by role, view and domain.
    domains
        The domains to look at.
    gate
        Tolerances: relative drops.
    """
    found = []
    for domain in domains:
        served = figures.get(("challenger", "served", domain))
        if served is None or served["cases"] < gate.min_cases:
            continue
        rivals = (
            ("the champion", ("champion", "served", domain), gate.max_drop),
            (
                "its own single view (negative transfer)",
                ("challenger", "single", domain),
                gate.max_negative_transfer,
            ),
            ("popularity", ("popularity", "", domain), 0.0),
        )
        for name, key, tolerance in rivals:
            rival = figures.get(key)
            if rival is None or served["value"] >= rival["value"] * (1 - tolerance):
                continue
            if served["high"] is None or served["high"] < rival["value"]:
                found.append(
                    f"{domain}: {gate.metric} {served['value']:.4f} is below {name} {rival['value']:.4f}"
                    f" by more than {tolerance:.0%}"
                )
    return found


def decide(
    figures: Figures, domains: Sequence[str], gate: Gate, challenger: str | None, champion: str | None, cause: str
) -> Decision:
    """Apply the gate's mode to the objections.

    Raises
    ------
    JobError
        There is neither a challenger nor a champion: nothing can score.
    """
    if challenger is None:
        if champion is None:
            raise JobError(
                f"no model can score: {cause}, and there is no champion yet; mend the training and re-run"
            )
        return Decision(decision="no_challenger", served_version=champion, reason=cause)
    against = objections(figures, domains, gate)
    judged = [
        d for d in domains if (f := figures.get(("challenger", "served", d))) and f["cases"] >= gate.min_cases
    ]
    if champion is not None and not any(role == "champion" for role, _, _ in figures):
        against.append("the champion was not measured tonight, so nothing says that the challenger is better")
    if champion is not None and not judged:
        against.append(f"no domain has the {gate.min_cases} test cases that a decision needs")
    if champion is None:
        reason = "first champion" + (f"; would object: {'; '.join(against)}" if against else "")
        return Decision(decision="promoted", served_version=challenger, reason=reason)
    if gate.mode == "disabled":
        return Decision(decision="promoted", served_version=challenger, reason="the gate is disabled")
    if gate.mode == "dry_run":
        reason = f"dry run: {'; '.join(against) or 'no objection'}"
        return Decision(decision="promoted", served_version=challenger, reason=reason)
    if against:
        return Decision(decision="refused", served_version=champion, reason="; ".join(against))
    reason = f"no objection in {len(judged)} of {len(domains)} domains with at least {gate.min_cases} cases"
    return Decision(decision="promoted", served_version=challenger, reason=reason)


def run_gate(run: Run) -> str:
    """Read tonight's figures, decide, tag the version, note the decision for score and publish."""
    settings, ds = run.settings, run.ds.isoformat()
    lakehouse = Lakehouse(settings)
    night = Night(run, lakehouse)
    if night.snapshot("sequences") is None:
        raise JobError("run build_sequences first: this night has no sequences")
    registry = Registry(settings)
    champion = _champion_of(run, lakehouse, registry)
    challenger = registry.of_night(ds, night.run_id)
    figures, cause = (
        _figures(run, lakehouse, night, settings),
        "training failed, was skipped or was not due tonight",
    )
    if challenger is not None and not any(role == "challenger" for role, _, _ in figures):
        cause = f"version {challenger.number} was trained but not evaluated"
        challenger = None
    decision = decide(
        figures,
        settings.domain_names,
        settings.gate,
        challenger.number if challenger else None,
        champion,
        cause,
    )
    night.note(
        decision=decision.decision,
        served_version=decision.served_version,
        reason=decision.reason,
        champion_before=champion,
        challenger=challenger.number if challenger else None,
    )
    if challenger is not None:
        _tag(registry, challenger, decision, ds)
    log.info("gate: %s: %s", decision.decision, decision.reason)
    return f"{decision.decision}; version {decision.served_version} scores tonight"


def _champion_of(run: Run, lakehouse: Lakehouse, registry: Registry) -> str | None:
    """The champion; in a backfill the version that served the newest night up to ds."""
    nights = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights"), columns=("ds", "served_version"))
    rows = sorted(zip(nights["ds"].to_pylist(), nights["served_version"].to_pylist(), strict=True))
    if any(ds > run.ds for ds, _ in rows):
        served = [version for ds, version in rows if ds <= run.ds]
        return served[-1] if served else None
    current = registry.at_alias(CHAMPION)
    return current.number if current else None


def _figures(run: Run, lakehouse: Lakehouse, night: Night, settings: Settings) -> Figures:
    rows = lakehouse.read_arrow(
        "domain_metrics", lakehouse.current_snapshot("domain_metrics"), EqualTo("ds", run.ds.isoformat())
    ).to_pylist()
    return {
        (row["role"], row["view"], row["domain"]): row
        for row in rows
        if row["run_id"] == night.run_id and row["split"] == "test" and row["metric"] == settings.gate.metric
    }


def _tag(registry: Registry, challenger: Version, decision: Decision, ds: str) -> None:
    registry.tag(challenger.number, decision=decision.decision, decision_reason=decision.reason)
    old = registry.client.get_model_version(registry.name, challenger.number).description or ""
    line = f"Gate of {ds}: {decision.decision}: {decision.reason}."
    if line not in old:
        registry.describe(challenger.number, f"{old}\n\n{line}".strip())
    mlflow.MlflowClient().set_tag(challenger.run_id, "decision", decision.decision)
    mlflow.MlflowClient().set_tag(challenger.run_id, "decision_reason", decision.reason)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(run_gate, argv)


if __name__ == "__main__":
    raise SystemExit(main())
