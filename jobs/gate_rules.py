"""The gate's rules, on plain figures: which comparisons speak against a challenger, and what follows from them.

In every domain the SERVED view is held against three rivals: the champion's served view, the challenger's own
single view (negative transfer) and popularity. A drop speaks against the challenger where it is beyond the rival's
tolerance and no noise: the interval of the paired difference, over the users of the same cases, lies below 0. Where
two versions could not be ranked on the same cases, the rival must lie above the served view's own interval.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.errors import JobError
from jobs.settings import Gate

Figures = Mapping[tuple[str, str, str], Mapping[str, Any]]
"""(role, view, domain) -> the row of domain_metrics of the gate's metric on the test split."""
Gaps = Mapping[tuple[str, str], Mapping[str, Any]]
"""(rival, domain) -> the row of domain_metrics of the paired difference, served view less rival."""
RIVALS = {
    "champion": ("champion", "served"),
    "single": ("challenger", "single"),
    "popularity": ("popularity", ""),
}
_WORDS = {
    "champion": "the champion",
    "single": "its own single view (negative transfer)",
    "popularity": "popularity",
}
PASSED, OBJECTION, NOT_JUDGED = "passed", "objection", "not judged"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One rule in one domain. value, rival_value: the gate's metric; low, high: the interval of their difference.

    outcome: passed, objection or not judged. words: why, for a person.
    """

    rule: str
    domain: str
    outcome: str
    words: str
    value: float | None = None
    rival_value: float | None = None
    low: float | None = None
    high: float | None = None
    cases: int | None = None
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known tonight. challenger, champion: version numbers, None where there is none.

    cause: why there is no challenger. unreadable: why the champion cannot be loaded, "" where it can.
    unknown_domains: domains that the champion was never trained on. champion_days: age of its training data.
    withdrawn: why the challenger was rolled back after an earlier attempt at this night, "" where it was not.
    """

    figures: Figures
    gaps: Gaps = field(default_factory=dict)
    challenger: str | None
    champion: str | None
    cause: str = ""
    unreadable: str = ""
    unknown_domains: Collection[str] = ()
    champion_days: int | None = None
    withdrawn: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate says: promoted, refused or no_challenger; the version that scores; why.

    warnings: what a person should know, but which decides nothing. checks: every rule in every domain.
    """

    decision: str
    served_version: str
    reason: str
    warnings: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


def checks(facts: Facts, domains: Sequence[str], gate: Gate) -> Iterator[Check]:
    """Hold the served view of the challenger against every rival in every domain."""
    tolerances = {"champion": gate.max_drop, "single": gate.max_negative_transfer, "popularity": 0.0}
    for domain in domains:
        served = facts.figures.get(("challenger", "served", domain))
        cases = int(served["cases"]) if served else 0
        if served is None or cases < gate.min_cases:
            counted = f"{cases} test case{'' if cases == 1 else 's'}"
            words = f"{domain}: {counted}, a decision needs {gate.min_cases}"
            yield Check(rule="cases", domain=domain, outcome=NOT_JUDGED, words=words, cases=cases)
            continue
        for rival, (role, view) in RIVALS.items():
            row = facts.figures.get((role, view, domain))
            if rival == "champion" and domain in facts.unknown_domains:
                words = f"{domain}: new, the champion was not trained on it"
                yield Check(rule=rival, domain=domain, outcome=NOT_JUDGED, words=words, cases=cases)
            elif row is not None:
                yield _compared(
                    rival, domain, served, row, facts.gaps.get((rival, domain)), tolerances[rival], gate
                )


def _compared(
    rival: str,
    domain: str,
    served: Mapping[str, Any],
    row: Mapping[str, Any],
    gap: Mapping[str, Any] | None,
    tolerance: float,
    gate: Gate,
) -> Check:
    value, other = served["value"], row["value"]
    low, high = (gap["low"], gap["high"]) if gap else (None, None)
    beyond = value < other * (1 - tolerance)
    alone = served["high"] is None or served["high"] < other  # what is left where the cases are not the same
    clear = high < 0 if high is not None else alone
    against = beyond and clear
    interval = "" if high is None else f" (difference {value - other:+.4f}, 95 % {low:+.4f} to {high:+.4f})"
    relation = f"below {_WORDS[rival]} {other:.4f} by more than {tolerance:.0%}"
    if not beyond:
        relation = f"within {tolerance:.0%} of {_WORDS[rival]} {other:.4f} or above"
    elif not clear:
        relation += ", which may be noise"
    return Check(
        rule=rival, domain=domain, outcome=OBJECTION if against else PASSED,
        words=f"{domain}: {gate.metric} {value:.4f} is {relation}{interval}",
        value=value, rival_value=other, low=low, high=high, cases=int(served["cases"]), tolerance=tolerance,
    )  # fmt: skip


def decide(facts: Facts, domains: Sequence[str], gate: Gate) -> Decision:
    """Apply the gate's mode to what the rules say.

    Raises
    ------
    JobError
        No version can score: there is neither challenger nor champion, or the champion cannot be loaded and the
        challenger is refused.
    """
    challenger, champion = facts.challenger, facts.champion
    if challenger is None:
        return _without_challenger(facts, gate)
    found = tuple(checks(facts, domains, gate))
    against = [check.words for check in found if check.outcome == OBJECTION]
    judged = {check.domain for check in found if check.outcome != NOT_JUDGED}
    if champion is not None and not facts.unreadable:
        if not any(role == "champion" for role, _, _ in facts.figures):
            against.append("the champion was not measured tonight, so nothing says that the challenger is better")
        if not judged:
            against.append(f"no domain has the {gate.min_cases} test cases that a decision needs")
    promoted = {"decision": "promoted", "served_version": challenger}
    refused = {"decision": "refused", "served_version": champion or ""}
    if facts.withdrawn:
        outcome, reason = refused, f"version {challenger} was rolled back: {facts.withdrawn}"
    elif champion is None:
        reason = "first champion" + (f"; would object: {'; '.join(against)}" if against else "")
        outcome = promoted
    elif gate.mode == "hold":
        outcome, reason = refused, "the gate holds the champion (gate.mode = hold)"
    elif gate.mode == "disabled":
        outcome, reason = promoted, "the gate is disabled"
    elif gate.mode == "dry_run":
        outcome, reason = promoted, f"dry run: {'; '.join(against) or 'no objection'}"
    elif against:
        outcome, reason = refused, "; ".join(against)
    else:
        outcome = promoted
        reason = f"no objection in {len(judged)} of {len(domains)} domains with at least {gate.min_cases} cases"
        if facts.unreadable:
            reason = f"the champion, version {champion}, cannot be loaded ({facts.unreadable}); {reason}"
    if outcome is refused and (champion is None or facts.unreadable):
        cannot = (
            f"the champion, version {champion}, cannot be loaded ({facts.unreadable})"
            if champion
            else "no champion"
        )
        raise JobError(f"no model can score: {cannot}, and version {challenger} is refused: {reason}")
    return Decision(**outcome, reason=reason, warnings=tuple(_warnings(facts, found, gate)), checks=found)


def _without_challenger(facts: Facts, gate: Gate) -> Decision:
    if facts.champion is None:
        raise JobError(
            f"no model can score: {facts.cause}, and there is no champion yet; mend the training and re-run"
        )
    return Decision(
        decision="no_challenger", served_version=facts.champion, reason=facts.cause,
        warnings=tuple(_warnings(facts, (), gate)),
    )  # fmt: skip


def _warnings(facts: Facts, found: Sequence[Check], gate: Gate) -> Iterator[str]:
    """What decides nothing, but a person should know."""
    days = facts.champion_days
    if days is not None and days > gate.stale_days:
        yield f"the champion's data are {days} days old (gate.stale_days = {gate.stale_days})"
    for check in found:
        if check.outcome == NOT_JUDGED:
            yield check.words
