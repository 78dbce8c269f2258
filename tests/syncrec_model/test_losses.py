"""Prediction losses, NTG with the lambda recursion, and SC-MIM against plain numpy loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import N_ITEMS, random_set, small_model

from syncrec_model import ModelConfig
from syncrec_model.batches import SequenceReader
from syncrec_model.mutual_information import pooled_views
from syncrec_model.prediction import family_losses, target_losses, uniform_negatives
from syncrec_model.transfer import LossCorrection, transfer_gap


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("kind", ["softmax", "pairwise", "bce"])
def test_each_loss_against_its_formula(kind):
    rng = np.random.default_rng(0)
    y, table = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
    target, negative = rng.integers(1, 10, 6), rng.integers(1, 10, 6)
    got = target_losses(kind, *(torch.from_numpy(a) for a in (y, table, target, negative)))
    for n in range(6):
        scores = [sum(y[n] * table[v]) for v in range(9)]
        plus, minus = scores[target[n] - 1], scores[negative[n] - 1]
        expected = {
            "softmax": np.log(sum(np.exp(s) for s in scores)) - plus,
            "pairwise": -np.log(sigmoid(sigmoid(plus) - sigmoid(minus))),
            "bce": -np.log(sigmoid(plus)) - np.log(1 - sigmoid(minus)),
        }[kind]
        assert got[n].item() == pytest.approx(expected, abs=1e-12)
    if kind == "pairwise":
        assert got.min() > 0.313 and got.max() < 1.314  # two sigmoids bound it


def test_family_losses_use_each_targets_own_domain_table():
    data, model = random_set(1), small_model()
    batch = SequenceReader(data).training(np.arange(data.n_users))
    y_cross, y_single = model.views(batch.cross), model.views(batch.single)
    tables = model.embedding.tables()
    assert [len(table) for table in tables] == list(N_ITEMS)
    cross, single = family_losses("softmax", y_cross, y_single, tables, batch, model.n_items_D1)
    for losses, y, items, domains in (
        (cross, y_cross, batch.cross_targets_N, batch.cross_domains_N),
        (single, y_single, batch.single_targets_N, batch.single_domains_N),
    ):
        for n in range(len(items)):
            scores = (y[n] @ tables[int(domains[n]) - 1].T).detach().numpy()
            expected = np.log(np.exp(scores).sum()) - scores[int(items[n]) - 1]
            assert losses[n].item() == pytest.approx(expected, abs=1e-10)


def test_shared_targets_get_the_same_negative():
    """With equal views, a shared target's pairwise losses are equal: same event, same negative."""
    data, model = random_set(2, n_users=30, mean_length=9), small_model()
    batch = SequenceReader(data).training(np.arange(data.n_users))
    same = torch.ones(1, 8, dtype=torch.float64)
    cross, single = family_losses(
        "pairwise", same.expand(len(batch.cross_targets_N), -1), same.expand(len(batch.single_targets_N), -1),
        model.embedding.tables(), batch, model.n_items_D1,
    )  # fmt: skip
    both = batch.shared_N >= 0
    assert both.sum() > 20 and torch.equal(single[both], cross[batch.shared_N[both]])


@given(n_items=st.integers(1, 6), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_negatives_lie_in_the_domain_and_are_never_the_target(n_items, seed):
    torch.manual_seed(seed)
    target = torch.randint(1, n_items + 1, (200,))
    drawn = uniform_negatives(target, torch.ones(200, dtype=torch.long), torch.tensor([0, n_items]))
    assert drawn.min() >= 1 and drawn.max() <= n_items
    if n_items > 1:
        assert not (drawn == target).any()


def test_negatives_are_uniform_over_the_others():
    target = torch.full((30_000,), 2)
    drawn = uniform_negatives(target, torch.ones_like(target), torch.tensor([0, 4]))
    assert (torch.bincount(drawn, minlength=5)[[1, 3, 4]] / 30_000).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)


def test_gap_is_positive_where_the_cross_task_is_better_and_counts_shared_targets_only():
    cross = torch.tensor([1.0, 2.0, 9.0], requires_grad=True)
    single = torch.tensor([3.0, 100.0, 1.0, 5.0], requires_grad=True)
    shared = torch.tensor([0, -1, 1, -1])
    sums, counts = transfer_gap(cross, single, shared, torch.tensor([1, 1, 2, 3]), 3)
    assert sums.tolist() == [2.0, -1.0, 0.0]  # helped; hurt; nothing shared
    assert counts.tolist() == [1.0, 1.0, 0.0]
    assert not sums.requires_grad


def correction(kind, **changes):
    module = LossCorrection(3, ModelConfig(correction=kind, **changes)).double()
    with torch.no_grad():
        module.alpha.fill_(0.8)
        module.beta.fill_(1.7)
    return module


