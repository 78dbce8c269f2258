"""Figures of the quality benchmark: measures on test, intervals over users and seeds, names in the results file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.quality.bootstrap import Bootstrap, Interval, gains, interval, macro_interval
from benchmarks.quality.cells import Cell, Result
from benchmarks.quality.data import NEWEST_STRATA, STRATA, TEST, Array, Cases, QualityData
from benchmarks.quality.figures import METRIC, flat, plain, summarise
from benchmarks.quality.plan import Scale
from benchmarks.quality.plots import _worth_a_name, draw, ntg_curves, ntg_over_epochs, sweep
from benchmarks.quality.runner import Runner
from benchmarks.quality.systems import Row, System, domain_means
from benchmarks.quality.tables import FOLDED, newest_table, report
from tests.benchmarks.quality_peers import BUDGET, DOMAINS, Planted, Silent, tiny

DATA = tiny()
FIRST, LATE = 1.0, 1000.0  # ranks whose NDCG@10 is 1 and 0


def system(name: str, *ranks_M: Array, data: QualityData = DATA) -> System:
    """Make a system of one seed for each array of test ranks."""
    runs = tuple(
        Result(
            Cell(name, {}, seed),
            {"views": [""]},
            {"/test/full": np.asarray(ranks), "/valid/full": np.asarray(ranks)},
        )
        for seed, ranks in enumerate(ranks_M)
    )
    return System(name, name, "", "ours", "", runs, data)


def shares(*share: float, data: QualityData = DATA) -> list[Array]:
    """Return ranks for each seed: as many of the cases right, the same for everybody's domain."""
    n = len(data.cases["test"])
    return [np.where(np.random.default_rng(1).random(n) < each, FIRST, LATE) for each in share]


def two_users() -> QualityData:
    """Make a set of one domain whose test holds one case of each of two users."""
    cases = DATA.cases["test"]
    first = {field.name: getattr(cases, field.name)[:2] for field in fields(cases)}
    return replace(DATA, cases={"test": Cases(**{**first, "domain_M": np.array([1, 1])})})


def test_an_interval_over_two_users_is_what_one_counts_by_hand() -> None:
    data = two_users()
    ours = system("ours", np.array([FIRST, LATE]), data=data)
    rival = system("rival", np.array([LATE, LATE]), data=data)
    bootstrap = Bootstrap(data, n_resamples=4_000)
    gap_R = (bootstrap.means(ours) - bootstrap.means(rival))[:, 0]
    # Both users, or one of them twice: the mean is 0, a half or 1 in a quarter, a half, a quarter of the draws.
    found, counts = np.unique(gap_R, return_counts=True)
    assert found.tolist() == [0, 0.5, 1] and np.allclose(counts / 4_000, [0.25, 0.5, 0.25], atol=0.03)
    (books, _), macro = gains(bootstrap, ours, [rival, rival])
    assert books.difference == Interval(0.5, 0.0, 1.0) == macro.difference  # toys have no case and do not count
    assert math.isnan(books.ratio.value)  # the rival has nothing to be a fraction of


def test_gains_of_some_cases_are_those_of_a_set_that_has_these_alone() -> None:
    cases = DATA.cases["test"]
    where_M = cases.user_M % 3 > 0
    some = {field.name: getattr(cases, field.name)[where_M] for field in fields(cases)}
    alone = replace(DATA, cases={"test": Cases(**some)})
    ours_M, rival_M = shares(0.6, 0.3)
    both = system("ours", ours_M), system("rival", rival_M)
    part = system("ours", ours_M[where_M], data=alone), system("rival", rival_M[where_M], data=alone)
    domains, macro = gains(Bootstrap(DATA, where_M=where_M), both[0], [both[1]] * 2)
    expected, expected_macro = gains(Bootstrap(alone), part[0], [part[1]] * 2)
    for found, wanted in zip((*domains, macro), (*expected, expected_macro), strict=True):
        assert found.difference.value == pytest.approx(wanted.difference.value)
        assert found.ratio.value == pytest.approx(wanted.ratio.value)
        # Other users are drawn beside these: the same width but for the chance of the draws.
        assert found.difference.low == pytest.approx(wanted.difference.low, abs=0.05)
        assert found.difference.high == pytest.approx(wanted.difference.high, abs=0.05)
    assert macro.difference.value != gains(Bootstrap(DATA), both[0], [both[1]] * 2)[1].difference.value


