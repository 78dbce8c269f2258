"""The planted-transfer benchmark: the night's cut, paired cases, signs that mean what they say, cells kept.

The variants of the ablation: what each is, that a double is trained once, and what the table compares.
"""

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import planted_transfer as bench
from benchmarks.planted_cells import BEFORE, Cell, Experiment, Result, read, train
from benchmarks.planted_data import PlantedLog, cut, first_night, planted_log, sample_settings
from benchmarks.planted_figures import ablation, across_seeds, guard, loss_gap, rival_gap, view_gap
from benchmarks.planted_tables import ablation_table, guard_lines
from benchmarks.planted_variants import ABLATION, SHARED, VARIANTS, same_as
from jobs.sample_laws import DOMAINS
from jobs.settings import Settings, load_settings
from syncrec_model import ModelConfig

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
    cross: list[float],
    single: list[float],
    *,
    test_cross: list[float] | None = None,
    users: int = 0,
    cell: Cell | None = None,
) -> Result:
    """One domain; ranks of the cross and single view on validation, on test the same unless given. Four times over:
    fewer than six users prove nothing to the guard."""
    arrays: dict[str, Any] = {}
    single = 4 * single
    for split, ranks in (("valid", 4 * cross), ("test", 4 * (test_cross or cross))):
        n = len(ranks)
        arrays |= {f"{split}.user": np.arange(n) + users, f"{split}.domain": np.ones(n, int)}
        arrays |= {f"{split}.item": np.ones(n, int), f"{split}.rank.cross": np.array(ranks)}
        arrays |= {f"{split}.rank.single": np.array(single), f"{split}.rank.blend": np.full(n, 99.0)}
        arrays |= {f"{split}.loss.cross": np.log(ranks), f"{split}.loss.single": np.log(single)}
    return Result(cell or Cell("uniform", 1), {"domains": ["toys"]}, arrays)


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
    lines = guard_lines([kept, fell])
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
    assert "domain only; not trained, left out" in capsys.readouterr().out
    assert bench.main([*quick, "--train", "1"]) == 0
    out = capsys.readouterr().out
    assert "- uniform: the default with uniform weights; 1 of 1 cells" in out and "only; 1 of 5 cells" in out
    assert out.count("that is uniform, trained once") == 1, "with ACMoE or without it: one is the default"
    assert "- no-mim: the default without SC-MIM; not trained, left out" in out and "| no-mim" not in out
    assert all(f"| {domain} " in out for domain in DOMAINS)

    def trained(*_: Any) -> Result:
        raise AssertionError("both cells are in the cache")

    monkeypatch.setattr(bench, "train", trained)
    assert bench.main([*quick, "--train", "0"]) == 0
    assert capsys.readouterr().out == out.split("\n", 1)[1]  # but for the line of the trained cell

    (file,) = tmp_path.glob("joint-7-*.json")
    file.write_text(file.read_text().replace('"model.eta": 0.9', '"model.eta": 0.8'))
    assert bench.main([*quick, "--train", "0"]) == 0
    assert "- uniform: the default with uniform weights; not trained, left out" in capsys.readouterr().out


def experiment(settings: Settings, tmp_path: Path, **options: Any) -> Experiment:
    """The benchmark of a project whose default model has these options."""
    model = settings.model.model_copy(update={"options": options})
    return Experiment(settings.model_copy(update={"model": model}), LAST, tmp_path)


def test_the_variant_that_is_the_default_is_no_model_of_its_own(settings: Settings, tmp_path: Path) -> None:
    acmoe = {"n_experts": 4, "n_cross_experts": 2, "stop_gradient": True}
    for options, double, other in ((acmoe, "acmoe", "no-acmoe"), (SHARED, "no-acmoe", "acmoe")):
        bench_of = experiment(settings, tmp_path, **options)
        assert same_as(double, bench_of.model) == "uniform" and same_as(other, bench_of.model) == other
        assert bench_of.file(Cell(double, 7)) == bench_of.file(Cell("uniform", 7))
        assert bench_of.file(Cell(other, 7)) != bench_of.file(Cell("uniform", 7))
        assert same_as("alone", bench_of.model) == "alone", "the twins have its model, not its data"
    before, after = experiment(settings, tmp_path, **acmoe), experiment(settings, tmp_path, **SHARED)
    assert before.file(Cell("uniform", 7)) == after.file(Cell("acmoe", 7)), "what was trained is found again"


