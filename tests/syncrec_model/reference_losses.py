"""MODEL.md sections 4 to 7 in plain numpy loops: losses per target, NTG, lambda, SC-MIM and the total.

Shapes: D domains, n steps of a sequence, C channels, u users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from reference import Array, Weights, scores, sigmoid, view
from reference_sequences import Event
from reference_sequences import Sequence as Steps

COSINE_SCALE = 10
Negative = Callable[[Event], int]


@dataclass(frozen=True)
class State:
    """What the recursion carries from step to step, [D] each."""

    lambda_D: Array
    phi_D: Array
    smooth_phi_D: Array

    @classmethod
    def start(cls, n_domains: int) -> State:
        return cls(np.full(n_domains, 1 / n_domains), np.zeros(n_domains), np.zeros(n_domains))


@dataclass(frozen=True)
class Result:
    """The total and what it is made of, [D] each; mim_D is None where fewer than two users have both views."""

    total: float
    cross_sum_D: Array
    cross_count_D: Array
    single_sum_D: Array
    single_count_D: Array
    gap_sum_D: Array
    gap_count_D: Array
    weight_D: Array
    mim_D: list[float | None]
    state: State


@dataclass(frozen=True)
class Frozen:
    """What stands still while weights move: the values behind a stop-gradient, phi and the bounded weights.

    weights: of the other family's experts and of the E they read. result: of the step with these weights.
    """

    weights: Weights
    result: Result


def target_loss(kind: str, all_scores: Array, target: int, negative: int) -> float:
    """l of one target, items 1-based, all_scores: s of every item of its domain."""
    plus, minus = all_scores[target - 1], all_scores[negative - 1]
    if kind == "softmax":
        return float(-np.log(np.exp(plus) / sum(np.exp(all_scores))))
    if kind == "pairwise":
        return float(-np.log(sigmoid(sigmoid(plus) - sigmoid(minus))))
    return float(-np.log(sigmoid(plus)) - np.log(1 - sigmoid(minus)))


def sequence_losses(
    w: Weights, config: Any, sizes: Sequence[int], steps: Steps, y: Array, negative: Negative
) -> list[tuple[Event, float]]:
    """Every target of the sequence with its loss; candidates are the items of the TARGET's domain."""
    found = []
    for t, target in enumerate(steps.targets):
        chosen = 1 if config.loss == "softmax" else negative(target)
        all_scores = scores(w, sizes, y[t], target.domain)
        found.append((target, target_loss(config.loss, all_scores, target.item, chosen)))
    return found


def transfer_gap(
    cross: list[tuple[Event, float]], single: list[tuple[Event, float]], n_domains: int
) -> tuple[Array, Array]:
    """Per domain the sum of (single loss - cross loss) over events that both tasks predict, and their number."""
    sums, counts, of_cross = np.zeros(n_domains), np.zeros(n_domains), dict(cross)
    for event, loss in single:
        if event in of_cross:
            sums[event.domain - 1] += loss - of_cross[event]
            counts[event.domain - 1] += 1
    return sums, counts


def corrected(
    config: Any, alpha: float, beta: float, state: State, gap_sum_D: Array, gap_count_D: Array
) -> tuple[Array, State]:
    """The weights of the cross losses, [D], and the state after this step (section 5)."""
    n_domains = len(gap_sum_D)
    phi = [gap_sum_D[d] / gap_count_D[d] if gap_count_D[d] else state.phi_D[d] for d in range(n_domains)]
    driver = state.smooth_phi_D if config.correction == "bounded" else phi
    z = [np.exp((alpha * state.lambda_D[d] + beta * driver[d]) / config.temperature) for d in range(n_domains)]
    lambda_D = np.array([value / sum(z) for value in z])
    keep = config.correction_momentum
    smooth = [keep * old + (1 - keep) * new for old, new in zip(state.smooth_phi_D, phi, strict=True)]
    after = State(lambda_D, np.array(phi), np.array(smooth))
    return weights_of(config, lambda_D), after


