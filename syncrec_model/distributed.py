"""Several ranks train one model: who this rank is, and the few sums that must run over all of them.

Each rank computes its share of the global batch's loss, so gradients are summed, not averaged. Shapes: n rows of
this rank, m rows of all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

Value = TypeVar("Value")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the ranks that torchrun started, for the time of the context; without torchrun do nothing.

    Tensors on a CPU travel by gloo, tensors on GPUs by NCCL; the rank takes the GPU of its local number.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group()
    try:
        yield
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Return the number of ranks, 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this rank's number, 0 without torch.distributed."""
    return distributed.get_rank() if world_size() > 1 else 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the elementwise sum over ranks, without gradient."""
    values = values.detach().clone()
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


class _Sum(torch.autograd.Function):
    """The sum over ranks; each rank's gradient is the sum of what all ranks ask of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0].contiguous())


def gather_rows(*tensors: Tensor) -> tuple[list[Tensor], int]:
    """Return the rows of all ranks, rank after rank, [m, ...], with gradient to the rank that gave them.

    tensors: [n, ...] each, n may differ from rank to rank and be 0. Also returns where this rank's rows start.
    """
    if world_size() == 1:
        return list(tensors), 0
    n = len(tensors[0])
    counts = torch.zeros(world_size(), dtype=torch.int64, device=tensors[0].device)
    counts[rank()] = n
    ends = sum_over_ranks(counts).cumsum(0).tolist()
    own = torch.arange(ends[rank()] - n, ends[rank()], device=counts.device)
    gathered = []
    for values in tensors:
        placed = values.new_zeros(ends[-1], *values.shape[1:]).index_copy(0, own, values)
        gathered.append(_Sum.apply(placed))  # type: ignore[no-untyped-call]
    return gathered, ends[rank()] - n


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over ranks; a parameter that no rank used keeps None.

    A gradient that is sparse on any rank must be sparse or None on all: its rows travel, not the table.
    """
    if world_size() == 1:
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    sparse = [parameter.grad is not None and parameter.grad.is_sparse for parameter in learning]
    by_rows = sum_over_ranks(torch.tensor(sparse, dtype=torch.float32, device=learning[0].device)).tolist()
    for parameter, rows in zip(learning, by_rows, strict=True):
        if rows:
            _sum_rows(parameter)
    learning = [parameter for parameter, rows in zip(learning, by_rows, strict=True) if not rows]
    own = [parameter.grad for parameter in learning]
    used = torch.tensor([float(grad is not None) for grad in own], device=learning[0].device)
    parts = [
        torch.zeros_like(parameter) if grad is None else grad for parameter, grad in zip(learning, own, strict=True)
    ]
    sums = sum_over_ranks(torch.cat([part.flatten() for part in [*parts, used.to(parts[0].dtype)]]))
    sizes = [part.numel() for part in parts]
    *gradients, used = torch.split(sums, [*sizes, len(parts)])
    for parameter, gradient, is_used in zip(learning, gradients, used.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter) if is_used else None


def _sum_rows(parameter: nn.Parameter) -> None:
    """Replace a sparse gradient by its sum over ranks, one entry a row."""
    index = torch.zeros(0, dtype=torch.int64, device=parameter.device)
    values = parameter.new_zeros(0, *parameter.shape[1:])
    if parameter.grad is not None:
        own = parameter.grad.coalesce()
        index, values = own.indices()[0], own.values()
    (values, index), _ = gather_rows(values, index)
    parameter.grad = torch.sparse_coo_tensor(
        index[None], values.detach(), parameter.shape, check_invariants=False
    ).coalesce()


def copy_from_first_rank(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors with those of rank 0, in place."""
    if world_size() > 1:
        for values in tensors:
            distributed.broadcast(values, src=0)


def from_first_rank(value: Value) -> Value:
    """Return the value that rank 0 gives (any object that can be pickled; it never touches a disk)."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def objects_of_ranks(value: Value) -> list[Value]:
    """Return what every rank gives, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    distributed.all_gather_object(box, value)
    return box
