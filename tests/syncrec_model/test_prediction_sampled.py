"""The sampled softmax against plain loops: what it estimates, what it never does, what the correction is for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import N_ITEMS, random_set, small_model

from syncrec_model import cross_entropy, partition
from syncrec_model.batches import SequenceReader
from syncrec_model.partition import log_partition
from syncrec_model.prediction import family_losses, sampled_losses, softmax_losses
from syncrec_model.sampling import Negatives, NegativeSampler, expected_counts, item_counts


def sampled_by_loops(y, table, target, items, log_count):
    """Return the loss of every target: one sum over drawn items, the target's own draws left out."""
    losses = []
    for n in range(len(y)):
        plus = sum(y[n] * table[target[n] - 1])
        total = np.exp(plus)
        for item, log_expected in zip(items, log_count, strict=True):
            if item != target[n]:
                total += np.exp(sum(y[n] * table[item - 1]) - log_expected)
        losses.append(np.log(total) - plus)
    return np.array(losses)


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def random_case(seed, n_targets=7, n_items=40, channels=4):
    rng = np.random.default_rng(seed)
    y, table = rng.normal(size=(n_targets, channels)), rng.normal(size=(n_items, channels))
    return y, table, rng.integers(1, n_items + 1, n_targets)


@pytest.fixture
def tiny_tiles(monkeypatch):
    monkeypatch.setitem(partition._TILE, "cpu", (3, 4))
    monkeypatch.setattr(cross_entropy, "_KEPT", 0)


