"""Configurations refuse what cannot be meant and survive JSON."""

from __future__ import annotations

import json

import pytest

from syncrec_model import ModelConfig, TrainingConfig


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"gate": "stairs"}, "gate = 'stairs': choose one of step, sequence"),
        ({"channels": 0}, "whole number at least 1"),
        ({"channels": 10, "n_heads": 3}, "multiple of the heads"),
        ({"n_experts": 2, "n_cross_experts": 2}, "stop_gradient = false"),
        ({"n_experts": 2, "n_cross_experts": 4}, "among n_experts = 2: give at most 1, or more n_experts"),
        ({"n_experts": 2, "n_cross_experts": 4, "stop_gradient": False}, "give at most 2"),
        ({"n_cross_experts": -1}, "whole number at least 0"),
        ({"n_cross_experts": 0}, "expert of its own"),
        ({"eta": 1.0}, "mim = false"),
        ({"dropout": float("nan")}, "finite"),
        ({"mim": "yes"}, "true or false"),
        ({"max_length": 1}, "at least 2"),
        ({"temperature": 0.0}, "above 0"),
        ({"loss": "pairwise", "sampled_negatives": 64}, 'only loss = "softmax" reads it'),
        ({"full_softmax_items": 100}, "never sampled"),
        ({"sampled_negatives": 0}, "at least 1"),
    ],
)
def test_impossible_model_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        ModelConfig(**values)


@pytest.mark.parametrize(
    "values", [{"epochs": 0}, {"device": "tpu"}, {"precision": "fp8"}, {"learning_rate": -1.0}]
)
def test_impossible_training_is_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        TrainingConfig(**values)


def test_one_shared_expert_needs_no_split():
    assert ModelConfig(n_experts=1, n_cross_experts=0, stop_gradient=False).n_experts == 1


@pytest.mark.parametrize("config", [ModelConfig.preset("paper"), ModelConfig(), TrainingConfig(seed=3)])
def test_json_round_trip(config):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown setting 'chanels'; known settings are architecture, channels"):
        ModelConfig.from_dict({"chanels": 3})
    with pytest.raises(ValueError, match="known presets are default, paper"):
        ModelConfig.preset("best")


def test_paper_preset_is_the_published_one():
    paper = ModelConfig.preset("paper")
    assert (paper.gate, paper.loss, paper.correction, paper.mim_score) == (
        "sequence",
        "pairwise",
        "paper",
        "sigmoid",
    )
    assert paper.mim_others_only and paper.stop_gradient