def test_lambda_recursion_is_the_papers():
    module = correction("paper", temperature=0.5)
    expected, phi = np.full(3, 1 / 3), np.zeros(3)
    for gap, count in (([2.0, -4.0, 0.0], [2, 4, 0]), ([1.0, 0.0, 6.0], [4, 0, 3]), ([-1.0, 1.0, 1.0], [1, 1, 1])):
        phi = np.array([g / c if c else p for g, c, p in zip(gap, count, phi, strict=True)])
        z = np.exp((0.8 * expected + 1.7 * phi) / 0.5)
        expected = z / z.sum()
        weight = module(torch.tensor(gap).double(), torch.tensor(count).double())
        assert module.lambda_D.numpy() == pytest.approx(expected)
        assert weight.detach().numpy() == pytest.approx(expected)
        assert module.phi_D.numpy() == pytest.approx(phi)
    (weight * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert module.alpha.grad.abs() > 0 and module.beta.grad.abs() > 0


def test_evaluation_takes_no_step_of_the_recursion():
    module = correction("paper").eval()
    module(torch.tensor([2.0, -4.0, 0.0]).double(), torch.ones(3).double())
    assert module.lambda_D.tolist() == pytest.approx([1 / 3] * 3)


def test_uniform_and_bounded_weights():
    gap, count = torch.tensor([50.0, -50.0, 0.0]).double(), torch.ones(3).double()
    uniform = correction("uniform")
    assert uniform(gap, count).tolist() == [1, 1, 1]
    assert uniform.lambda_D[0] > 0.9  # tracked all the same
    bounded = correction("bounded", correction_floor=0.25)
    assert bounded(gap, count).tolist() == pytest.approx([1, 1, 1])  # fed with the steps before
    weight = bounded(gap, count)
    assert not weight.requires_grad
    assert weight.mean().item() == pytest.approx(1) and weight[0] > 1 > weight[1] > 0.2


@given(
    scores=st.lists(st.floats(-20, 20), min_size=1, max_size=12), floor=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])
)
@settings(max_examples=100, deadline=None)
def test_bounded_weights_have_mean_one_stay_within_bounds_and_keep_the_order(scores, floor):
    module = LossCorrection(len(scores), ModelConfig(correction="bounded", correction_floor=floor)).double()
    lambda_D = torch.softmax(torch.tensor(scores, dtype=torch.float64), 0).requires_grad_()
    weight = module.weights(lambda_D)
    assert not weight.requires_grad
    assert weight.mean().item() == pytest.approx(1, abs=1e-12)
    assert weight.min() >= floor - 1e-12 and weight.max() <= 2 - floor + 1e-12
    in_order = weight[torch.argsort(lambda_D)]
    assert (in_order.diff() >= -1e-12).all()
    scaled = len(scores) * lambda_D
    if (scaled - 1).abs().max() <= 1 - floor:  # inside the bounds nothing is touched
        assert weight.tolist() == pytest.approx(scaled.tolist(), abs=1e-9)
    elif floor < 1:  # outside them, the domain furthest from 1 lies on its bound
        assert (weight - 1).abs().max().item() == pytest.approx(1 - floor)


def views_by_loops(data, batch, y_cross, y_single):
    """Return {(domain, user): (single, cross)}: means over the input events that both sequences hold."""
    order = sorted(
        range(len(data.single_users_N)), key=lambda n: (data.single_domains_N[n], data.single_users_N[n])
    )
    found = {}
    for row, n in enumerate(order):
        user, ours, theirs = data.single_users_N[n], [], []
        for token in np.flatnonzero(batch.single.rows_N.numpy() == row):
            column = int(batch.single.columns_N[token])
            if batch.single.items_N[token] == 0 or data.single_places_NT[n, column] < 0:
                continue
            for other in np.flatnonzero(batch.cross.rows_N.numpy() == user):
                if int(batch.cross.columns_N[other]) == data.single_places_NT[n, column]:
                    ours.append(y_single[token])
                    theirs.append(y_cross[other])
        if ours:
            found[int(data.single_domains_N[n]), int(user)] = (np.mean(ours, 0), np.mean(theirs, 0))
    return found


@pytest.mark.parametrize(("others_only", "score"), [(False, "sigmoid"), (True, "sigmoid"), (False, "cosine")])
def test_mutual_information_against_loops(others_only, score):
    data = random_set(3, n_users=20, mean_length=7)
    model = small_model(mim_others_only=others_only, mim_score=score)
    batch = SequenceReader(data).training(np.arange(data.n_users))
    y_cross, y_single = model.views(batch.cross).detach(), model.views(batch.single).detach()
    got, defined = model.mutual_information(y_cross, y_single, batch)
    weight = model.mutual_information.weight_CC.detach().numpy()
    views = views_by_loops(data, batch, y_cross.numpy(), y_single.numpy())

    def rho(u, v):
        if score == "sigmoid":
            return sigmoid(u @ weight @ v)
        u = u @ weight
        return 10 * (u @ v) / np.sqrt((u @ u) * (v @ v))

    for d in (1, 2, 3):
        pairs = [views[key] for key in views if key[0] == d]
        losses = []
        for i, (single, cross) in enumerate(pairs):
            contrast = sum(np.exp(rho(s, cross)) for k, (s, _) in enumerate(pairs) if k != i or not others_only)
            losses.append(-(rho(single, cross) - np.log(contrast)))
        assert defined[d - 1] and len(pairs) > 2
        assert got[d - 1].item() == pytest.approx(np.mean(losses), abs=1e-10)


def test_a_domain_with_one_user_has_no_contrast():
    data = random_set(3, n_users=9).select([0])
    model = small_model()
    batch = SequenceReader(data).training(np.arange(1))
    losses = model(batch)
    assert not losses.mim_defined_D.any() and losses.mim_D.tolist() == [0, 0, 0]
    assert pooled_views(model.views(batch.cross), model.views(batch.single), batch)[2].sum() <= 3
