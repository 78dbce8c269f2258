"""Row-wise AdamW: AdamW for the rows that are named, nothing for the others; such a run resumes to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import planted_sets

from syncrec_model import ModelConfig, SyNCRec, TrainingConfig, fit, metrics, rank_cases
from syncrec_model.optimizer import RowAdamW, clip_gradients

SAMPLED = ModelConfig(
    channels=16, max_length=8, n_experts=2, n_cross_experts=1, dropout=0.1, full_softmax_items=10,
    sampled_negatives=5,
)  # fmt: skip
TRAINING = TrainingConfig(epochs=3, batch_size=32, learning_rate=3e-3, warmup_steps=5, device="cpu")


def adamw_by_loops(weight, gradients, lr, decay):
    """Return the table after the steps; gradients: per step {row: gradient}."""
    weight = {row: list(values) for row, values in enumerate(weight.tolist())}
    mean = {row: [0.0] * len(values) for row, values in weight.items()}
    square = {row: [0.0] * len(values) for row, values in weight.items()}
    for step, named in enumerate(gradients, start=1):
        for row, gradient in named.items():
            for c, g in enumerate(gradient.tolist()):
                mean[row][c] = 0.9 * mean[row][c] + 0.1 * g
                square[row][c] = 0.999 * square[row][c] + 0.001 * g * g
                root = np.sqrt(square[row][c] / (1 - 0.999**step)) + 1e-8
                weight[row][c] *= 1 - lr * decay
                weight[row][c] -= lr * mean[row][c] / (1 - 0.9**step) / root
    return np.array([weight[row] for row in range(len(weight))])


def sparse(named, shape):
    """Each row twice, in halves: a gradient as autograd adds it up."""
    rows = [row for row in named for _ in range(2)]
    values = torch.stack([named[row] / 2 for row in rows])
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=False)


def test_rows_get_adamw_and_the_others_nothing():
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    steps = [(0, 4), (4,), (1, 4), (4, 0), (2, 4, 5)]
    gradients = [{row: torch.randn(4, dtype=torch.float64, generator=generator) for row in rows} for rows in steps]
    table, dense = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start[4].clone())
    ours = RowAdamW([table], lr=0.1, weight_decay=0.3)
    theirs = torch.optim.AdamW([dense], lr=0.1, weight_decay=0.3)
    for named in gradients:
        table.grad, dense.grad = sparse(named, table.shape), named[4]
        ours.step(), theirs.step()
    assert table.detach().numpy() == pytest.approx(adamw_by_loops(start, gradients, 0.1, 0.3), abs=1e-12)
    assert torch.allclose(table[4], dense, rtol=0, atol=1e-12)  # named at every step
    assert torch.equal(table[3], start[3])  # never named
    assert {key: value.shape for key, value in ours.state[table].items()} == {
        "step": (), "exp_avg": (6, 4), "exp_avg_sq": (6, 4)
    }  # fmt: skip


def test_dense_gradients_get_torchs_fused_adamw_to_the_bit():
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 12)) for _ in range(2))
    one = RowAdamW([ours], lr=0.1, weight_decay=0.1)
    two = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1, fused=True)
    for step in range(4):
        ours.grad, theirs.grad = (torch.cos(torch.arange(12.0) + step) for _ in range(2))
        one.step(), two.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_takes_rows_and_dense_gradients_together(max_norm):
    named = {1: torch.tensor([3.0, 4.0]), 4: torch.tensor([0.0, 12.0])}
    table, other = torch.nn.Parameter(torch.zeros(5, 2)), torch.nn.Parameter(torch.zeros(3))
    table.grad, other.grad = sparse(named, table.shape), torch.full((3,), 2.0)
    assert clip_gradients([table, other], max_norm).item() == pytest.approx((25 + 144 + 12) ** 0.5)
    scale = min(1.0, max_norm / 181**0.5)
    assert table.grad.to_dense()[1].tolist() == pytest.approx([3 * scale, 4 * scale], rel=1e-5)
    assert other.grad.tolist() == pytest.approx([2 * scale] * 3, rel=1e-5)


@pytest.fixture(scope="module")
def planted():
    return planted_sets()  # 12 and 10 items: the first domain is sampled, the second full


def fresh(train):
    torch.manual_seed(11)
    return SyNCRec(SAMPLED, train.domains, train.n_items)


def test_a_sampled_model_learns_the_planted_relation(planted):
    train, valid, _ = planted
    model = fresh(train)
    fit(model, train, valid, dataclasses.replace(TRAINING, epochs=12), progress=False)
    assert model.negative_sampler.sampled == (1,)
    ranked = rank_cases(model, valid, repeats=train.domains)
    for code in (1, 2):
        assert metrics(ranked.ranks["blend"][ranked.domain == code])["ndcg@5"] > 0.6


class PowerCut(Exception):
    """The machine stops in the middle of a night."""


def test_a_resumed_sampled_run_equals_an_uninterrupted_one_to_the_bit(planted, tmp_path):
    train, valid, _ = planted
    whole, again = fresh(train), fresh(train)
    fit(whole, train, valid, TRAINING, progress=False)

    def cut(report):
        if report.epoch == 2:
            raise PowerCut

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(PowerCut):
        fit(fresh(train), train, valid, TRAINING, on_epoch=cut, checkpoint=path, progress=False)
    assert fit(again, train, valid, TRAINING, checkpoint=path, progress=False).resumed_after == 1
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
