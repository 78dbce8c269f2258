"""SyNCRec as rows: the default preset, what it is made of taken away one by one, and the paper's preset.

Trained, like the single-domain rivals in their form "all", on everybody: the benchmark's users and the people
outside it, as far as their items are candidates.

Shapes: M cases, m cases of one domain, V_d items of that domain, T steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.attempts import Meter
from benchmarks.quality.data import PARTS, Array, Events, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View
from syncrec_model import (
    CaseRanks,
    EpochReport,
    ModelConfig,
    SequenceSet,
    SyNCRec,
    TrainingConfig,
    build_model,
    choose_views,
    cross_fitted_ranks,
    fit,
)
from syncrec_model.batches import Cases, SequenceReader
from syncrec_model.evaluation import VIEWS, view_scores

SHARED = {"n_experts": 1, "n_cross_experts": 0, "stop_gradient": False}  # without ACMoE
PLAIN = {"start": "random", "neighbours": 0, "fit_blend": False}


def train_sequences(data: QualityData, max_length: int, *, outside: bool, users: float = 1.0) -> SequenceSet:
    """Return the training rows of the benchmark's users; outside: and of the others with two candidates or more.

    users: the share of both that is trained on; a smaller share is part of a greater one.
    """
    if not outside and users == 1:
        return data.train_sequences(max_length)
    own, others = data.train, data.outside if outside else data.outside.take(np.arange(0))
    n_items_D1 = np.array([0, *data.n_items])
    others = others.take(others.item_E <= n_items_D1[others.domain_E])
    others = others.take(np.bincount(others.user_E)[others.user_E] > 1) if len(others) else others
    own, others = some_users(own, users), some_users(others, users)
    return SequenceSet.from_events(
        user_ids=np.concatenate([own.user_E, data.n_users + others.user_E]),
        item_indexes=np.concatenate([own.item_E, others.item_E]),
        domain_codes=np.concatenate([own.domain_E, others.domain_E]),
        domains=data.domains, n_items=data.n_items, max_length=max_length,
    )  # fmt: skip


def some_users(log: Events, share: float) -> Events:
    """Return the events of a share of a log's users, the same whenever it is asked for."""
    if share == 1:
        return log
    known = np.unique(log.user_E)
    drawn = np.random.default_rng(0).permutation(known)[: max(1, round(share * len(known)))]
    return log.take(np.isin(log.user_E, drawn))


def of_users(ranks: CaseRanks, data: QualityData, part: str) -> CaseRanks:
    """Give the cases of `case_sequences`, one row each, the users they are of: intervals resample users."""
    return dataclasses.replace(ranks, user=data.cases[part].user_M[ranks.user])


class CaseReader:
    """The cases of a part as syncrec_model reads them, by their place in `QualityData.cases`."""

    def __init__(self, data: QualityData, part: str, max_length: int) -> None:
        self.reader = SequenceReader(data.case_sequences(part, max_length))
        cases = self.reader.cases()  # ordered by domain; its users are the places of the cases
        self.cases = cases.take(np.argsort(cases.user_M))

    def take(self, index: Array) -> Cases:
        """Return some cases."""
        return self.cases.take(index)


