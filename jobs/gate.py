"""The promotion gate: decide which version scores tonight, and say why.

The challenger replaces the champion unless, in a domain with enough test cases, its served view falls beyond a
tolerance, and beyond noise, below the champion, its own single view or popularity (jobs.gate_rules). The decision
and every rule behind it are rows of `gate_checks`; the decision is also a tag of the version and of its run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date

import pyarrow as pa
from pyiceberg.expressions import EqualTo

from jobs.backfill import AGAIN, champion_of, past_of
from jobs.command import Run, run_job
from jobs.errors import JobError
from jobs.gate_rules import Decision, Facts, Figures, Gaps, decide
from jobs.lakehouse import Lakehouse
from jobs.links import run_link, run_path, tell_links
from jobs.night import Night
from jobs.registry import NOT_JUDGED, Registry, Version
from jobs.run_note import add_facts, version_link
from jobs.schemas import DOMAIN_METRICS, GATE_CHECKS, ROLLED_BACK
from jobs.settings import Settings
from jobs.step_times import FAILED, NOT_ENDED, NOTHING, step_notes
from jobs.version_words import judgement

log = logging.getLogger("syncrec")
_GAP = "gate_"  # begins the names of the paired differences in domain_metrics


def run_gate(run: Run) -> str:
    """Read tonight's figures, decide, tag the version, note the decision for score and publish."""
    settings, ds = run.settings, run.ds.isoformat()
    lakehouse = Lakehouse(settings)
    lakehouse.create_tables()
    night = Night(run, lakehouse)
    if night.snapshot("sequences") is None:
        raise JobError("run build_sequences first: this night has no sequences")
    registry = Registry(settings)
    then = past_of(lakehouse, run)
    current = champion_of(registry, then)
    champion = current.number if current else None
    challenger = registry.of_night(ds, night.run_id)
    figures, gaps = _figures(run, lakehouse, night, settings)
    cause = _untrained(lakehouse, night, run.ds)
    if then and champion:
        cause = f"{AGAIN}: version {champion} was champion then"
    if challenger is not None and not any(role == "challenger" for role, _, _ in figures):
        cause = f"version {challenger.number} was trained but not evaluated"
        challenger = None
    facts = Facts(
        figures=figures,
        gaps=gaps,
        challenger=challenger.number if challenger else None,
        champion=champion,
        cause=cause,
        unreadable=night.get("champion_unreadable") or "",
        unknown_domains=night.get("champion_unknown_domains") or (),
        champion_days=_age(run.ds, current) if current else None,
        withdrawn=challenger.tags.get(ROLLED_BACK, "") if challenger else "",
    )
    decision = decide(facts, settings.domain_names, settings.gate)
    _write(run, lakehouse, night, facts, decision)
    night.note(
        decision=decision.decision,
        served_version=decision.served_version,
        reason=decision.reason,
        champion_before=champion,
        challenger=facts.challenger,
    )
    if challenger is not None:
        tell_links(run=run_link(settings, registry.experiment_id, challenger.run_id))
        _tag(registry, challenger, decision, ds, champion)
    for warning in decision.warnings:
        log.warning("gate: %s", warning)
    log.info("gate: %s: %s", decision.decision, decision.reason)
    return f"{decision.decision}; version {decision.served_version} scores tonight"


def _untrained(lakehouse: Lakehouse, night: Night, ds: date) -> str:
    """Why training left no version tonight, by what its step noted."""
    notes = step_notes(lakehouse.warehouse, ds)
    own = next((note for note in notes if (note.step, note.run_id) == ("train", night.run_id)), None)
    if own is None:
        return "training did not run"
    words = {
        NOTHING: f"training was not due: {own.message}",
        FAILED: f"training failed: {own.message}",
        NOT_ENDED: "training did not end: it was killed, or is still at work",
    }
    return words.get(own.outcome, "training ended, but its version is not in the registry")


def _age(ds: date, version: Version) -> int | None:
    """Days between a version's data and tonight's."""
    trained = version.tags.get("ds")
    return (ds - date.fromisoformat(trained)).days if trained else None


def _write(run: Run, lakehouse: Lakehouse, night: Night, facts: Facts, decision: Decision) -> None:
    whole = {"run_id": night.run_id, "challenger": facts.challenger, "champion": facts.champion, "ds": run.ds}
    rows = [asdict(check) for check in decision.checks]
    rows += [{"rule": "warning", "domain": "", "outcome": "warning", "words": words} for words in decision.warnings]
    rows.append({"rule": "decision", "domain": "", "outcome": decision.decision, "words": decision.reason})
    table = pa.Table.from_pylist([{**row, **whole} for row in rows], schema=GATE_CHECKS.arrow_schema)
    staged = lakehouse.stage_arrow(GATE_CHECKS.name, table, run.ds, night.run_id)
    day = EqualTo("ds", run.ds.isoformat())
    night.pin(GATE_CHECKS.name, lakehouse.replace(GATE_CHECKS.name, day, staged, ds=run.ds, run_id=night.run_id))


def _figures(run: Run, lakehouse: Lakehouse, night: Night, settings: Settings) -> tuple[Figures, Gaps]:
    metric = settings.gate.metric
    # The snapshot that evaluate pinned: another run of the day may have put its own figures in the place of ours.
    rows = lakehouse.read_arrow(
        DOMAIN_METRICS.name, night.snapshot(DOMAIN_METRICS.name), EqualTo("ds", run.ds.isoformat())
    ).to_pylist()
    own = [row for row in rows if row["run_id"] == night.run_id and row["split"] == "test"]
    figures = {(row["role"], row["view"], row["domain"]): row for row in own if row["metric"] == metric}
    gaps = {(row["metric"].removeprefix(_GAP), row["domain"]): row for row in own if row["metric"].startswith(_GAP)}
    return figures, gaps


def _tag(registry: Registry, challenger: Version, decision: Decision, ds: str, champion: str | None) -> None:
    """Say the decision where people look for it: the version's tags and description, its run's tags and note.

    Of a version that was rolled back its rollback is said already.
    """
    if ROLLED_BACK in challenger.tags:
        return
    registry.tag(challenger.number, decision=decision.decision, decision_reason=decision.reason)
    old = registry.client.get_model_version(registry.name, challenger.number).description or ""
    others = champion if champion != challenger.number else None  # run again after the aliases moved
    words = judgement(decision, ds, others, registry.settings.gate.metric)
    if words not in old:
        made = old.replace(NOT_JUDGED, "")
        page = f"[The run that made it]({run_path(registry.experiment_id, challenger.run_id)})"
        registry.describe(challenger.number, f"{words}\n\n{made}\n\n{page}.")
    registry.client.set_tag(challenger.run_id, "decision", decision.decision)
    registry.client.set_tag(challenger.run_id, "decision_reason", decision.reason)
    own = version_link(registry.name, challenger.number)
    add_facts(registry.client, challenger.run_id, {"Gate": f"{own} {decision.decision}: {decision.reason}"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(run_gate, argv)


if __name__ == "__main__":
    raise SystemExit(main())
