"""A registered model whose weights nobody trained: a formula gives them, so that they are the same everywhere."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch

from jobs.registry import pyfunc_parts
from syncrec_model import ModelConfig, SyNCRec, Vocabulary, save_model

DOMAINS = ("books", "toys", "food")
VOCABULARY = Vocabulary(
    DOMAINS,
    tuple([f"{domain[0]}{i}" for i in range(1, n + 1)] for domain, n in zip(DOMAINS, (12, 9, 30), strict=True)),
)
VIEWS = {"books": "cross", "toys": "single", "food": "blend"}
REPEATS = ["food"]


def formula_model(preset: str = "default", **changes: Any) -> SyNCRec:
    """A small model of a preset; every weight is a sine of its name and place (no random generator, which may
    change with its library).
    """
    sizes = {"channels": 8, "max_length": 5, "n_experts": 3, "n_cross_experts": 2, "n_heads": 2}
    config = dataclasses.replace(ModelConfig.preset(preset), **(sizes | changes))
    model = SyNCRec(config, DOMAINS, VOCABULARY.n_items)
    fill_by_formula(model)
    with torch.no_grad():
        share_D = torch.tensor([0.2, 0.5, 0.7])
        model.blend.weights_DF[:, :2] = torch.stack([2 * share_D, 2 * (1 - share_D)], 1)
    return model.eval()


def fill_by_formula(model: SyNCRec, seed: int = 0) -> None:
    """Give every weight the sine of its name and place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            phase = seed + zlib.crc32(name.encode()) % 1000
            wave = np.sin(phase + 1.7 * np.arange(parameter.numel()) ** 1.5).reshape(parameter.shape)
            start = 1.0 if name.endswith(("scale_KC", "norm.weight")) else 0.0
            parameter.copy_(torch.from_numpy(np.asarray(start + 0.4 * wave)))


def registered(folder: Path, model: SyNCRec) -> Path:
    """Save the model as `Registry.log_version` logs it; return the folder that MLflow loads."""
    save_model(folder / "saved", model, VOCABULARY, VIEWS, {"ds": "2024-01-05", "repeats": REPEATS})
    example = [{"item_id": "b1", "domain": "books", "ts": 0}]
    mlflow.pyfunc.save_model(str(folder / "pyfunc"), **pyfunc_parts(folder / "saved", example))
    return folder / "pyfunc"


def table(histories: Sequence[Any], users: Sequence[Any] | None = None) -> pd.DataFrame:
    """Histories of (item_id, domain[, ts]) as the columns that the model reads."""
    names = ("item_id", "domain", "ts")
    columns = [
        [dict(zip(names, event, strict=False)) for event in history] if isinstance(history, list) else history
        for history in histories
    ]
    return pd.DataFrame({"user_id": users or [f"u{row}" for row in range(len(histories))], "history": columns})
