"""The planted-transfer benchmark: the night's cut, paired cases, signs that mean what they say, cells kept."""

import json
import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import planted_transfer as bench
from benchmarks.planted_cells import Cell, Result
from benchmarks.planted_data import PlantedLog, cut, first_night, planted_log, sample_settings
from benchmarks.planted_figures import across_seeds, guard, loss_gap, rival_gap, view_gap
from jobs.sample_laws import DOMAINS
from jobs.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
LAST = date(2024, 1, 9)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(ROOT / "syncrec.toml")


@pytest.fixture(scope="module")
def log(settings: Settings) -> PlantedLog:
    return planted_log(sample_settings(settings, seed=3, users=100), LAST)


def unix(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def test_the_log_is_cut_at_the_midnights_of_the_night(settings: Settings, log: PlantedLog) -> None:
    splits = cut(log, settings, LAST)
    test_start = unix(LAST + timedelta(days=1)) - 86_400 * settings.sequences.test_days
    valid_start = test_start - 86_400 * settings.sequences.valid_days
    assert splits.train.cross_lengths_U.sum() == (log.ts_E < valid_start).sum()
    assert not splits.train.cross_targets_UT.any()
    in_valid = (log.ts_E >= valid_start) & (log.ts_E < test_start)
    in_test = log.ts_E >= test_start
    for data, inside in ((splits.valid, in_valid), (splits.test, in_test)):
        assert set(data.user_ids) == set(log.user_E[inside])
        found = data.cross_domains_UT[data.cross_targets_UT]
        assert np.bincount(found, minlength=6).tolist() == np.bincount(log.domain_E[inside], minlength=6).tolist()
    assert first_night(settings) == date(2024, 1, 29)


def test_the_vocabulary_holds_the_items_that_occur(log: PlantedLog) -> None:
    for code in range(1, len(DOMAINS) + 1):
        items = log.item_E[log.domain_E == code]
        assert set(items) == set(range(1, log.n_items[code - 1] + 1))


def test_a_twin_is_asked_the_same_cases_from_its_own_domain_alone(settings: Settings, log: PlantedLog) -> None:
    whole, twin = cut(log, settings, LAST).test, cut(log.alone("toys"), settings, LAST).test
    code = DOMAINS.index("toys") + 1
    row, column = np.nonzero(whole.cross_targets_UT & (whole.cross_domains_UT == code))
    own_row, own_column = np.nonzero(twin.cross_targets_UT)
    assert whole.user_ids[row].tolist() == twin.user_ids[own_row].tolist()
    assert whole.cross_items_UT[row, column].tolist() == twin.cross_items_UT[own_row, own_column].tolist()
    assert twin.domains == ("toys",) and twin.n_items == (log.n_items[code - 1],)


def result(
    cross: list[float], single: list[float], *, test_cross: list[float] | None = None, users: int = 0
) -> Result:
    """One domain; ranks of the cross and single view on validation, on test the same unless given."""
    arrays: dict[str, Any] = {}
    for split, ranks in (("valid", cross), ("test", test_cross or cross)):
        n = len(ranks)
        arrays |= {f"{split}.user": np.arange(n) + users, f"{split}.domain": np.ones(n, int)}
        arrays |= {f"{split}.item": np.ones(n, int), f"{split}.rank.cross": np.array(ranks)}
        arrays |= {f"{split}.rank.single": np.array(single), f"{split}.rank.blend": np.full(n, 99.0)}
        arrays |= {f"{split}.loss.cross": np.log(ranks), f"{split}.loss.single": np.log(single)}
    return Result(Cell("uniform", 1), {"domains": ["toys"]}, arrays)


def test_a_gap_above_zero_means_that_the_other_domains_help() -> None:
    helped, hurt = result([1.0, 1, 2], [9.0, 9, 9]), result([9.0, 9, 9], [1.0, 1, 2])
    assert view_gap(helped, "test", "toys", "cross")[0] > 0 > view_gap(hurt, "test", "toys", "cross")[0]
    assert loss_gap(helped, "test", "toys") > 0 > loss_gap(hurt, "test", "toys")
    assert rival_gap(helped, hurt, "toys", "cross") > 0
    with pytest.raises(ValueError, match="different cases"):
        rival_gap(helped, result([1.0, 1, 2], [9.0, 9, 9], users=5), "toys", "cross")


def test_the_guard_falls_back_to_the_single_view_and_a_fall_on_test_is_told() -> None:
    (kept,) = guard([result([9.0, 9, 9], [1.0, 1, 1])])
    assert (kept["view"], kept["valid"], kept["test"]) == ("single", 0, 0)
    (fell,) = guard([result([1.0, 1, 1], [2.0, 2, 2], test_cross=[9.0, 9, 9])])
    assert fell["view"] == "cross" and fell["valid"] > 0 > fell["high"]
    lines = bench.guard_lines([kept, fell])
    assert "on validation: 0 of 2" in lines[0]
    assert "1 of 2" in lines[1] and "interval: 1" in lines[1]
    assert "seed 1 toys (cross)" in lines[2]


def test_seeds_give_students_interval_and_a_seed_without_cases_does_not_count() -> None:
    found = across_seeds([1.0, 2.0, 3.0, math.nan])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t of 2 degrees
    assert across_seeds([0.5, 0.51, 0.52]).word == "helps"
    assert across_seeds([-0.5, -0.51, -0.52]).word == "hurts"
    assert across_seeds([-0.5, 0.5]).word == "unclear"
    assert across_seeds([1.0]).word == "unclear"


def test_a_stopped_run_goes_on_and_a_finished_cell_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def recorded(*_: Any) -> None:
        raise AssertionError("a toy must not be recorded")

    monkeypatch.setattr(bench, "keep", recorded)
    quick = ["--quick", "--seeds", "1", "--cache", str(tmp_path), "--variants", "uniform", "alone"]
    assert bench.main([*quick, "--train", "1"]) == 0
    assert "alone: 0 of 5 cells" in capsys.readouterr().out
    assert bench.main([*quick, "--train", "1"]) == 0
    out = capsys.readouterr().out
    assert "uniform: 1 of 1 cells" in out and "alone: 1 of 5 cells" in out
    assert all(f"| {domain} " in out for domain in DOMAINS)

    def trained(*_: Any) -> Result:
        raise AssertionError("both cells are in the cache")

    monkeypatch.setattr(bench, "train", trained)
    assert bench.main([*quick, "--train", "0"]) == 0
    assert capsys.readouterr().out == out.split("\n", 1)[1]  # but for the line of the trained cell

    file = next(tmp_path.glob("uniform-7*.json"))
    kept = file.read_text()
    figures = json.loads(kept)
    del figures["depends"]["model.eta"]  # as if the setting had come after the cell, which had its default then
    file.write_text(json.dumps(figures))
    assert bench.main([*quick, "--train", "0"]) == 0
    assert "uniform: 1 of 1 cells" in capsys.readouterr().out
    file.write_text(kept.replace('"model.eta": 0.9', '"model.eta": 0.8'))
    assert bench.main([*quick, "--train", "0"]) == 0
    assert "uniform: 0 of 1 cells" in capsys.readouterr().out


def test_the_tables_go_between_the_marks_of_their_page_and_the_words_around_them_stay() -> None:
    page = bench.PAGE.read_text(encoding="utf-8")
    once = bench.into_page(page, "| a |")
    assert "| a |" in once and bench.into_page(once, "| b |") == bench.into_page(page, "| b |")
    for words in (page.split(bench.MARKS[0])[0], page.split(bench.MARKS[1])[1]):
        assert words and words in once
    with pytest.raises(ValueError, match="put them back"):
        bench.into_page("a page without marks", "| a |")
