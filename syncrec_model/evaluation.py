"""Section 8: honest ranks. Each case ranks its target among ALL items of the target's domain.

Shapes: M cases, m cases of a batch, V items of one domain, S seen items of a batch, C channels;
of a SequenceSet: N single rows, T steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .batches import Cases, SequenceReader
from .data import SequenceSet
from .model import SyNCRec

Array = NDArray[Any]
VIEWS = ("cross", "single", "blend")


@dataclass(frozen=True)
class CaseRanks:
    """Ranks of n cases. user: row of the SequenceSet; domain: code 1..D; ranks: per view, 1 = best, ties share
    their mean rank; n_candidates: items ranked; history_length: events of the target's domain before it (stored).
    """

    domains: tuple[str, ...]
    user: Array
    domain: Array
    ranks: dict[str, Array]
    n_candidates: Array
    history_length: Array

    def __len__(self) -> int:
        return len(self.user)

    def with_view(self, name: str, ranks: Array) -> CaseRanks:
        """Return a copy with one more view of the same cases."""
        if np.shape(ranks) != self.user.shape:
            raise ValueError(f"CaseRanks.with_view({name!r}): {np.shape(ranks)} ranks for {len(self)} cases")
        return replace(self, ranks={**self.ranks, name: np.asarray(ranks, dtype=np.float64)})

    def with_served(self, views: Mapping[str, str]) -> CaseRanks:
        """Return a copy with the view "served": per domain the view that would be served there."""
        served = np.full(len(self), np.nan)
        for code, domain in enumerate(self.domains, start=1):
            served = np.where(self.domain == code, self.ranks[views[domain]], served)
        return self.with_view("served", served)


@torch.inference_mode()
def rank_cases(
    model: SyNCRec,
    data: SequenceSet,
    *,
    views: Sequence[str] = VIEWS,
    repeats: Collection[str] = (),
    known_items: Sequence[int] | None = None,
    batch_size: int = 256,
) -> CaseRanks:
    """Rank every flagged event of `data` from what lies strictly before it: one forward pass row per case.

    known_items: per domain how many items the model was trained with, where today's vocabulary has more; the
    newer ones share the last place, as they cannot be recommended by it. None: all are known.

    repeats: domains in which items of the history stay candidates; elsewhere they are taken out, the target
    never. Raises ValueError on scores that are not numbers.
    """
    _check_call(model, data, views, repeats)
    if known_items is not None and len(known_items) != len(data.domains):
        raise ValueError(f"rank_cases: {len(known_items)} counts of known items for {len(data.domains)} domains")
    device = model.embedding.items_VC.device
    reader = SequenceReader(data, device.type)
    cases = reader.cases()
    ranks = {view: np.zeros(len(cases)) for view in views}
    candidates, history = np.zeros(len(cases), dtype=np.int64), np.zeros(len(cases), dtype=np.int64)
    was_training = model.training
    model.eval()
    for code, index in _domain_batches(cases, len(data.domains), batch_size):
        part = cases.take(index)
        history[index] = np.bincount(_seen(reader, part)[0], minlength=len(part))
        removed_mV = removed_items(reader, part, code, repeats, device)
        target_m = _on(part.target_M - 1, device)
        candidates[index] = (removed_mV.shape[1] - removed_mV.sum(1)).cpu().numpy()
        for view, scores_mV in view_scores(model, reader, part, code, views):
            if known_items is not None:
                scores_mV = scores_mV.clone()  # the views share their scores
                scores_mV[:, known_items[code - 1] :] = torch.finfo(scores_mV.dtype).min
            ranks[view][index] = mean_tie_ranks(scores_mV, target_m, removed_mV).cpu().numpy()
    model.train(was_training)
    return CaseRanks(data.domains, cases.user_M, cases.domain_M, ranks, candidates, history)


def removed_items(
    reader: SequenceReader, cases: Cases, code: int, repeats: Collection[str], device: torch.device
) -> Tensor:
    """Return which items are no candidates for cases of one domain, [m, V]: the history's, never the target."""
    data = reader.data
    removed_mV = torch.zeros(len(cases), data.n_items[code - 1], dtype=torch.bool, device=device)
    if data.domains[code - 1] not in repeats:
        case_S, item_S = _seen(reader, cases)
        removed_mV[_on(case_S, device), _on(item_S - 1, device)] = True
        removed_mV[torch.arange(len(cases), device=device), _on(cases.target_M - 1, device)] = False
    return removed_mV