def test_seeds_are_drawn_too_and_as_wide_as_their_mean_varies() -> None:
    everyone = np.ones(len(DATA.cases["test"]))
    bootstrap = Bootstrap(DATA, n_resamples=4_000)
    found, counts = np.unique(
        bootstrap.means(system("x", everyone * FIRST, everyone * LATE))[:, 0].round(6), return_counts=True
    )
    wide = math.sqrt(2) / 2  # two values, 0 and 1: their mean has standard error 1/2, and so has this
    assert np.allclose(found, [0.5 - wide, 0.5, 0.5 + wide]) and np.allclose(
        counts / 4_000, [0.25, 0.5, 0.25], atol=0.03
    )
    assert np.isclose(bootstrap.means(system("x", everyone * FIRST, everyone * LATE))[:, 0].std(), 0.5, atol=0.02)


def test_a_gain_of_the_same_size_for_all_has_no_width_but_a_seed_that_varies_gives_it_one() -> None:
    ranks = shares(0.5)[0]
    rival = system("rival", ranks)
    bootstrap = Bootstrap(DATA)
    same = gains(bootstrap, system("same", ranks, ranks), [rival, rival])[1].difference
    assert same.value == 0 and same.high - same.low < 1e-12  # users vary, but both systems meet the same ones
    steady = gains(bootstrap, system("steady", *shares(0.6, 0.6, 0.6)), [rival, rival])[1].difference
    moving = gains(bootstrap, system("moving", *shares(0.4, 0.6, 0.8)), [rival, rival])[1].difference
    assert moving.high - moving.low > 1.5 * (steady.high - steady.low) > 0
    assert steady.word == "better" and moving.word == "unclear"
    assert same.word == "unclear"


def test_views_of_one_model_share_its_seeds() -> None:
    bootstrap = Bootstrap(DATA)
    ranks = shares(0.2, 0.8)
    model, other = system("model", *ranks), system("other", *ranks)
    view = System("model.cross", "model", "", "ours", "", model.runs, DATA)
    assert np.array_equal(bootstrap.means(model), bootstrap.means(view))
    assert not np.array_equal(bootstrap.means(model), bootstrap.means(other))


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(60):
        ours = system("ours", *[np.where(rng.random(60) < share, FIRST, LATE) for share in rng.normal(0.5, 0.1, 4)])
        found = macro_interval(Bootstrap(DATA, n_resamples=300), ours)
        inside += found.low <= 0.5 <= found.high
    assert 51 <= inside <= 60


def test_measures_are_means_inside_a_domain_then_over_domains() -> None:
    cases = DATA.cases["test"]
    ranks = np.where(cases.domain_M == 1, FIRST, np.where(cases.stratum_M == 1, 3.0, LATE))
    x = system("x", ranks)
    late = float((cases.stratum_M[cases.domain_M == 2] == 1).mean())
    assert np.allclose(x.by_domain("test"), [1, late / 2]) and math.isclose(x.macro("test"), (1 + late / 2) / 2)
    assert np.allclose(x.by_domain("test", where_M=cases.stratum_M == 1), [1, 0.5])
    assert math.isnan(domain_means(DATA, "test", ranks, np.zeros(len(ranks), bool))[0])
    assert math.isnan(interval(0.5, np.array([math.nan])).low)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    return trained(DATA, tmp_path_factory.mktemp("quality"))


def trained(data: QualityData, folder: Path) -> dict[str, Row]:
    """Train planted systems of every kind."""
    calls = folder / "calls"
    peers = [
        Planted(calls, "popularity", "trivial", valid=(0.1, 0.4), test=(0.2, 0.3), seeded=False),
        Planted(calls, "sasrec", "single-domain", {"dropout": 0.2}, {"dropout": 0.5}, valid=(0.4, 0.1), test=0.3),
        Planted(calls, "mixed", "multi-domain", valid=0.5, test=0.25, spread=0.05, views=("", "cross", "blend")),
        Planted(calls, "released", "multi-domain", absent=True),
        Planted(calls, "ensemble.equipped", "ensemble", valid=0.55, test=0.4),
        Planted(calls, "broken", "multi-domain", crash="always"),
        Planted(calls, "default", "ours", valid=0.6, test=0.6),
    ]
    return Runner(data, BUDGET, folder / "cache", peers, Scale(2, 2), Silent(folder)).run()


