"""Train RecTools models on the files of folders, in RecTools' own environment. See neural_library.py.

    .venv/bench/bin/python -P benchmarks/peers/neural_rectools_worker.py FOLDER ...

The library's data preparation, network, initialisation, loss and Adam; without the loop of Lightning around, so
that our validation chooses the epoch. Positions without a target, whose loss the library sets to zero, are left out
before the product with all items instead of after it: the same loss for a fraction of the work.

Shapes: E events, R cases, V items, C channels, B sessions of a batch, T steps, N positions with a target.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rectools import Columns, models
from rectools.dataset import Dataset
from rectools.models.nn.transformers.base import TransformerModelBase

Array = NDArray[Any]
_SESSIONS_AT_ONCE = 256


def _neighbour(name: str) -> Any:
    """Load a file of this folder by itself: the package around it needs libraries that are not here."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"{name}.py is not beside {__file__}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


validation = _neighbour("neural_validation")
UNKNOWN: float = validation.UNKNOWN


class Worker:
    """One model with what it is trained and validated on."""

    def __init__(self, folder: Path) -> None:
        self.job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        with np.load(folder / "log.npz") as found:
            self.arrays = dict(found)
        self.cases = validation.read_cases(folder / "cases.npz")
        self.device = torch.device(self.job["device"])
        torch.set_num_threads(self.job["threads"])
        torch.manual_seed(self.job["seed"])
        np.random.seed(self.job["seed"])
        self.model: TransformerModelBase[Any] = getattr(models, self.job["model"])(**self.job["settings"])
        self.model._build_model_from_dataset(_dataset(self.arrays["user_E"], self.arrays["item_E"]))
        self.preparator = self.model.data_preparator
        self.module = self.model.lightning_model.to(self.device)
        self.module._xavier_normal_init()
        self.optimizer = self.module.configure_optimizers()
        extra = self.preparator.n_item_extra_tokens
        known = np.asarray(self.preparator.get_known_item_ids(), dtype=np.int64)
        self.n_items = sum(self.job["sizes"])
        self.internal_V1 = np.zeros(self.n_items + 1, dtype=np.int64)  # 0: not known
        self.internal_V1[known] = np.arange(extra, extra + len(known))
        self.starts = np.cumsum([0, *self.job["sizes"]])
        self.sessions = {part: self._sessions(part) for part in ("valid", "test")}

    def _sessions(self, part: str) -> list[list[int]]:
        """Return the known items of every case's history, in the library's numbers."""
        internal_E = self.internal_V1[self.arrays[f"{part}_items"]]
        first_R, end_R = self.arrays[f"{part}_first"], self.arrays[f"{part}_end"]
        return [
            internal_E[first:end][internal_E[first:end] > 0].tolist()
            for first, end in zip(first_R, end_R, strict=True)
        ]

    def train(self) -> Any:
        """Train until validation stops it; leave the weights of the best epoch."""
        loader = self.preparator.get_dataloader_train()
        epochs = validation.Epochs(self.job["epochs"], self.job["patience"])
        best: dict[str, Any] = {}
        while not epochs.finished:
            self.module.train()
            for batch in loader:
                self._step({name: values.to(self.device) for name, values in batch.items()})
            if epochs.add(self._validate()):
                best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(best)
        return epochs

    def _step(self, batch: Mapping[str, torch.Tensor]) -> None:
        has_target_BT = batch["y"] != 0
        if not has_target_BT.any():
            return
        network = self.module.torch_model
        items_VC = network.item_model.get_all_embeddings()
        y_NC = network.encode_sessions(batch, items_VC)[has_target_BT]
        logits_1NV = network.similarity_module(y_NC[None], items_VC) / self.module.logits_t
        targets = batch["y"][has_target_BT][None], batch["yw"][has_target_BT][None]
        loss = self.module.loss_calculator(logits_1NV, *targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _validate(self) -> float:
        histories_RC, items_VC = self.histories("valid"), self.items()
        ranked = self.job["ranked"]

        def score(number: int, index_m: Array) -> Array:
            start = self.starts[number - 1]
            return np.asarray(histories_RC[index_m] @ items_VC[start : start + ranked[number - 1]].T)

        return float(validation.macro(self.cases, score))

    @torch.no_grad()
    def histories(self, part: str) -> Array:
        """Return the vector of every case's history, then 1, then whether nothing of it is known. [R, C + 2]"""
        self.module.eval()
        network, sessions = self.module.torch_model, self.sessions[part]
        items_VC = network.item_model.get_all_embeddings()
        found_RC = np.zeros((len(sessions), items_VC.shape[1] + 2), dtype=np.float32)
        found_RC[:, -2] = 1
        warm_R = np.array([bool(session) for session in sessions], dtype=bool)
        found_RC[~warm_R, -1] = 1
        index_R = np.flatnonzero(warm_R)
        for start in range(0, len(index_R), _SESSIONS_AT_ONCE):
            index_B = index_R[start : start + _SESSIONS_AT_ONCE]
            batch = self.preparator._collate_fn_recommend([(sessions[row], [], {}) for row in index_B])
            x_BT = {name: values.to(self.device) for name, values in batch.items()}
            y_BC = network.encode_sessions(x_BT, items_VC)[:, -1, :]
            found_RC[index_B, :-2] = network.similarity_module.session_tower_forward(y_BC).cpu().numpy()
        return found_RC

    @torch.no_grad()
    def items(self) -> Array:
        """Return every item's vector, then UNKNOWN or 0, then the logarithm of its training count. [V, C + 2]"""
        self.module.eval()
        network = self.module.torch_model
        learned_VC = network.similarity_module.item_tower_forward(network.item_model.get_all_embeddings())
        internal_V = self.internal_V1[1:]
        known_V = internal_V > 0
        found_VC = np.zeros((self.n_items, learned_VC.shape[1] + 2), dtype=np.float32)
        found_VC[known_V, :-2] = learned_VC.cpu().numpy()[internal_V[known_V]]
        found_VC[~known_V, -2] = UNKNOWN
        found_VC[:, -1] = np.log1p(np.bincount(self.arrays["item_E"], minlength=self.n_items + 1)[1:])
        return found_VC


def _dataset(user_E: Array, item_E: Array) -> Dataset:
    """Return the log as the library reads it; the order of events is their time."""
    columns = {
        Columns.User: user_E,
        Columns.Item: item_E,
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(np.arange(len(user_E)), unit="s"),
    }
    return Dataset.construct(pd.DataFrame(columns))


def run(folder: Path) -> None:
    """Train the model of a folder and write its result."""
    worker = Worker(folder)
    began = time.perf_counter()
    epochs = worker.train()
    figures = {
        "train_s": time.perf_counter() - began,
        "parameters": sum(weight.numel() for weight in worker.module.torch_model.parameters()),
        "chosen": epochs.figures(),
    }
    arrays: dict[str, Any] = {part: worker.histories(part) for part in ("valid", "test")}
    np.savez(folder / "result.npz", items=worker.items(), **arrays)
    (folder / "result.json").write_text(json.dumps(figures), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Train the model of every folder."""
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    for folder in argv or sys.argv[1:]:
        run(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
