"""Negatives, NTG by its sign, bounds of the loss correction; the formulas are in test_equations_losses.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import DOMAINS, N_ITEMS, random_set, small_model

from syncrec_model import ModelConfig, SequenceSet
from syncrec_model.batches import SequenceReader
from syncrec_model.mutual_information import pooled_views
from syncrec_model.prediction import all_domains_losses, family_losses, uniform_negatives
from syncrec_model.transfer import LossCorrection, transfer_gap


def test_shared_targets_get_the_same_negative():
    """With equal views, a shared target's pairwise losses are equal: same event, same negative."""
    data, model = random_set(2, n_users=30, mean_length=9), small_model()
    batch = SequenceReader(data).training(np.arange(data.n_users))
    same = torch.ones(1, 8, dtype=torch.float64)
    cross, single = family_losses(
        "pairwise", same.expand(len(batch.cross_targets_N), -1), same.expand(len(batch.single_targets_N), -1),
        model.embedding.domain_tables(), batch, model.n_items_D1,
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


def test_a_domain_with_one_user_has_no_contrast():
    data = random_set(3, n_users=9).select([0])
    model = small_model()
    batch = SequenceReader(data).training(np.arange(1))
    losses = model(batch)
    assert not losses.mim_defined_D.any() and losses.mim_D.tolist() == [0, 0, 0]
    assert pooled_views(model.views(batch.cross), model.views(batch.single), batch)[2].sum() <= 3


def test_all_domains_at_once_is_domain_by_domain():
    """What a GPU computes in one product: the same losses and gradients as a softmax a domain."""
    data, model = random_set(2, n_users=30, mean_length=9), small_model(loss="softmax")
    batch, tables = SequenceReader(data).training(np.arange(data.n_users)), model.embedding.domain_tables()
    views = [model.views(packed).detach().requires_grad_() for packed in (batch.cross, batch.single)]
    found = []
    for losses in (
        family_losses("softmax", *views, tables, batch, model.n_items_D1, model.negative_sampler),
        all_domains_losses(*views, tables, batch, model.row_domains_V),
    ):
        total = losses[0].sum() + 2 * losses[1].square().sum()
        found.append([*losses, *torch.autograd.grad(total, [*views, model.embedding.items_VC])])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("others_only", [False, True])
def test_mutual_information_at_once_is_domain_by_domain(others_only):
    """Domains with many, one and no user of both views: the same losses, gradients and `defined`."""
    events = [(user, 1, 1 + user % 4) for user in range(5) for _ in range(2)] + [(4, 2, 1), (4, 2, 2)]
    users, domains, items = zip(*events, strict=True)
    data = SequenceSet.from_events(
        user_ids=users, item_indexes=items, domain_codes=domains, domains=DOMAINS, n_items=N_ITEMS, max_length=8
    )
    model = small_model(mim_others_only=others_only)
    batch = SequenceReader(data).training(np.arange(data.n_users))
    views = [model.views(packed).detach().requires_grad_() for packed in (batch.cross, batch.single)]
    module, found = model.mutual_information, []
    single_RC, cross_RC, has_view_R = pooled_views(*views, batch)
    kept = torch.nonzero(has_view_R).squeeze(1)
    domain_U = batch.single.tasks_R[kept]
    n_domains = len(data.domains)
    for losses_D, defined_D in (
        module(*views, batch),
        module.all_domains(single_RC[kept], domain_U, cross_RC[kept], domain_U, 0, n_domains),
    ):
        weighted = (losses_D * torch.arange(1, n_domains + 1)).sum()
        gradients = torch.autograd.grad(weighted, [*views, module.weight_CC], retain_graph=True)
        found.append([losses_D, defined_D.double(), *gradients])
    for one, other in zip(*found, strict=True):
        assert torch.isfinite(one).all() and torch.allclose(one, other, atol=1e-12)
