"""Which class a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

from .config import ModelConfig
from .model import SyNCRec
from .released import ReleasedSyNCRec


def build_model(config: ModelConfig, domains: Sequence[str], n_items: Sequence[int]) -> SyNCRec:
    """Return a fresh model of `config.architecture`; whatever works with SyNCRec works with it."""
    return {"syncrec": SyNCRec, "released": ReleasedSyNCRec}[config.architecture](config, domains, n_items)