@given(seed=st.integers(0, 999), n_negatives=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_sampled_loss_is_the_sum_over_its_draws(seed, n_negatives):
    y, table, target = random_case(seed)
    sampler = NegativeSampler([40], 1, n_negatives)
    sampler.set_popularity([np.random.default_rng(seed).integers(0, 50, 40)])
    items, log_count = sampler.draw(1, torch.tensor(seed))
    target[0] = items[0]  # a target that was drawn
    got = sampled_losses(*tensors(y, table, target), Negatives(items, log_count))
    expected = sampled_by_loops(y, table, target, items.tolist(), log_count.tolist())
    assert got.numpy() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("n_negatives", [40, 400])
def test_all_items_drawn_is_the_full_softmax_with_its_gradient(tiny_tiles, n_negatives):
    y, table, target = random_case(3)
    sampler = NegativeSampler([40], 1, n_negatives)
    results = []
    for full in (True, False):
        y_NC, table_VC = (value.requires_grad_() for value in tensors(y, table))
        (target_N,) = tensors(target)
        if full:
            loss_N = torch.nn.functional.cross_entropy(y_NC @ table_VC.T, target_N - 1, reduction="none")
        else:
            loss_N = sampled_losses(y_NC, table_VC, target_N, sampler.draw(1))
        (loss_N * torch.arange(1.0, 8.0)).sum().backward()
        results.append([value.detach().numpy() for value in (loss_N, y_NC.grad, table_VC.grad)])
    for one, two in zip(*results, strict=True):
        assert one == pytest.approx(two, abs=1e-12)


@pytest.mark.parametrize("kept", [0, 1_000])
def test_full_softmax_is_the_plain_one_tiled_or_kept(tiny_tiles, monkeypatch, kept):
    monkeypatch.setattr(cross_entropy, "_KEPT", kept)
    monkeypatch.setattr(cross_entropy, "_TILE", 100)  # two rows of 40 items, so the last tile has one
    y, table, target = random_case(5)
    results = []
    for plain in (True, False):
        y_NC, table_VC = (value.requires_grad_() for value in tensors(y, table))
        (target_N,) = tensors(target)
        if plain:
            loss_N = torch.nn.functional.cross_entropy(y_NC @ table_VC.T, target_N - 1, reduction="none")
        else:
            loss_N = softmax_losses(y_NC, table_VC, target_N)
        (loss_N * torch.arange(1.0, 8.0)).sum().backward()
        results.append([value.detach().numpy() for value in (loss_N, y_NC.grad, table_VC.grad)])
    for one, two in zip(*results, strict=True):
        assert one == pytest.approx(two, abs=1e-12)


def test_scores_far_apart_neither_overflow_nor_vanish():
    y_NC, table_VC = (value.requires_grad_() for value in tensors([[100.0]], [[9.0], [-9.0], [0.0]]))
    loss_N = softmax_losses(y_NC, table_VC, torch.tensor([2]))
    loss_N.sum().backward()
    assert loss_N.tolist() == [1800.0] and y_NC.grad.tolist() == [[18.0]]
    assert table_VC.grad.tolist() == [[100.0], [-100.0], [0.0]]


def test_gradient_of_the_log_partition_by_differences(tiny_tiles):
    y, table, _ = tensors(*random_case(1, n_items=9))
    log_count, left_out = torch.linspace(-2, 0, 9).double(), torch.full((7, 2), -1)
    left_out[2], left_out[4, 0] = torch.tensor([3, 4]), 8
    inputs = (y.requires_grad_(), table.requires_grad_())
    assert torch.autograd.gradcheck(lambda *a: log_partition(*a, log_count, left_out), inputs)


def test_a_target_without_negatives_costs_nothing():
    y, table, _ = random_case(1)
    values = [value.requires_grad_() for value in tensors(y, table)]
    target = torch.full((7,), 5)
    loss = sampled_losses(*values, target, Negatives(torch.tensor([5]), torch.zeros(1)))
    loss.sum().backward()
    assert loss.tolist() == [0.0] * 7 and all(torch.equal(v.grad, torch.zeros_like(v)) for v in values)


@pytest.mark.parametrize("power", [0.0, 1.5])
@pytest.mark.parametrize("n_negatives", [2, 20])
def test_the_draw_estimates_the_full_sum_without_bias(power, n_negatives):
    """Mean over draws of the sum inside the logarithm: the full softmax's, whatever the proposal."""
    y, table, target = random_case(8, n_targets=2)
    sampler = NegativeSampler([40], 1, n_negatives)
    sampler.set_popularity([np.arange(1, 41) ** (2 * power)])
    sums = []
    for seed in range(500):
        items, log_count = sampler.draw(1, torch.tensor(seed))
        loss = sampled_losses(*tensors(y, table, target), Negatives(items, log_count))
        sums.append(np.exp(loss.numpy()))  # (exp(s+) + estimate) / exp(s+)
    full = np.exp(softmax_losses(*tensors(y, table, target)).numpy())
    error = np.std(sums, axis=0) / np.sqrt(len(sums))
    assert (np.abs(np.mean(sums, axis=0) - full) < 4 * error + 1e-9).all()


def test_gradient_comes_closer_to_the_full_one_with_more_negatives():
    y, table, target = random_case(4, n_targets=50, n_items=400, channels=8)

    def gradient(loss_of):
        y_NC, table_VC = (value.requires_grad_() for value in tensors(y, table))
        loss_of(y_NC, table_VC, torch.from_numpy(target)).mean().backward()
        return table_VC.grad.numpy()

    full = gradient(lambda y, m, t: softmax_losses(y, m, t))
    errors = []
    for n_negatives in (10, 50, 200, 390):
        sampler = NegativeSampler([400], 1, n_negatives)
        drawn = [sampler.draw(1, seed) for seed in torch.arange(20)]
        mean = np.mean([gradient(lambda y, m, t, d=d: sampled_losses(y, m, t, d)) for d in drawn], axis=0)
        errors.append(np.abs(mean - full).sum() / np.abs(full).sum())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.1 < 0.4 < errors[0]


def test_without_logq_popular_items_are_pushed_down():
    """Planted: every item is equally likely, the log's popularity differs 400 times. Learn one score an item.

    With the correction all scores come out level; without it the often drawn items sink below the others.
    """
    n_items, steps = 60, 300
    counts = np.where(np.arange(n_items) < 6, 400, 1)
    sampler = NegativeSampler([n_items], 1, 12)
    sampler.set_popularity([counts])
    gap = {}
    for corrected in (True, False):
        score_V1 = torch.zeros(n_items, 1, requires_grad=True)
        optimizer = torch.optim.Adam([score_V1], lr=0.1)
        generator = torch.Generator().manual_seed(1)
        for step in range(steps):
            target = torch.randint(1, n_items + 1, (256,), generator=generator)
            items, log_count = sampler.draw(1, torch.tensor(step))
            log_count = log_count if corrected else torch.zeros_like(log_count)
            loss = sampled_losses(torch.ones(256, 1), score_V1, target, Negatives(items, log_count))
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        learned = score_V1.detach().numpy().ravel()
        gap[corrected] = learned[:6].mean() - learned[6:].mean()
    assert abs(gap[True]) < 0.25 and gap[False] < -1


@given(seed=st.integers(0, 999), n_items=st.integers(1, 30), n_negatives=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_negatives_lie_in_the_domain_in_the_asked_number(seed, n_items, n_negatives):
    rng = np.random.default_rng(seed)
    sampler = NegativeSampler([3, n_items], 0, n_negatives)
    sampler.set_popularity([np.zeros(3), rng.integers(0, 1000, n_items) * rng.integers(0, 2, n_items)])
    items, log_count = sampler.draw(2)
    assert len(items) == len(log_count) == min(n_items, n_negatives)
    assert items.min() >= 1 and items.max() <= n_items and (items.diff() >= 0).all()
    assert torch.bincount(items).max() <= 2  # what left_out_N2 of log_partition has room for


def test_every_item_is_drawn_as_often_as_it_says():
    counts = np.array([1000, 300, 0, 0, 5, 80, 1, 0, 20, 2])
    sampler = NegativeSampler([10], 1, 4)
    sampler.set_popularity([counts])
    drawn = np.zeros(10)
    for seed in range(1500):
        items, log_count = sampler.draw(1, torch.tensor(seed))
        np.add.at(drawn, items.numpy() - 1, 1)
        assert log_count.exp().tolist() == pytest.approx(
            sampler.get_buffer("log_count_1")[items - 1].exp().tolist()
        )
    expected = expected_counts((counts + 1.0) ** 0.75, 4)
    assert expected.sum() == pytest.approx(4) and expected.min() > 0 and expected[0] == 1 == drawn[0] / 1500
    assert drawn / 1500 == pytest.approx(expected, abs=0.05)


def batch_and_model(**changes):
    data = random_set(2, n_users=30, mean_length=9)
    model = small_model(full_softmax_items=6, sampled_negatives=3, **changes)
    batch = SequenceReader(data).training(np.arange(data.n_users))
    return data, model, dataclasses.replace(batch, seed=torch.tensor(5))


def test_both_families_share_the_negatives_and_small_domains_stay_full():
    """With equal views a shared target's losses are equal, to the bit, in sampled and in full domains."""
    _, model, batch = batch_and_model()
    same = torch.randn(1, 8, dtype=torch.float64)
    cross, single = family_losses(
        "softmax", same.expand(len(batch.cross_targets_N), -1), same.expand(len(batch.single_targets_N), -1),
        model.embedding.domain_tables(), batch, model.n_items_D1, model.negative_sampler,
    )  # fmt: skip
    both = batch.shared_N >= 0
    assert both.sum() > 20 and torch.allclose(single[both], cross[batch.shared_N[both]], rtol=0, atol=1e-12)
    assert model.negative_sampler.sampled == (1, 3)  # 7, 5 and 9 items
    table = model.embedding.tables()[1]
    in_toys = batch.cross_domains_N == 2
    targets = batch.cross_targets_N[in_toys]
    full = softmax_losses(same.expand(len(targets), -1), table, targets)
    assert torch.allclose(cross[in_toys], full)


def test_the_batch_seed_decides_the_draw_and_the_generator_without_one():
    _, model, batch = batch_and_model()
    model.eval()
    one, two = model(batch).total, model(batch).total
    other = model(dataclasses.replace(batch, seed=torch.tensor(6))).total
    assert torch.equal(one, two) and not torch.equal(one, other)
    free = dataclasses.replace(batch, seed=None)
    torch.manual_seed(1)
    first = model(free).total
    torch.manual_seed(1)
    assert torch.equal(first, model(free).total) and not torch.equal(first, model(free).total)


def test_row_gradients_are_the_dense_ones():
    _, model, batch = batch_and_model()
    gradients = []
    for rows in (True, False):
        model.embedding.row_gradients = rows
        model.zero_grad()
        model(batch).total.backward()
        gradient = model.embedding.items_VC.grad
        assert gradient.is_sparse is rows
        gradients.append(gradient.to_dense() if rows else gradient)
    assert torch.allclose(*gradients, rtol=0, atol=1e-12)


def test_popularity_is_no_part_of_the_state():
    _, model, _ = batch_and_model()
    assert set(model.state_dict()) == set(small_model().state_dict())
    with pytest.raises(ValueError, match="one count an item"):
        model.negative_sampler.set_popularity([np.ones(2), np.ones(5), np.ones(9)])
    with pytest.raises(ValueError, match="below 0"):
        model.negative_sampler.set_popularity([np.full(7, -1), np.ones(5), np.ones(9)])


def test_counts_of_a_set_by_loops():
    data = random_set(4)
    counts = item_counts(data)
    for code, count in enumerate(N_ITEMS, start=1):
        rows = data.single_items_NT[data.single_domains_N == code]
        assert counts[code - 1].tolist() == [int((rows == item).sum()) for item in range(1, count + 1)]
