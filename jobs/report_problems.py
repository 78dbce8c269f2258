"""What of a night a person should look at: one sentence each, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from jobs.account import delivered_again
from jobs.backfill import AGAIN
from jobs.schemas import SERVED, audited_things
from jobs.step_times import FAILED, NOT_ENDED, NOTHING

UNNAMED = "the log says more"
"""How jobs end a message whose details are in their log alone; which log that is, the page knows."""


def name_log(words: str, logs: Path, ds: date, run_id: str) -> str:
    """Say which log says more, where a message leaves that open.

    Nights of `make nightly` have a log of their own; by the clock, or in a backfill, each task has one in Airflow.
    """
    name, kind = f"night-{ds}.log", run_id.partition("__")[0]
    if kind == "manual" and (logs / name).exists():
        return words.replace(UNNAMED, f"{logs.name}/{name} says more")
    return words.replace(UNNAMED, "the task's log in Airflow says more") if "__" in run_id else words


def problems(facts: Mapping[str, Any], domains: Sequence[str]) -> list[tuple[str, str]]:
    """What a person should look at, worst first: ('bad' or 'look', one sentence)."""
    night = facts["night"]
    found = [*_of_audits(facts), *_of_the_run(facts)]
    if not facts["audits"] and not facts["unread"]:
        found.append(("look", "No audit is recorded for this night."))
    found += [("look", text) for text in (_of_the_day(facts), *_of_quality(facts, domains)) if text]
    missing = [name for name in domains if name not in {row["domain"] for row in facts["written"]}]
    if night and missing:
        found.append(("bad", f"No recommendations for {', '.join(missing)}."))
    return sorted(found, key=lambda problem: problem[0] != "bad")


def _of_audits(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    night = facts["night"]
    told = " ".join(step["message"] or "" for step in facts["steps"] if step["outcome"] == FAILED)
    for audit in (row for row in (*facts["audits"], *facts["stopped"]) if not row["success"]):
        if audit["newest"] and f"'{audit['rule']}'" in told:  # the step says it, and what to ask oneself
            continue
        things = audited_things(audit["table_name"])
        count = f"{audit['failed']:,} of {audit['checked']:,} {things}" if audit["checked"] else audit["observed"]
        sentence = f"Audit of {audit['table_name']} failed: {count}, against the rule “{audit['rule']}”."
        if not audit["newest"] or (night and audit["run_id"] != night["run_id"]):
            yield "look", f"Another run of this day, {audit['run_id']}, was stopped. {sentence}"
        else:
            yield "bad", sentence


def _not_due(facts: Mapping[str, Any]) -> bool:
    """Was training not due on this night?"""
    return any((step["step"], step["outcome"]) == ("train", NOTHING) for step in facts["steps"])


def _of_the_run(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What its steps, its experiment and its gate had to say."""
    night, told = facts["night"], ""
    if night and night["decision"] == "no_challenger" and not _not_due(facts) and AGAIN not in night["reason"]:
        told = night["reason"]
        yield "look", f"No model was trained; version {night['served_version']} served: {told}."
    for step in facts["steps"]:
        if step["outcome"] in (FAILED, NOT_ENDED) and not (step["message"] and step["message"] in told):
            why = step["message"] or "it was killed, or is still at work"
            attempts = f" (attempt {step['attempt']})" if step["attempt"] > 1 else ""
            sentence = f"Step {step['step']} {step['outcome'].replace('not ended', 'did not end')}{attempts}: {why}"
            yield "look" if night else "bad", sentence.rstrip(".") + "."
    for row in facts["arms"]:
        if row["outcome"] != SERVED:
            outcome = row["outcome"].replace("_", " ")
            yield "look", f"Experiment {row['experiment']}: the candidate was {outcome}: {row['reason']}."
    for row in facts["gate"]:
        if night and (row["rule"], row["run_id"]) == ("warning", night["run_id"]):
            yield "look", f"Gate: {row['words']}."


def _of_the_day(facts: Mapping[str, Any]) -> str:
    """What is odd about the events that came; why none was ingested, its step has said."""
    if facts["unread"]:
        return ""
    again = delivered_again(facts["account"]) if facts["account"] else ""
    return again or ("" if facts["arrived"] else "No event arrived on this day.")


def _of_quality(facts: Mapping[str, Any], domains: Sequence[str]) -> Iterator[str]:
    if not facts["quality"] and not facts["unread"] and not _not_due(facts):
        yield "No quality was measured on this night."
    served = facts["night"] and facts["night"]["served_version"]
    for row in facts["transfer"]:
        if row["domain"] in domains and row["model_version"] == served and (row["ntg_served_high"] or 0) < 0:
            yield f"What users of {row['domain']} get is worse than the single-domain view alone."
