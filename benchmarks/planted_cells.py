"""One cell of the planted-transfer benchmark: train one variant under one seed, rank every case, keep the result.

A cell is small (ranks and losses of its cases, figures of its epochs) and lies in a cache folder under the digest
of everything it depends on but the code. So a finished cell is never trained again, whatever its variant is called,
and one of another default is never taken for one of today's, but found again when that default comes back.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.peers import weightings
from benchmarks.planted_data import Splits, cut, planted_log, sample_settings
from benchmarks.planted_variants import VARIANTS
from jobs.code_version import code_version
from jobs.model_settings import model_config, training_config
from jobs.sample import SAMPLE_VERSION
from jobs.settings import Settings
from syncrec_model import (
    CaseRanks,
    ModelConfig,
    SequenceSet,
    SyNCRec,
    TrainingConfig,
    choose_views,
    cross_fitted_ranks,
    fit,
    rank_cases,
)
from syncrec_model.batches import SequenceReader
from syncrec_model.evaluation import view_scores

Array = NDArray[Any]
SPLITS = ("valid", "test")
VIEWS = ("cross", "single", "blend")
# A setting that came later, at the value that computes what was computed before it, changes no cell: list it here.
BEFORE: dict[str, Any] = {"model.start": "random", "model.neighbours": 0, "model.fit_blend": False}
_CASES_AT_ONCE = 256
RULES = {row.name: row for row in weightings.PEERS if isinstance(row, weightings.Driven | weightings.ByUncertainty)}


@dataclass(frozen=True)
class Cell:
    """What is trained: a variant under a seed (of the sample and of the training); the twins also name a domain."""

    variant: str
    seed: int
    domain: str = ""

    @property
    def name(self) -> str:
        """The cell in words for file names and progress lines."""
        return "-".join(part for part in (self.variant, self.domain, str(self.seed)) if part)


@dataclass(frozen=True)
class Experiment:
    """What all cells share. users, epochs and options (of the model) make a toy; None: the sample project's own."""

    settings: Settings
    last: date
    cache: Path
    users: int | None = None
    epochs: int | None = None
    threads: int | None = None
    options: dict[str, Any] | None = None

    def file(self, cell: Cell) -> Path:
        """Return where the cell's arrays lie (its figures: the same name, .json)."""
        digest = hashlib.sha256(json.dumps(self.depends(cell), sort_keys=True).encode()).hexdigest()
        return self.cache / f"{cell.domain or 'joint'}-{cell.seed}-{digest[:12]}.npz"

    def depends(self, cell: Cell) -> dict[str, Any]:
        """Return everything but the code that a cell depends on, as flat JSON values without those of `BEFORE`."""
        sequences, last = self.settings.sequences, self.last.isoformat()
        values = {"sample": SAMPLE_VERSION, "last": last, "split": [sequences.valid_days, sequences.test_days]}
        values["domain"] = cell.domain
        parts = {
            "sample": asdict(sample_settings(self.settings, cell.seed, self.users)),
            "model": self.model(cell.variant).to_dict(),
            "training": self.training(cell.seed).to_dict() | {"threads": 0},
        }
        values |= {f"{part}.{name}": value for part, found in parts.items() for name, value in found.items()}
        if rule := VARIANTS[cell.variant].rule:
            values["rule"] = rule
        plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
        missing = object()
        return {name: value for name, value in plain.items() if BEFORE.get(name, missing) != value}

    def model(self, variant: str) -> ModelConfig:
        """Return the variant's model configuration: the project's, or a preset in the project's size."""
        config, found = model_config(self.settings), VARIANTS[variant]
        if found.preset is not None:
            sizes: dict[str, Any] = {"channels": config.channels, "max_length": config.max_length}
            config = replace(ModelConfig.preset(found.preset), **sizes)
        return replace(config, **{**(self.options or {}), **found.changes})

    def training(self, seed: int) -> TrainingConfig:
        """Return the cold-start training configuration of the sample project under this seed."""
        config = replace(training_config(self.settings, warm=False), seed=seed, device="cpu")
        return replace(config, epochs=self.epochs or config.epochs, threads=self.threads or config.threads)

    def splits(self, cell: Cell) -> Splits:
        """Return the cell's sequences."""
        log = planted_log(sample_settings(self.settings, cell.seed, self.users), self.last)
        return cut(log.alone(cell.domain) if cell.domain else log, self.settings, self.last)


