"""No look ahead: what happens after a step changes no output up to it, in every configuration that claims so.

The sequence gate of the paper does look ahead; its configuration, and a training run with it, say so.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import planted_sets
from worlds import by_sequence, fill

from syncrec_model import ModelConfig, SequenceSet, SyNCRec, TrainingConfig, fit
from syncrec_model.batches import SequenceReader
from syncrec_model.config import GATES, PRESETS

SIZES, WINDOW, LENGTH = (4, 3, 5), 7, 7
# The released preset claims nothing: its gate draws noise, so no two calls give the same bits.
CONFIGS = {name: ModelConfig.preset(name) for name in PRESETS if name != "released"}
CONFIGS |= {f"gate {gate}": ModelConfig(gate=gate) for gate in GATES}
SMALL = {"channels": 8, "max_length": WINDOW, "n_layers": 2, "n_heads": 2, "dropout": 0.0}


def small(name: str) -> SyNCRec:
    model = SyNCRec(dataclasses.replace(CONFIGS[name], **SMALL), ("a", "b", "c"), SIZES).double()
    fill(model, seed=7)
    return model.train()


def views(model: SyNCRec, items: np.ndarray, domains: np.ndarray) -> dict[int, np.ndarray]:
    """Return Y of one user's log by task: 0 for X, d for X^d."""
    data = SequenceSet.from_events(
        user_ids=np.zeros(len(items), int), item_indexes=items, domain_codes=domains,
        domains=model.domains, n_items=model.n_items, max_length=WINDOW,
    )  # fmt: skip
    batch, found = SequenceReader(data).training(np.arange(1)), {}
    for packed in (batch.cross, batch.single):
        rows = by_sequence(packed, model.views(packed))
        found |= {int(task): y for task, y in zip(packed.tasks_R, rows, strict=True)}
    return found


def changes(model: SyNCRec, task: int, other_domain: bool):
    """Yield, for each event of the task's sequence: its place there, Y before and Y after it became another."""
    domains = np.array([1, 2, 1, 3, 1, 2, 1])[:LENGTH]
    items = np.array([1, 2, 3, 4, 2, 1, 4])[:LENGTH]
    before = views(model, items, domains)[task]
    for place, event in enumerate(np.flatnonzero((domains == task) | (task == 0))):
        new_items, new_domains = items.copy(), domains.copy()
        if other_domain:
            new_domains[event] = domains[event] % 3 + 1
            new_items[event] = 3
        else:
            new_items[event] = items[event] % SIZES[domains[event] - 1] + 1
        yield place, before, views(model, new_items, new_domains)[task]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("task", "other_domain"), [(0, False), (0, True), (1, False), (2, False)])
def test_a_changed_event_moves_no_output_before_it(name: str, task: int, other_domain: bool):
    """The event at `place` is the input of step place + 1 ([SOS] is step 0) and the target of step `place`."""
    model = small(name)
    for place, before, after in changes(model, task, other_domain):
        earlier = slice(0, place + 1)
        if model.config.causal:
            np.testing.assert_array_equal(before[earlier], after[earlier])
        if place + 1 < len(before):
            assert np.abs(before[place + 1] - after[place + 1]).max() > 1e-6
        else:
            np.testing.assert_array_equal(before, after)  # the newest event is a target only


@pytest.mark.parametrize("name", ["paper", "gate sequence"])
def test_the_papers_sequence_gate_looks_ahead(name: str):
    model = small(name)
    assert not model.config.causal
    for place, before, after in changes(model, 0, False):
        if place + 1 < len(before):
            assert (np.abs(before[: place + 1] - after[: place + 1]).max(axis=1) > 1e-9).all()


def test_configurations_say_whether_they_are_causal():
    assert ModelConfig.preset("default").causal and ModelConfig(gate="step").causal
    assert not ModelConfig.preset("paper").causal and not ModelConfig.preset("released").causal
    assert not ModelConfig(gate="sequence").causal


def test_a_training_run_with_the_sequence_gate_says_that_it_looks_ahead():
    train, _, _ = planted_sets(n_users=12)
    once = TrainingConfig(epochs=1, device="cpu")
    for gate, expected in (("sequence", 1), ("step", 0)):
        torch.manual_seed(0)
        config = ModelConfig(channels=4, max_length=8, n_experts=2, n_cross_experts=1, gate=gate)
        notes = fit(SyNCRec(config, train.domains, train.n_items), train, None, once, progress=False).notes
        assert len([note for note in notes if "sequence gate looks ahead" in note]) == expected