def test_figures_have_the_agreed_names_and_only_those_whose_rows_exist(rows: dict[str, Row]) -> None:
    figures = summarise(rows, DATA, n_resamples=200)
    assert figures.rivals.single == {"books": "sasrec", "toys": "popularity"}
    assert figures.rivals.multi == "mixed"  # not the equipped ensemble, whatever its validation
    found = flat(figures)
    domains = {f"a5.ndcg10.{d}.{name}" for d in DOMAINS for name in ("default", "best_single", "best_multi")}
    domains |= {f"a5.gain_ci_low.{d}" for d in DOMAINS}
    gained = {f"a5.gain_macro_vs_{name}" for name in ("best_single", "best_multi", "equipped_ensemble")}
    assert set(found) == domains | gained  # the released code is absent
    lines = figures.systems
    single = (lines["sasrec"].test[METRIC]["books"] + lines["popularity"].test[METRIC]["toys"]) / 2
    assert math.isclose(
        found["a5.gain_macro_vs_best_single"], lines["default"].test[METRIC]["macro"] / single - 1, rel_tol=1e-3
    )
    assert found["a5.gain_ci_low.books"] < figures.versus["best_single"].domains["books"].ratio.value
    assert found["a5.ndcg10.toys.best_multi"] == pytest.approx(lines["mixed"].test[METRIC]["toys"], rel=1e-3)
    without = summarise({name: row for name, row in rows.items() if name != "default"}, DATA, n_resamples=20)
    assert not any("gain" in name or "default" in name for name in flat(without))
    renamed = {**rows, "released": rows["mixed"]}
    renamed["released"].peer.name = "released"
    try:
        there = summarise(renamed, DATA, n_resamples=20)
        assert "released.ndcg10.books" in flat(there) and "a5quick.released.ndcg10.books" in flat(there, "a5quick")
    finally:
        rows["mixed"].peer.name = "mixed"


def test_targets_that_nobody_had_in_training_are_told_apart_from_the_others(
    rows: dict[str, Row], tmp_path: Path
) -> None:
    cases, log = DATA.cases["test"], DATA.events
    new_E = (log.domain_E == 1) & (log.item_E <= 5)
    data = replace(DATA, part_E=np.where(new_E, TEST, DATA.part_E))
    known_M = ~((cases.domain_M == 1) & (cases.target_M <= 5))
    assert 0 < (~known_M).sum() < len(known_M)
    found = trained(data, tmp_path)
    figures = summarise(found, data, n_resamples=50)
    assert figures.cases["target_strata"]["0"] == (~known_M).sum()
    assert sum(figures.cases["target_strata"].values()) == sum(figures.cases["strata"].values()) == len(known_M)

    runs = found["default"].results.values()
    full_M = np.mean([run.values("test", METRIC) for run in runs], axis=0)
    new_D = domain_means(data, "test", full_M, ~known_M)
    assert figures.systems["default"].target_strata["macro"]["0"] == pytest.approx(new_D[0])
    assert math.isnan(new_D[1])

    after_new_M = data.newest_stratum("test") == NEWEST_STRATA.index("new")
    n_after_new = figures.cases["newest_strata"]["new"]
    assert 0 < n_after_new == after_new_M.sum() and not (after_new_M & ~known_M).any()
    assert sum(figures.cases["newest_strata"].values()) == known_M.sum()

    def after_new(row: str) -> float:
        ranks_SM = np.stack([run.ranks["/test/known"] for run in found[row].results.values()])
        gained_M = np.where(ranks_SM <= 10, 1 / np.log2(1 + ranks_SM), 0).mean(0)
        return float(np.nanmean(domain_means(data, "test", gained_M, after_new_M)))

    for run in found["sasrec"].results.values():  # no new item stands in the way of these
        run.ranks["/test/known"][after_new_M] = FIRST
    figures = summarise(found, data, n_resamples=50)
    for row in ("default", "sasrec"):
        assert figures.systems[row].newest_strata["macro"]["new"] == pytest.approx(after_new(row))
    assert after_new("sasrec") == 1
    lines = list(figures.systems.values())
    few, enough = (
        replace(figures, cases={**figures.cases, "newest_strata": {"none": 0, "new": n, "known": 7}})
        for n in (199, 200)
    )
    shown = newest_table(enough, lines)
    assert shown.count("\n") == 2 + len(lines) and f"{after_new('default'):.4f}" in shown
    assert newest_table(few, lines) == ""
    assert "by the newest event" in report(enough, found) and "by the newest event" not in report(few, found)

    def among_known(row: str) -> Array:
        ranks_SM = np.stack([run.ranks["/test/known"] for run in found[row].results.values()])
        assert (np.isnan(ranks_SM) == ~known_M).all()
        full_SM = np.stack([run.ranks["/test/full"] for run in found[row].results.values()])
        books_M, toys_M = known_M & (cases.domain_M == 1), cases.domain_M == 2
        assert (ranks_SM[:, books_M] <= full_SM[:, books_M]).all()
        assert (ranks_SM[:, books_M] < full_SM[:, books_M]).any()
        assert (ranks_SM[:, toys_M] == full_SM[:, toys_M]).all()
        gained_SM = np.where(ranks_SM <= 10, 1 / np.log2(1 + ranks_SM), 0)
        return domain_means(data, "test", gained_SM.mean(0), known_M)

    assert set(figures.known) == set(figures.versus) == {"best_single", "best_multi", "ensemble.equipped"}
    gain = figures.known["ensemble.equipped"]
    expected_D = among_known("default") - among_known("ensemble.equipped")
    assert [gain.domains[d].difference.value for d in DOMAINS] == pytest.approx(expected_D.tolist())
    assert gain.macro.difference.low < gain.macro.difference.value < gain.macro.difference.high
    assert "a5time.known.gain_macro_vs_equipped_ensemble" in flat(figures, "a5time")
    text = " ".join(report(figures, found).split())
    assert "that somebody had in training, ranked among such items" in text
    assert f"| *cases* | {(~known_M).sum()} " in text
    everywhere = summarise(rows, DATA, n_resamples=20)
    assert everywhere.known == {} and "somebody had in training, ranked" not in report(everywhere, rows)


