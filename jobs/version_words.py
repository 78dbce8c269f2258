"""What the registry says of a version once the gate has judged it: promoted or refused, why, domain by domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.gate_rules import OBJECTION, PASSED, Check, Decision

RIVALS = {"champion": "champion", "single": "own single view", "popularity": "popularity"}
LONGEST = 4000
"""MLflow keeps 5,000 letters of a description."""
_DECISIONS = {"promoted": "Promoted", "refused": "Refused"}


def judgement(decision: Decision, ds: str, champion: str | None, metric: str) -> str:
    """Return the gate's judgement in words, in Markdown: the decision, its reason, a table of what was compared."""
    word = _DECISIONS.get(decision.decision, decision.decision.replace("_", " "))
    what = f"{word} by the gate of {ds}: {decision.reason.rstrip('.')}."  # MLflow's list shows this line as it is
    if decision.decision == "promoted":
        what += f" It takes the place of version {champion}." if champion else ""
    else:
        what += f" Version {champion} serves on." if champion else ""
    table = "\n".join(_table(decision.checks, metric))
    text = f"{what}\n\n{table}".strip()
    if len(text) > LONGEST:
        return f"{what[:LONGEST]}\n\nWhat was compared: table `gate_checks`, ds = {ds}."
    return text


def _table(checks: Sequence[Check], metric: str) -> Iterator[str]:
    compared = [check for check in checks if check.rule in RIVALS and check.outcome in (OBJECTION, PASSED)]
    if not compared:
        return
    found = {(check.domain, check.rule): check for check in compared}
    rivals = [name for name in RIVALS if any(rule == name for _, rule in found)]
    yield f"Served {metric} on the test cases, and how it differs from each rival's [95 % interval]:"
    yield ""
    yield f"| domain | served | {' | '.join(f'− {RIVALS[name]}' for name in rivals)} | cases |"
    yield "|---" * (len(rivals) + 3) + "|"
    for domain in dict.fromkeys(check.domain for check in compared):
        own = next(check for check in compared if check.domain == domain)
        cells = [_cell(found.get((domain, name))) for name in rivals]
        yield f"| {domain} | {own.value:.3f} | {' | '.join(cells)} | {own.cases} |"
    for check in checks:
        if check.rule in ("cases", "champion") and check.outcome not in (OBJECTION, PASSED):
            yield ""
            yield f"Not judged: {check.words}."


def _cell(check: Check | None) -> str:
    if check is None or check.value is None or check.rival_value is None:
        return "–"
    text = _signed(check.value - check.rival_value)
    if check.low is not None and check.high is not None:
        text += f" [{_signed(check.low)}, {_signed(check.high)}]"
    return f"**{text}: objection**" if check.outcome == OBJECTION else text


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return text if text.strip("+-0.") else "0.000"
