"""Random numbers that belong to an event, not to its place in a batch.

A generator hands out numbers in the order in which they are asked for, so the negatives of a batch would change
with the order of its users and with the rank that holds them. A hash of (seed, user, task, step) does not.
Shape: N tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The mixing steps of splitmix64, as signed 64-bit numbers; products wrap around.
_STEP, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


def event_draws(seed: Tensor, *keys_N: Tensor) -> Tensor:
    """Return one uniform number in [0, 1) per token, a function of the seed and the token's keys alone, [N].

    seed: int64, without dimensions. keys_N: int64 tensors that name the event. float64.
    """
    state_N = seed
    for key_N in keys_N:
        state_N = _mix(state_N + _STEP * (key_N + 1))
    return _shifted(state_N, 11).double() * 2.0**-53


def _mix(state_N: Tensor) -> Tensor:
    state_N = (state_N ^ _shifted(state_N, 30)) * _FIRST
    state_N = (state_N ^ _shifted(state_N, 27)) * _SECOND
    return state_N ^ _shifted(state_N, 31)


def _shifted(state_N: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros: torch's own shift repeats the sign."""
    return torch.bitwise_and(state_N >> bits, 2 ** (64 - bits) - 1)
