"""What one epoch reports, per domain and in total, under stable names.

Shapes: D domains, V views, M cases.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import SequenceSet
from .distributed import objects_of_ranks, sum_over_ranks
from .evaluation import VIEWS, rank_cases
from .measures import metrics
from .model import Losses, SyNCRec

CHOSEN_BY = "macro.blend.ndcg@10"
# What a rank knows of its own share only; the rest is the same on every rank.
_SHARES = ("single", "single_count", "cross", "cross_count", "mim")


@dataclass(frozen=True)
class EpochReport:
    """One epoch. seconds and users_per_s: training alone, without validation.

    domains[name]: loss_single, loss_cross (mean per target), loss_mim, ntg_loss (phi over the epoch; above 0
    the other domains help), lambda (at its end), weight (mean multiplier of the cross loss); with validation
    cases also "view.metric" for the views cross, single, blend, and cases, ntg_ndcg = cross - single ndcg@10.
    totals: loss, grad_norm; with validation "macro.view.ndcg@10" and "min.view.ndcg@10" over domains, cases.
    A figure that has no observation is nan. With several ranks every figure is of the global batches and the
    same on all of them, apart from the seconds.
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
        """Return the epoch in one line for a log."""
        gaps = " ".join(f"{domain} {figures['ntg_loss']:+.3f}" for domain, figures in self.domains.items())
        said = [f"epoch {self.epoch}", f"loss {self.totals['loss']:.3f}", self.quality()]
        return ", ".join(filter(None, [*said, f"ntg of the loss {gaps}"]))

    def quality(self) -> str:
        """Return validation in a few words: macro mean and minimum over domains; nothing without cases."""
        if CHOSEN_BY not in self.totals:
            return ""
        return f"ndcg@10 {self.totals[CHOSEN_BY]:.4f} (worst domain {self.totals['min.blend.ndcg@10']:.4f})"


class EpochSums:
    """Sums of the batches' losses, kept on the device until somebody looks."""

    def __init__(self, model: SyNCRec, device: torch.device) -> None:
        self.model = model
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
        zeros_D = torch.zeros(len(model.domains), dtype=torch.float64, device=device)
        self.sums_D = {name: zeros_D.clone() for name in names}
        self.loss, self.norm = zeros_D[0].clone(), zeros_D[0].clone()
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

    def figures(self, *, all_ranks: bool = True) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """Return the figures per domain and in total. all_ranks: of all shares; every rank must ask for it."""
        sums_D, loss = self.sums_D, self.loss
        if all_ranks:
            sums_D = sums_D | {name: sum_over_ranks(sums_D[name]) for name in _SHARES}
            loss = sum_over_ranks(loss)
        sums = {name: value_D.tolist() for name, value_D in sums_D.items()}
        lambdas = self.model.correction.lambda_D.tolist()
        domains = {
            domain: {
                "loss_single": _ratio(sums["single"][d], sums["single_count"][d]),
                "loss_cross": _ratio(sums["cross"][d], sums["cross_count"][d]),
                "loss_mim": _ratio(sums["mim"][d], sums["mim_count"][d]),
                "ntg_loss": _ratio(sums["gap"][d], sums["gap_count"][d]),
                "lambda": lambdas[d],
                "weight": _ratio(sums["weight"][d], self.steps),
            }
            for d, domain in enumerate(self.model.domains)
        }
        totals = {
            "loss": _ratio(loss.item(), self.steps),
            "grad_norm": _ratio(self.norm.item(), self.steps),
        }
        return domains, totals


def validation_figures(
    model: SyNCRec, valid: SequenceSet, repeats: Collection[str] = ()
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Return per domain the measures of every view with ndcg-NTG, and the totals over domains with cases.

    valid: this rank's part of the cases; all ranks get the figures of all parts, computed from the same numbers.
    """
    own = rank_cases(model, valid, repeats=repeats)
    parts = objects_of_ranks(np.vstack([own.domain, *(own.ranks[view] for view in VIEWS)]))
    code_M, *ranks_VM = np.hstack(parts)
    domains: dict[str, dict[str, float]] = {}
    for code, domain in enumerate(model.domains, start=1):
        inside = code_M == code
        figures = {
            f"{view}.{name}": value
            for view, ranks_M in zip(VIEWS, ranks_VM, strict=True)
            for name, value in metrics(ranks_M[inside]).items()
        }
        figures["cases"] = float(inside.sum())
        figures["ntg_ndcg"] = figures["cross.ndcg@10"] - figures["single.ndcg@10"]
        domains[domain] = figures
    totals = {"cases": float(len(code_M))}
    for view in VIEWS:
        values = [figures[f"{view}.ndcg@10"] for figures in domains.values() if figures["cases"]]
        totals[f"macro.{view}.ndcg@10"] = float(np.mean(values))
        totals[f"min.{view}.ndcg@10"] = float(np.min(values))
    return domains, totals


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
