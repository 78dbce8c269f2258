"""The default with other rules for the weight of each domain's cross loss, and with ACMoE or without it (RQ3).

Uniform, bounded and literal are settings of the product (ours.py). Here the rule stays bounded (mean 1, all within
[floor, 2 - floor]) and something else than the smoothed phi drives it; or the weights are learned.

Shapes: D domains, N cross tokens, C channels, V items of all domains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.peers.ours import SHARED, Ours
from syncrec_model import EpochReport, Losses, ModelConfig, SyNCRec
from syncrec_model.batches import TrainingBatch
from syncrec_model.distributed import sum_over_ranks
from syncrec_model.prediction import family_losses
from syncrec_model.transfer import LossCorrection

CONFLICT_EVERY = 20  # steps; one measurement costs about as much as two steps
CONFLICT_MOMENTUM = 0.9
DIVIDED = {"n_experts": 4, "n_cross_experts": 2, "stop_gradient": True}  # ACMoE
BOUNDED = {"correction": "bounded"}
UNIFORM = {"correction": "uniform"}


class Catalogue(Protocol):
    """What a model is built for: QualityData, or a SequenceSet."""

    @property
    def domains(self) -> Sequence[str]:
        """Their names."""

    @property
    def n_items(self) -> Sequence[int]:
        """How many items each has."""


class DrivenCorrection(LossCorrection):
    """The bounded rule of D * softmax(driver). Drivers lie in [-1, 1]; equal ones mean a weight of 1 everywhere."""

    driver_D: Tensor

    def __init__(self, n_domains: int, config: ModelConfig) -> None:
        super().__init__(n_domains, config)
        self.register_buffer("driver_D", torch.zeros(n_domains))

    def weights(self, lambda_D: Tensor) -> Tensor:
        """Return the weights, [D]. lambda_D: tracked and reported as always, but not what decides."""
        return super().weights(torch.softmax(self.driver_D, 0))


class DrivenSyNCRec(SyNCRec):
    """SyNCRec whose cross losses are weighed by a driver that somebody sets."""

    correction: DrivenCorrection

    def __init__(self, config: ModelConfig, data: Catalogue) -> None:
        super().__init__(config, data.domains, data.n_items)
        self.correction = DrivenCorrection(len(data.domains), config)


class Driven(Ours):
    """A row whose weights follow a driver; `chosen` keeps the driver of every epoch."""

    by_epoch: Mapping[str, str] = {**Ours.by_epoch, "driver_by_epoch": "driver"}

    def build(self, config: ModelConfig, data: Catalogue) -> SyNCRec:
        """Return the fresh model."""
        return DrivenSyNCRec(config, data)

    def on_epoch(self, model: SyNCRec, report: EpochReport) -> None:
        """Keep the driver as it is after the epoch."""
        assert isinstance(model.correction, DrivenCorrection)
        for domain, driver in zip(model.domains, model.correction.driver_D.tolist(), strict=True):
            report.domains[domain]["driver"] = driver


class ByNdcg(Driven):
    """Driver: cross - single NDCG@10 of the last epoch on validation, as a fraction of the better of the two.

    Where the cross view ranks below the single one the cross loss weighs less: the sign of the paper's own rule
    (phi below 0 lowers lambda), so that from "bounded" to here only the measure of the gap changes. The opposite
    sign would give what lags more of the training; that is curriculum, not a correction of negative transfer. The
    fraction, not the difference: domains differ fivefold in their level of NDCG@10. First epoch: all 1.
    """

    def on_epoch(self, model: SyNCRec, report: EpochReport) -> None:
        """Set the driver of the next epoch."""
        gaps = [relative_gap(report.domains[domain]) for domain in model.domains]
        assert isinstance(model.correction, DrivenCorrection)
        model.correction.driver_D.copy_(torch.tensor(gaps))
        super().on_epoch(model, report)


def relative_gap(figures: dict[str, float]) -> float:
    """Return the gap of one domain in an epoch's report, within [-1, 1]; 0 without cases or hits."""
    best = max(figures["cross.ndcg@10"], figures["single.ndcg@10"])
    return figures["ntg_ndcg"] / best if best > 0 else 0.0


class ConflictSyNCRec(DrivenSyNCRec):
    """Driver: the smoothed cosine between the gradient of a domain's cross losses and that of all others' together.

    With respect to the item table as input alone. As output a domain's loss reads only the domain's own rows, where
    no other domain could agree or disagree with it. Measured at every CONFLICT_EVERY-th step on the batch of
    the step, from 0 on, in one process. steps: those so far, a buffer, so that a resumed run counts on.
    """

    steps: Tensor

    def __init__(self, config: ModelConfig, data: Catalogue) -> None:
        super().__init__(config, data)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: TrainingBatch) -> Losses:
        """As SyNCRec; measures first where it is time to."""
        if self.training:
            if int(self.steps) % CONFLICT_EVERY == 0:
                cosine_D = agreement(self.input_gradients(batch).flatten(1))
                driver_D = self.correction.driver_D
                moved_D = driver_D.lerp(cosine_D.to(driver_D.dtype), 1 - CONFLICT_MOMENTUM)
                driver_D.copy_(torch.where(cosine_D.isfinite(), moved_D, driver_D))
            self.steps += 1
        return super().forward(batch)

    def input_gradients(self, batch: TrainingBatch) -> Tensor:
        """Return the gradient of each domain's sum of cross losses through the input of the cross rows, [D, V, C].

        A token has one target, of one domain: one pass through the losses gives the gradients of all tokens, and
        only the way from there to the input is gone once a domain. Draws nothing that training would draw.
        """
        with torch.random.fork_rng(), torch.enable_grad():
            y_cross_NC = self.views(batch.cross)
            with torch.no_grad():
                y_single_NC = self.views(batch.single)
            output_NC = y_cross_NC.detach().requires_grad_()
            cross_N, _ = family_losses(
                self.config.loss, output_NC, y_single_NC, self.embedding.domain_tables(), batch, self.n_items_D1,
                self.negative_sampler,
            )  # fmt: skip
            (output_gradient_NC,) = torch.autograd.grad(cross_N.sum(), output_NC)
        found = []
        for code in range(1, len(self.domains) + 1):
            own_N1 = (batch.cross_domains_N == code).unsqueeze(1)
            (gradient_VC,) = torch.autograd.grad(
                y_cross_NC, self.embedding.items_VC, output_gradient_NC * own_N1, retain_graph=True
            )
            found.append(gradient_VC.to_dense())
        return torch.stack(found)


