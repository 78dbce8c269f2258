"""The few sums that must run over all ranks when torch.distributed is in use."""

from __future__ import annotations

import torch
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks, 1 without torch.distributed."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the elementwise sum over ranks, without gradient."""
    values = values.detach().clone()
    if world_size() > 1:
        torch.distributed.all_reduce(values)
    return values
