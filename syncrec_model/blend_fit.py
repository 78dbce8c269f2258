"""Section 7: the weights of the blend, fitted per domain on validation cases.

Shapes: M cases, m of a batch, V items of the domain, C channels, F features (G: and what holds items back),
D domains, U users.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .batches import SequenceReader
from .data import SequenceSet
from .evaluation import CaseRanks, rank_cases, removed_items
from .model import SyNCRec

_RIDGE = 1.0  # cases' worth of trust in the unfitted sum, a standard deviation of each feature
_STEPS = 30
_NUMBERS = 60_000_000  # features held at once; above it a domain's cases are a sample
_CASES_AT_ONCE = 128
_HELD_BACK = -1e9  # score of an item that is no candidate


def fit_blend(model: SyNCRec, valid: SequenceSet, repeats: Collection[str] = ()) -> list[int]:
    """Set the blend's weights to those that make the validation cases' targets likeliest, domain by domain.

    Minimises the cross-entropy of the targets among the domain's candidates plus a ridge towards the sum of both
    views: a convex problem of a few weights, solved by Newton's method. Returns the cases used per domain, [D]; a
    domain without cases keeps the sum.
    """
    reader = SequenceReader(valid)
    used = []
    was_training = model.training
    model.eval()
    for code in range(1, len(model.domains) + 1):
        batches = list(_features(model, reader, code, repeats))
        start_F = model.blend.start_F()
        weights_F = fit_weights(batches, start_F) if batches else start_F
        with torch.no_grad():
            model.blend.weights_DF[code - 1, : len(weights_F)] = weights_F.to(model.blend.weights_DF)
        used.append(sum(len(target_m) for _, target_m in batches))
    model.train(was_training)
    return used


def cross_fitted_ranks(
    model: SyNCRec, valid: SequenceSet, views: Collection[str], repeats: Collection[str] = ()
) -> CaseRanks:
    """Rank validation cases, the blend of each half of the users by weights fitted on the other half.

    What `choose_views` should compare: a blend that saw its own cases would look better than it is. The model
    leaves with the weights that it came with.
    """
    ranks = rank_cases(model, valid, views=tuple(views), repeats=repeats)
    if not model.config.fit_blend or "blend" not in views:
        return ranks
    kept_DF = model.blend.weights_DF.clone()
    half_U = np.random.default_rng(0).permutation(valid.n_users) % 2
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


@torch.inference_mode()
def _features(
    model: SyNCRec, reader: SequenceReader, code: int, repeats: Collection[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (features [m, V, F], target column [m]) of a domain's cases; no candidate: all features held back."""
    cases = reader.cases()
    index = np.flatnonzero(cases.domain_M == code)
    names, device = model.blend.features, model.embedding.items_VC.device
    most = max(200, _NUMBERS // (len(names) * model.n_items[code - 1]))
    if len(index) > most:
        index = np.sort(np.random.default_rng(0).choice(index, most, replace=False))
    for start in range(0, len(index), _CASES_AT_ONCE):
        part = cases.take(index[start : start + _CASES_AT_ONCE])
        cross, single = reader.case_cross(part).to(device), reader.case_single(part).to(device)
        cross_mV = model.scores(model.encode(cross), code)
        single_mV = model.scores(model.encode(single), code)
        found = [model.blend.feature(name, cross_mV, single_mV, cross, single, code) for name in names]
        x_mVF = torch.stack([value.expand_as(cross_mV).float() for value in found], dim=-1)
        removed_mV = removed_items(reader, part, code, repeats, device)
        yield held_back(x_mVF, removed_mV).cpu(), torch.from_numpy(part.target_M - 1)


def held_back(x_mVF: Tensor, removed_mV: Tensor) -> Tensor:
    """Append what keeps items out of the sum of a softmax: 0, or a large negative number for a removed item."""
    return torch.cat([x_mVF, (removed_mV * _HELD_BACK).unsqueeze(-1)], dim=-1)


def fit_weights(batches: list[tuple[Tensor, Tensor]], start_F: Tensor) -> Tensor:
    """Return the weights that minimise the sum of cross-entropies and the ridge, [F], float64.

    batches: (features [m, V, F] and what is added to a score, 0 or `held_back`, [m, V, 1]; target column [m]).
    start_F: where the ridge pulls to.
    """
    spread_F = _spread(batches)
    start_F = start_F.double()
    ridge_F = _RIDGE * spread_F**2
    weights_F = start_F.clone()
    value, gradient_F, curvature_FF = _objective(batches, weights_F, start_F, ridge_F)
    for _ in range(_STEPS):
        step_F = torch.linalg.solve(curvature_FF, gradient_F)
        gain = float(gradient_F @ step_F)
        if gain < 1e-6 * max(1.0, abs(value)):
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
    batches: list[tuple[Tensor, Tensor]], weights_F: Tensor, start_F: Tensor, ridge_F: Tensor
) -> tuple[float, Tensor, Tensor]:
    """Return value, gradient [F] and curvature [F, F]."""
    away_F = weights_F - start_F
    value = 0.5 * float((ridge_F * away_F**2).sum())
    gradient_F, curvature_FF = ridge_F * away_F, torch.diag(ridge_F + 1e-12)
    for x_mVG, target_m in batches:
        x_mVF = x_mVG[..., :-1]
        logits_mV = x_mVF @ weights_F.float() + x_mVG[..., -1]
        log_p_mV = logits_mV.log_softmax(1)
        row_m = torch.arange(len(target_m))
        value -= float(log_p_mV[row_m, target_m].double().sum())
        weighted_mVF = log_p_mV.exp().unsqueeze(-1) * x_mVF
        mean_mF = weighted_mVF.sum(1)
        gradient_F = gradient_F + (mean_mF - x_mVF[row_m, target_m]).double().sum(0)
        second_FF = weighted_mVF.flatten(0, 1).T @ x_mVF.flatten(0, 1) - mean_mF.T @ mean_mF
        curvature_FF = curvature_FF + second_FF.double()
    return value, gradient_F, curvature_FF


def _spread(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return each feature's mean standard deviation over the candidates of a case, [F], at least a millionth."""
    total_F, n_cases = torch.zeros(batches[0][0].shape[-1] - 1, dtype=torch.float64), 0
    for x_mVG, target_m in batches:
        candidate_mV1 = (x_mVG[..., -1:] == 0).double()
        n_m1 = candidate_mV1.sum(1)
        x_mVF = x_mVG[..., :-1].double()
        mean_mF = (x_mVF * candidate_mV1).sum(1) / n_m1
        square_mF = ((x_mVF - mean_mF[:, None]).square() * candidate_mV1).sum(1) / n_m1
        total_F += square_mF.sqrt().sum(0)
        n_cases += len(target_m)
    return (total_F / n_cases).clamp(min=1e-6)
