"""The study kit's ranks: a model's views, or any scores, ranked over the same cases and the same candidates.

Shapes: E events, M cases, m cases of one domain, V items of that domain, S seen items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .batches import SequenceReader
from .evaluation import VIEWS, CaseRanks, mean_tie_ranks, view_scores
from .model import SyNCRec
from .study_columns import StudyError
from .study_data import StudyData

Array = NDArray[Any]
_SCORES_AT_ONCE = 20_000_000


@dataclass(frozen=True, eq=False)
class StudyCases:
    """Some cases of one domain, as a model of any kind reads them. events: their places in the log of the study."""

    data: StudyData
    domain: str
    events: Array

    def __len__(self) -> int:
        return len(self.events)

    @property
    def items(self) -> list[str]:
        """The candidates of the domain, in the order in which scores are given."""
        return self.data.vocabulary.item_ids[self.data.vocabulary.domain_code(self.domain) - 1]

    @property
    def users(self) -> list[str]:
        """The user of each case."""
        return [self.data.users[user] for user in self.data.user_E[self.events]]

    @cached_property
    def histories(self) -> list[list[tuple[str, str, Any]]]:
        """What each user did before, oldest first: (item, domain, ts)."""
        return [self.data.history(event) for event in self.events.tolist()]


def rank_scores(
    data: StudyData, score: Callable[[StudyCases], ArrayLike], *, name: str = "own", part: str = "test"
) -> CaseRanks:
    """Rank the cases of a study by your own scores: what SyNCRec is compared with, on its cases and candidates.

    score: gets some cases of one domain, returns a score of every item of the domain (`StudyCases.items`) for each,
    [m, V]; higher is better. Items of the user's history are taken out here, except in the study's `repeats`; equal
    scores share their mean rank.

    Raises
    ------
    StudyError : scores of another shape, or that are not finite numbers.
    """

    def scored(cases: StudyCases, place_m: Array) -> Iterator[tuple[str, Tensor]]:
        scores_mV = np.asarray(score(cases), dtype=np.float64)
        if scores_mV.shape != (len(cases), len(cases.items)):
            raise StudyError(
                f"rank_scores: scores of shape {scores_mV.shape} for {len(cases)} cases and {len(cases.items)} "
                f"items of {cases.domain}: give a row a case and a column an item, in the order of cases.items"
            )
        if not np.isfinite(scores_mV).all():
            raise StudyError(f"rank_scores: scores of {cases.domain} are not all finite; give a low number instead")
        yield name, torch.from_numpy(scores_mV)

    return _rank(data, part, [name], scored)


def rank_views(model: SyNCRec, data: StudyData, views: Sequence[str] = VIEWS, *, part: str = "test") -> CaseRanks:
    """Rank the cases of a study by views of a trained model, each from what lies strictly before it."""
    reader = SequenceReader(data.case_sequences(part, model.config.max_length))
    found = reader.cases()  # ordered by domain and its users are the rows of the cases, in the same order
    assert np.array_equal(found.user_M, np.arange(len(found)))

    def scored(cases: StudyCases, place_m: Array) -> Iterator[tuple[str, Tensor]]:
        code = data.vocabulary.domain_code(cases.domain)
        return view_scores(model, reader, found.take(place_m), code, views)

    model.eval()
    return _rank(data, part, views, scored)


def popularity_scores(data: StudyData) -> Callable[[StudyCases], Array]:
    """Return what `rank_scores` needs to rank by the number of events that were learned from."""
    counts = dict(zip(data.domains, data.popularity(), strict=True))
    return lambda cases: np.broadcast_to(counts[cases.domain], (len(cases), len(cases.items)))


@torch.inference_mode()
def _rank(
    data: StudyData,
    part: str,
    names: Sequence[str],
    scored: Callable[[StudyCases, Array], Iterator[tuple[str, Tensor]]],
) -> CaseRanks:
    event_M = data.cases(part)
    code_M = data.domain_E[event_M]
    ranks = {name: np.zeros(len(event_M)) for name in names}
    n_candidates, n_seen = np.zeros(len(event_M), dtype=np.int64), np.zeros(len(event_M), dtype=np.int64)
    for code, (domain, n_items) in enumerate(zip(data.domains, data.vocabulary.n_items, strict=True), start=1):
        own_M = np.flatnonzero(code_M == code)
        at_once = max(1, min(256, _SCORES_AT_ONCE // n_items))
        for start in range(0, len(own_M), at_once):
            place_m = own_M[start : start + at_once]
            target_m = torch.from_numpy(data.item_E[event_M[place_m]] - 1)
            row_S, item_S = data.seen(event_M[place_m])
            removed_mV = torch.zeros(len(place_m), n_items, dtype=torch.bool)
            if domain not in data.repeats:
                removed_mV[torch.from_numpy(row_S), torch.from_numpy(item_S - 1)] = True
                removed_mV[torch.arange(len(place_m)), target_m] = False
            n_candidates[place_m] = (~removed_mV).sum(1).numpy()
            n_seen[place_m] = np.bincount(row_S, minlength=len(place_m))
            for name, scores_mV in scored(StudyCases(data, domain, event_M[place_m]), place_m):
                device = scores_mV.device
                found_m = mean_tie_ranks(scores_mV, target_m.to(device), removed_mV.to(device))
                ranks[name][place_m] = found_m.cpu().numpy()
    return CaseRanks(data.domains, data.user_E[event_M], code_M, ranks, n_candidates, n_seen)
