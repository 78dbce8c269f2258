"""fit: train a model, measure it after every epoch, keep the best epoch, resume after any interruption.

The order of users and all random draws of an epoch follow from (seed, epoch) alone, so a run resumed at an epoch
boundary continues as if it had never stopped: no generator state needs saving. On a CPU the result is the same
to the bit, given the same number of threads (another number adds up in another order).

Several ranks (torchrun, or any initialised torch.distributed) share every batch, sum their gradients and so hold
the same weights; validation is shared too, and every rank decides from the same figures (docs/training.md).

Of a SequenceSet: U users, T steps. Of a model: V items, C channels, D domains, F features of the blend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .averaging import WeightAverage
from .batches import SequenceReader
from .blend_fit import fit_blend
from .checkpoint import (
    fingerprint_of,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    under,
    write_checkpoint,
)
from .config import TrainingConfig
from .cooccurrence import count_pairs, start_items
from .data import SequenceSet
from .distributed import copy_from_first_rank, from_first_rank, rank, sum_gradients, world_size
from .machine import choose_device, compiled, deterministic_algorithms, keep_freed_memory, threads
from .model import Losses, SyNCRec
from .optimizer import RowAdamW, clip_gradients
from .progress import ProgressBar
from .reports import CHOSEN_BY, EpochReport, EpochSums, validation_figures
from .sampling import item_counts

_COUNTED = "blend.neighbours."  # counted when a run begins, from the data that its fingerprint names: never kept


@dataclass(frozen=True)
class FitResult:
    """What training did. Epochs count from 1. notes: sentences a person should read."""

    best_epoch: int
    epochs: list[EpochReport]
    stopped_early: bool
    resumed_after: int = 0
    notes: list[str] = field(default_factory=list)


def fit(
    model: SyNCRec,
    train: SequenceSet,
    valid: SequenceSet | None,
    config: TrainingConfig,
    *,
    on_epoch: Callable[[EpochReport], None] | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
    repeats: Collection[str] = (),
) -> FitResult:
    """Train the model in place and leave it with the weights of the best epoch, in evaluation mode.

    Best is the highest validation macro NDCG@10 of the blend view, with the weights that it had before; at the end
    they are fitted on the validation cases (blend_fit.py). What is measured and kept is the moving average of the
    model's weights (averaging.py). Without validation cases the last epoch
    counts, and the result's notes say so. Training stops after `patience` epochs without a better one.
    on_epoch is called after each epoch, before its checkpoint is written: after a kill in between, the same
    epoch is trained and reported again. checkpoint: a file to resume from when it belongs to the same data and
    configuration, rewritten after every epoch. repeats: domains in which items of the history stay candidates
    when validation ranks.

    With several ranks every rank calls fit with the same data and gets the same weights, reports (apart from the
    seconds) and result; training starts from rank 0's weights, and rank 0 alone calls on_epoch, shows the bar,
    reads and writes the checkpoint. The number of ranks may change between a kill and the resumption.

    Raises ValueError for unusable data and for settings that this machine cannot follow, FloatingPointError when
    the loss stops being a number.
    """
    _check_data(model, train, valid)
    first = rank() == 0
    device = choose_device(config.device)
    with threads(config.threads), deterministic_algorithms(config.deterministic, device), torch.random.fork_rng():
        run = TrainingRun(model, train, valid, config, repeats)
        if checkpoint is not None:
            run.resume(Path(checkpoint))
        resumed_after = len(run.epochs)
        with run.bar(progress and first) as bar:
            while not run.finished:
                report = run.epoch(bar)
                if on_epoch is not None and first:
                    on_epoch(report)
                if checkpoint is not None and first:
                    run.save(Path(checkpoint))
        run.load(run.best_weights)
        model.eval()
        if valid is not None and run.has_cases and model.config.fit_blend:
            fit_blend(model, valid, repeats)
            copy_from_first_rank([model.blend.weights_DF])
    if not run.has_cases:
        run.notes.append("The validation split has no cases: the last epoch is used, not the best.")
    if not model.config.causal:
        run.notes.append(f"The {model.config.gate} gate looks ahead: losses and NTG of training saw later steps.")
    return FitResult(run.best_epoch, run.epochs, run.stopped_early, resumed_after, run.notes)


class TrainingRun:
    """The state of one training run between epochs: what a checkpoint holds, and the item neighbours.

    fit drives it. A benchmark may build one and call `step` itself. best_weights: those of the best epoch, without
    the neighbours, which no step moves: `load` takes them.
    """

    def __init__(
        self,
        model: SyNCRec,
        train: SequenceSet,
        valid: SequenceSet | None,
        config: TrainingConfig,
        repeats: Collection[str] = (),
    ) -> None:
        self.config = config
        self.repeats = repeats
        self.device = choose_device(config.device)
        keep_freed_memory(self.device)
        self.model = model.to(self.device)
        counts = count_pairs(train) if model.config.neighbours or model.config.start != "random" else None
        if counts is not None:
            model.blend.learn(train, counts)  # before the copy: so its buffers have one size on all ranks
        copy_from_first_rank(model.state_dict().values())
        if counts is not None and not from_first_rank(model.items_started):
            if rank() == 0:
                start_items(model.embedding, counts)
            copy_from_first_rank([model.embedding.items_VC.data])
        model.items_started = True
        self.forward = compiled(model, self.device) if config.compile else model
        self.reader = SequenceReader(train, self.device.type)
        self.valid = valid
        if valid is not None and world_size() > 1:
            self.valid = valid.select(np.array_split(np.arange(valid.n_users), world_size())[rank()])
        self.has_cases = valid is not None and bool(valid.cross_targets_UT.any())
        self.users = np.flatnonzero(train.cross_lengths_U > 0)
        self.steps_per_epoch = -(-len(self.users) // config.batch_size)
        model.negative_sampler.set_popularity(item_counts(train))
        self.parameters = list(model.parameters())
        self.optimizer = RowAdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.average = WeightAverage(self.parameters, config.average_epochs * self.steps_per_epoch)
        self.fingerprint = fingerprint_of(model.config, config, train, valid)
        self.epochs: list[EpochReport] = []
        self.best_epoch = 0
        self.best_weights = _copy(self._learned())
        self.notes: list[str] = []

    @property
    def stopped_early(self) -> bool:
        """Whether patience has run out."""
        return self.has_cases and len(self.epochs) - self.best_epoch >= self.config.patience and bool(self.epochs)

    @property
    def finished(self) -> bool:
        """Whether there is no further epoch to train."""
        return len(self.epochs) >= self.config.epochs or self.stopped_early

    def bar(self, shown: bool) -> ProgressBar:
        """Return the progress bar of this run."""
        return ProgressBar(
            epochs=self.config.epochs,
            steps_per_epoch=self.steps_per_epoch,
            done=len(self.epochs),
            shown=shown,
        )

    def epoch(self, bar: ProgressBar) -> EpochReport:
        """Train one epoch, measure, and remember the weights if they are the best."""
        number = len(self.epochs) + 1
        own_seed = np.random.SeedSequence([self.config.seed, number, rank()])  # dropout differs between ranks
        torch.manual_seed(int(own_seed.generate_state(1)[0]))
        began = time.perf_counter()
        sums = EpochSums(self.model, self.device)
        self.model.train()
        for step, users in enumerate(self._batches(number), start=(number - 1) * self.steps_per_epoch):
            sums.add(*self.step(users, step))
            bar.step(sums)
        seconds = time.perf_counter() - began
        domains, totals = sums.figures()
        if not np.isfinite([totals["loss"], totals["grad_norm"]]).all():
            raise FloatingPointError(
                f"epoch {number}: the loss or its gradient is not finite; lower TrainingConfig.learning_rate "
                f"({self.config.learning_rate:g}) or clip_norm ({self.config.clip_norm:g})"
            )
        with self.average.swapped():
            if self.has_cases and self.valid is not None:
                by_domain, overall = validation_figures(self.model, self.valid, self.repeats)
                totals |= overall
                for domain, figures in by_domain.items():
                    domains[domain] |= figures
            report = EpochReport(number, seconds, len(self.users) / max(seconds, 1e-9), domains, totals)
            self._remember(report)
        bar.epoch(report)
        return report

    def step(self, users: NDArray[Any], step: int) -> tuple[Losses, Tensor]:
        """Take one optimiser step; return its losses (this rank's share) and the norm of the whole gradient.

        users: those of the global batch, rows of the training set; this rank computes its share of them.
        step: counted from 0 over the whole run; decides the warm-up and what is drawn.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        seed = np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0] >> 1
        batch = self.reader.training(users[rank() :: world_size()])
        batch = replace(batch, seed=torch.tensor(int(seed))).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            losses: Losses = self.forward(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        sum_gradients(self.parameters)
        norm = clip_gradients(self.parameters, config.clip_norm)
        self.optimizer.step()
        self.average.update(step)
        return losses, norm

    def _batches(self, number: int) -> Iterator[NDArray[Any]]:
        order = np.random.default_rng([self.config.seed, number]).permutation(self.users)
        for start in range(0, len(order), self.config.batch_size):
            yield order[start : start + self.config.batch_size]

    def _remember(self, report: EpochReport) -> None:
        best = self.epochs[self.best_epoch - 1].totals.get(CHOSEN_BY) if self.best_epoch else None
        value = report.totals.get(CHOSEN_BY)
        self.epochs.append(report)
        if value is None or best is None or value > best:
            self.best_epoch = report.epoch
            self.best_weights = _copy(self._learned())

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model weights of this run; its item neighbours stay as they were counted."""
        own = self.model.state_dict().items()
        self.model.load_state_dict({name: value for name, value in own if name.startswith(_COUNTED)} | {**weights})

    def _learned(self) -> dict[str, Tensor]:
        """Return the model's state but for its item neighbours."""
        own = self.model.state_dict().items()
        return {name: value for name, value in own if not name.startswith(_COUNTED)}

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        tensors = {f"model.{name}": value for name, value in self._learned().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= {f"average.{place:04d}": value for place, value in enumerate(self.average.values)}
        tensors |= {f"optimizer.{name}": v for name, v in optimizer_tensors(self.optimizer, self.model).items()}
        reports = [report.to_dict() for report in self.epochs]
        state = {"fingerprint": self.fingerprint, "best_epoch": self.best_epoch, "epochs": reports}
        write_checkpoint(path, tensors, state)

    def resume(self, path: Path) -> None:
        """Continue from the checkpoint where there is one of this run."""
        first = rank() == 0
        found = from_first_rank(read_checkpoint(path, self.fingerprint) if first else None)
        if found is None:
            if from_first_rank(first and path.exists()):
                self.notes.append(f"{path} belongs to other data or settings: training started afresh.")
            return
        tensors, state = found
        self.load(under("model.", tensors))
        self.best_weights = {name: value.to(self.device) for name, value in under("best.", tensors).items()}
        restore_optimizer(self.optimizer, self.model, under("optimizer.", tensors))
        self.average.restore([value for _, value in sorted(under("average.", tensors).items())])
        self.epochs = [EpochReport(**report) for report in state["epochs"]]
        self.best_epoch = int(state["best_epoch"])


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def _check_data(model: SyNCRec, train: SequenceSet, valid: SequenceSet | None) -> None:
    for name, data in (("training", train), ("validation", valid)):
        if data is None:
            continue
        if data.domains != model.domains or data.n_items != model.n_items:
            raise ValueError(f"fit: the {name} sequences and the model have different domains or item counts")
        if data.max_length > model.config.max_length:
            raise ValueError(
                f"fit: {name} sequences of {data.max_length} steps, the model reads {model.config.max_length}"
            )
    if not (train.cross_lengths_U > 0).any():
        raise ValueError("fit: the training split has no events; check the cut and the landing days")