@dataclass(frozen=True)
class Result:
    """A finished cell. figures: JSON values. arrays: per split "SPLIT.user", ".domain" (code), ".item",
    ".rank.VIEW" and ".loss.VIEW" (nats; cross and single), each [M cases], ordered by domain, user and time.
    """

    cell: Cell
    figures: dict[str, Any]
    arrays: dict[str, Array]

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that the cell's codes count."""
        return tuple(self.figures["domains"])

    def ranks(self, split: str) -> CaseRanks:
        """Return the ranks of a split's cases."""
        user = self.arrays[f"{split}.user"]
        ranks = {view: self.arrays[f"{split}.rank.{view}"] for view in VIEWS}
        nothing = np.zeros(len(user), np.int64)
        return CaseRanks(self.domains, user, self.arrays[f"{split}.domain"], ranks, nothing, nothing)

    @cached_property
    def views(self) -> dict[str, str]:
        """The view that serves each domain, chosen on validation as the night chooses."""
        return choose_views(self.ranks("valid"))


def read(experiment: Experiment, cell: Cell) -> Result | None:
    """Return the cell from the cache; None where it has not been trained, or with other settings than now."""
    file = experiment.file(cell)
    if not file.exists():
        return None
    figures = json.loads(file.with_suffix(".json").read_text())
    if figures["depends"] != experiment.depends(cell):
        return None
    with np.load(file) as found:
        return Result(cell, figures, dict(found))


def train(experiment: Experiment, cell: Cell) -> Result:
    """Train the cell, rank its cases and put it into the cache; after a kill it goes on at its last epoch."""
    file = experiment.file(cell)
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = file.with_suffix(".checkpoint")
    began = time.perf_counter()
    splits = experiment.splits(cell)
    config = experiment.training(cell.seed)
    torch.manual_seed(config.seed)
    rule = RULES.get(VARIANTS[cell.variant].rule or "")
    own = experiment.model(cell.variant)
    model = rule.build(own, splits.train) if rule else SyNCRec(own, splits.train.domains, splits.train.n_items)
    repeats = [domain for domain in splits.train.domains if domain in experiment.settings.repeating_domains]
    fitted = fit(
        model, splits.train, splits.valid, config, checkpoint=checkpoint, repeats=repeats, progress=False,
        on_epoch=partial(rule.on_epoch, model) if rule else None,
    )  # fmt: skip
    chosen = fitted.epochs[fitted.best_epoch - 1]
    arrays: dict[str, Array] = {}
    for split, data, rank in (("valid", splits.valid, cross_fitted_ranks), ("test", splits.test, rank_cases)):
        ranked = rank(model, data, views=VIEWS, repeats=repeats)
        arrays |= {f"{split}.{name}": values for name, values in case_figures(model, data, ranked).items()}
    figures = {
        "variant": cell.variant,
        "seed": cell.seed,
        "domains": list(model.domains),
        "n_items": list(model.n_items),
        "users": splits.train.n_users,
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.epochs),
        "train": {d: {k: v[k] for k in ("ntg_loss", "lambda", "weight")} for d, v in chosen.domains.items()},
        "by_epoch": [
            {d: {k: v[k] for k in ("ntg_loss", "lambda", "weight", "ntg_ndcg")} for d, v in report.domains.items()}
            for report in fitted.epochs
        ],
        "alpha": model.correction.alpha.item(),
        "beta": model.correction.beta.item(),
        "depends": experiment.depends(cell),
        "code": code_version(),
        "seconds": time.perf_counter() - began,
    }
    result = Result(cell, figures, arrays)
    _write(file, result)
    checkpoint.unlink(missing_ok=True)
    return result


def case_figures(model: SyNCRec, data: SequenceSet, ranked: CaseRanks) -> dict[str, Array]:
    """Return of every case its user, domain, item, ranks and, in nats, the default loss of both towers."""
    reader = SequenceReader(data)
    cases = reader.cases()
    losses = {view: np.zeros(len(cases)) for view in ("cross", "single")}
    with torch.inference_mode():
        for code in range(1, len(data.domains) + 1):
            own = np.flatnonzero(cases.domain_M == code)
            for start in range(0, len(own), _CASES_AT_ONCE):
                index = own[start : start + _CASES_AT_ONCE]
                part = cases.take(index)
                target_m = torch.from_numpy(part.target_M - 1)
                for view, scores_mV in view_scores(model, reader, part, code, tuple(losses)):
                    losses[view][index] = F.cross_entropy(scores_mV, target_m, reduction="none").numpy()
    figures = {"user": data.user_ids[cases.user_M], "domain": cases.domain_M, "item": cases.target_M}
    figures |= {f"rank.{view}": ranked.ranks[view] for view in VIEWS}
    return figures | {f"loss.{view}": values for view, values in losses.items()}


def _write(file: Path, result: Result) -> None:
    """The figures first, then the arrays, whose presence says that the cell is whole."""
    part = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    file.with_suffix(".json").write_text(json.dumps(result.figures, indent=1) + "\n")
    np.savez_compressed(part, **result.arrays)
    part.rename(file)
