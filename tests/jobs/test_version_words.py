"""What the registry says of a version: promoted or refused, why, against whom."""

from __future__ import annotations

from jobs.gate_rules import Check, Decision
from jobs.version_words import LONGEST, judgement

BOOKS = Check(
    rule="champion", domain="books", outcome="passed", words="fine", value=0.30, rival_value=0.28, low=0.01,
    high=0.03, cases=230,
)  # fmt: skip
TOYS = Check(
    rule="champion", domain="toys", outcome="objection", words="bad", value=0.10, rival_value=0.14, low=-0.07,
    high=-0.01, cases=120,
)  # fmt: skip
OWN = Check(rule="single", domain="toys", outcome="passed", words="fine", value=0.10, rival_value=0.09, cases=120)
FEW = Check(
    rule="cases",
    domain="coupons",
    outcome="not judged",
    words="coupons: 8 test cases, a decision needs 20",
    cases=8,
)


def test_a_refusal_says_why_who_serves_on_and_which_domain_objected() -> None:
    checks = (BOOKS, TOYS, OWN, FEW)
    decision = Decision(decision="refused", served_version="1", reason="toys: worse than before.", checks=checks)
    words = judgement(decision, "2024-01-30", "1", "ndcg@10")
    assert words.startswith("Refused by the gate of 2024-01-30: toys: worse than before. Version 1 serves on.")
    lines = words.splitlines()
    assert "| domain | served | − champion | − own single view | cases |" in lines
    assert "| books | 0.300 | +0.020 [+0.010, +0.030] | – | 230 |" in lines
    assert "| toys | 0.100 | **-0.040 [-0.070, -0.010]: objection** | +0.010 | 120 |" in lines
    assert lines[-1] == "Not judged: coupons: 8 test cases, a decision needs 20."


def test_a_promotion_says_whose_place_it_takes_and_the_first_one_nobodys() -> None:
    decision = Decision(decision="promoted", served_version="2", reason="no objection", checks=(BOOKS,))
    assert "no objection. It takes the place of version 1." in judgement(decision, "2024-01-30", "1", "ndcg@10")
    first = judgement(Decision(decision="promoted", served_version="1", reason="first champion"), "d", None, "x")
    assert first == "Promoted by the gate of d: first champion."


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    same = Check(**{**vars(BOOKS), "rival_value": BOOKS.value, "low": -0.0001, "high": 0.0})
    decision = Decision(decision="promoted", served_version="2", reason="fine", checks=(same,))
    assert "| 0.000 [0.000, 0.000] |" in judgement(decision, "2024-01-30", None, "ndcg@10")


def test_many_domains_fit_what_mlflow_keeps() -> None:
    checks = tuple(Check(**{**vars(BOOKS), "domain": f"domain-{n}"}) for n in range(200))
    decision = Decision(decision="promoted", served_version="2", reason="fine", checks=checks)
    words = judgement(decision, "2024-01-30", None, "ndcg@10")
    assert len(words) < LONGEST + 200 and "gate_checks" in words
