"""Other weights of the cross losses: each follows its driver within bounds; measuring it changes nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.peers import all_peers, weightings
from benchmarks.peers.ours import SHARED, Ours, train_sequences
from benchmarks.peers.weightings import (
    BOUNDED,
    UNIFORM,
    ByConflict,
    ByNdcg,
    ByUncertainty,
    ConflictSyNCRec,
    UncertainSyNCRec,
    agreement,
)
from benchmarks.quality.data import QualityData, cut
from benchmarks.quality.protocol import Budget
from syncrec_model import EpochReport, ModelConfig, SyNCRec, build_model
from syncrec_model.batches import SequenceReader, TrainingBatch
from tests.benchmarks.neural_world import fit, planted, scores, share_first

SMALL: dict[str, Any] = {"channels": 16, "max_length": 8, "n_experts": 2, "n_cross_experts": 1}
BUDGET = Budget(threads=1, epochs=3, patience=3)


@pytest.fixture(scope="module")
def data() -> QualityData:
    return planted(80)


@pytest.fixture(scope="module")
def three() -> QualityData:
    """Make three domains; the events of the third are drawn, those of the others follow one another."""
    rng, rows = np.random.default_rng(0), []
    for user in range(60):
        at = rng.integers(0, 12, 3)
        for step in range(12):
            domain = int(rng.integers(3))
            at[domain] = rng.integers(12) if domain == 2 else (at[domain] + 1) % 12
            rows.append((f"u{user:02}", f"{'ABC'[domain]}{at[domain]:02}", step, "ABC"[domain]))
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "ts", "domain"])
    return cut("three", log, log.head(0), ("A", "B", "C"), split="leave-one-out")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightings, "CONFLICT_EVERY", 1)


def batch_of(data: QualityData, n_users: int = 40) -> TrainingBatch:
    batch = SequenceReader(train_sequences(data, 8, outside=False)).training(np.arange(n_users))
    return dataclasses.replace(batch, seed=torch.tensor(3))


def config(**changes: Any) -> ModelConfig:
    return dataclasses.replace(ModelConfig.preset("default"), **{"dropout": 0.0, **SMALL, **changes})


def report_of(gaps: dict[str, tuple[float, float]]) -> EpochReport:
    """Make a report of the views' NDCG@10, (cross, single) by domain."""
    domains = {
        domain: {"cross.ndcg@10": cross, "single.ndcg@10": single, "ntg_ndcg": cross - single}
        for domain, (cross, single) in gaps.items()
    }
    return EpochReport(1, 1.0, 1.0, domains, {})


def weights_after(data: QualityData, gaps: dict[str, tuple[float, float]]) -> list[float]:
    row = ByNdcg("x", {**SMALL, **BOUNDED})
    model = row.build(row.config, data)
    row.on_epoch(model, report_of(gaps))
    zeros_D = torch.zeros(len(data.domains))
    return [round(value, 4) for value in model.train().correction(zeros_D, zeros_D).tolist()]


def test_a_domain_whose_cross_view_lags_weighs_less_by_the_share_it_lags(data: QualityData) -> None:
    assert weights_after(data, {"A": (0.04, 0.04), "B": (0.4, 0.4)}) == [1, 1]
    lag, lead = weights_after(data, {"A": (0.03, 0.04), "B": (0.4, 0.4)})
    assert 0.5 < lag < 1 < lead < 1.5 and lag + lead == 2
    assert weights_after(data, {"A": (0.3, 0.4), "B": (0.04, 0.04)}) == [lag, lead]  # whatever its level
    assert weights_after(data, {"A": (0.0, 0.4), "B": (0.4, 0.0)}) == [0.5, 1.5]  # at the bounds
    nothing = {"A": (float("nan"), float("nan")), "B": (0.0, 0.0)}
    assert weights_after(data, nothing) == [1, 1]


