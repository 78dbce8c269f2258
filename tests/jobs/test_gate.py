"""The gate's rules on plain figures."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import JobError
from jobs.gate import Decision, decide, objections
from jobs.settings import Gate

DOMAINS = ("books", "toys")


def row(value: float, cases: int = 500, spread: float = 0.005) -> dict[str, Any]:
    return {"value": value, "high": value + spread, "low": value - spread, "cases": cases}


def figures(challenger: float, champion: float, single: float = 0, popularity: float = 0, cases: int = 500) -> Any:
    return {
        (role, view, domain): row(value, cases)
        for domain in DOMAINS
        for role, view, value in (
            ("challenger", "served", challenger),
            ("challenger", "single", single),
            ("champion", "served", champion),
            ("popularity", "", popularity),
        )
    }


def test_the_first_model_becomes_champion() -> None:
    found = decide({}, DOMAINS, Gate(), "1", None, "")
    assert (found.decision, found.served_version) == ("promoted", "1")
    assert "first champion" in found.reason


def test_a_better_challenger_replaces_the_champion() -> None:
    assert decide(figures(0.11, 0.10), DOMAINS, Gate(), "2", "1", "").served_version == "2"


def test_a_worse_challenger_is_refused_and_every_domain_is_named() -> None:
    found = decide(figures(0.05, 0.10), DOMAINS, Gate(), "2", "1", "")
    assert (found.decision, found.served_version) == ("refused", "1")
    assert "books: ndcg@10 0.0500 is below the champion 0.1000" in found.reason
    assert "toys" in found.reason


@pytest.mark.parametrize(
    ("single", "popularity", "word"), [(0.2, 0.0, "negative transfer"), (0.0, 0.2, "below popularity")]
)
def test_a_domain_that_is_hurt_refuses(single: float, popularity: float, word: str) -> None:
    found = objections(figures(0.10, 0.10, single, popularity), DOMAINS, Gate())
    assert len(found) == 2 and all(word in line for line in found)


def test_a_drop_within_the_tolerance_passes() -> None:
    assert objections(figures(0.096, 0.10), DOMAINS, Gate(max_drop=0.05)) == []


def test_a_drop_inside_the_interval_is_noise() -> None:
    noisy = figures(0.05, 0.10)
    for found in noisy.values():
        found["high"] = found["value"] + 0.06
    assert objections(noisy, DOMAINS, Gate()) == []


def test_domains_with_few_cases_do_not_decide() -> None:
    assert objections(figures(0.01, 0.10, cases=5), DOMAINS, Gate(min_cases=20)) == []


def test_a_champion_that_was_not_measured_stays() -> None:
    alone = {key: row for key, row in figures(0.5, 0.1).items() if key[0] != "champion"}
    found = decide(alone, DOMAINS, Gate(), "2", "1", "")
    assert (found.decision, found.served_version) == ("refused", "1")
    assert "the champion was not measured" in found.reason


def test_too_few_cases_everywhere_keep_the_champion() -> None:
    found = decide(figures(0.5, 0.1, cases=3), DOMAINS, Gate(min_cases=20), "2", "1", "")
    assert found.decision == "refused" and "no domain has the 20 test cases" in found.reason


def test_dry_run_and_disabled_promote_and_say_so() -> None:
    bad = figures(0.05, 0.10)
    dry = decide(bad, DOMAINS, Gate(mode="dry_run"), "2", "1", "")
    assert dry.served_version == "2" and "dry run: books" in dry.reason
    assert decide(bad, DOMAINS, Gate(mode="disabled"), "2", "1", "").decision == "promoted"


def test_without_a_challenger_the_champion_scores_and_the_cause_is_kept() -> None:
    found = decide({}, DOMAINS, Gate(), None, "7", "training failed")
    assert found == Decision(decision="no_challenger", served_version="7", reason="training failed")


def test_nothing_to_score_with_is_an_error() -> None:
    with pytest.raises(JobError, match=r"no model can score: training failed.*no champion"):
        decide({}, DOMAINS, Gate(), None, None, "training failed")