def weights_of(config: Any, lambda_D: Array) -> Array:
    """uniform: 1. paper: lambda. bounded: 1 + s (D lambda - 1), s <= 1 as large as [floor, 2 - floor] allows."""
    if config.correction == "uniform":
        return np.ones(len(lambda_D))
    if config.correction == "paper":
        return lambda_D
    excess = [len(lambda_D) * value - 1 for value in lambda_D]
    largest = max(abs(value) for value in excess)
    room = 1 - config.correction_floor
    s = 1 if largest <= room else room / largest
    return np.array([1 + s * value for value in excess])


def rho(w: Weights, config: Any, single: Array, cross: Array) -> float:
    """The agreement of two views: sigmoid(U^T W V), or the scaled cosine of U^T W and V."""
    matrix = w["mutual_information.weight_CC"]
    if config.mim_score == "sigmoid":
        return float(sigmoid(single @ matrix @ cross))
    mapped = single @ matrix
    return float(COSINE_SCALE * (mapped @ cross) / np.sqrt((mapped @ mapped) * (cross @ cross)))


def mutual_information(
    w: Weights, config: Any, cross: list[tuple[Steps, Array]], single: list[tuple[Steps, Array]], domain: int
) -> float | None:
    """L^d_mim, the mean over users with both views; None below two of them."""
    of_cross = {steps.user: (steps, y) for steps, y in cross}
    pairs = []
    for steps, y in single:
        if steps.task == domain:
            other, y_other = of_cross[steps.user]
            shared = [e for e in steps.inputs if e is not None and e in other.inputs]
            if shared:
                ours = np.mean([y[steps.inputs.index(e)] for e in shared], axis=0)
                theirs = np.mean([y_other[other.inputs.index(e)] for e in shared], axis=0)
                pairs.append((ours, theirs))
    if len(pairs) < 2:
        return None
    losses = []
    for u, (ours, theirs) in enumerate(pairs):
        contrast = sum(
            np.exp(rho(w, config, pairs[v][0], theirs))
            for v in range(len(pairs))
            if not (config.mim_others_only and v == u)
        )
        losses.append(-(rho(w, config, ours, theirs) - np.log(contrast)))
    return float(np.mean(losses))


def step(
    w: Weights,
    config: Any,
    sizes: Sequence[int],
    sequences: tuple[list[Steps], list[Steps]],
    state: State,
    negative: Negative,
    frozen: Frozen | None = None,
) -> Result:
    """Section 7: the total of one batch and the state after it. frozen: what a gradient takes as constant."""
    stopped = frozen.weights if frozen else w
    cross = [(steps, view(w, config, sizes, steps, stopped)) for steps in sequences[0]]
    single = [(steps, view(w, config, sizes, steps, stopped)) for steps in sequences[1]]
    families = []
    for family in (cross, single):
        losses = [pair for steps, y in family for pair in sequence_losses(w, config, sizes, steps, y, negative)]
        families.append(losses)
    gap_sum_D, gap_count_D = transfer_gap(*families, len(sizes))
    if frozen:
        gap_sum_D = frozen.result.gap_sum_D
    alpha, beta = w["correction.alpha"], w["correction.beta"]
    weight_D, after = corrected(config, alpha, beta, state, gap_sum_D, gap_count_D)
    if frozen and config.correction == "bounded":
        weight_D = frozen.result.weight_D
    mim = [mutual_information(w, config, cross, single, d + 1) for d in range(len(sizes))] if config.mim else []
    result = Result(
        0.0, *_by_domain(families[0], len(sizes)), *_by_domain(families[1], len(sizes)),
        gap_sum_D, gap_count_D, weight_D, mim, after,
    )  # fmt: skip
    return replace(result, total=total(config, result))


def total(config: Any, parts: Result) -> float:
    """eta (mean of the single losses + mean of the weighted cross losses) + (1 - eta) mean of SC-MIM."""
    single = sum(parts.single_sum_D) / sum(parts.single_count_D)
    cross = sum(parts.weight_D * parts.cross_sum_D) / sum(parts.cross_count_D)
    defined = [value for value in parts.mim_D if value is not None]
    mim = sum(defined) / len(defined) if defined else 0
    return float(config.eta * (single + cross) + (1 - config.eta) * mim)


def _by_domain(losses: list[tuple[Event, float]], n_domains: int) -> tuple[Array, Array]:
    sums, counts = np.zeros(n_domains), np.zeros(n_domains)
    for event, loss in losses:
        sums[event.domain - 1] += loss
        counts[event.domain - 1] += 1
    return sums, counts
