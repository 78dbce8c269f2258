"""make bench-score-night: its figures have the issue's names and are ratios of what their words say."""

from __future__ import annotations

import argparse

import pytest

from benchmarks.score_night import figures_of, size_of

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


def test_another_size_never_takes_the_place_of_the_one_that_is_meant() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("--users", 20_000), ("--items", 20_000), ("--top_n", 100)):
        parser.add_argument(name, type=int, default=value)
    assert size_of(parser, parser.parse_args([])) == ""
    assert size_of(parser, parser.parse_args(["--users", "100000", "--top_n", "20"])) == "users100000.top20"
