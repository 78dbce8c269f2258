"""Ours and the ensembles as rows: they learn the planted rule, the guard holds, nobody reads a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import all_peers, ensemble
from benchmarks.peers.ours import Ours, of_users, train_sequences
from benchmarks.quality.cells import batches, rank
from benchmarks.quality.data import PARTS, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View
from syncrec_model import CaseRanks
from syncrec_model.batches import SequenceReader
from syncrec_model.measures import case_values
from tests.benchmarks.neural_world import planted

SMALL = {"channels": 16, "max_length": 8, "n_experts": 2, "n_cross_experts": 1}
BUDGET = Budget(threads=1, epochs=4, patience=4)


@pytest.fixture(scope="module")
def data() -> QualityData:
    return planted()


def no_kept(row: str) -> View:
    raise AssertionError(f"reads {row}")


def fitted_by(
    peer: Peer, data: QualityData, folder: Path, settings: Mapping[str, Any] | None = None, kept: Any = no_kept
) -> Fitted:
    return peer.fit(data, settings or {}, 0, BUDGET, folder, kept)


def scores(view: View, data: QualityData) -> list[np.ndarray]:
    return [view.score(part, index) for part in PARTS for _, index in batches(data, part)]


def ndcg(view: View, data: QualityData, part: str, code: int) -> float:
    values = case_values(rank(data, part, view)["full"])["ndcg@10"]
    return float(values[data.cases[part].domain_M == code].mean())


@pytest.fixture(scope="module")
def ours(data: QualityData, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fitted_by(Ours("default", SMALL), data, tmp_path_factory.mktemp("ours"))


def test_ours_learns_the_planted_rule_and_serves_what_validation_chose(data: QualityData, ours: Fitted) -> None:
    assert set(ours.views) == {"", "cross", "single", "blend"}
    for code, domain in enumerate(data.domains, start=1):
        chosen = ours.chosen["served"][domain]
        for part in PARTS:
            assert ndcg(ours.views[""], data, part, code) == ndcg(ours.views[chosen], data, part, code)
        assert ndcg(ours.views[""], data, "test", code) > 0.8
    assert set(ours.chosen["ntg_by_epoch"]) == set(data.domains)
    assert all(len(gaps) == ours.chosen["epochs"] for gaps in ours.chosen["ntg_by_epoch"].values())


def test_everybody_trains_on_outside_users_and_candidates_alone(data: QualityData) -> None:
    alone, everybody = (train_sequences(data, 8, outside=outside) for outside in (False, True))
    assert alone.n_users == data.n_users
    known = data.outside.item_E <= np.array([0, *data.n_items])[data.outside.domain_E]
    counts = np.bincount(data.outside.user_E[known])
    assert everybody.n_users == data.n_users + (counts > 1).sum()
    assert everybody.cross_lengths_U.sum() == alone.cross_lengths_U.sum() + counts[counts > 1].sum()


def test_other_targets_of_the_test_cases_change_no_score(data: QualityData, ours: Fitted, tmp_path: Path) -> None:
    cases = data.cases["test"]
    items_E = data.events.item_E.copy()
    items_E[cases.event_M] = items_E[cases.event_M] % np.array([0, *data.n_items])[cases.domain_M] + 1
    moved = dataclasses.replace(data, events=dataclasses.replace(data.events, item_E=items_E))
    again = fitted_by(Ours("default", SMALL), moved, tmp_path)
    for before, after in zip(scores(ours.views[""], data), scores(again.views[""], moved), strict=True):
        np.testing.assert_array_equal(before, after)


def kept_of(data: QualityData) -> Callable[[str], View]:
    """Two fixed systems in place of the trained rows."""

    def kept(row: str) -> View:
        def score(part: str, index: np.ndarray) -> np.ndarray:
            code = int(data.cases[part].domain_M[index[0]])
            seed = [len(row), len(part), code]
            return np.random.default_rng(seed).random((len(index), data.n_items[code - 1])).astype(np.float32)

        return View(score)

    return kept


def test_the_plain_ensemble_is_the_sum(data: QualityData, tmp_path: Path) -> None:
    kept, pair = kept_of(data), ensemble.PAIRS[0]
    found = fitted_by(ensemble.PlainEnsemble(), data, tmp_path, pair, kept).views[""]
    for part in PARTS:
        for _, index in batches(data, part):
            expected = kept(pair["mixed"]).score(part, index) + kept(pair["single"]).score(part, index)
            np.testing.assert_array_equal(found.score(part, index), expected)


def test_the_equipped_ensemble_fits_the_features_of_ours(data: QualityData, tmp_path: Path) -> None:
    """Its two members here are noise: what it has learned is in the neighbours."""
    found = fitted_by(ensemble.EquippedEnsemble(), data, tmp_path, {}, kept_of(data))
    for code, domain in enumerate(data.domains, start=1):
        cross, single, near, near_own, _ = found.chosen["blend"][domain]
        assert near + near_own > 1 and abs(cross) + abs(single) < 2
        noise = kept_of(data)("anything")
        assert ndcg(found.views[""], data, "test", code) > ndcg(noise, data, "test", code) + 0.2


def test_neighbours_alone_need_no_row_and_rank_well_above_chance(data: QualityData, tmp_path: Path) -> None:
    found = fitted_by(ensemble.FittedNeighbours(), data, tmp_path, {})
    noise = kept_of(data)("anything")
    for code, domain in enumerate(data.domains, start=1):
        cross, single, near, near_own, _ = found.chosen["blend"][domain]
        assert (cross, single) == (0, 0) and near + near_own > 1
        assert ndcg(found.views[""], data, "test", code) > ndcg(noise, data, "test", code) + 0.2


def test_a_domain_without_validation_cases_is_ranked_by_its_neighbours(data: QualityData, tmp_path: Path) -> None:
    valid = data.cases["valid"]
    kept_M = valid.domain_M == 1
    fewer = dataclasses.replace(
        valid, **{f.name: getattr(valid, f.name)[kept_M] for f in dataclasses.fields(valid)}
    )
    without = dataclasses.replace(data, cases={**data.cases, "valid": fewer})
    found = fitted_by(ensemble.FittedNeighbours(), without, tmp_path, {})
    first, second = (found.chosen["blend"][domain] for domain in data.domains)
    assert second == [0, 0, 1, 0, 0] and first[2] + first[3] > 1
    assert ndcg(found.views[""], data, "test", 2) > ndcg(kept_of(data)("anything"), data, "test", 2) + 0.2


@pytest.mark.parametrize(
    "peer",
    [ensemble.PlainEnsemble(), ensemble.EquippedEnsemble(), ensemble.FittedNeighbours()],
    ids=["plain", "equipped", "neighbours"],
)
def test_other_targets_of_the_test_cases_change_no_score_of_an_ensemble(
    peer: Peer, data: QualityData, tmp_path: Path
) -> None:
    items_E = data.events.item_E.copy()
    at = data.cases["test"].event_M
    items_E[at] = 1 + items_E[at] % np.array(data.n_items)[data.events.domain_E[at] - 1]
    moved = dataclasses.replace(data, events=dataclasses.replace(data.events, item_E=items_E))
    kept, settings = kept_of(data), peer.search[0]
    first = fitted_by(peer, data, tmp_path / "0", settings, kept).views[""]
    again = fitted_by(peer, moved, tmp_path / "1", settings, kept).views[""]
    for before, after in zip(scores(first, data), scores(again, moved), strict=True):
        np.testing.assert_array_equal(before, after)


def test_started_items_are_those_of_ours_at_their_scale(data: QualityData) -> None:
    items_VC = ensemble.started_items(data)
    assert items_VC.shape == (sum(data.n_items), 64) and items_VC.dtype == np.float32
    assert 0.05 < np.sqrt(np.square(items_VC).mean()) < 0.2


def test_every_row_has_a_name_of_its_own_and_what_it_reads_is_there() -> None:
    peers = all_peers()
    assert {"default", "paper", "ensemble.plain", "ensemble.equipped", "released"} <= set(peers)
    for peer in peers.values():
        assert all(peers[need].keeps_scores for need in peer.needs), peer.name
    assert peers["sasrec.all.started"].kind == "multi-domain", "its start vectors know all domains"


def test_quick_trains_one_mixed_sasrec_of_each_start_and_no_row_lacks_what_it_reads() -> None:
    quick = {name: found for name, peer in all_peers().items() if (found := peer.quick())}
    known = [name for name in quick if name.startswith("sasrec.")]
    assert sorted(known) == [
        "sasrec.all", "sasrec.all.started", "sasrec.mixed-all", "sasrec.mixed-all.started", "sasrec.single",
    ]  # fmt: skip
    plain = quick["ensemble.plain"]
    assert list(plain.search) == [{"mixed": "sasrec.mixed-all", "single": "sasrec.all"}]
    assert all(need in quick for peer in quick.values() for need in peer.needs)
    assert len(all_peers()["ensemble.plain"].search) == 2, "the whole benchmark tries both"


@pytest.mark.parametrize("split", ["leave-one-out", "time"])
def test_the_intervals_of_the_guard_resample_users_not_cases(split: str) -> None:
    data = planted(split=split)
    cases = data.cases["valid"]
    valid = data.case_sequences("valid", 10)
    read = SequenceReader(valid).cases()
    made = CaseRanks(
        data.domains,
        read.user_M,
        read.domain_M,
        {"single": np.ones(len(read))},
        np.ones(len(read)),
        np.ones(len(read)),
    )
    found = of_users(made, data, "valid")
    assert sorted(found.user.tolist()) == sorted(cases.user_M.tolist())
    assert np.array_equal(cases.domain_M[made.user], found.domain)
    several = len(cases) > len(np.unique(cases.user_M))
    assert several == (split == "time") == (len(np.unique(found.user)) < len(found))
