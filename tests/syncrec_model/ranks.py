"""Runs a function in processes of its own, alone or as the ranks of one gloo group.

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
    ended = exit_codes(_rank, [(number, world, function, folder, arguments) for number in range(world)])
    assert ended == [0] * world, f"exit codes of the ranks: {ended}"
    return [torch.load(folder / f"rank-{number}.pt", weights_only=False) for number in range(world)]


def exit_codes(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[int | None]:
    """Run one process per call and return how each ended: -9 after SIGKILL, None while it hangs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "syncrec_model", "small_models"])
    processes = [context.Process(target=function, args=arguments) for arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    ended = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return ended


def _rank(number: int, world: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting-point'}", rank=number, world_size=world
    )
    torch.save(function(*arguments), folder / f"rank-{number}.pt")
    torch.distributed.destroy_process_group()
