"""The moving average of the weights: its values, and that fit measures and keeps it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fitting import trained
from torch import nn

from syncrec_model.averaging import WeightAverage


def test_it_is_the_plain_recursion_of_every_nth_step() -> None:
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    average = WeightAverage([parameter], horizon=96.0)
    draws = np.random.default_rng(0).normal(size=(40, 3))
    expected, n_updates = np.zeros(3), 0
    for step, values in enumerate(draws):
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values))
        average.update(step)
        if (step + 1) % 3 == 0:  # 96 steps: 32 updates
            n_updates += 1
            rate = max(1 - math.exp(-3 / 96), 2 / (n_updates + 1))
            expected = expected + rate * (values - expected)
    np.testing.assert_allclose(average.values[0].numpy(), expected, rtol=1e-12)


def test_the_start_is_forgotten_at_once() -> None:
    parameter = nn.Parameter(torch.full((2,), 1e6))
    average = WeightAverage([parameter], horizon=5.0)
    with torch.no_grad():
        parameter.fill_(2.0)
    average.update(0)
    assert average.values[0].tolist() == [2.0, 2.0]


def test_inside_the_block_the_parameters_hold_it() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([parameter], horizon=1.0)
    with torch.no_grad():
        parameter.fill_(3.0)
    with pytest.raises(RuntimeError), average.swapped():
        assert parameter.item() == 1.0
        raise RuntimeError
    assert (parameter.item(), average.values[0].item()) == (3.0, 1.0)


def test_without_a_horizon_nothing_is_kept() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([parameter], horizon=0.0)
    average.update(0)
    with average.swapped():
        assert parameter.item() == 1.0
    assert average.values == []


def test_fit_keeps_the_average_of_the_run_and_not_its_last_weights() -> None:
    last = trained(average_epochs=0.0, epochs=3)["weights"]["embedding.items_VC"]
    averaged = trained(average_epochs=2.0, epochs=3)["weights"]["embedding.items_VC"]
    short = trained(average_epochs=0.01, epochs=3)["weights"]["embedding.items_VC"]
    assert not torch.equal(last, averaged)
    torch.testing.assert_close(short, last)  # a horizon of a hundredth of an epoch follows every step
