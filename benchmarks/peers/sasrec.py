"""SASRec (Kang & McAuley 2018) with the full softmax, on this project's packed layers: no step is spent on padding.

One model a domain, or one of all domains whose targets are each predicted among the items of their own domain.
A history begins with a learned [SOS], so that people without events in a domain get its usual first items instead
of a tie. Items share one table as input and output; positions count back from the newest event, as SASRec's do.

Shapes: N packed tokens, n of them in one domain, R rows, M cases, D domains of one model, V items, C channels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.neural_rows import Catalogue, Rows, by_length, case_rows, training_log, training_rows
from benchmarks.peers.neural_validation import Epochs, domain_cases, macro
from benchmarks.peers.neural_views import product_view
from benchmarks.quality.data import PARTS, Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View
from syncrec_model.averaging import WeightAverage
from syncrec_model.embedding import SharedEmbedding
from syncrec_model.experts import ExpertStack
from syncrec_model.machine import keep_freed_memory, threads
from syncrec_model.optimizer import RowAdamW, clip_gradients
from syncrec_model.packing import PackedSequences
from syncrec_model.prediction import softmax_losses

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
_ROWS_AT_ONCE = 1024
InitialItems = Callable[[QualityData], Array]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a search may set. batch_size: rows of a step. average_epochs: as TrainingConfig's: moving average."""

    channels: int = 64
    n_layers: int = 2
    n_heads: int = 1
    ffn_multiplier: int = 2
    dropout: float = 0.2
    max_length: int = 50
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    average_epochs: float = 0.0


class SASRecModel(nn.Module):
    """A causal Transformer over items of one table, which is its output too."""

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        super().__init__()
        s = settings
        self.catalogue, self.n_domains = catalogue, len(catalogue.codes)
        self.embedding = SharedEmbedding(catalogue.sizes, s.max_length, s.channels, s.dropout)
        self.stack = ExpertStack(1, s.n_layers, s.channels, s.n_heads, s.ffn_multiplier, s.dropout)

    def forward(self, inputs: PackedSequences) -> Tensor:
        """Return what every token predicts with, [N, C]."""
        return self.stack(self.embedding(inputs), inputs)[0]  # type: ignore[no-any-return]

    def losses(self, inputs: PackedSequences, target_N: Tensor, domain_N: Tensor) -> Tensor:
        """Return the cross-entropy of every target over all items of its domain, ordered by domain, [N]."""
        y_NC = self(inputs)
        losses = []
        for domain, table_VC in enumerate(self.embedding.tables(), start=1):
            index_n = torch.nonzero(domain_N == domain).squeeze(1)
            if len(index_n):
                losses.append(softmax_losses(y_NC[index_n], table_VC, target_N[index_n]))
        return torch.cat(losses)

    @torch.no_grad()
    def start_from(self, data: QualityData, stacked_VC: Array) -> None:
        """Let the candidates' rows of the table begin as given (all domains' items, stacked); the others as drawn.

        Raises
        ------
        ValueError : the array is not [V, C].
        """
        expected = (sum(data.n_items), self.embedding.items_VC.shape[1])
        if stacked_VC.shape != expected:
            raise ValueError(f"initial_items gave {stacked_VC.shape}; the table needs {expected} (items, channels)")
        starts = np.cumsum([0, *data.n_items])
        for code, n_ranked, table_VC in zip(
            self.catalogue.codes, self.catalogue.ranked, self.embedding.tables(), strict=True
        ):
            rows_VC = np.ascontiguousarray(stacked_VC[starts[code - 1] : starts[code]], dtype=np.float32)
            table_VC[:n_ranked] = torch.from_numpy(rows_VC)

    @torch.no_grad()
    def histories(self, rows: Rows) -> Array:
        """Return the vector of every row's newest token, [R, C]; in evaluation mode."""
        self.eval()
        items_VC = self.embedding.items_VC
        found_RC = np.zeros((len(rows), items_VC.shape[1]), dtype=np.float32)
        for index_B in by_length(rows, _ROWS_AT_ONCE):
            inputs = rows.packed(index_B, self.n_domains)[0].to(items_VC.device)
            found_RC[index_B] = self(inputs)[inputs.last_R].cpu().numpy()
        return found_RC

    @torch.no_grad()
    def items(self) -> dict[int, Array]:
        """Return the candidates' vectors by the domain's code, [V_d, C]."""
        catalogue, tables = self.catalogue, self.embedding.tables()
        return {
            code: table_VC[:n_ranked].cpu().numpy().copy()
            for code, n_ranked, table_VC in zip(catalogue.codes, catalogue.ranked, tables, strict=True)
        }


class Run:
    """Trains one model until validation stops it and leaves it with the weights of the best epoch."""

    def __init__(
        self, model: SASRecModel, rows: Rows, data: QualityData, settings: Settings, budget: Budget, seed: list[int]
    ) -> None:
        self.model, self.rows, self.settings, self.seed = model, rows, settings, seed
        self.device = torch.device(budget.device)
        self.optimizer = RowAdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        steps = math.ceil(len(rows) / settings.batch_size)
        self.average = WeightAverage(model.parameters(), settings.average_epochs * steps)
        self.epochs = Epochs(budget.epochs, budget.patience)
        self.n_steps = 0
        self.cases = {code: domain_cases(data, code) for code in model.catalogue.codes}
        self.valid_index, self.valid_rows = case_rows(data, "valid", model.catalogue, settings.max_length)
        self.n_cases = len(data.cases["valid"])

    def train(self) -> Epochs:
        """Train."""
        if not len(self.rows):
            return self.epochs
        best: dict[str, Tensor] = {}
        while not self.epochs.finished:
            self._epoch()
            with self.average.swapped():
                if self.epochs.add(self._validate()):
                    best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(best)
        self.model.eval()
        return self.epochs

    def _epoch(self) -> None:
        self.model.train()
        draws = np.random.SeedSequence([*self.seed, len(self.epochs.values) + 1])
        torch.manual_seed(int(draws.generate_state(1)[0]))
        order_R = np.random.default_rng(draws).permutation(len(self.rows))
        for start in range(0, len(order_R), self.settings.batch_size):
            self._step(order_R[start : start + self.settings.batch_size])

    def _step(self, index_B: Array) -> None:
        self.n_steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * min(1.0, self.n_steps / _WARMUP_STEPS)
        inputs, target_N, domain_N = self.rows.batch(index_B, self.model.n_domains)
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
        began = time.perf_counter()
        keep_freed_memory(torch.device(budget.device))
        with threads(budget.threads), torch.random.fork_rng():
            trained = [self._train(data, codes, own, seed, budget) for codes in self._models(data)]
            train_s = time.perf_counter() - began
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

    def _train(
        self, data: QualityData, codes: tuple[int, ...], settings: Settings, seed: int, budget: Budget
    ) -> tuple[SASRecModel, Epochs]:
        catalogue = Catalogue.of(data, codes, outside_items=self.outside and self.outside_items)
        log = training_log(data, catalogue, outside=self.outside)
        model_seed = [seed, codes[0]]
        torch.manual_seed(int(np.random.SeedSequence(model_seed).generate_state(1)[0]))
        model = SASRecModel(catalogue, settings)
        if self.initial_items is not None:
            model.start_from(data, self.initial_items(data))
        model.to(torch.device(budget.device))
        rows = training_rows(log, data.n_users, settings.max_length)
        return model, Run(model, rows, data, settings, budget, model_seed).train()

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