def view_scores(
    model: SyNCRec, reader: SequenceReader, cases: Cases, code: int, views: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the scores of each asked view for cases of one domain, [m, V]."""
    device = model.embedding.items_VC.device
    cross_mV = single_mV = cross = single = None
    if {"cross", "blend"} & set(views):
        cross = reader.case_cross(cases).to(device)
        cross_mV = model.scores(model.encode(cross), code)
    if {"single", "blend"} & set(views):
        single = reader.case_single(cases).to(device)
        single_mV = model.scores(model.encode(single), code)
    for view in views:
        if view == "cross" and cross_mV is not None:
            yield view, cross_mV
        elif view == "single" and single_mV is not None:
            yield view, single_mV
        elif cross_mV is not None and single_mV is not None and cross is not None and single is not None:
            yield view, model.blend(cross_mV, single_mV, cross, single, code)


def mean_tie_ranks(scores_mV: Tensor, target_m: Tensor, removed_mV: Tensor) -> Tensor:
    """Return the rank of each target (column index), 1 = best; equal scores share their mean rank."""
    if not torch.isfinite(scores_mV).all():
        raise ValueError(
            "rank_cases: the model gave scores that are not finite numbers; was it trained to the end?"
        )
    target_score_m1 = scores_mV.gather(1, target_m[:, None])
    kept_mV = ~removed_mV
    better_m = ((scores_mV > target_score_m1) & kept_mV).sum(1)
    equal_m = ((scores_mV == target_score_m1) & kept_mV).sum(1) - 1
    return 1.0 + better_m.double() + 0.5 * equal_m.double()


def popularity_ranks(
    counts_by_domain: Mapping[str, ArrayLike], data: SequenceSet, repeats: Collection[str] = ()
) -> CaseRanks:
    """Rank the same cases by popularity. counts_by_domain: per domain the training count of each item, [V_d]."""
    reader = SequenceReader(data)
    cases = reader.cases()
    ranks, candidates = np.zeros(len(cases)), np.zeros(len(cases), dtype=np.int64)
    history = np.zeros(len(cases), dtype=np.int64)
    for code, index in _domain_batches(cases, len(data.domains), 1024):
        domain, part = data.domains[code - 1], cases.take(index)
        counts_V = torch.as_tensor(np.asarray(counts_by_domain[domain], dtype=np.float64))
        if len(counts_V) != data.n_items[code - 1]:
            raise ValueError(
                f"popularity_ranks: {len(counts_V)} counts for {data.n_items[code - 1]} items of {domain!r}"
            )
        user_S, item_S = _seen(reader, part)
        history[index] = np.bincount(user_S, minlength=len(part))
        removed_mV = torch.zeros(len(part), len(counts_V), dtype=torch.bool)
        if domain not in repeats:
            removed_mV[_on(user_S), _on(item_S - 1)] = True
        target_m = _on(part.target_M - 1)
        removed_mV[torch.arange(len(part)), target_m] = False
        candidates[index] = (~removed_mV).sum(1).numpy()
        ranks[index] = mean_tie_ranks(counts_V.expand(len(part), -1), target_m, removed_mV).numpy()
    return CaseRanks(data.domains, cases.user_M, cases.domain_M, {"popularity": ranks}, candidates, history)


def _seen(reader: SequenceReader, cases: Cases) -> tuple[Array, Array]:
    """Return (case, item index) of the stored events of the target's domain before the target."""
    items_mT = reader.data.single_items_NT[cases.single_row_M]
    before_mT = np.arange(reader.width)[None, :] < cases.single_column_M[:, None]
    case_S, column_S = np.nonzero((items_mT > 0) & before_mT)
    return case_S, items_mT[case_S, column_S].astype(np.int64)


def _domain_batches(cases: Cases, n_domains: int, batch_size: int) -> Iterator[tuple[int, Array]]:
    """Yield (domain code, case indexes)."""
    for code in range(1, n_domains + 1):
        index = np.flatnonzero(cases.domain_M == code)
        for start in range(0, len(index), batch_size):
            yield code, index[start : start + batch_size]


def _on(values: Array, device: torch.device | None = None) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)


def _check_call(model: SyNCRec, data: SequenceSet, views: Sequence[str], repeats: Collection[str]) -> None:
    if tuple(data.domains) != model.domains or tuple(data.n_items) != model.n_items:
        raise ValueError(
            f"the sequences have domains {dict(zip(data.domains, data.n_items, strict=True))}, the model "
            f"{dict(zip(model.domains, model.n_items, strict=True))}; build both from one vocabulary"
        )
    if data.max_length > model.config.max_length:
        raise ValueError(
            f"the sequences have {data.max_length} steps, the model reads {model.config.max_length}; "
            "build them with the model's max_length"
        )
    if unknown := [view for view in views if view not in VIEWS]:
        raise ValueError(f"unknown view {unknown[0]!r}; views are {', '.join(VIEWS)}")
    if isinstance(repeats, str):
        raise ValueError(f"repeats = {repeats!r}: give a collection of domain names")
    if strange := [domain for domain in repeats if domain not in data.domains]:
        raise ValueError(f"repeats names the unknown domain {strange[0]!r}; domains are {', '.join(data.domains)}")
