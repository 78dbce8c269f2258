"""docs/scale.md: current with the results, its arithmetic, and nothing guessed that nobody measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from benchmarks.scale import SIZE, Prices, Target, costs_of, read_figures, units_of
from benchmarks.scale_page import NOT_MEASURED, page

GIB = 2**30
DATA = {
    "full.20m.cpu_seconds": 9999.0,  # of a smaller log: not used
    "full.50m.cpu_seconds": 360.0, "full.50m.shuffle_gib": 50e8 / GIB, "full.50m.output_gib": 20e8 / GIB,
    "log.50m.gib": 10e8 / GIB, "incremental.50m.cpu_seconds": 36.0, "incremental.50m.shuffle_gib": 1e8 / GIB,
    "incremental.50m.output_gib": 5e7 / GIB,
}  # fmt: skip
SCORE = {"rank.1m.users_per_s": 1000.0, f"{SIZE}.spark.overhead": 0.25, f"{SIZE}.spark.bytes_a_row": 10.0}
TRAIN = {"catalogue_1m.users_per_s": 400.0, "cpu.r64.a5.default.users_per_s": 500.0,
         "gpu.r64.a5.default.users_per_s": 50_000.0, "catalogue_1m.peak_gib": 2.5}  # fmt: skip


def results(folder: Path, **files: dict[str, float]) -> dict[str, Any]:
    for name, figures in files.items():
        (folder / f"{name}.json").write_text(json.dumps({"figures": figures, "parts": {}}))
    return dict(units_of(read_figures(folder)))


def test_the_committed_page_is_current() -> None:
    assert scale.main(["--check"]) == 0, "python -m benchmarks.scale"


def test_costs_are_measured_units_times_counts(tmp_path: Path) -> None:
    units = results(tmp_path, data=DATA, score=SCORE, train=TRAIN)
    target = Target(users=100e6, events_a_user=10, new_share=0.01, changed_share=0.05, efficiency=0.5)
    costs = costs_of(units, target, Prices(core_hour=0.1, gpu_hour=2, shared_gb_month=0.3, object_gb_month=0.02))
    expected = {
        "full.hours": 360 / 50 * 1000 / 3600 / 0.5,  # 1,000 million events
        "full.executors": 1,
        "full.shuffle_gb": 100 * 1e9 / 1e9,  # 100 bytes an event
        "night.hours": 36 / 0.5 * 10 / 3600 / 0.5,  # measured on .5 million new events, wanted for 10 million
        "night.shuffle_gb": 200 * 10e6 / 1e9,
        "rank.core_s_a_user": 2 / 1000 * 10 * 1.25,
        "score.hours": 0.025 * 5e6 / 3600 / 0.5,
        "score.hours_all": 0.025 * 100e6 / 3600 / 0.5,
        "score.executors": 9,  # 69.4 core-hours in 2 hours on 4 cores each
        "train.gpu_hours": 100e6 * 4 / (50_000 * 400 / 500 / 2) / 3600,
        "train.core_hours": 2 * 100e6 * 4 / 200 / 3600,
        "train.gib": 25,
        "vectors.gb": 2.56,
        "store.interactions_gb": 20,
        "store.sequences_gb": 40 + 100 * 10e6 * 30 / 1e9,
        "store.lists_gb": 10 * 20e9 * 90 / 1e9,
        "money.train": 100e6 * 4 / 20_000 / 3600 * 2,
        "money.shared_month": (20 + 70 + 18_000) * 0.3,
    }
    assert {name: costs[name] for name in expected} == pytest.approx(expected)
    assert costs["money.night"] == pytest.approx((expected["night.hours"] + expected["score.hours"]) * 0.1)
    assert None not in costs.values()


def test_what_nobody_measured_and_what_needs_it_is_said_and_never_guessed(tmp_path: Path) -> None:
    units = results(
        tmp_path, score={name: SCORE[name] for name in SCORE if name != f"{SIZE}.spark.overhead"}, train=TRAIN
    )
    costs = costs_of(units, Target(), Prices())
    assert costs["score.hours"] is costs["money.night"] is costs["full.hours"] is None
    assert costs["store.gb"] is costs["money.shared_month"] is None
    assert costs["list.gb"] == 200 and costs["train.gpu_hours"] is not None
    text = page(units, Target(), Prices())
    rows = {cells[1].strip(): cells for line in text.splitlines() if len(cells := line.split("|")) > 3}
    assert rows["the Spark job around it"][2].strip() == NOT_MEASURED
    assert rows["the Spark job around it"][4].strip() == "`make bench-score-night USERS=100000 TOP=20`"
    assert rows["score, a night"][3].strip() == NOT_MEASURED
    assert rows["recommendations"][3].strip() == "18,000 GB"


def test_a_new_result_makes_the_page_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "PAGE", tmp_path / "scale.md")
    monkeypatch.setattr(scale, "read_figures", lambda: read_figures(tmp_path))
    assert scale.main([]) == 0 and scale.main(["--check"]) == 0
    results(tmp_path, score=SCORE)
    assert scale.main(["--check"]) == 1
    assert "docs/scale.md is not current: python -m benchmarks.scale" in capsys.readouterr().err