def test_a_cell_of_another_default_is_not_taken_for_one_of_today(settings: Settings, tmp_path: Path) -> None:
    today, older = experiment(settings, tmp_path), experiment(settings, tmp_path, start="random")
    cells = [Cell("uniform", 7), Cell("alone", 7, "toys"), Cell("no-mim", 7)]
    assert all(today.file(cell) != older.file(cell) for cell in cells)
    assert len({today.file(cell) for cell in [*cells, Cell("uniform", 8), Cell("alone", 7, "books")]}) == 5
    assert replace(today, threads=2).file(cells[0]) == today.file(cells[0]), (
        "threads change no figure worth telling"
    )
    assert replace(today, epochs=1).file(cells[0]) != today.file(cells[0])
    assert "model.start" not in older.depends(cells[0]) and "model.start" in today.depends(cells[0])
    assert set(BEFORE) <= {f"model.{name}" for name in ModelConfig().to_dict()}
    assert read(today, cells[0]) is None


def test_the_variants_are_the_papers_parts_one_by_one(settings: Settings, tmp_path: Path) -> None:
    today = experiment(settings, tmp_path)
    size = {"channels": settings.model.channels, "max_length": settings.sequences.max_length}
    whole = replace(ModelConfig.preset("paper"), **size)
    assert today.model("published") == whole
    assert today.model("published-no-ntg") == replace(whole, correction="uniform")
    assert today.model("published-no-mim") == replace(whole, mim=False)
    assert today.model("published-no-acmoe") == replace(whole, **SHARED)
    default = today.model("uniform")
    assert default == replace(ModelConfig(), **size)
    assert today.model("no-mim") == replace(default, mim=False)
    assert today.model("no-acmoe") == replace(default, **SHARED)
    assert today.model("paper") == replace(default, correction="paper")
    named = [name for whole, parts in ABLATION.items() for name in (whole, *parts)]
    assert sorted([*named, "alone"]) == sorted(VARIANTS)


def test_a_rule_weighs_the_domains_and_is_a_model_of_its_own(settings: Settings, tmp_path: Path) -> None:
    today = replace(experiment(settings, tmp_path), users=100, epochs=3, threads=1, options={"channels": 8})
    rules = ("by-ndcg", "by-conflict", "by-uncertainty", "by-uncertainty-mean-1")
    cells = [Cell(name, 7) for name in ("uniform", "bounded", *rules)]
    assert len({today.file(cell) for cell in cells}) == len(cells)
    assert all(same_as(name, today.model) == name for name in rules)
    epochs = {name: train(today, Cell(name, 7)).figures["by_epoch"] for name in rules}
    found = {name: [domain["weight"] for domain in epochs[name][-1].values()] for name in rules}
    for name in ("by-ndcg", "by-conflict"):
        assert max(found[name]) > 1 > min(found[name]) and np.mean(found[name]) == pytest.approx(1, abs=1e-5)
    assert max(found["by-uncertainty"]) < 1, "a loss of several nats settles at a weight below 1"
    assert found["by-uncertainty-mean-1"] == pytest.approx([1] * 5, abs=1e-3), "the first steps are alike"


def test_the_ablation_compares_seed_by_seed_on_the_same_cases() -> None:
    ranks = ([9.0, 9, 9], [1.0, 1, 2], [2.0, 2, 2])
    whole = {seed: result(ranks[1], ranks[0], cell=Cell("uniform", seed)) for seed in (1, 2)}
    parts = [result(ranks[2], ranks[0], cell=Cell("no-mim", seed)) for seed in (1, 2, 3)]
    figures = {"uniform": ablation(list(whole.values()), whole, ["toys"])}
    figures["no-mim"] = ablation(parts, whole, ["toys"])
    lost = 1 / math.log2(3) - (2 + 1 / math.log2(3)) / 3
    for domain in ("toys", "mean"):
        row = figures["no-mim"][domain]
        assert row["seeds"] == 3 and row["served"].n == 3 and row["served_gap"].n == 2, "seed 3 has no whole model"
        assert row["served"].mean == pytest.approx(1 / math.log2(3))
        assert row["served_gap"].mean == row["cross_gap"].mean == pytest.approx(lost)
        assert row["single_gap"].mean == 0
    table = ablation_table(figures)
    assert len(table.splitlines()) == 6 and f"{lost:+.4f} [" in table and "published" not in table


def test_the_tables_go_between_the_marks_of_their_page_and_the_words_around_them_stay() -> None:
    page = bench.PAGE.read_text(encoding="utf-8")
    once = bench.into_page(page, "| a |")
    assert "| a |" in once and bench.into_page(once, "| b |") == bench.into_page(page, "| b |")
    for words in (page.split(bench.MARKS[0])[0], page.split(bench.MARKS[1])[1]):
        assert words and words in once
    with pytest.raises(ValueError, match="put them back"):
        bench.into_page("a page without marks", "| a |")
