"""Load the released research code of SyNCRec (public repository cpark88/SyNCRec) to measure it and compare with it.

Nothing of it is part of this repository: check it out beside and name its folder with --released PATH or with the
environment variable SYNCREC_RELEASED. Its models.py and modules.py are imported unchanged; edits made at run time,
all of them:

1. `modules` is put into sys.modules while models.py is imported, which says `from modules import ...`, and taken
   out again.
2. The name `torch` inside models.py means a stand-in whose `device(...)` is the device that was asked for, because
   the code says `torch.device("cuda:N")`; everything else of torch passes through.

Its conventions: type and item ids start with five special ones (pad, unk, eos, sos, mask), so that domain types are
5..9, written into the code, and items are 5 and up; 0 is padding. Callers here use our ids: domain codes 1..5,
items 1..n_items stacked over all domains, 0 is padding, and `loss` shifts them.

Shapes: B users, T steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

VARIABLE = "SYNCREC_RELEASED"
ABSENT = "not at hand: check out cpark88/SyNCRec beside and give --released PATH"
N_DOMAINS = 5  # the code lists the types 5, 6, 7, 8, 9
FIRST_ID = 5  # of types and of items: five special ids come before
_FILES = ("models.py", "modules.py")


class ReleasedCodeAbsent(Exception):
    """The released code is not where it was looked for; the message says what to do."""


class ReleasedLosses(NamedTuple):
    """What the released model returns, all with gradient: the total and the three parts it is the sum of.

    The total also holds its `loss_contrastive_cross_total`, which stays 0 with the settings of train.sh.
    """

    total: Tensor
    single: Tensor
    cross: Tensor
    mutual_information: Tensor


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Give a command line the option --released."""
    parser.add_argument(
        "--released",
        type=Path,
        default=Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None,
        help=f"folder of a checkout of cpark88/SyNCRec (default: ${VARIABLE})",
    )


def find_released(path: Path | None) -> Path:
    """Return the folder that holds models.py and modules.py: `path` itself or a folder just below it.

    Raises
    ------
    ReleasedCodeAbsent : no path was given, or the files are not there.
    """
    if path is None:
        raise ReleasedCodeAbsent(ABSENT)
    path = Path(path)
    candidates = [path, *sorted(p for p in path.glob("*") if p.is_dir())]
    for folder in candidates:
        if all((folder / name).is_file() for name in _FILES):
            return folder
    raise ReleasedCodeAbsent(f"{path} holds no {' and '.join(_FILES)}; {ABSENT}")


class ReleasedModel:
    """The released model on one device. `module` is its CausalModel, in training mode after loading."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module
        self.device = device

    def loss(
        self,
        items_BT: Tensor,
        domains_BT: Tensor,
        positive_BT: Tensor,
        negative_BT: Tensor,
        positive_domains_BT: Tensor,
    ) -> ReleasedLosses:
        """Return its losses of one batch, left-padded with 0, by its own training entry point `pretrain_seq`.

        items_BT, positive_BT, negative_BT: stacked item 1..n_items of the input, of the event after it and of its
        negative; domains_BT, positive_domains_BT: domain codes 1..5. Each call moves its lambda state one step.
        """
        items, positive, negative, domains, positive_domains = (
            self._shifted(ids) for ids in (items_BT, positive_BT, negative_BT, domains_BT, positive_domains_BT)
        )
        unused = torch.zeros(len(items), 1, dtype=torch.long, device=self.device)  # test negatives and answer
        found: tuple[Tensor, ...] = self.module.pretrain_seq(
            items, positive, negative, unused, unused, domains, positive_domains
        )
        return ReleasedLosses(*found)

    def last_outputs(self, items_BT: Tensor, domains_BT: Tensor) -> Tensor:
        """Return what it predicts with, [B, C]: the cross view at the newest step (its `get_last_emb`)."""
        items, domains = self._shifted(items_BT), self._shifted(domains_BT)
        found: Tensor = self.module.get_last_emb(items, domains, None, None, None, cuda_yn="y")
        return found

    def optimizer(self, learning_rate: float = 1e-3) -> torch.optim.Optimizer:
        """Return the optimizer of its trainer: plain Adam with the defaults of its command line."""
        return torch.optim.Adam(self.module.parameters(), lr=learning_rate, betas=(0.9, 0.999), weight_decay=0.0)

    def _shifted(self, ids_BT: Tensor) -> Tensor:
        ids_BT = ids_BT.to(self.device)
        return torch.where(ids_BT > 0, ids_BT + (FIRST_ID - 1), 0)


def load_released(
    path: Path | None,
    *,
    n_items: int,
    n_domains: int = N_DOMAINS,
    channels: int,
    max_length: int,
    n_experts: int = 5,
    n_layers: int = 2,
    n_heads: int = 1,
    dropout: float = 0.5,
    device: str = "cpu",
) -> ReleasedModel:
    """Build the released model with the settings of its train.sh and, where that is silent, its defaults.

    lrb y, mip y, cross_detach y, single_detach y, cross_expert_ratio 0.8, expert_layer transformer, loss_type
    negative; dropout (0.5) of attention and of hidden states. Random weights come from torch's generator.

    Raises
    ------
    ReleasedCodeAbsent : see `find_released`.
    ValueError : a setting that its code cannot compute with.
    """
    folder = find_released(path)
    if n_domains != N_DOMAINS:
        raise ValueError(f"load_released: n_domains = {n_domains}; the released code is written for {N_DOMAINS}")
    if channels % n_heads:
        raise ValueError(f"load_released: n_heads = {n_heads} does not divide channels = {channels}")
    settings = SimpleNamespace(
        type_size=FIRST_ID + n_domains, item_size=FIRST_ID + n_items, task_num=n_domains + 1,
        hidden_size=channels, max_seq_length=max_length, expert_num=n_experts, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        lrb="y", mip="y", cross_detach="y", single_detach="y", cross_expert_ratio=0.8, expert_layer="transformer",
        loss_type="negative", hidden_act="gelu", initializer_range=0.02, temperature=1, local_rank=0,
    )  # fmt: skip
    on = torch.device(device)
    module: nn.Module = _models(folder, on).CausalModel(args=settings)
    return ReleasedModel(module.to(on).train(), on)


def _models(folder: Path, device: torch.device) -> Any:
    """Import models.py with its own modules.py, whatever else is called `modules` in this process."""
    before = sys.modules.get("modules")
    sys.modules["modules"] = _import(folder / "modules.py", "released_syncrec_modules")
    try:
        models: Any = _import(folder / "models.py", "released_syncrec_models")
    finally:
        if before is None:
            del sys.modules["modules"]
        else:
            sys.modules["modules"] = before
    models.torch = _TorchOn(device)
    return models


def _import(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ReleasedCodeAbsent(f"{path} cannot be imported; {ABSENT}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _TorchOn:
    """torch, but `device(...)` always names one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, *_: object) -> torch.device:
        """Return the device, whatever was asked for."""
        return self._device
