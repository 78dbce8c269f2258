"""What the planted-transfer benchmark trains: the default, the parts of the paper taken away, added and weighted.

Variants with one configuration are one model: whichever of them is the default, nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ALONE = "alone"
DEFAULT = "uniform"
PUBLISHED = "published"
UNIFORM, BOUNDED = {"correction": "uniform"}, {"correction": "bounded"}
SHARED = {"n_experts": 1, "n_cross_experts": 0, "stop_gradient": False}  # without ACMoE


@dataclass(frozen=True)
class Variant:
    """What differs from the sample project's model, or, with a preset, from that preset in the project's size.

    rule: a row of benchmarks/peers/weightings.py, whose rule weighs the cross losses.
    """

    words: str
    changes: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    rule: str | None = None


VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant("the default with uniform weights", {"correction": "uniform"}),
    "bounded": Variant("the default, lambda bounded", {"correction": "bounded"}),
    "paper": Variant("the default, lambda as printed", {"correction": "paper"}),
    "by-ndcg": Variant("the default, bounded by the gap in NDCG@10 on validation", BOUNDED, rule="default.by-ndcg"),
    "by-conflict": Variant("the default, bounded by gradients that disagree", BOUNDED, rule="default.by-conflict"),
    "by-uncertainty": Variant(
        "the default, weights learned from the losses' size", UNIFORM, rule="default.by-uncertainty"
    ),
    "by-uncertainty-mean-1": Variant("the same, scaled to mean 1", UNIFORM, rule="default.by-uncertainty-mean-1"),
    "no-mim": Variant("the default without SC-MIM", {"correction": "uniform", "mim": False}),
    "no-acmoe": Variant("the default without ACMoE: one shared Transformer", {"correction": "uniform", **SHARED}),
    "acmoe": Variant(
        "the default with ACMoE: 4 experts, 2 of the cross task",
        {"correction": "uniform", "n_experts": 4, "n_cross_experts": 2, "stop_gradient": True},
    ),
    PUBLISHED: Variant("the paper's equations", preset="paper"),
    "published-no-ntg": Variant("the paper's without LC-NTG", {"correction": "uniform"}, "paper"),
    "published-no-mim": Variant("the paper's without SC-MIM", {"mim": False}, "paper"),
    "published-no-acmoe": Variant("the paper's without ACMoE", SHARED, "paper"),
    ALONE: Variant("per domain a twin that knows that domain only", {"correction": "uniform"}),
}
CORRECTIONS = ("bounded", "paper", "by-ndcg", "by-conflict", "by-uncertainty", "by-uncertainty-mean-1")
ABLATION = {  # whole model -> what is compared with it
    DEFAULT: ("no-mim", "no-acmoe", "acmoe", *CORRECTIONS),
    PUBLISHED: ("published-no-ntg", "published-no-mim", "published-no-acmoe"),
}


def same_as(name: str, model: Callable[[str], Any]) -> str:
    """Return the first variant with the model of this one, which is itself for all but doubles.

    model: the configuration of a variant. The twins are no double: they are trained on other data.
    """
    if name == ALONE:
        return name
    own = (model(name), VARIANTS[name].rule)
    return next(other for other in VARIANTS if other != ALONE and (model(other), VARIANTS[other].rule) == own)
