"""What a training run asks of the machine: the device, threads, deterministic algorithms, a compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# glibc's malloc.h: M_MMAP_THRESHOLD at its highest, M_TRIM_THRESHOLD, M_TOP_PAD; in bytes.
_KEEP = {-3: 32 << 20, -1: 1 << 30, -2: 256 << 20}


def choose_device(name: str) -> torch.device:
    """Return the device; "auto" takes CUDA where there is one, and "cuda" without one is refused."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError('TrainingConfig.device = "cuda", but torch sees no CUDA device; use "auto" or "cpu"')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def keep_freed_memory(device: torch.device) -> bool:
    """Let glibc keep what a step frees for the next one; return whether it does.

    A step on the CPU frees a gigabyte or so and takes it anew a moment later. By default glibc gives it back to the
    kernel, which zeroes every page again: 10 to 20 % of a step (docs/benchmarks/training.md). Holds for the rest of
    the process. Where the C library is another, or MALLOC_TRIM_THRESHOLD_ is set, nothing changes.
    """
    if device.type != "cpu" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _KEEP.items())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads; 0 leaves the number as it is."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_algorithms(on: bool, device: torch.device) -> Iterator[None]:
    """Let torch use only algorithms that give the same bits every time, and refuse those that cannot.

    Raises ValueError on a GPU whose matrix products were not told to be deterministic before the process began.
    """
    if not on:
        yield
        return
    if device.type == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        raise ValueError(
            "TrainingConfig.deterministic = True: on a GPU start the process with CUBLAS_WORKSPACE_CONFIG=:4096:8, "
            "without it matrix products may differ in the last bit"
        )
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


def compiled(model: nn.Module, device: torch.device) -> Callable[..., Any]:
    """Return the model's call, compiled at its first use, for any number of tokens.

    Raises ValueError where no compiler for the device is installed.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ValueError(
            "TrainingConfig.compile = True: for a GPU torch compiles with triton, which is not installed; "
            "install it or set compile = False"
        )
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ValueError(
            "TrainingConfig.compile = True: for a CPU torch compiles with g++ or clang++, and neither is there; "
            "install one, name it in CXX, or set compile = False"
        )
    return torch.compile(model, dynamic=True)
