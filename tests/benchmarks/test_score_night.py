"""make bench-score-night: its figures have the issue's names and are ratios of what their words say."""

from __future__ import annotations

import pytest

from benchmarks.score_night import figures_of

MEDIANS = {
    "kernel": {"seconds": 20.0},
    "job": {"seconds": 25.0, "session": 5.0, "peak_gib": 1.5, "bytes": 3e6, "rows": 2e5},
    "all": {"seconds": 24.0},
    "changed": {"seconds": 6.0},
}


def test_figures_have_the_names_of_the_issue() -> None:
    assert figures_of(0.01, MEDIANS) == {
        "spark.overhead": pytest.approx(0.25),
        "spark.overhead.with_session": pytest.approx(0.5),
        "spark.peak_gib": 1.5,
        "spark.bytes_a_row": 15,
        "reuse.1pct.share": 0.25,
    }


def test_another_share_of_changed_users_is_another_figure() -> None:
    assert "reuse.5pct.share" in figures_of(0.05, MEDIANS) and "reuse.1pct.share" not in figures_of(0.05, MEDIANS)
