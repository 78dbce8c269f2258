"""The gate's rules on plain figures."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import JobError
from jobs.gate_rules import NOT_JUDGED, OBJECTION, PASSED, Decision, Facts, checks, decide
from jobs.settings import Gate

DOMAINS = ("books", "toys")


def row(value: float, cases: int = 500, spread: float = 0.005) -> dict[str, Any]:
    return {"value": value, "high": value + spread, "low": value - spread, "cases": cases}


def facts(  # served: of the challenger; best: of the champion
    served: float = 0.1, best: float = 0.1, /, single: float = 0, popularity: float = 0, cases: int = 500,
    **changes: Any,
) -> Facts:  # fmt: skip
    figures = {
        (role, view, domain): row(value, cases)
        for domain in DOMAINS
        for role, view, value in (
            ("challenger", "served", served),
            ("challenger", "single", single),
            ("champion", "served", best),
            ("popularity", "", popularity),
        )
    }
    return Facts(**{"figures": figures, "challenger": "2", "champion": "1", **changes})


def without_champion(given: Facts) -> dict[tuple[str, str, str], Any]:
    return {key: row for key, row in given.figures.items() if key[0] != "champion"}


def paired(low: float, high: float, rival: str = "champion") -> dict[tuple[str, str], Any]:
    return {(rival, domain): {"value": (low + high) / 2, "low": low, "high": high} for domain in DOMAINS}


def objections(given: Facts, gate: Gate | None = None) -> list[str]:
    return [check.words for check in checks(given, DOMAINS, gate or Gate()) if check.outcome == OBJECTION]


def test_the_first_model_becomes_champion() -> None:
    found = decide(facts(figures={}, challenger="1", champion=None), DOMAINS, Gate())
    assert (found.decision, found.served_version) == ("promoted", "1")
    assert "first champion" in found.reason


def test_the_first_model_is_promoted_with_what_speaks_against_it() -> None:
    found = decide(facts(0.1, popularity=0.2, champion=None), DOMAINS, Gate())
    assert found.decision == "promoted" and "would object: books" in found.reason


def test_a_better_challenger_replaces_the_champion() -> None:
    found = decide(facts(0.11, 0.10), DOMAINS, Gate())
    assert found.served_version == "2" and found.reason.startswith("no objection in 2 of 2 domains")
    assert {check.outcome for check in found.checks} == {PASSED} and len(found.checks) == 6


def test_a_worse_challenger_is_refused_and_every_domain_is_named() -> None:
    found = decide(facts(0.05, 0.10), DOMAINS, Gate())
    assert (found.decision, found.served_version) == ("refused", "1")
    assert "books: ndcg@10 0.0500 is below the champion 0.1000" in found.reason
    assert "toys" in found.reason


@pytest.mark.parametrize(
    ("single", "popularity", "word"), [(0.2, 0.0, "negative transfer"), (0.0, 0.2, "below popularity")]
)
def test_a_domain_that_is_hurt_refuses(single: float, popularity: float, word: str) -> None:
    found = objections(facts(0.10, 0.10, single, popularity))
    assert len(found) == 2 and all(word in line for line in found)


def test_a_drop_within_the_tolerance_passes() -> None:
    assert objections(facts(0.096, 0.10), Gate(max_drop=0.05)) == []


def test_a_drop_within_the_tolerance_passes_even_when_it_is_certain() -> None:
    assert objections(facts(0.096, 0.10, gaps=paired(-0.005, -0.003)), Gate(max_drop=0.05)) == []


def test_a_drop_inside_the_interval_is_noise() -> None:
    given = facts(0.05, 0.10)
    for found in given.figures.values():
        found["high"] = found["value"] + 0.06  # type: ignore[index]
    assert objections(given) == []


def test_the_paired_interval_decides_where_there_is_one() -> None:
    noisy = facts(0.08, 0.10, gaps=paired(-0.045, 0.005))  # unpaired: .085 < .10, an objection
    assert objections(facts(0.08, 0.10)) and not objections(noisy)
    assert "which may be noise" in next(checks(noisy, DOMAINS, Gate())).words
    wide = facts(0.08, 0.10, gaps=paired(-0.03, -0.01))
    for found in wide.figures.values():
        found["high"] = found["value"] + 0.06  # type: ignore[index]
    (books, _) = objections(wide)  # unpaired it would have been noise
    assert "(difference -0.0200, 95 % -0.0300 to -0.0100)" in books


def test_domains_with_few_cases_do_not_decide_and_say_so() -> None:
    found = decide(facts(0.01, 0.10, cases=5, champion=None), DOMAINS, Gate(min_cases=20))
    assert [check.outcome for check in found.checks] == [NOT_JUDGED] * 2
    assert found.warnings == ("books: 5 test cases, a decision needs 20", "toys: 5 test cases, a decision needs 20")


def test_a_champion_that_was_not_measured_stays() -> None:
    found = decide(facts(figures=without_champion(facts(0.5))), DOMAINS, Gate())
    assert (found.decision, found.served_version) == ("refused", "1")
    assert "the champion was not measured" in found.reason


def test_a_champion_that_cannot_be_loaded_gives_way_to_a_challenger_without_objections() -> None:
    lost = facts(figures=without_champion(facts(0.5)), unreadable="its files are gone")
    found = decide(lost, DOMAINS, Gate())
    assert (found.decision, found.served_version) == ("promoted", "2")
    assert found.reason.startswith("the champion, version 1, cannot be loaded (its files are gone); no objection")


@pytest.mark.parametrize("changes", [{"popularity": 0.9}, {"withdrawn": "bad lists"}])
def test_when_the_champion_is_lost_and_the_challenger_bad_nothing_scores(changes: dict[str, Any]) -> None:
    given = facts(0.5, **changes, unreadable="its files are gone")
    with pytest.raises(
        JobError, match=r"no model can score: the champion, version 1, cannot be loaded \(its files"
    ):
        decide(given, DOMAINS, Gate())


def test_a_domain_that_the_champion_never_saw_is_judged_by_the_other_rivals() -> None:
    new = facts(0.05, 0.10, unknown_domains=["toys"])
    assert [line[:5] for line in objections(new)] == ["books"]
    assert "toys: new, the champion was not trained on it" in decide(new, DOMAINS, Gate()).warnings
    hurt = facts(0.05, 0.05, popularity=0.2, unknown_domains=["toys"])
    assert any(line.startswith("toys") and "popularity" in line for line in objections(hurt))


def test_a_domain_that_vanished_decides_nothing() -> None:
    gone = {key: row for key, row in facts(0.1, 0.1).figures.items() if key[2] != "toys"}
    found = decide(facts(figures=gone), DOMAINS, Gate())
    assert found.decision == "promoted" and found.warnings == ("toys: 0 test cases, a decision needs 20",)


def test_too_few_cases_everywhere_keep_the_champion() -> None:
    found = decide(facts(0.5, 0.1, cases=3), DOMAINS, Gate(min_cases=20))
    assert found.decision == "refused" and "no domain has the 20 test cases" in found.reason


def test_a_stale_champion_is_warned_of_and_decides_as_before() -> None:
    old = facts(0.05, 0.10, champion_days=15)
    found = decide(old, DOMAINS, Gate(stale_days=14))
    assert found.decision == "refused"
    assert found.warnings == ("the champion's data are 15 days old (gate.stale_days = 14)",)
    assert decide(old, DOMAINS, Gate(stale_days=15)).warnings == ()
    without = facts(challenger=None, cause="training failed", champion_days=15)
    assert decide(without, DOMAINS, Gate()).warnings == found.warnings


def test_every_mode() -> None:
    bad, good = facts(0.05, 0.10), facts(0.2, 0.1)
    dry = decide(bad, DOMAINS, Gate(mode="dry_run"))
    assert dry.served_version == "2" and "dry run: books" in dry.reason
    assert any(check.outcome == OBJECTION for check in dry.checks)
    assert decide(good, DOMAINS, Gate(mode="dry_run")).reason == "dry run: no objection"
    assert decide(bad, DOMAINS, Gate(mode="disabled")).decision == "promoted"
    held = decide(good, DOMAINS, Gate(mode="hold"))
    assert (held.decision, held.served_version) == ("refused", "1") and "holds the champion" in held.reason


@pytest.mark.parametrize("mode", ["enabled", "dry_run", "disabled", "hold"])
def test_a_version_that_was_rolled_back_never_comes_back(mode: Any) -> None:
    found = decide(facts(0.5, 0.1, withdrawn="bad lists"), DOMAINS, Gate(mode=mode))
    assert (found.decision, found.reason) == ("refused", "version 2 was rolled back: bad lists")


def test_without_a_challenger_the_champion_scores_and_the_cause_is_kept() -> None:
    found = decide(facts(challenger=None, champion="7", cause="training failed"), DOMAINS, Gate())
    assert found == Decision(decision="no_challenger", served_version="7", reason="training failed")


def test_nothing_to_score_with_is_an_error() -> None:
    with pytest.raises(JobError, match=r"no model can score: training failed.*no champion"):
        decide(facts(challenger=None, champion=None, cause="training failed"), DOMAINS, Gate())
