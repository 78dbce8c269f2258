"""SASRec (Kang & McAuley 2018) with the full softmax, on this project's packed layers: no step is spent on padding.

One model a domain, or one of all domains whose targets are each predicted among the items of their own domain.
A history begins with a learned [SOS], so that people without events in a domain get its usual first items instead
of a tie. Items share one table as input and output; positions count back from the newest event, as SASRec's do.

Shapes: N packed tokens, R rows, M cases, V items, C channels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.neural_rows import Catalogue, Rows, case_rows, training_log, training_rows
from benchmarks.peers.neural_validation import Epochs, domain_cases, macro
from benchmarks.peers.neural_views import product_view
from benchmarks.peers.sasrec_model import SASRecModel, Settings
from benchmarks.quality.attempts import Meter
from benchmarks.quality.data import PARTS, Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View
from syncrec_model.averaging import WeightAverage
from syncrec_model.checkpoint import (
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    under,
    write_checkpoint,
)
from syncrec_model.machine import keep_freed_memory, threads
from syncrec_model.optimizer import RowAdamW, clip_gradients

FORMS = ("single", "all", "mixed", "mixed-all")
# Patience counts epochs, so a model of few rows needs small steps to learn before it runs out: single-domain models
# of 2,000 users had a validation NDCG@10 of .005 with 128 rows a step at 1e-3, .013 with 32.
BATCH_SIZES = {"single": 32, "all": 64, "mixed": 64, "mixed-all": 64}
SEARCH = (  # the likeliest first: QUICK tries that alone
    {"dropout": 0.5, "n_layers": 1, "average_epochs": 0.7},
    {"dropout": 0.5, "n_layers": 2, "average_epochs": 0.7},
    {"dropout": 0.35, "n_layers": 1, "average_epochs": 0.7},
    {"dropout": 0.5, "n_layers": 1, "average_epochs": 0.0},
)
_WARMUP_STEPS, _CLIP_NORM = 20, 5.0  # as TrainingConfig
InitialItems = Callable[[QualityData], Array]


class Run:
    """Trains one model until validation stops it and leaves it with the weights of the best epoch.

    folder: has a checkpoint after every epoch, from which a killed run goes on to the bit.
    """

    def __init__(
        self, model: SASRecModel, rows: Rows, data: QualityData, settings: Settings, budget: Budget,
        seed: list[int], folder: Path,
    ) -> None:  # fmt: skip
        self.model, self.rows, self.settings, self.seed = model, rows, settings, seed
        self.device = torch.device(budget.device)
        self.optimizer = RowAdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        steps = math.ceil(len(rows) / settings.batch_size)
        self.average = WeightAverage(model.parameters(), settings.average_epochs * steps)
        self.epochs = Epochs(budget.epochs, budget.patience)
        self.n_steps = 0
        self.best: dict[str, Tensor] = {}
        codes = model.catalogue.codes
        self.checkpoint = folder / f"{'+'.join(map(str, codes))}.safetensors"
        self.fingerprint = json.dumps([data.fingerprint(), codes, asdict(settings), seed, len(rows)])
        self.cases = {code: domain_cases(data, code) for code in model.catalogue.codes}
        self.valid_index, self.valid_rows = case_rows(data, "valid", model.catalogue, settings.max_length)
        self.n_cases = len(data.cases["valid"])

    def train(self, keep: Callable[[], None]) -> Epochs:
        """Train; keep: called after every epoch, before it is written."""
        if not len(self.rows):
            return self.epochs
        self._resume()
        while not self.epochs.finished:
            self._epoch()
            with self.average.swapped():
                if self.epochs.add(self._validate()):
                    self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            keep()
            self._save()
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.epochs

    def _epoch(self) -> None:
        self.model.train()
        draws = np.random.SeedSequence([*self.seed, len(self.epochs.values) + 1])
        torch.manual_seed(int(draws.generate_state(1)[0]))
        order_R = np.random.default_rng(draws).permutation(len(self.rows))
        for start in range(0, len(order_R), self.settings.batch_size):
            self._step(order_R[start : start + self.settings.batch_size])

    def _save(self) -> None:
        parts = {
            "model": self.model.state_dict(), "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer, self.model),
            "average": {f"{place:04d}": value for place, value in enumerate(self.average.values)},
        }  # fmt: skip
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        state = {"fingerprint": self.fingerprint, "values": self.epochs.values, "best": self.epochs.best}
        write_checkpoint(self.checkpoint, tensors, {**state, "n_steps": self.n_steps})

    def _resume(self) -> None:
        """Go on from the checkpoint where there is one of this run."""
        found = read_checkpoint(self.checkpoint, self.fingerprint)
        if found is None:
            return
        tensors, state = found
        self.model.load_state_dict(under("model.", tensors))
        self.best = under("best.", tensors)
        restore_optimizer(self.optimizer, self.model, under("optimizer.", tensors))
        self.average.restore([value for _, value in sorted(under("average.", tensors).items())])
        self.epochs.values, self.epochs.best = state["values"], state["best"]
        self.n_steps = state["n_steps"]

    def _step(self, index_B: Array) -> None:
        self.n_steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * min(1.0, self.n_steps / _WARMUP_STEPS)
        inputs, target_N, domain_N = self.rows.batch(index_B, self.model.n_domains, self.device.type)
        losses_N = self.model.losses(inputs.to(self.device), target_N.to(self.device), domain_N.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        losses_N.mean().backward()  # type: ignore[no-untyped-call]
        clip_gradients(self.model.parameters(), _CLIP_NORM)
        self.optimizer.step()
        self.average.update(self.n_steps - 1)

    def _validate(self) -> float:
        histories_MC = np.zeros((self.n_cases, self.settings.channels), dtype=np.float32)
        histories_MC[self.valid_index] = self.model.histories(self.valid_rows)
        items = self.model.items()
        return macro(self.cases, lambda code, index_m: histories_MC[index_m] @ items[code].T)


class SASRec(Peer):
    """One form of SASRec. single: one model a domain, of the benchmark's users; all: outside users too; mixed: one
    model of all domains; mixed-all: outside users too.

    outside_items: whether items that only outside users have train, too. They are never ranked, and quadruple the
    softmax; ours does without them as well. initial_items: data -> [V, C], what the item table begins
    as, the benchmark's items of all domains stacked.
    """

    source = "SASRec (arXiv 1808.09781) with full softmax, on syncrec_model's packed layers"
    keeps_scores = True
    resumes = True

    def __init__(
        self,
        form: str,
        *,
        name: str | None = None,
        search: Sequence[Mapping[str, Any]] = SEARCH,
        outside_items: bool = False,
        initial_items: InitialItems | None = None,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"SASRec form {form!r}: choose one of {', '.join(FORMS)}")
        self.name = name or f"sasrec.{form}"
        self.search = [{"batch_size": BATCH_SIZES[form], **settings} for settings in search]
        self.outside = form in ("all", "mixed-all")
        self.mixed = form.startswith("mixed")
        self.slow = self.slow or form == "mixed"  # QUICK has the form of everybody, which an ensemble reads
        self.kind = "multi-domain" if self.mixed else "single-domain"
        self.outside_items = outside_items
        self.initial_items = initial_items

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Train the models and encode every case's history."""
        own = Settings(**settings)
        meter = Meter(folder)
        keep_freed_memory(torch.device(budget.device))
        with threads(budget.threads), torch.random.fork_rng():
            trained = []
            for codes in self._models(data):
                run = self._run(data, codes, own, seed, budget, folder)
                trained.append((run.model, run.train(meter.keep)))
            train_s = meter.spent().seconds
            view = self._view(data, [model for model, _ in trained], own)
        chosen = {
            "+".join(data.domains[code - 1] for code in model.catalogue.codes): epochs.figures()
            for model, epochs in trained
        }
        parameters = sum(weight.numel() for model, _ in trained for weight in model.parameters())
        return Fitted({"": view}, parameters, train_s, chosen, self._notes())

    def _models(self, data: QualityData) -> list[tuple[int, ...]]:
        """Return the domains of each model."""
        codes = tuple(range(1, len(data.domains) + 1))
        return [codes] if self.mixed else [(code,) for code in codes]

    def _run(
        self, data: QualityData, codes: tuple[int, ...], settings: Settings, seed: int, budget: Budget, folder: Path
    ) -> Run:
        catalogue = Catalogue.of(data, codes, outside_items=self.outside and self.outside_items)
        log = training_log(data, catalogue, outside=self.outside)
        model_seed = [seed, codes[0]]
        torch.manual_seed(int(np.random.SeedSequence(model_seed).generate_state(1)[0]))
        model = SASRecModel(catalogue, settings)
        if self.initial_items is not None:
            model.start_from(data, self.initial_items(data))
        model.to(torch.device(budget.device))
        rows = training_rows(log, data.n_users, settings.max_length)
        return Run(model, rows, data, settings, budget, model_seed, folder)

    def _view(self, data: QualityData, models: Sequence[SASRecModel], settings: Settings) -> View:
        histories = {part: np.zeros((len(data.cases[part]), settings.channels), dtype=np.float32) for part in PARTS}
        items: dict[int, Array] = {}
        for model in models:
            items |= model.items()
            for part in PARTS:
                index, rows = case_rows(data, part, model.catalogue, settings.max_length)
                histories[part][index] = model.histories(rows)
        # Each domain has a softmax of its own, so items of different domains cannot be compared.
        return product_view(data, histories, items, comparable=False)

    def _notes(self) -> list[str]:
        notes = ["Softmax over all items of the target's domain; histories begin with a learned [SOS]."]
        if self.outside:
            items = "with" if self.outside_items else "without"
            notes.append(f"Trained on outside users too, {items} the items that only they have.")
        if self.initial_items is not None:
            notes.append("The item table does not begin at random.")
        return notes


class EveryRowSASRec(SASRec):
    """Form "all" with every row of a domain, items that are no candidates too: does leaving them out cost?"""

    slow = True

    def __init__(self) -> None:
        super().__init__("all", name="sasrec.all-items", search=SEARCH[:2], outside_items=True)


PEERS = (*(SASRec(form) for form in FORMS), EveryRowSASRec())
