"""One training checkpoint in one file: tensors as safetensors, the rest as JSON in its header. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from .config import ModelConfig, TrainingConfig
from .data import SequenceSet

# Settings that may change between an interrupted run and its resumption.
_FREE_SETTINGS = ("epochs", "patience", "threads")


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Replace the checkpoint at once: a kill at any moment leaves the old one or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(contiguous, partial, metadata={"state": json.dumps(state)})
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checkpoint(path: Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return (tensors, state) where the file exists and belongs to this data and configuration, else None."""
    if not Path(path).exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads((file.metadata() or {})["state"])
            if state.get("fingerprint") != fingerprint:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a training checkpoint ({error}); remove it to start afresh") from error


def fingerprint_of(
    model_config: ModelConfig, config: TrainingConfig, train: SequenceSet, valid: SequenceSet | None
) -> str:
    """Return a hash of everything that decides the result of a run from its start weights on."""
    settings = {k: v for k, v in config.to_dict().items() if k not in _FREE_SETTINGS}
    digest = hashlib.blake2b(
        json.dumps([model_config.to_dict(), settings], sort_keys=True).encode(), digest_size=16
    )
    for data in (train, valid):
        if data is None:
            digest.update(b"no data")
            continue
        digest.update(json.dumps([data.domains, data.n_items]).encode())
        for name, values in data.arrays().items():
            digest.update(f"{name} {values.shape} {values.dtype}".encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state, named "parameter|key"."""
    return {
        f"{name}|{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what optimizer_tensors returned."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter_name, key = name.split("|")
        parameter = parameters[parameter_name]
        optimizer.state[parameter][key] = value.clone().to(parameter.device)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name starts with the prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
