"""Every setting of the model changes what it should; what cannot be meant is refused with the remedy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import DOMAINS, N_ITEMS, random_set

from syncrec_model import ModelConfig, build_model
from syncrec_model.batches import SequenceReader

SMALL = {"channels": 8, "max_length": 5, "n_experts": 3, "n_cross_experts": 1, "dropout": 0.0}
BOUNDED = {"correction": "bounded"}
# Per field: what it is set to, and what the configuration around it is. Every field must be here.
OTHER: dict[str, tuple[object, dict[str, object]]] = {
    "channels": (12, {}),
    "max_length": (7, {}),
    "n_experts": (4, {}),
    "n_cross_experts": (2, {}),
    "n_layers": (2, {}),
    "n_heads": (2, {}),
    "ffn_multiplier": (3, {}),
    "dropout": (0.5, {}),
    "gate": ("sequence", {}),
    "loss": ("pairwise", {}),
    "full_softmax_items": (6, {"sampled_negatives": 2}),  # two of the three domains are larger
    "sampled_negatives": (3, {"full_softmax_items": 6, "sampled_negatives": 2}),
    "correction": ("paper", {}),
    "correction_floor": (0.99, BOUNDED),
    "correction_momentum": (0.0, BOUNDED),
    "temperature": (0.1, {"correction": "paper"}),
    "mim": (False, {}),
    "mim_score": ("cosine", {}),
    "mim_others_only": (True, {}),
    "stop_gradient": (False, {}),
    "eta": (0.5, {}),
}
IN_TRAINING = {"start", "neighbours", "fit_blend"}  # what they change: test_cooccurrence.py, test_blend.py


SHAPING = ("channels", "max_length", "n_experts", "n_cross_experts", "n_layers", "ffn_multiplier", "gate", "mim")


def made(**changes):
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{**SMALL, **changes}), DOMAINS, N_ITEMS).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.train()


def batch():
    data = random_set(4)
    return SequenceReader(data).training(np.arange(data.n_users))


def trace(model):
    """Return the totals of three steps and the gradient of the last: what a setting could change."""
    totals = []
    for step in range(3):
        torch.manual_seed(step)
        model.zero_grad()
        total = model(batch()).total
        total.backward()
        totals.append(total.item())
    return totals, {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ModelConfig)])
def test_no_setting_is_without_effect(name):
    if name == "architecture" or name in IN_TRAINING:
        return  # test_released.py
    value, around = OTHER[name]
    assert value != getattr(ModelConfig(**{**SMALL, **around}), name)
    before, after = made(**around), made(**{**around, name: value})
    shapes = [{key: tuple(t.shape) for key, t in model.state_dict().items()} for model in (before, after)]
    if name in (
        "channels",
        "max_length",
        "n_experts",
        "n_cross_experts",
        "n_layers",
        "ffn_multiplier",
        "gate",
        "mim",
    ):
        assert shapes[0] != shapes[1]
    else:
        assert shapes[0] == shapes[1]
        assert trace(before) != trace(after)


def test_the_same_settings_give_the_same_trace():
    assert trace(made()) == trace(made())


def test_the_parts_of_the_total_without_sc_mim_and_without_lc_ntg():
    model = made(mim=False, correction="uniform")
    losses = model(batch())
    mean_single = losses.single_sum_D.sum() / losses.single_count_D.sum()
    mean_cross = losses.cross_sum_D.sum() / losses.cross_count_D.sum()
    torch.testing.assert_close(losses.total.detach(), model.config.eta * (mean_single + mean_cross))
    assert not losses.mim_defined_D.any() and losses.weight_D.tolist() == [1, 1, 1]
    assert not [name for name, _ in model.named_parameters() if "mutual" in name]


def test_without_stop_gradient_both_tasks_teach_every_expert():
    for stop, reached in ((True, {"cross": False, "single": True}), (False, {"cross": True, "single": True})):
        model = made(stop_gradient=stop, mim=False)
        model.views(batch().single).square().sum().backward()
        for family, expected in reached.items():
            stack = getattr(model, f"{family}_experts")
            assert any(p.grad is not None and p.grad.any() for p in stack.parameters()) == expected


def test_one_expert_for_all_is_the_model_without_acmoe():
    model = made(n_experts=1, n_cross_experts=0, stop_gradient=False, mim=False)
    packed = batch().cross
    expert_NC = model.single_experts(model.embedding(packed), packed)[0]
    torch.testing.assert_close(model.mixture(packed, learning="cross"), expert_NC)
    model(batch()).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.single_experts.parameters())


@pytest.mark.parametrize(
    ("changes", "setting", "remedy"),
    [
        ({"n_experts": 1}, "n_experts = 1", "n_cross_experts = 0 and stop_gradient = false"),
        (
            {"n_cross_experts": 0},
            "n_cross_experts = 0",
            "give 1 to n_experts - 1 .2., or .*stop_gradient = false",
        ),
        ({"n_cross_experts": 4}, "n_cross_experts = 4", "at most 2, or more n_experts"),
        ({"n_heads": 3}, "n_heads = 3", "channels .8. must be a multiple"),
        ({"max_length": 1}, "max_length = 1", "at least 2"),
        ({"eta": 1.0}, "eta = 1.0", "below 1 or set mim = false"),
        ({"gate": "none"}, "gate = 'none'", "step, sequence"),
        ({"loss": "hinge"}, "loss = 'hinge'", "softmax, pairwise, bce"),
        ({"correction": "off"}, "correction = 'off'", "uniform, bounded, paper"),
        ({"correction_floor": 0.9}, "correction_floor = 0.9", 'only correction = "bounded" reads it.*leave it out'),
        ({"architecture": "sasrec"}, "architecture = 'sasrec'", "syncrec, released"),
    ],
)
def test_a_refusal_names_the_setting_and_the_remedy(changes, setting, remedy):
    with pytest.raises(ValueError, match=rf"ModelConfig.{setting}: .*{remedy}"):
        ModelConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gate", "step"), ("loss", "softmax"), ("correction", "uniform"), ("ffn_multiplier", 2), ("eta", 0.9),
        ("stop_gradient", False), ("mim_score", "cosine"), ("mim_others_only", False),
    ],
)  # fmt: skip
def test_the_released_preset_refuses_what_its_code_does_not_compute(name, value):
    released = ModelConfig.preset("released")
    says = rf"{name} = {value!r}: the released code computes .*give {getattr(released, name)!r}, or architecture"
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(released, **{name: value})
    free = {"channels": 8, "max_length": 9, "n_experts": 3, "n_cross_experts": 2, "n_layers": 1, "n_heads": 2}
    assert dataclasses.replace(released, **free, dropout=0.0, temperature=2.0, mim=False)


def test_the_paper_preset_is_the_published_equations():
    paper, default = ModelConfig.preset("paper").to_dict(), ModelConfig().to_dict()
    equations = {
        "architecture": "syncrec", "gate": "sequence", "loss": "pairwise", "correction": "paper", "mim": True,
        "mim_score": "sigmoid", "mim_others_only": True, "stop_gradient": True,
        "n_experts": 5, "n_cross_experts": 4, "start": "random", "neighbours": 0, "fit_blend": False,
    }  # fmt: skip
    assert {name: paper.pop(name) for name in equations} == equations
    assert paper == {name: value for name, value in default.items() if name not in equations}  # sizes and eta