def test_intervals_are_of_the_ranking_that_is_asked_for() -> None:
    found = system("x", *shares(0.0))
    for run in found.runs:
        run.ranks["/test/known"] = np.full(len(run.ranks["/test/full"]), FIRST)
    assert not Bootstrap(DATA, n_resamples=20).means(found).any()
    assert (Bootstrap(DATA, n_resamples=20, ranking="known").means(found) == 1).all()


def test_cells_of_before_known_items_were_ranked_apart_have_no_such_figures(tmp_path: Path) -> None:
    log = DATA.events
    data = replace(DATA, part_E=np.where((log.domain_E == 1) & (log.item_E <= 5), TEST, DATA.part_E))
    found = trained(data, tmp_path)
    for run in found["sasrec"].results.values():
        del run.ranks["/test/known"]
    assert summarise(found, data, n_resamples=20).known == {}


def test_tables_show_every_row_every_trial_and_mark_the_sampled_protocol(rows: dict[str, Row]) -> None:
    figures = summarise(rows, DATA, n_resamples=50)
    text = report(figures, rows)
    assert "| mixed.cross" in text and "| popularity" in text
    assert "mixed.blend" not in text, "it is the row itself"
    assert "its library is not installed" in text and "the loss is not finite" in text
    assert "The papers' 100-negative protocol: not a measure of quality" in text
    transfer = text.split("**RQ2")[1].split("**")[1]
    assert [line.split("|")[1].strip() for line in transfer.strip().splitlines()[2:]] == [
        "default", "mixed", "mixed.cross", "ensemble.equipped", "*against*"]  # fmt: skip
    trials = text.split("**Every trial**")[1].strip().splitlines()[2:]
    assert len(trials) == sum(len(row.trials) for row in rows.values()) == 2 + 3 + 1 + 1 + 2 + 2 + 1 - 1 + 1
    assert sum("dropout 0.5" in line for line in trials) == 1
    assert all(line.count("|") == text.splitlines()[4].count("|") for line in text.splitlines()[4:6])


def test_a_page_folds_the_long_tables_and_loses_none(rows: dict[str, Row]) -> None:
    figures = summarise(rows, DATA, n_resamples=20)
    printed, page = report(figures, rows), report(figures, rows, fold=True)
    assert "<" not in printed
    folded = re.findall(r"<details>\n<summary><b>(.+?)</b></summary>\n\n(.+?)\n\n</details>", page, re.DOTALL)
    assert {title for title, _ in folded} == FOLDED
    unfolded = page
    for title, text in folded:
        assert f"**{title}**\n\n{text}" in printed and "<" not in text
        unfolded = unfolded.replace(
            f"<details>\n<summary><b>{title}</b></summary>\n\n{text}\n\n</details>", f"**{title}**\n\n{text}"
        )
    assert unfolded == printed


