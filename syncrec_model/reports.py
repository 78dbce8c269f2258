"""What one epoch reports, per domain and in total, under stable names."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import SequenceSet
from .evaluation import VIEWS, rank_cases
from .measures import metrics
from .model import Losses, SyNCRec


@dataclass(frozen=True)
class EpochReport:
    """One epoch. seconds and users_per_s: training alone, without validation.

    domains[name]: loss_single, loss_cross (mean per target), loss_mim, ntg_loss (phi over the epoch; above 0
    the other domains help), lambda (at its end), weight (mean multiplier of the cross loss); with validation
    cases also "view.metric" for the views cross, single, blend, and cases, ntg_ndcg = cross - single ndcg@10.
    totals: loss, grad_norm; with validation "macro.view.ndcg@10" and "min.view.ndcg@10" over domains, cases.
    A figure that has no observation is nan.
    """

    epoch: int
    seconds: float
    users_per_s: float
    domains: dict[str, dict[str, float]]
    totals: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def line(self) -> str:
        """Return the epoch in one short line for a progress bar."""
        parts = [f"epoch {self.epoch}", f"loss {self.totals['loss']:.3f}"]
        if "macro.blend.ndcg@10" in self.totals:
            parts.append(f"ndcg@10 {self.totals['macro.blend.ndcg@10']:.4f}")
        gaps = " ".join(f"{domain} {figures['ntg_loss']:+.3f}" for domain, figures in self.domains.items())
        return ", ".join([*parts, f"ntg {gaps}"])


class EpochSums:
    """Sums of the batches' losses, kept on the device until the epoch ends."""

    def __init__(self, n_domains: int, device: torch.device) -> None:
        names = (
            "single",
            "single_count",
            "cross",
            "cross_count",
            "gap",
            "gap_count",
            "mim",
            "mim_count",
            "weight",
        )
        self.sums_D = {name: torch.zeros(n_domains, device=device) for name in names}
        self.loss = torch.zeros((), device=device)
        self.norm = torch.zeros((), device=device)
        self.steps = 0

    def add(self, losses: Losses, norm: Tensor) -> None:
        """Count one batch."""
        batch = {
            "single": losses.single_sum_D, "single_count": losses.single_count_D,
            "cross": losses.cross_sum_D, "cross_count": losses.cross_count_D,
            "gap": losses.gap_sum_D, "gap_count": losses.gap_count_D,
            "mim": losses.mim_D, "mim_count": losses.mim_defined_D.float(), "weight": losses.weight_D,
        }  # fmt: skip
        for name, value_D in batch.items():
            self.sums_D[name] += value_D
        self.loss += losses.total.detach()
        self.norm += norm
        self.steps += 1

    def figures(self, model: SyNCRec) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """Return the figures per domain and in total."""
        sums = {name: value_D.tolist() for name, value_D in self.sums_D.items()}
        lambdas = model.correction.lambda_D.tolist()
        domains = {
            domain: {
                "loss_single": _ratio(sums["single"][d], sums["single_count"][d]),
                "loss_cross": _ratio(sums["cross"][d], sums["cross_count"][d]),
                "loss_mim": _ratio(sums["mim"][d], sums["mim_count"][d]),
                "ntg_loss": _ratio(sums["gap"][d], sums["gap_count"][d]),
                "lambda": lambdas[d],
                "weight": _ratio(sums["weight"][d], self.steps),
            }
            for d, domain in enumerate(model.domains)
        }
        totals = {
            "loss": _ratio(self.loss.item(), self.steps),
            "grad_norm": _ratio(self.norm.item(), self.steps),
        }
        return domains, totals


def validation_figures(
    model: SyNCRec, valid: SequenceSet, repeats: Collection[str] = ()
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Return per domain the measures of every view with ndcg-NTG, and the totals over domains with cases."""
    ranked = rank_cases(model, valid, repeats=repeats)
    domains: dict[str, dict[str, float]] = {}
    for code, domain in enumerate(model.domains, start=1):
        inside = ranked.domain == code
        figures = {
            f"{view}.{name}": value for view in VIEWS for name, value in metrics(ranked.ranks[view][inside]).items()
        }
        figures["cases"] = float(inside.sum())
        figures["ntg_ndcg"] = figures["cross.ndcg@10"] - figures["single.ndcg@10"]
        domains[domain] = figures
    totals = {"cases": float(len(ranked))}
    for view in VIEWS:
        values = [figures[f"{view}.ndcg@10"] for figures in domains.values() if figures["cases"]]
        totals[f"macro.{view}.ndcg@10"] = float(np.mean(values))
        totals[f"min.{view}.ndcg@10"] = float(np.min(values))
    return domains, totals


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
