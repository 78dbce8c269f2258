"""Stopped experts, users on their own, one or two domains; routes and equations have files of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import DOMAINS, random_set, small_model
from torch import nn

from syncrec_model import SequenceSet
from syncrec_model.batches import SequenceReader
from syncrec_model.towers import Towers


def batch_of(data, users=None):
    return SequenceReader(data).training(np.arange(data.n_users) if users is None else np.asarray(users))


class Constant(nn.Module):
    """An expert stack whose output is a constant."""

    def __init__(self, value, n_experts):
        super().__init__()
        self.value, self.n_experts = value, n_experts

    def forward(self, e_NC, packed):
        return self.value


@pytest.mark.parametrize("stop", [True, False])
def test_no_gradient_reaches_embeddings_through_a_stopped_expert(stop):
    model, batch = small_model(stop_gradient=stop), batch_of(random_set(1))

    def embedding_gradient():
        model.zero_grad(set_to_none=True)
        y_NC = model.views(batch.single)
        (y_NC * torch.arange(y_NC.numel()).view_as(y_NC).sin()).sum().backward()
        return model.embedding.items_VC.grad.clone()

    whole = embedding_gradient()
    value = model.cross_experts(model.embedding(batch.single), batch.single).detach()
    model.cross_experts = Constant(value, model.cross_experts.n_experts)
    assert torch.allclose(whole, embedding_gradient(), atol=1e-12) == stop


@pytest.mark.parametrize("gate", ["step", "sequence"])
def test_a_users_result_does_not_depend_on_the_others_or_on_padding(gate):
    """The batch decides rectangles and padding; a user alone, or in wider stored rows, gets the same views."""
    data, model = random_set(2, n_users=10, mean_length=3), small_model(gate=gate, max_length=9)
    whole = batch_of(data)
    y_cross, y_single = model.views(whole.cross), model.views(whole.single)
    pad = {name: np.pad(v, ((0, 0), (4, 0))) for name, v in data.arrays().items() if name.endswith("T")}
    pad["single_places_NT"] = np.pad(data.single_places_NT, ((0, 0), (4, 0)), constant_values=-5)
    pad["single_places_NT"] = np.where(pad["single_places_NT"] >= 0, pad["single_places_NT"] + 4, -1)
    short = np.flatnonzero(data.cross_lengths_U <= 5)
    wide = dataclasses.replace(data.select(short), **{k: v for k, v in _selected(pad, data, short).items()})
    assert len(short) > 3
    for row, user in enumerate(short):
        alone = batch_of(wide, [row])
        of_user = whole.cross.rows_N == user
        assert torch.allclose(model.views(alone.cross), y_cross[of_user], atol=1e-12)
        order = sorted(
            range(len(data.single_users_N)), key=lambda n: (data.single_domains_N[n], data.single_users_N[n])
        )
        mine = torch.tensor([data.single_users_N[n] == user for n in order])[whole.single.rows_N]
        assert torch.allclose(model.views(alone.single), y_single[mine], atol=1e-12)


def test_serving_gives_a_user_the_same_bits_in_every_batch():
    """What score takes over from the night before is what it would work out again, among other users."""
    data = random_set(8, n_users=90, mean_length=18, max_length=30)
    model = small_model(max_length=30, channels=64).float().eval()
    reader, every = SequenceReader(data), np.arange(data.n_users)
    draw = np.random.default_rng(0)
    with torch.inference_mode():
        cross, single = model.encode(reader.serving_cross(every)), model.encode(reader.serving_single(every))
        single = single.reshape(len(DOMAINS), data.n_users, -1)
        for size in (16, 17, 40, 89):
            users = draw.choice(data.n_users, size, replace=False)
            assert torch.equal(model.encode(reader.serving_cross(users)), cross[users])
            again = model.encode(reader.serving_single(users)).reshape(len(DOMAINS), size, -1)
            assert torch.equal(again, single[:, users])


def _selected(arrays, data, users):
    rows = data.single_rows_UD()[users]
    rows = rows[rows >= 0]
    return {name: v[users] if name.startswith("cross") else v[rows] for name, v in arrays.items()}


def test_encode_is_the_newest_step_of_the_views():
    data, model = random_set(3), small_model()
    packed = SequenceReader(data).serving_single(np.arange(data.n_users))
    assert torch.allclose(model.encode(packed), model.views(packed)[packed.last_R], atol=1e-12)


@pytest.mark.parametrize("n_items", [(6,), (6, 4)])
def test_one_or_two_domains_work_and_a_domain_may_be_absent(n_items):
    model = small_model(n_items=n_items)
    data = random_set(5, n_items=n_items)
    losses = model(batch_of(data))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    model = small_model()
    only_first = SequenceSet.from_events(
        user_ids=np.array([0, 0, 1]), item_indexes=np.array([1, 2, 3]), domain_codes=np.array([1, 1, 1]),
        domains=model.domains, n_items=model.n_items, max_length=5,
    )  # fmt: skip
    losses = model(batch_of(only_first))
    losses.total.backward()
    assert torch.isfinite(losses.total) and losses.cross_count_D.tolist() == [3, 0, 0]


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="domain 'toys' has no items"):
        small_model(n_items=(6, 0))


def test_towers_together_are_towers_one_by_one():
    """What a GPU computes in batched products, tasks without a token among them."""
    torch.manual_seed(0)
    towers = Towers(4, 8, 2, 0.0).double()
    for parameter in towers.parameters():
        torch.nn.init.normal_(parameter)
    x_NC, tokens_per_task = torch.randn(12, 8, dtype=torch.float64, requires_grad=True), (0, 3, 7, 2)
    found = []
    for y_NC in (towers(x_NC, tokens_per_task), towers.together(x_NC, tokens_per_task)):
        learning = [x_NC, *towers.towers[1:].parameters()]
        found.append([y_NC, *torch.autograd.grad(y_NC.square().sum(), learning)])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
