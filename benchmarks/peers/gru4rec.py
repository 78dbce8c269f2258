"""GRU4Rec (Hidasi et al. 2016, 2018) as its authors have it in PyTorch, imported from their repository.

    git clone https://github.com/hidasib/GRU4Rec_PyTorch_Official CHECKOUTS/GRU4Rec_PyTorch_Official

Their network, losses, negative samples, session-parallel batches and optimizer. Their `fit` trains a fixed number
of epochs; it asks its data iterator for the batches of each, and there we validate and stop.

Shapes: V items of one model, R cases of one model, B histories of a batch, T steps, C channels.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.peers.neural_library import FORMS, DomainsPeer, Trained
from benchmarks.peers.neural_rows import Catalogue, Rows, by_length, case_rows, training_log
from benchmarks.peers.neural_validation import UNKNOWN, Epochs, domain_cases, macro
from benchmarks.quality.data import PARTS, Array, QualityData
from benchmarks.quality.protocol import Budget, PeerAbsent
from syncrec_model.machine import threads

REPOSITORY = "GRU4Rec_PyTorch_Official"
_MAX_LENGTH = 50  # events of a history that are read
_HISTORIES_AT_ONCE = 1024
_SAMPLES = 1_000_000  # negative samples drawn at once; the authors' 10 million are for larger catalogues


class _Enough(Exception):
    """Patience has run out."""


class Trainer:
    """Runs the authors' `fit`, looks at the model after every epoch and keeps the best weights."""

    def __init__(self, released: ModuleType, model: Any, budget: Budget, validate: Callable[[Any], float]) -> None:
        self.released, self.model, self.validate = released, model, validate
        self.epochs = Epochs(budget.epochs, budget.patience)
        self.best: dict[str, torch.Tensor] = {}
        self.started = False

    def fit(self, sessions: pd.DataFrame) -> None:
        """Train; leave the weights of the best epoch.

        Raises
        ------
        FloatingPointError : the authors' loop met a loss that is not a number.
        """
        before = self.released.SessionDataIterator
        self.released.SessionDataIterator = self._watched(before)  # type: ignore[attr-defined]
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(_Enough):
                self.model.fit(sessions, sample_cache_max_size=_SAMPLES, compatibility_mode=False)
                if self.model.error_during_train:
                    raise FloatingPointError("GRU4Rec's loss is not a number; lower its learning_rate")
                self._after_epoch()
        finally:
            self.released.SessionDataIterator = before  # type: ignore[attr-defined]
        self.model.model.load_state_dict(self.best)

    def _watched(self, iterator: type) -> type:
        trainer = self

        class Watched(iterator):  # type: ignore[misc]
            def __call__(self, *arguments: Any, **named: Any) -> Iterator[Any]:
                if trainer.started:
                    trainer._after_epoch()
                trainer.started = True
                return super().__call__(*arguments, **named)  # type: ignore[no-any-return]

        return Watched

    def _after_epoch(self) -> None:
        if self.epochs.add(self.validate(self.model)):
            self.best = {name: value.clone() for name, value in self.model.model.state_dict().items()}
        if self.epochs.finished:
            raise _Enough


class GRU4Rec(DomainsPeer):
    """The authors' GRU4Rec, session = user."""

    family = "gru4rec"
    source = f"hidasib/{REPOSITORY} (arXiv 1511.06939, 1706.03847)"
    grid = (
        {"layers": [128], "dropout_p_embed": 0.0, "learning_rate": 0.05},
        {"layers": [128], "dropout_p_embed": 0.5, "learning_rate": 0.05},
        {"layers": [128], "dropout_p_embed": 0.5, "learning_rate": 0.1, "momentum": 0.3},
    )

    def notes(self) -> Sequence[str]:
        """Return what was adapted."""
        return (
            "Adapted: a user is a session; validation chooses the epoch; weights begin from the seed (in their "
            "compatibility mode from 42); a batch has no more sessions than there are.",
            f"Trained on whole sessions, in the order of users; a case reads the newest {_MAX_LENGTH} events.",
        )

    def train(
        self,
        data: QualityData,
        catalogues: Sequence[Catalogue],
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
    ) -> list[Trained]:
        """Train the models in this process.

        Raises
        ------
        PeerAbsent : the repository is not among the checkouts.
        """
        released = load(budget)
        return [self._train(released, data, catalogue, settings, seed, budget) for catalogue in catalogues]

    def _train(
        self,
        released: ModuleType,
        data: QualityData,
        catalogue: Catalogue,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
    ) -> Trained:
        log = training_log(data, catalogue, outside=self.form == "all")
        sessions = _sessions(log.user_E, log.stacked_E)
        n_sessions = int(sessions["SessionId"].nunique())
        own = {"constrained_embedding": True, "n_sample": 2048, "batch_size": 64, **settings}
        own["batch_size"] = min(own["batch_size"], n_sessions)
        known = {part: case_rows(data, part, catalogue, _MAX_LENGTH) for part in PARTS}
        cases = {code: domain_cases(data, code) for code in catalogue.codes}
        starts = dict(zip(catalogue.codes, np.cumsum([0, *catalogue.sizes]), strict=False))
        count_V = np.bincount(log.stacked_E, minlength=sum(catalogue.sizes) + 1)[1:]

        def validate(model: Any) -> float:
            index, rows = known["valid"]
            vectors_RC, items_VC = histories(model, rows), items(model, count_V)

            def score(code: int, index_m: Array) -> Array:
                candidates = slice(starts[code], starts[code] + data.n_items[code - 1])
                return np.asarray(vectors_RC[np.searchsorted(index, index_m)] @ items_VC[candidates].T)

            return macro(cases, score)

        began = time.perf_counter()
        with threads(budget.threads), torch.random.fork_rng():
            torch.manual_seed(seed)
            model = released.GRU4Rec(**own, n_epochs=budget.epochs, device=torch.device(budget.device))
            trainer = Trainer(released, model, budget, validate)
            trainer.fit(sessions)
            train_s = time.perf_counter() - began
            vectors = {part: histories(model, rows) for part, (_, rows) in known.items()}
        figures = {
            "chosen": trainer.epochs.figures(),
            "parameters": sum(weight.numel() for weight in model.model.parameters()),
            "train_s": train_s,
        }
        return Trained(vectors, items(model, count_V), figures)