def test_details_are_json_and_the_sampled_protocol_is_left_out_where_it_cannot_be(rows: dict[str, Row]) -> None:
    figures = summarise(rows, DATA, n_resamples=50)
    text = json.dumps(plain(figures), allow_nan=False)
    assert set(json.loads(text)["systems"]["default"]["strata"]["macro"]) == set(STRATA)
    assert set(figures.systems["default"].sampled) == {
        "own100"
    }  # these systems cannot compare items of two domains
    cost = figures.systems["sasrec"].cost
    assert (
        cost.train_s == 1.5
        and cost.train_core_s >= 0
        and cost.search_s > 0
        and cost.parameters == 10
        and cost.peak_gib > 0
    )


def test_a_row_that_reads_others_costs_what_they_cost_too_and_only_those_it_chose(rows: dict[str, Row]) -> None:
    reader = replace(rows["default"], peer=Planted(Path("calls"), "default", "ours"))
    reader.peer.needs = ("sasrec", "another")
    alone = summarise(rows, DATA, n_resamples=50).systems
    both = summarise({**rows, "default": reader}, DATA, n_resamples=50).systems["default"].cost
    own, read = alone["default"].cost, alone["sasrec"].cost
    assert both.train_s == own.train_s + read.train_s and both.parameters == own.parameters + read.parameters
    assert both.user_ms == own.user_ms + read.user_ms and both.peak_gib == max(own.peak_gib, read.peak_gib)


def test_seconds_are_those_of_seeds_on_the_first_ones_kind_of_device(rows: dict[str, Row]) -> None:
    first, second = (rows["default"].results[seed] for seed in (0, 1))
    on_gpu = replace(second, figures={**second.figures, "device": "cuda", "train_s": first.figures["train_s"] + 99})
    mixed = replace(rows["default"], results={0: first, 1: on_gpu})
    cost = summarise({**rows, "default": mixed}, DATA, n_resamples=50).systems["default"].cost
    assert cost.device == "cpu" and cost.train_s == first.figures["train_s"]


def test_plots_are_drawn_from_what_is_there(rows: dict[str, Row], tmp_path: Path) -> None:
    figures = summarise(rows, DATA, n_resamples=50)
    files = draw(figures, rows, tmp_path)
    assert [file.name for file in files] == [
        "quality-gains.svg", "quality-cost.svg", "quality-transfer.svg", "quality-ntg.svg"]  # fmt: skip
    gains_svg = files[0].read_text()
    assert "against the best of one domain" in gains_svg and "books" in gains_svg
    assert (
        "mixed" in files[1].read_text()
        and "mixed.cross" in files[2].read_text()
        and "popularity" in files[2].read_text()
    )
    before = files[3].read_bytes()
    assert ntg_over_epochs(ntg_curves(rows["default"]), files[3]).read_bytes() == before  # no date, no random ids
    few = summarise({"sasrec": rows["sasrec"]}, DATA, n_resamples=20)
    assert [file.name for file in draw(few, {"sasrec": rows["sasrec"]}, tmp_path / "few")] == ["quality-cost.svg"]
    points = [(k, Interval(0.1 + k / 100, 0.09 + k / 100, 0.12 + k / 100)) for k in (2, 4, 8)]
    assert "experts" in sweep({"default": points}, "experts", tmp_path / "sweep.svg", log=True).read_text()


def test_the_plot_of_costs_names_the_default_the_rivals_the_ensembles_and_the_best_of_each_family() -> None:
    def line(name: str, macro: float, kind: str = "multi-domain") -> Any:
        return SimpleNamespace(name=name, kind=kind, macro=SimpleNamespace(value=macro))

    known = {"default": 0.5, "default.x": 0.6, "knn.all": 0.2, "knn.single": 0.1, "knn.mixed": 0.15}
    lines = [line(name, macro) for name, macro in known.items()]
    lines += [line("ensemble.a", 0.3, "ensemble"), line("ensemble.b", 0.4, "ensemble")]
    found = [each.name for each in _worth_a_name(lines, {"knn.single"})]
    assert found == ["default", "knn.all", "knn.single", "ensemble.a", "ensemble.b"]
