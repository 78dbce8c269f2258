"""Gate utilisation: means of softmaxes, of the task's own gate, over the newest step of every case."""

from __future__ import annotations

import pytest
import torch

from syncrec_model import build_model, gate_use
from syncrec_model.config import ModelConfig
from tests.syncrec_model.small_models import DOMAINS, N_ITEMS, random_set, small_model


@pytest.mark.parametrize("gate", ["step", "sequence"])
def test_every_task_shares_itself_out_over_the_experts(gate: str) -> None:
    model = small_model(gate=gate)
    used = gate_use(model, random_set(window=(20, 40)))
    assert list(used) == ["cross", "single"]
    for tasks in used.values():
        assert list(tasks) == list(DOMAINS)
        for shares in tasks.values():
            assert len(shares) == 3 and sum(shares) == pytest.approx(1) and min(shares) > 0


def test_a_gate_that_always_takes_one_expert_shows_it_in_its_own_task_alone() -> None:
    model, cases = small_model(gate="step"), random_set(window=(20, 40))
    before = gate_use(model, cases)
    with torch.no_grad():
        model.gates.weight_DKC[2] = 0  # the single task of the second domain

    after = gate_use(model, cases)
    assert after["single"]["toys"] == pytest.approx([1 / 3] * 3), "indifferent"
    assert after["single"]["books"] == before["single"]["books"]
    assert after["cross"] == before["cross"]


def test_the_gates_are_those_that_serve() -> None:
    """A history is read without what training never had, here as in `encode`."""
    model, cases = small_model(gate="step"), random_set(n_users=40, window=(20, 40))
    whole = gate_use(model, cases)
    popularity_V = torch.ones_like(model.blend.neighbours.popularity)
    popularity_V[1:5] = 0
    model.blend.neighbours.popularity = popularity_V
    served = gate_use(model, cases)
    assert served["single"]["toys"] == whole["single"]["toys"], "it has no such item"
    assert served["single"]["books"] != whole["single"]["books"] and served["cross"] != whole["cross"]


def test_few_cases_of_many_are_enough_and_none_is_no_entry() -> None:
    model = small_model()
    cases = random_set(n_users=200, window=(20, 40))
    all_of_them, few = gate_use(model, cases), gate_use(model, cases, max_cases=100)
    assert few["cross"]["books"] == pytest.approx(all_of_them["cross"]["books"], abs=0.1)
    assert gate_use(model, random_set(window=(50, 60))) == {"cross": {}, "single": {}}
    assert model.training


def test_the_released_form_has_no_such_gates() -> None:
    released = build_model(ModelConfig.preset("released"), DOMAINS, N_ITEMS)
    assert gate_use(released, random_set(window=(20, 40))) == {}