def load(budget: Budget) -> ModuleType:
    """Return the authors' module.

    Raises
    ------
    PeerAbsent : the repository is not among the checkouts.
    """
    file = (budget.checkouts or Path("checkouts")) / REPOSITORY / "gru4rec_pytorch.py"
    spec = importlib.util.spec_from_file_location("gru4rec_pytorch", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise PeerAbsent(f"{file} is absent: clone https://github.com/hidasib/{REPOSITORY} there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sessions(user_E: Array, item_E: Array) -> pd.DataFrame:
    """Return the users with two events or more as sessions; the order of events is their time."""
    frame = pd.DataFrame({"SessionId": user_E, "ItemId": item_E, "Time": np.arange(len(user_E))})
    many = np.bincount(user_E, minlength=1)[user_E] > 1
    return frame[many].reset_index(drop=True)


@torch.no_grad()
def histories(model: Any, rows: Rows) -> Array:
    """Return the hidden state after every history's known items, then 1, then whether none is known. [R, C + 2]"""
    network, device = model.model, model.device
    place = model.data_iterator.itemidmap
    index_V1 = np.full(max(int(place.index.max()), int(rows.log.stacked_E.max(initial=0))) + 1, -1)
    index_V1[place.index.to_numpy()] = place.to_numpy()
    index_E = index_V1[rows.log.stacked_E]
    found_RC = np.zeros((len(rows), network.layers[-1] + 2), dtype=np.float32)
    found_RC[:, -2] = 1
    for index_B in by_length(rows, _HISTORIES_AT_ONCE):
        spans = zip(rows.first_R[index_B], rows.end_R[index_B], strict=True)
        known = [index_E[first:end][index_E[first:end] >= 0] for first, end in spans]
        length_B = np.array([len(session) for session in known])
        order_B = np.argsort(-length_B, kind="stable")  # those still running are always the first
        hidden = [torch.zeros(len(index_B), width, device=device) for width in network.layers]
        for step in range(int(length_B.max(initial=0))):
            n = int((length_B > step).sum())
            items_n = torch.tensor([int(known[row][step]) for row in order_B[:n]], device=device)
            state = [values[:n] for values in hidden]
            input_nC, _, _ = network.embed(items_n, state)
            network.hidden_step(input_nC, state, training=False)
            hidden = [torch.cat([new, old[n:]]) for new, old in zip(state, hidden, strict=True)]
        cold_B = length_B[order_B] == 0
        found_RC[index_B[order_B], :-2] = np.where(cold_B[:, None], 0, hidden[-1].cpu().numpy())
        found_RC[index_B[order_B], -1] = cold_B
    return found_RC


@torch.no_grad()
def items(model: Any, count_V: Array) -> Array:
    """Return every item's output vector, its bias or UNKNOWN, and the logarithm of its count. [V, C + 2]"""
    place = model.data_iterator.itemidmap
    row_V, index_V = place.index.to_numpy() - 1, place.to_numpy()
    weights_VC = model.model.Wy.weight.cpu().numpy()
    found_VC = np.zeros((len(count_V), weights_VC.shape[1] + 2), dtype=np.float32)
    found_VC[:, -2] = UNKNOWN
    found_VC[row_V, :-2] = weights_VC[index_V]
    found_VC[row_V, -2] = model.model.By.weight.cpu().numpy()[index_V, 0]
    found_VC[:, -1] = np.log1p(count_V)
    return found_VC


PEERS = tuple(GRU4Rec(form) for form in FORMS)