class Ours(Peer):
    """One configuration. changes: fields of ModelConfig that differ from the preset; training: TrainingConfig's.

    users: the share of the users of each kind that it is trained on; cases and candidates stay the same.
    """

    kind = "ours"
    source = "this repository"
    resumes = True
    by_epoch: Mapping[str, str] = {"ntg_by_epoch": "ntg_ndcg", "weight_by_epoch": "weight"}  # of the epoch reports

    def __init__(
        self,
        name: str,
        changes: Mapping[str, Any] | None = None,
        *,
        preset: str = "default",
        training: Mapping[str, Any] | None = None,
        outside: bool = True,
        users: float = 1.0,
        slow: bool = True,
    ) -> None:
        self.name, self.outside, self.users, self.slow = name, outside, users, slow
        self.config = dataclasses.replace(ModelConfig.preset(preset), **(changes or {}))
        self.training = dict(training or {})

    def build(self, config: ModelConfig, data: QualityData) -> SyNCRec:
        """Return the fresh model."""
        return build_model(config, data.domains, data.n_items)

    def on_epoch(self, model: SyNCRec, report: EpochReport) -> None:
        """See every epoch before the next; may add figures of domains, which `by_epoch` keeps.

        What it changes must be in the model's state: a killed run goes on from there.
        """

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Train; choose the epoch, the blend's weights and the served view of every domain on validation."""
        own = {"epochs": budget.epochs, "patience": budget.patience, "threads": budget.threads}
        training = TrainingConfig(**{**own, "device": budget.device, "seed": seed, **self.training})
        config = dataclasses.replace(self.config, **settings)
        meter = Meter(folder)
        torch.manual_seed(seed)
        model = self.build(config, data)
        train = train_sequences(data, config.max_length, outside=self.outside, users=self.users)
        valid = data.case_sequences("valid", config.max_length)

        def on_epoch(report: EpochReport) -> None:
            self.on_epoch(model, report)
            meter.keep()

        checkpoint = folder / "checkpoint.safetensors"
        result = fit(model, train, valid, training, on_epoch=on_epoch, checkpoint=checkpoint, progress=False)
        persons_U = data.cases["valid"].user_M  # split by time, a person has several cases
        served = choose_views(of_users(cross_fitted_ranks(model, valid, VIEWS, persons_U=persons_U), data, "valid"))
        train_s = meter.spent().seconds
        chosen = {
            "epochs": len(result.epochs),
            "best_epoch": result.best_epoch,
            "served": served,
            "blend": dict(zip(data.domains, model.blend.weights_DF.tolist(), strict=True)),
            "lambda": dict(zip(data.domains, model.correction.lambda_D.tolist(), strict=True)),
            **{
                name: {
                    domain: [report.domains[domain][figure] for report in result.epochs] for domain in data.domains
                }
                for name, figure in self.by_epoch.items()
            },
        }
        parameters = sum(weight.numel() for weight in model.parameters())
        return Fitted(views_of(model, data, served), parameters, train_s, chosen, self._notes())

    def _notes(self) -> list[str]:
        who = "everybody, outside users too" if self.outside else "the benchmark's users alone"
        share = "" if self.users == 1 else f"{self.users:.0%} of "
        served = (
            "The row is the served view: per domain the best that is clearly above the single view on validation."
        )
        return [f"Trained on {share}{who}.", served]


def views_of(model: SyNCRec, data: QualityData, served: Mapping[str, str]) -> dict[str, View]:
    """Return the served view as "" and the three it is chosen from."""

    @lru_cache
    def reader(part: str) -> CaseReader:
        return CaseReader(data, part, model.config.max_length)

    def view(name: str | None) -> View:
        @torch.inference_mode()
        def score(part: str, index: Array) -> Array:
            code = int(data.cases[part].domain_M[index[0]])
            chosen = name or served[data.domains[code - 1]]
            found = reader(part)
            (_, scores_mV), *_ = view_scores(model, found.reader, found.take(index), code, (chosen,))
            return np.asarray(scores_mV.cpu().numpy(), dtype=np.float32)

        return View(score)

    for part in PARTS:  # made here, so that the time of scoring is that of scoring
        reader(part)
    return {"": view(None), **{name: view(name) for name in VIEWS}}


PEERS = (
    Ours("default", slow=False),
    Ours("default.own-users", outside=False),
    Ours("default.no-mim", {"mim": False}),
    Ours("default.no-start", {"start": "random"}),
    Ours("default.two-experts", {"n_experts": 2, "n_cross_experts": 1}),
    Ours("default.wide", {"channels": 128}),
    Ours("default.no-neighbours", {"neighbours": 0}),
    Ours("default.sum", {"neighbours": 0, "fit_blend": False}),
    Ours("default.bounded", {"correction": "bounded"}),
    Ours("default.paper-lambda", {"correction": "paper"}),
    Ours("default.dropout", {"dropout": 0.2}),
    Ours("default.last-weights", training={"average_epochs": 0.0}),
    Ours("paper", preset="paper"),
    Ours("paper.softmax", {"loss": "softmax"}, preset="paper"),
    Ours("paper.no-ntg", {"correction": "uniform"}, preset="paper"),
    Ours("paper.no-mim", {"mim": False}, preset="paper"),
    Ours("paper.no-acmoe", SHARED, preset="paper"),
)
