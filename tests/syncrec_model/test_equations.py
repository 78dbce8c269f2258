"""Sections 2 and 3 of MODEL.md: embedding, experts, gates, mixture and towers equal the plain numpy reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import TOLERANCE, World, assert_steps, by_sequence, laws, worlds

from syncrec_model.batches import SequenceReader

TIGHT = {"rtol": 1e-11, "atol": 1e-11}  # the same numbers added in another order


@laws(40)
@given(worlds())
def test_embedding_and_padding(world: World):
    """E = M[X] + P of every real step, in order; padding has no step at all."""
    for packed, sequences in world.packed():
        expected = [reference.embedding(world.weights, world.sizes, steps) for steps in sequences]
        assert_steps(packed, world.model.embedding(packed), expected)
        assert len(packed.items_N) == sum(len(steps.inputs) for steps in sequences)


@laws(25)
@given(worlds())
def test_expert(world: World):
    """Each f^k is its own causal Transformer, for any number of layers and heads."""
    config = world.config
    for packed, sequences in world.packed():
        for stack, n_experts in (
            ("cross_experts", config.n_cross_experts),
            ("single_experts", config.n_experts - config.n_cross_experts),
        ):
            f_KNC = getattr(world.model, stack)(world.model.embedding(packed), packed)
            assert len(f_KNC) == n_experts
            for k in range(n_experts):
                expected = [
                    reference.expert(
                        world.weights, stack, k, reference.embedding(world.weights, world.sizes, steps),
                        config.n_layers, config.n_heads,
                    )
                    for steps in sequences
                ]  # fmt: skip
                assert_steps(packed, f_KNC[k], expected)


@laws(15)
@given(worlds(gate="step"))
def test_step_gate(world: World):
    check_gate(world)


@laws(15)
@given(worlds(gate="sequence"))
def test_sequence_gate(world: World):
    check_gate(world)


def check_gate(world: World) -> None:
    for packed, sequences in world.packed():
        g_NK = world.model.gates(world.model.embedding(packed), packed)
        expected = [
            reference.gate(
                world.weights, world.config.gate, steps.task, reference.embedding(world.weights, world.sizes, steps)
            )
            for steps in sequences
        ]
        assert_steps(packed, g_NK, expected)
        np.testing.assert_allclose(g_NK.sum(1).detach(), 1, **TOLERANCE)


@laws(20)
@given(worlds())
def test_mixture(world: World):
    """f^c and f^d: all K experts, each by its task's gate; stop-gradient changes no value."""
    w = world.weights
    for (packed, sequences), learning in zip(world.packed(), ("cross", "single"), strict=True):
        expected = [reference.mixture(w, world.config, world.sizes, steps, w) for steps in sequences]
        assert_steps(packed, world.model.mixture(packed, learning=learning), expected)


@laws(20)
@given(worlds(), st.integers(0, 99))
def test_tower(world: World, seed: int):
    """h^c and h^d, one per task, on any input."""
    for packed, sequences in world.packed():
        x_NC = torch.from_numpy(
            np.random.default_rng(seed).normal(size=(len(packed.items_N), world.config.channels))
        )
        expected = [
            np.array([reference.tower(world.weights, steps.task, x) for x in rows])
            for steps, rows in zip(sequences, by_sequence(packed, x_NC), strict=True)
        ]
        assert_steps(packed, world.model.towers(x_NC, packed.tokens_per_task), expected)


@laws(20)
@given(worlds())
def test_views(world: World):
    """Y_cross and Y^d_single of every step, from the log to the tower."""
    for packed, sequences in world.packed():
        expected = [reference.view(world.weights, world.config, world.sizes, steps) for steps in sequences]
        assert_steps(packed, world.model.views(packed), expected)


@laws(20)
@given(worlds(), st.integers(0, 99))
def test_padding_content_changes_nothing(world: World, seed: int):
    """Garbage in the padded cells of the stored rows is never read: not a value, not a gradient moves."""
    data, rng = world.data, np.random.default_rng(seed)
    empty_UT, empty_NT = data.cross_domains_UT == 0, data.single_items_NT == 0
    items_UT, places_NT = data.cross_items_UT.copy(), data.single_places_NT.copy()
    targets_UT = data.cross_targets_UT | empty_UT
    items_UT[empty_UT] = -rng.integers(1, 99, int(empty_UT.sum()))
    places_NT[empty_NT] = -rng.integers(1, 99, int(empty_NT.sum()))
    dirty = dataclasses.replace(
        data, cross_items_UT=items_UT, single_places_NT=places_NT, cross_targets_UT=targets_UT
    )
    users, model = np.arange(world.n_users), world.model.eval()
    results = []
    for one in (data, dirty):
        reader = SequenceReader(one)
        model.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        losses = model(reader.training(users))
        losses.total.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        views = [model.encode(reader.serving_cross(users)), model.encode(reader.serving_single(users))]
        results.append([losses.total, losses.cross_sum_D, losses.single_sum_D, *gradients, *views])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.equal(world.model.embedding.items_VC.grad[0], torch.zeros(world.config.channels).double())


@laws(20)
@given(worlds(min_users=3), st.randoms(use_true_random=False))
def test_batch_order_changes_nothing(world: World, random):
    """Users in another order give every user the same views, and the batch the same losses."""
    order = list(range(world.n_users))
    random.shuffle(order)
    model = world.model.eval()
    one, two = world.batch, world.batch_of(order)
    losses, others = model(one), model(two)
    for name in (field.name for field in dataclasses.fields(losses)):
        np.testing.assert_allclose(getattr(others, name).detach(), getattr(losses, name).detach(), **TIGHT)
    reader = SequenceReader(world.data)
    whole_BC = model.encode(reader.serving_cross(np.arange(world.n_users)))
    other_BC = model.encode(reader.serving_cross(np.array(order)))
    np.testing.assert_allclose(other_BC.detach(), whole_BC[order].detach(), **TIGHT)
    for user in range(world.n_users):
        alone_1C = model.encode(reader.serving_cross(np.array([user])))
        np.testing.assert_allclose(alone_1C[0].detach(), whole_BC[user].detach(), **TIGHT)
