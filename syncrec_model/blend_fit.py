"""Section 7: the weights of the blend, fitted per domain on validation cases.

Shapes: M cases, m of a batch, V items of the domain, C channels, F features (G: and what is added
to the score), S sampled items,
D domains, U users.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .batches import SequenceReader
from .data import SequenceSet
from .evaluation import CaseRanks, rank_cases, removed_items
from .model import SyNCRec

_RIDGE = 5.0  # cases' worth of trust in the unfitted sum, a standard deviation of each feature
_STEPS = 30
_NUMBERS = 60_000_000  # features held at once; above it a domain's cases are a sample
_LEAST_CASES = 200
_MOST_ITEMS = 20_000  # above it the candidates are a uniform sample, corrected by logQ
_SCORES_AT_ONCE = 1_000_000
_HELD_BACK = -1e9  # score of an item that is no candidate


def fit_blend(model: SyNCRec, valid: SequenceSet, repeats: Collection[str] = ()) -> list[int]:
    """Set the blend's weights to those that make the validation cases' targets likeliest, domain by domain.

    Minimises the cross-entropy of the targets among the domain's candidates plus a ridge towards the sum of both
    views: a convex problem of a few weights, solved by Newton's method. Items without a training event are neither
    targets nor candidates here: no weights can make them likely, and what they cost a sure model would only make
    its weights small. Returns the cases used per domain, [D]; a domain without cases keeps the weights that it has.
    """
    reader = SequenceReader(valid, model.embedding.items_VC.device.type)
    used = []
    was_training = model.training
    model.eval()
    for code in range(1, len(model.domains) + 1):
        batches = list(_features(model, reader, code, repeats))
        if batches:
            weights_F = fit_weights(batches, model.blend.start_F())
            with torch.no_grad():
                model.blend.weights_DF[code - 1, : len(weights_F)] = weights_F.to(model.blend.weights_DF)
        used.append(sum(len(target_m) for _, target_m in batches))
    model.train(was_training)
    return used


def cross_fitted_ranks(
    model: SyNCRec,
    valid: SequenceSet,
    views: Collection[str],
    repeats: Collection[str] = (),
    *,
    persons_U: ArrayLike | None = None,
) -> CaseRanks:
    """Rank validation cases, the blend of each half of the users by weights fitted on the other half.

    What `choose_views` should compare: a blend that saw its own cases would look better than it is. The model
    leaves with the weights that it came with. persons_U: who each row is of, where a person has several rows, which
    then stay in one half; None: a row a person.
    """
    ranks = rank_cases(model, valid, views=tuple(views), repeats=repeats)
    if not model.config.fit_blend or "blend" not in views:
        return ranks
    kept_DF = model.blend.weights_DF.clone()
    _, person_U = np.unique(np.arange(valid.n_users) if persons_U is None else persons_U, return_inverse=True)
    half_U = (np.random.default_rng(0).permutation(person_U.max(initial=-1) + 1) % 2)[person_U]
    blended = ranks.ranks["blend"].copy()
    for half in (0, 1):
        inside = np.flatnonzero(half_U == half)
        fit_blend(model, valid.select(np.flatnonzero(half_U != half)), repeats)
        part = rank_cases(model, valid.select(inside), views=("blend",), repeats=repeats)
        # Both are ordered by domain, then user and time; the users of the half keep their order.
        blended[np.isin(ranks.user, inside)] = part.ranks["blend"]
    with torch.no_grad():
        model.blend.weights_DF.copy_(kept_DF)
    return replace(ranks, ranks={**ranks.ranks, "blend": blended})


@torch.no_grad()
def _features(
    model: SyNCRec, reader: SequenceReader, code: int, repeats: Collection[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (features and what is added to the score, [m, V, G]; the target's column, [m]) of a domain's cases."""
    cases = reader.cases()
    learnt_V = model.blend.learnt(code).cpu()
    index = np.flatnonzero(cases.domain_M == code)
    index = index[learnt_V.numpy()[cases.target_M[index] - 1]]
    names, device, n_items = model.blend.features, model.embedding.items_VC.device, model.n_items[code - 1]
    most = max(_LEAST_CASES, _NUMBERS // (len(names) * min(n_items, _MOST_ITEMS)))
    if len(index) > most:
        index = np.sort(np.random.default_rng(0).choice(index, most, replace=False))
    at_once = max(1, _SCORES_AT_ONCE // n_items)
    for start in range(0, len(index), at_once):
        part = cases.take(index[start : start + at_once])
        cross, single = reader.case_cross(part).to(device), reader.case_single(part).to(device)
        cross_mV = model.scores(model.encode(cross), code)
        single_mV = model.scores(model.encode(single), code)
        found = [model.blend.feature(name, cross_mV, single_mV, cross, single, code) for name in names]
        x_mVF = torch.stack([value.expand_as(cross_mV).float() for value in found], dim=-1)
        removed_mV = removed_items(reader, part, code, repeats, device).cpu() | ~learnt_V
        yield candidates(x_mVF.cpu(), removed_mV, torch.from_numpy(part.target_M - 1))


def candidates(x_mVF: Tensor, removed_mV: Tensor, target_m: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `fit_weights` reads: features with, as the last column, what is added to an item's score.

    0 for a candidate, a large negative number for a removed item. Of a large domain a fixed uniform sample of items
    stands for all (log of items per sampled item is added), and the target behind it.
    """
    added_mV1 = torch.where(removed_mV, _HELD_BACK, 0.0).unsqueeze(-1).to(x_mVF.dtype)
    x_mVG = torch.cat([x_mVF, added_mV1], dim=-1)
    n_items = x_mVF.shape[1]
    if n_items <= _MOST_ITEMS:
        return x_mVG, target_m
    sample = np.sort(np.random.default_rng(0).choice(n_items, _MOST_ITEMS, replace=False))
    sampled = torch.from_numpy(sample)
    target_m1G = x_mVG[torch.arange(len(target_m)), target_m].unsqueeze(1)
    x_mSG = x_mVG[:, sampled]
    x_mSG[..., -1] += float(np.log(n_items / _MOST_ITEMS))
    x_mSG[..., -1][sampled[None] == target_m[:, None]] = _HELD_BACK
    return torch.cat([x_mSG, target_m1G], dim=1), torch.full_like(target_m, _MOST_ITEMS)


def fit_weights(batches: Sequence[tuple[Tensor, Tensor]], start_F: Tensor) -> Tensor:
    """Return the weights that minimise the sum of cross-entropies and the ridge, [F], float64.

    batches: of `candidates`; their features are changed in place, to a mean of 0 over each case's candidates, which
    changes no softmax. start_F: where the ridge pulls to.
    """
    spread_F = _centre(batches)
    start_F = start_F.double()
    ridge_F = _RIDGE * spread_F**2
    weights_F = start_F.clone()
    value, gradient_F, curvature_FF = _objective(batches, weights_F, start_F, ridge_F)
    for _ in range(_STEPS):
        step_F = torch.linalg.solve(curvature_FF, gradient_F)
        gain = float(gradient_F @ step_F)
        if not gain > 1e-6 * max(1.0, abs(value)):
            break
        size = 1.0
        while size > 1e-4:
            tried = _objective(batches, weights_F - size * step_F, start_F, ridge_F)
            if tried[0] < value:
                break
            size /= 2
        else:
            break
        weights_F = weights_F - size * step_F
        value, gradient_F, curvature_FF = tried
    return weights_F


def _objective(
    batches: Sequence[tuple[Tensor, Tensor]], weights_F: Tensor, start_F: Tensor, ridge_F: Tensor
) -> tuple[float, Tensor, Tensor]:
    """Return value, gradient [F] and curvature [F, F]."""
    away_F = weights_F - start_F
    value = 0.5 * float((ridge_F * away_F**2).sum())
    gradient_F, curvature_FF = ridge_F * away_F, torch.diag(ridge_F)
    for x_mVG, target_m in batches:
        x_mVF = x_mVG[..., :-1]
        logits_mV = x_mVF @ weights_F.to(x_mVF.dtype) + x_mVG[..., -1]
        log_p_mV = logits_mV.log_softmax(1)
        row_m = torch.arange(len(target_m))
        value -= float(log_p_mV[row_m, target_m].double().sum())
        p_mV1 = log_p_mV.exp().unsqueeze(-1)
        mean_mF = (p_mV1 * x_mVF).sum(1)
        gradient_F = gradient_F + (mean_mF - x_mVF[row_m, target_m]).double().sum(0)
        away_mVF = (x_mVF - mean_mF[:, None]).flatten(0, 1)
        curvature_FF = curvature_FF + ((p_mV1.flatten(0, 1) * away_mVF).T @ away_mVF).double()
    return value, gradient_F, curvature_FF


def _centre(batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Give every feature of a case a mean of 0 over its candidates, in place; return its mean spread there, [F].

    Spread: standard deviation, at least a millionth.
    """
    total_F, n_cases = torch.zeros(batches[0][0].shape[-1] - 1, dtype=torch.float64), 0
    for x_mVG, target_m in batches:
        is_candidate_mV = x_mVG[..., -1] > _HELD_BACK / 2
        n_m = is_candidate_mV.sum(1)
        for place in range(len(total_F)):
            x_mV = x_mVG[..., place].double()
            mean_m1 = ((x_mV * is_candidate_mV).sum(1) / n_m).unsqueeze(1)
            x_mV -= mean_m1
            total_F[place] += ((x_mV.square() * is_candidate_mV).sum(1) / n_m).sqrt().sum()
            x_mVG[..., place] = x_mV
        n_cases += len(target_m)
    return (total_F / n_cases).clamp(min=1e-6)
