"""RQ3: variants stand beside their own whole, view by view, paired; what weighed the cross losses is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality.ablations import VIEWS, Ablation, ablation_tables, bounds, half
from benchmarks.quality.bootstrap import Interval
from benchmarks.quality.cells import Cell, Result
from benchmarks.quality.figures import METRIC, Figures, plain, summarise
from benchmarks.quality.systems import Row
from benchmarks.quality.tables import report
from tests.benchmarks.quality_peers import DOMAINS, Planted, tiny

DATA = tiny(100)
FIRST, LATE = 1.0, 1000.0  # ranks whose NDCG@10 is 1 and 0
WHOLE = {"": 0.6, "cross": 0.5, "single": 0.4}


def row(name: str, *seeds: dict[str, float], kind: str = "ours", **chosen: Any) -> Row:
    """Make a row: for each seed, view -> the share of cases that it gets right, a larger one all of a smaller."""
    easy_M = {part: np.random.default_rng(1).random(len(DATA.cases[part])) for part in ("valid", "test")}
    results = {}
    for seed, views in enumerate(seeds):
        ranks = {
            f"{view}/{part}/{ranking}": np.where(easy_M[part] < share, FIRST, LATE)
            for view, share in views.items()
            for part in ("valid", "test")
            for ranking in ("full", "own100", "all100")
        }
        figures = {
            "views": list(views), "chosen": {**chosen, **({"best_epoch": seed + 1} if chosen else {})},
            "notes": [], "parameters": 1, "train_s": 1.0, "train_core_s": 1.0,
            "score_ms": dict.fromkeys(views, 1.0), "peak_gib": 1.0,
        }  # fmt: skip
        results[seed] = Result(Cell(name, {}, seed), figures, ranks)
    return Row(Planted(Path("calls"), name, kind), results)


def changed(**shares: float) -> dict[str, float]:
    return {**WHOLE, **shares}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    weights = {"toys": [1.0, 1.3, 1.1], "books": [1.0, 0.7, 0.9]}  # a file may keep another order than the tables
    ones = {domain: [1.0, 1.0, 1.0] for domain in DOMAINS}
    found = [
        row("default", WHOLE, WHOLE, weight_by_epoch=ones),
        row("default.no-mim", changed(cross=0.3), changed(cross=0.3)),
        row("default.bounded", WHOLE, WHOLE, weight_by_epoch=weights, driver_by_epoch=weights),
        row("defaults", WHOLE),
        row("default.fake", WHOLE, kind="multi-domain"),
        row("paper", {"": 0.2, "cross": 0.2}),
        row("paper.no-mim", {"": 0.3, "cross": 0.3}),
        row("paper.alone", {"": 0.3}),
    ]
    return {each.peer.name: each for each in found}


@pytest.fixture(scope="module")
def figures(rows: dict[str, Row]) -> Figures:
    return summarise(rows, DATA, n_resamples=200)


def of(figures: Figures, name: str, view: str) -> Ablation:
    (found,) = [each for each in figures.ablations if (each.row, each.view) == (name, view)]
    return found


def test_every_variant_of_ours_stands_beside_its_own_whole_in_every_view_both_have(figures: Figures) -> None:
    own = [("default", view, name) for view in WHOLE for name in ("default.no-mim", "default.bounded")]
    paper = [("paper", "", "paper.no-mim"), ("paper", "", "paper.alone"), ("paper", "cross", "paper.no-mim")]
    assert [(each.whole, each.view, each.row) for each in figures.ablations] == own + paper


def test_a_difference_is_the_variant_less_the_whole_with_its_interval(figures: Figures) -> None:
    lost = of(figures, "default.no-mim", "cross")
    lines = figures.systems
    for domain in DOMAINS:
        apart = lines["default.no-mim.cross"].test[METRIC][domain] - lines["default.cross"].test[METRIC][domain]
        assert lost.domains[domain].difference.value == pytest.approx(apart)
    assert lost.macro.difference.high < 0 and lost.macro.difference.word == "worse"
    served = of(figures, "default.no-mim", "").macro.difference
    assert (served.value, served.word) == (0, "unclear")
    assert of(figures, "paper.no-mim", "").macro.difference.word == "better"
    assert lost.levels == {name: lines["default.cross"].test[METRIC][name] for name in (*DOMAINS, "macro")}


def test_cells_are_thousandths_and_a_star_where_the_interval_leaves_out_nothing() -> None:
    clear, unclear = Interval(0.0021, 0.0002, 0.0037), Interval(-0.0005, -0.0012, 0.0004)
    assert (half(clear), bounds(clear)) == ("+2.1 ±1.9 *", "+2.1 [+0.2, +3.7] *")
    assert (half(unclear), bounds(unclear)) == ("-0.5 ±0.9", "-0.5 [-1.2, +0.4]")
    nan = float("nan")
    assert half(Interval(nan, nan, nan)) == bounds(Interval(nan, nan, nan)) == "-"
    assert half(Interval(0.001, nan, nan)) == bounds(Interval(0.001, nan, nan)) == "+1.0"


def test_the_report_and_the_details_hold_the_tables(rows: dict[str, Row], figures: Figures) -> None:
    text = report(figures, rows)
    titles = [line for line in text.splitlines() if line.startswith("**RQ3")]
    views = [(whole, view) for whole in ("our default", "the paper's preset") for view in VIEWS.values()]
    expected = [f"**RQ3: {whole} with a part changed, {view}" for whole, view in views[:-1]]
    assert [title.split(";")[0] for title in titles[:-1]] == expected
    cross = text.split(titles[1])[1].split("**")[0].strip().splitlines()
    names = [line.split("|")[1].strip() for line in cross]
    assert names[0] == "row" and names[2:] == ["*default*", "default.no-mim", "default.bounded"]
    assert len({len(line) for line in cross}) == 1
    details = json.loads(json.dumps(plain(figures), allow_nan=False))
    assert details["ablations"][0]["domains"]["books"]["difference"].keys() == {"value", "low", "high"}
    assert details["weights"]["default.bounded"]["weight"]["books"] == pytest.approx(0.85)


def test_weights_are_those_of_the_chosen_epochs_and_equal_ones_are_left_out(
    rows: dict[str, Row], figures: Figures
) -> None:
    """Seed 0 chose epoch 1, seed 1 epoch 2."""
    assert list(figures.weights) == ["default.bounded"]
    assert figures.weights["default.bounded"]["weight"] == pytest.approx({"books": 0.85, "toys": 1.15})
    lines = report(figures, rows).split("**RQ3: weight of each domain")[1].strip().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[4] == ["default.bounded", "weight", "0.85", "1.15"] and cells[5][1:3] == ["driver", "+0.850"]


def test_without_a_whole_there_is_no_table(rows: dict[str, Row]) -> None:
    few = {"default.no-mim": rows["default.no-mim"]}
    found = summarise(few, DATA, n_resamples=20)
    assert found.ablations == () and "RQ3" not in report(found, few)
    assert all(not text for _, text in ablation_tables((), DOMAINS))
