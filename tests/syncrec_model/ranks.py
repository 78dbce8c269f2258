"""Runs a function on several real processes that form one gloo group.

The processes are forked from a server that has imported torch once: a fresh interpreter for every rank would take
longer than the training that is tested.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SECONDS = 300  # a hanging rank fails the test; a busy machine does not


def on_ranks(world: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Return what function(*arguments) gives on every rank. function: of an importable module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "syncrec_model", "small_models"])
    processes = [
        context.Process(target=_rank, args=(number, world, function, folder, arguments)) for number in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    ended = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert ended == [0] * world, f"exit codes of the ranks: {ended}"
    return [torch.load(folder / f"rank-{number}.pt", weights_only=False) for number in range(world)]


def _rank(number: int, world: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting-point'}", rank=number, world_size=world
    )
    torch.save(function(*arguments), folder / f"rank-{number}.pt")
    torch.distributed.destroy_process_group()
