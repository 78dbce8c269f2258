"""What is drawn for an event depends on the event and the seed, not on the batch around it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import random_set, small_model

from syncrec_model.batches import SequenceReader
from syncrec_model.draws import event_draws

USERS, STEPS = torch.meshgrid(torch.arange(400), torch.arange(-1, 49), indexing="ij")


def draws(seed: int, task: int = 0):
    return event_draws(torch.tensor(seed), USERS, torch.full_like(USERS, task), STEPS)


def test_draws_are_uniform_and_unrelated_between_neighbours():
    values = draws(7)
    assert values.min() >= 0 and values.max() < 1
    counts = torch.histc(values, 20, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi square, 19 degrees of freedom
    for one, two in (
        (values[1:], values[:-1]),
        (values[:, 1:], values[:, :-1]),
        (values, draws(8)),
        (values, draws(7, task=1)),
    ):
        pair = torch.stack([one.flatten(), two.flatten()])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.03 and (pair[0] != pair[1]).all()
    assert torch.equal(values, draws(7))


@pytest.mark.parametrize("loss", ["pairwise", "bce"])
def test_the_order_of_the_users_changes_no_loss(loss):
    """Parts of a batch add up to the whole only where each event keeps its negative."""
    data, model = random_set(4, n_users=12), small_model(loss=loss, mim=False).eval()
    reader, seed = SequenceReader(data), torch.tensor(5)

    def sums(users):
        losses = model(dataclasses.replace(reader.training(np.array(users)), seed=seed))
        return torch.stack([losses.cross_sum_D, losses.single_sum_D])

    whole = sums(range(12))
    assert torch.allclose(whole, sums([*range(6, 12), *range(6)]), atol=1e-12, rtol=0)
    assert torch.allclose(whole, sums(range(0, 12, 2)) + sums(range(1, 12, 2)), atol=1e-12, rtol=0)
    seed = torch.tensor(6)
    assert not torch.allclose(whole, sums(range(12)), atol=1e-3, rtol=0)


def test_a_batch_without_users_is_read_and_has_no_loss():
    data, model = random_set(4), small_model()
    losses = model(SequenceReader(data).training(np.zeros(0, dtype=np.int64)))
    losses.total.backward()
    assert losses.total.item() == 0 and not model.embedding.items_VC.grad.any()
