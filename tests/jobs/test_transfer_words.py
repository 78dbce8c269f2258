"""The sentence that says whether a domain is hurt: who is named, and that only clear intervals count."""

from __future__ import annotations

import pytest

from jobs.report import _end
from jobs.transfer_words import Transfer, transfer_in_words

ABOVE, BELOW, ACROSS, NONE = (0.01, 0.03), (-0.03, -0.01), (-0.01, 0.02), (None, None)


@pytest.mark.parametrize(
    ("domains", "said"),
    [
        ({}, ""),
        ({"books": Transfer(NONE, BELOW, "cross")}, ""),
        (
            {"books": Transfer(ACROSS, ACROSS, "single")},
            "As served, no domain is clearly worse than its single view alone.",
        ),
        (
            {name: Transfer(ABOVE, NONE, "blend") for name in ("a", "b")} | {"c": Transfer(ACROSS, NONE, "blend")},
            "As served, no domain is clearly worse than its single view alone; a and b gain.",
        ),
        (
            {"books": Transfer(ABOVE, ABOVE, "cross"), "toys": Transfer(ABOVE, BELOW, "blend")},
            "As served, every domain is clearly better than its single view alone."
            " The cross view alone would hurt toys: it serves none of these.",
        ),
        (
            {"books": Transfer(BELOW, BELOW, "cross"), "toys": Transfer(ABOVE, BELOW, "blend")},
            "As served, books is worse than the single view alone; toys gains."
            " The cross view alone would hurt books and toys and serves books.",
        ),
        (
            {name: Transfer(BELOW, BELOW) for name in ("a", "b", "c")},
            "As served, a, b and c are worse than the single view alone."
            " The cross view alone would hurt a, b and c.",
        ),
        (
            {"books": Transfer(ABOVE, BELOW, "blend"), "toys": Transfer((0.0, 0.0), BELOW, "single")},
            "As served, no domain is clearly worse than its single view alone; books gains."
            " The cross view alone would hurt books and toys: it serves none of these.",
        ),
    ],
)
def test_what_is_said(domains: dict[str, Transfer], said: str) -> None:
    assert transfer_in_words(domains) == said


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), (0.0, "0.000"), (0.00037, "+0.0004"), (-0.0004, "−0.0004"), (0.00001, "0.000"),
        (0.0123, "+0.012"), (-0.5, "−0.500"),
    ],
)  # fmt: skip
def test_an_end_of_an_interval_that_rounds_to_zero_shows_its_side(value: float | None, shown: str) -> None:
    assert _end(value) == shown
