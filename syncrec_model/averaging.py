"""The exponential moving average of the weights while they are trained: what validation measures and is kept.

With a constant learning rate the last weights carry the noise of the last few batches; their average over most of
an epoch does not, and ranks better at every epoch (docs/benchmarks/quality.md). Polyak & Juditsky (1992).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_AT_ONCE = 8  # steps between two updates, so that a large item table is seldom read whole
_UPDATES = 32  # of a horizon, at least, where it has as many steps


class WeightAverage:
    """The average of some parameters. horizon: its time constant in steps; 0: no average, the weights themselves.

    Of n updates the newest weighs 2 / (n + 2) until that falls below the constant rate, so that the start is
    forgotten. The moments of the updates follow from the step alone: a resumed run goes on to the bit.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], horizon: float) -> None:
        self._parameters = list(parameters)
        self._every = max(1, min(_AT_ONCE, round(horizon / _UPDATES)))
        self._rate = 1 - math.exp(-self._every / horizon) if horizon > 0 else 1.0
        self.values = [p.detach().clone() for p in self._parameters] if horizon > 0 else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights in after an optimiser step; step: counted from 0 over the whole run."""
        done, rest = divmod(step + 1, self._every)
        if self.values and rest == 0:
            rate = max(self._rate, 2 / (done + 1))
            torch._foreach_lerp_(self.values, [p.detach() for p in self._parameters], min(rate, 1.0))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the parameters hold the average inside the block, and what they held before behind it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def restore(self, values: Sequence[Tensor]) -> None:
        """Put back what `values` were."""
        for own, value in zip(self.values, values, strict=True):
            own.copy_(value)

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self._parameters, self.values, strict=False):
            held = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(held)
