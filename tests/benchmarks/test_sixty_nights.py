"""The sixty nights: what is made of their records; a configuration that the jobs accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import sixty_nights
from benchmarks.sixty_nights_figures import STEPS, draw, figures_of, slope, table_of
from jobs.schemas import TABLES
from jobs.settings import load_settings

COUNTS = ("files", "bytes", "rows", "disk_files", "disk_bytes", "metadata_files", "metadata_bytes", "snapshots")


def nights(n: int, growth: float) -> list[dict[str, Any]]:
    """Records of nights whose time grows by so many seconds a night; every seventh is tidied."""
    noise = np.random.default_rng(0).normal(0, 0.1, n)
    return [
        {
            "night": k + 1,
            "ds": "2024-02-01",
            "steps": {s: {"seconds": 1 + (growth * k + noise[k]) / len(STEPS), "cpu": 0.5} for s in STEPS},
            "tables": {name: dict.fromkeys(COUNTS, 10 + k % 7) for name in TABLES},
            "read": {"open": 50.0, "warm": 3.0, "worst": 5.0},
        }
        | ({"maintain": {"seconds": 2.0, "cpu": 1.0}} if (k + 1) % 7 == 0 else {})
        for k in range(n)
    ]


def test_a_slope_is_found_and_its_interval_holds_the_noise() -> None:
    rise, half = slope(np.array([sum(s["seconds"] for s in night["steps"].values()) for night in nights(60, 0.05)]))
    assert rise == pytest.approx(0.05, abs=half) and 0 < half < 0.01
    flat = figures_of(nights(60, 0.0))
    assert abs(flat["night.slope_s"]) < flat["night.slope_s_half"]


def test_figures_table_and_picture(tmp_path: Path) -> None:
    records = nights(15, 0.0)
    figures = figures_of(records)
    assert figures["nights"] == 15 and figures["read.warm_ms"] == 3.0 and figures["maintain.seconds"] == 2.0
    assert figures["files.interactions_max"] == 16 and figures["files.last"] == 10 * len(TABLES)
    assert len(table_of(records).splitlines()) == 1 + 4  # the first, two that were tidied, the last
    draw(records, tmp_path / "nights.svg")
    assert "<svg" in (tmp_path / "nights.svg").read_text()
    assert all(np.isfinite(list(figures_of(nights(2, 0.0)).values())))


def test_the_configuration_is_one_that_the_jobs_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sixty_nights, "HOME", tmp_path)
    settings = load_settings(sixty_nights.project(users=123))
    assert settings.state == tmp_path / "state"
    assert settings.sample is not None and settings.sample.users == 123
    assert settings.maintenance.nights == 14 and settings.maintenance.keep_days == {"recommendations": 30}
    assert settings.training.every_days == 10000 and settings.spark.options