@pytest.mark.parametrize("kind", [ByNdcg, ByConflict])
def test_driving_the_weights_is_all_that_a_driven_row_changes(
    kind: type[Ours], data: QualityData, tmp_path: Path, often: None
) -> None:
    """With a floor of 1 every weight is 1: the row is then the uniform one to the bit, dropout's draws included."""
    uniform = Ours("uniform", {**SMALL, **UNIFORM})
    row = kind("driven", {**SMALL, **BOUNDED, "correction_floor": 1.0})
    expected, found = (fit(each, data, tmp_path, {}, budget=BUDGET) for each in (uniform, row))
    assert any(value for drivers in found.chosen["driver_by_epoch"].values() for value in drivers)
    for before, after in zip(scores(expected, data), scores(found, data), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", [ByNdcg, ByConflict])
def test_a_driven_row_keeps_its_weights_by_epoch(
    kind: type[Ours], three: QualityData, tmp_path: Path, often: None
) -> None:
    found = fit(kind("driven", {**SMALL, **BOUNDED}), three, tmp_path, {}, budget=BUDGET)
    weights_DE, drivers_DE = (
        np.array([found.chosen[f"{name}_by_epoch"][domain] for domain in three.domains])
        for name in ("weight", "driver")
    )
    assert weights_DE.shape == drivers_DE.shape == (3, found.chosen["epochs"])
    np.testing.assert_allclose(weights_DE.mean(0), 1, atol=1e-5)
    assert (weights_DE >= 0.5).all() and (np.abs(drivers_DE) <= 1).all() and (weights_DE != 1).any()
    if kind is ByNdcg:  # the gap of an epoch decides the next
        assert (weights_DE[:, 0] == 1).all()
        np.testing.assert_array_equal(weights_DE[:, 1:].argsort(0), drivers_DE[:, :-1].argsort(0))


@pytest.mark.parametrize("kind", [ByNdcg, ByConflict])
def test_a_driven_row_learns(kind: type[Ours], data: QualityData, tmp_path: Path) -> None:
    found = fit(kind("driven", {**SMALL, **BOUNDED}), data, tmp_path, {}, budget=BUDGET)
    assert share_first(found, data) > 0.5
    if kind is ByConflict:  # two domains oppose one another equally
        assert {value for weights in found.chosen["weight_by_epoch"].values() for value in weights} == {1.0}


def test_agreement_is_the_cosine_with_the_sum_of_the_others() -> None:
    gradients_DP = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    found = agreement(gradients_DP)
    expected = [-2 / 5**0.5, -1 / 2**0.5, 0.0]
    torch.testing.assert_close(found[:3], torch.tensor(expected))
    assert found[3].isnan()
    opposed = agreement(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    torch.testing.assert_close(opposed, torch.tensor([-1.0, -1.0]))


@pytest.mark.parametrize("acmoe", [True, False])
def test_input_gradients_are_those_of_each_domains_cross_losses_through_the_input(
    acmoe: bool, data: QualityData
) -> None:
    """Against each domain's losses differentiated alone, the output table held."""
    torch.manual_seed(0)
    model = ConflictSyNCRec(config(**BOUNDED, **({} if acmoe else SHARED)), data).double()
    batch = batch_of(data)
    found = model.input_gradients(batch)
    assert not found[:, sorted(set(range(len(found[0]))) - set(batch.cross.items_N.tolist()))].any()
    for code, table in enumerate(model.embedding.tables(), start=1):
        own_N = batch.cross_domains_N == code
        scores_nV = model.views(batch.cross)[own_N] @ table.detach().T
        loss = torch.nn.functional.cross_entropy(scores_nV, batch.cross_targets_N[own_N] - 1, reduction="sum")
        (expected_VC,) = torch.autograd.grad(loss, model.embedding.items_VC)
        assert expected_VC.any()
        torch.testing.assert_close(found[code - 1], expected_VC)


def test_conflict_is_measured_now_and_then_in_training_alone(
    data: QualityData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weightings, "CONFLICT_EVERY", 3)
    model = ConflictSyNCRec(config(**BOUNDED), data)
    batch, calls = batch_of(data), []
    measured = model.input_gradients
    monkeypatch.setattr(model, "input_gradients", lambda batch: calls.append(int(model.steps)) or measured(batch))
    for _ in range(7):
        model(batch)
    model.eval()(batch)
    assert calls == [0, 3, 6]
    assert (model.correction.driver_D.abs() > 0).all() and (model.correction.driver_D.abs() < 1).all()


def total_gradient(model: SyNCRec, batch: TrainingBatch) -> tuple[Any, torch.Tensor]:
    losses = model(batch)
    losses.total.backward()
    return losses, model.embedding.items_VC.grad


def uncertain(data: QualityData, s_D: list[float], *, mean_one: bool) -> UncertainSyNCRec:
    torch.manual_seed(0)
    model = UncertainSyNCRec(config(**UNIFORM), data, mean_one=mean_one).double()
    with torch.no_grad():
        model.correction.log_variance_D.copy_(torch.tensor(s_D))
    return model


def test_uncertainty_starts_as_the_uniform_rule_and_settles_at_the_mean_losses(data: QualityData) -> None:
    batch = batch_of(data)
    torch.manual_seed(0)
    expected = total_gradient(build_model(config(**UNIFORM), data.domains, data.n_items).double(), batch)[1]
    model = uncertain(data, [0.0, 0.0], mean_one=False)
    losses, found = total_gradient(model, batch)
    torch.testing.assert_close(found, expected)
    mean_D, share_D = losses.cross_sum_D / losses.cross_count_D, losses.cross_count_D / losses.cross_count_D.sum()
    slope_D = model.config.eta * share_D * (1 - mean_D)
    torch.testing.assert_close(model.correction.log_variance_D.grad, slope_D)
    settled = uncertain(data, mean_D.log().tolist(), mean_one=False)
    losses, _ = total_gradient(settled, batch)
    torch.testing.assert_close(losses.weight_D, 1 / mean_D)
    assert settled.correction.log_variance_D.grad.abs().max() < 1e-6


def test_mean_one_holds_the_cross_losses_together_at_their_weight(data: QualityData) -> None:
    losses, _ = total_gradient(uncertain(data, [1.0, 2.0], mean_one=True), batch_of(data))
    first, second = losses.weight_D.tolist()
    assert first + second == pytest.approx(2) and first / second == pytest.approx(np.e)


@pytest.mark.parametrize("mean_one", [True, False])
def test_uncertainty_learns_and_its_weights_move(mean_one: bool, data: QualityData, tmp_path: Path) -> None:
    row = ByUncertainty("x", mean_one=mean_one, changes={**SMALL, **UNIFORM})
    found = fit(row, data, tmp_path, {}, budget=BUDGET)
    assert share_first(found, data) > 0.5
    a, b = (found.chosen["weight_by_epoch"][domain] for domain in data.domains)
    assert len(a) == found.chosen["epochs"] and a[-1] != 1
    assert not mean_one or a[-1] + b[-1] == pytest.approx(2)


def names_when(default: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    changed = dataclasses.replace(ModelConfig(), **default)
    monkeypatch.setattr(ModelConfig, "preset", lambda name: changed)
    return {row.name for row in weightings.acmoe_rows()}


def test_the_default_is_no_second_row_whichever_form_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    divided = names_when(weightings.DIVIDED, monkeypatch)
    assert divided == {"default.no-acmoe", "default.no-stop-gradient"}
    assert names_when(SHARED, monkeypatch) == {"default.acmoe"}


def test_the_rows_are_registered_once() -> None:
    peers, own = all_peers(), weightings.PEERS
    assert {"default.by-ndcg", "default.by-conflict", "default.by-uncertainty"} <= set(peers)
    assert all(peers[row.name] is row and row.kind == "ours" for row in own)
    assert all(row.slow for row in own if ".by-" in row.name)