def agreement(gradients_DP: Tensor) -> Tensor:
    """Return the cosine of each row with the sum of the other rows, [D]; nan where either is nothing."""
    products_DD = gradients_DP @ gradients_DP.T
    own_D = products_DD.diagonal()
    with_others_D = products_DD.sum(1) - own_D
    others_D = products_DD.sum() - 2 * products_DD.sum(1) + own_D  # |sum of the others|^2
    scale_D = (own_D * others_D.clamp(min=0)).sqrt()
    return torch.where(scale_D > 0, (with_others_D / scale_D).clamp(-1, 1), torch.nan)


class ByConflict(Driven):
    """Where a domain's gradient opposes that of the others, its cross loss weighs less. Two domains weigh alike."""

    def build(self, config: ModelConfig, data: Catalogue) -> SyNCRec:
        """Return the fresh model."""
        return ConflictSyNCRec(config, data)


class UncertainCorrection(LossCorrection):
    """exp(-s) of a learned log variance s per domain, 0 at first. mean_one: scaled to mean 1 over the domains."""

    def __init__(self, n_domains: int, config: ModelConfig, *, mean_one: bool) -> None:
        super().__init__(n_domains, config)
        self.mean_one = mean_one
        self.log_variance_D = nn.Parameter(torch.zeros(n_domains))

    def weights(self, lambda_D: Tensor) -> Tensor:
        """Return the weights, [D], without gradient: `loss` teaches s."""
        precision_D = torch.exp(-self.log_variance_D.detach())
        return precision_D / precision_D.mean() if self.mean_one else precision_D

    def loss(self, sum_D: Tensor, count_D: Tensor) -> Tensor:
        """Return the sum over targets of exp(-s) loss + s of their domain, a mean over targets; teaches s alone."""
        terms_D = torch.exp(-self.log_variance_D) * sum_D.detach() + self.log_variance_D * count_D
        return terms_D.sum() / sum_over_ranks(count_D.sum()).clamp(min=1)


class UncertainSyNCRec(SyNCRec):
    """SyNCRec whose cross losses are weighed by homoscedastic uncertainty (Kendall, Gal, Cipolla, CVPR 2018).

    Their likelihood, with every target an observation of its domain's variance: sum over targets of
    exp(-s_d) loss + s_d, so s_d settles at the logarithm of the domain's mean cross loss.
    """

    correction: UncertainCorrection

    def __init__(self, config: ModelConfig, data: Catalogue, *, mean_one: bool) -> None:
        super().__init__(config, data.domains, data.n_items)
        self.correction = UncertainCorrection(len(data.domains), config, mean_one=mean_one)

    def forward(self, batch: TrainingBatch) -> Losses:
        """As SyNCRec, and the loss of s."""
        losses = super().forward(batch)
        own = self.config.eta * self.correction.loss(losses.cross_sum_D, losses.cross_count_D)
        return dataclasses.replace(losses, total=losses.total + own)


class ByUncertainty(Ours):
    """Learned weights. mean_one: whether the cross losses together keep their weight against the single ones.

    As published they do not: a loss of about 7 a target settles at a weight of a seventh, so that row also shows
    what it does to weigh the single losses seven times as much. With mean_one the domains' order alone counts.
    """

    def __init__(self, name: str, *, mean_one: bool, **options: Any) -> None:
        super().__init__(name, **options)
        self.mean_one = mean_one

    def build(self, config: ModelConfig, data: Catalogue) -> SyNCRec:
        """Return the fresh model."""
        return UncertainSyNCRec(config, data, mean_one=self.mean_one)


def acmoe_rows() -> tuple[Ours, ...]:
    """Return the default with ACMoE, without it, and with its experts but no stopped gradients; not the default
    itself again under another name.

    Only where the default has ACMoE does taking the stopped gradients away say something about them alone.
    """
    default = ModelConfig.preset("default")
    forms = {"default.acmoe": DIVIDED, "default.no-acmoe": SHARED}
    if default.stop_gradient:
        forms["default.no-stop-gradient"] = {"stop_gradient": False}
    rows = [Ours(name, changes) for name, changes in forms.items()]
    return tuple(row for row in rows if row.config != default)


PEERS = (
    *acmoe_rows(),
    ByNdcg("default.by-ndcg", BOUNDED),
    ByConflict("default.by-conflict", BOUNDED),
    ByUncertainty("default.by-uncertainty", mean_one=False, changes=UNIFORM),
    ByUncertainty("default.by-uncertainty-mean-1", mean_one=True, changes=UNIFORM),
)
