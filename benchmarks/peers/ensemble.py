"""The trivial and strong rivals: a mixed SASRec and single SASRecs added up, plainly or with all that ours has,
and all that ours has without any network.

Shapes: m cases of one domain, V_d items of that domain, F features, V items of all domains, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.ours import CaseReader, train_sequences
from benchmarks.peers.sasrec import SEARCH, SASRec
from benchmarks.quality.data import Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View
from syncrec_model.blend import FEATURES, Blend
from syncrec_model.blend_fit import candidates, fit_weights
from syncrec_model.cooccurrence import count_pairs, start_vectors
from syncrec_model.evaluation import removed_items

_MAX_LENGTH, _CHANNELS, _NEIGHBOURS = 50, 64, 100  # as ours
_START_STD = 0.1
_NUMBERS = 60_000_000  # features held at once, as in blend_fit.py
PAIRS = (
    {"mixed": "sasrec.mixed", "single": "sasrec.single"},
    {"mixed": "sasrec.mixed-all", "single": "sasrec.all"},
)
STARTED = {"mixed": "sasrec.mixed-all.started", "single": "sasrec.all.started"}


def started_items(data: QualityData) -> Array:
    """Return what ours starts from: the PPMI factors of everybody's training sequences, [V, C]."""
    train = train_sequences(data, _MAX_LENGTH, outside=True)
    vectors_VC = start_vectors(count_pairs(train), _CHANNELS)[1:].numpy()
    known_V = np.abs(vectors_VC).sum(1) > 0
    drawn_VC = 0.02 * np.random.default_rng(0).standard_normal(vectors_VC.shape)
    scale = _START_STD / max(float(np.sqrt(np.square(vectors_VC[known_V]).mean())), 1e-12) if known_V.any() else 0
    return np.where(known_V[:, None], scale * vectors_VC, drawn_VC).astype(np.float32)


class PlainEnsemble(Peer):
    """The sum of both logits; validation chooses which pair."""

    name = "ensemble.plain"
    kind = "ensemble"
    source = "the sum of a mixed SASRec's and the single SASRecs' logits"

    def __init__(self, pairs: Sequence[Mapping[str, str]] = PAIRS) -> None:
        self.search = pairs
        self.needs = tuple(name for pair in pairs for name in pair.values())

    def quick(self) -> PlainEnsemble:
        """Return the pair of everybody alone: the other would cost QUICK a mixed SASRec that nothing else needs."""
        return PlainEnsemble(PAIRS[1:])

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Read the scores of both rows; nothing is trained."""
        mixed, single = kept(settings["mixed"]), kept(settings["single"])

        def score(part: str, index: Array) -> Array:
            return mixed.score(part, index) + single.score(part, index)

        notes = ["Costs hold those of its two rows."]
        return Fitted({"": View(score)}, 0, 0.0, dict(settings), notes)


class EquippedEnsemble(Peer):
    """The same with the extras of ours: started items, item neighbours and popularity, fitted weights."""

    name = "ensemble.equipped"
    kind = "ensemble"
    source = "a mixed and single SASRecs with the start vectors, neighbours and fitted blend of ours"
    needs = tuple(STARTED.values())

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Count neighbours as ours does and fit the weights of the five features on validation, per domain."""
        views = [kept(STARTED["mixed"]), kept(STARTED["single"])]
        return _blended(data, budget, views, ["Costs hold those of its two rows."])


class FittedNeighbours(Peer):
    """What our blend has beside its two views, alone: neighbours and popularity, fitted weights, no network."""

    name = "neighbours.fitted"
    kind = "multi-domain"
    source = "the neighbours and popularity of our blend, fitted weights; no network"
    seeded = False

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Count neighbours as ours does and fit the weights of the three features on validation, per domain."""
        return _blended(data, budget, [], ["Of everybody, all domains; weights per domain fitted on validation."])


def _blended(data: QualityData, budget: Budget, views: Sequence[View], notes: Sequence[str]) -> Fitted:
    """Fit our blend, as blend_fit.py does. views: whose scores stand for our two; none: there are none."""
    torch.set_num_threads(budget.threads)
    began = time.perf_counter()
    blend = Blend(data.n_items, _NEIGHBOURS)
    train = train_sequences(data, _MAX_LENGTH, outside=True)
    blend.learn(train, count_pairs(train))
    names, start_F = (FEATURES, blend.start_F()) if views else (FEATURES[2:], torch.zeros(len(FEATURES) - 2))
    if not views:  # until fitted, and for good where validation has no case of a domain: what is near
        blend.weights_DF[:] = torch.tensor([float(name == "near") for name in FEATURES])

    @lru_cache
    def reader(part: str) -> CaseReader:
        return CaseReader(data, part, _MAX_LENGTH)

    def read(part: str, index: Array) -> tuple[Any, ...]:
        code, found = int(data.cases[part].domain_M[index[0]]), reader(part)
        cases = found.take(index)
        scores = [torch.from_numpy(view.score(part, index)) for view in views]
        scores = scores or [torch.zeros(len(index), data.n_items[code - 1])] * 2
        return (*scores, found.reader.case_cross(cases), found.reader.case_single(cases), code)

    def features(index: Array) -> tuple[torch.Tensor, torch.Tensor]:
        given = read("valid", index)
        parts = [blend.feature(name, *given).expand_as(given[0]) for name in names]
        cases = reader("valid").take(index)
        removed_mV = removed_items(reader("valid").reader, cases, given[-1], (), torch.device("cpu"))
        removed_mV |= ~blend.learnt(given[-1])
        return candidates(torch.stack(parts, -1), removed_mV, torch.from_numpy(cases.target_M - 1))

    for code in range(1, len(data.domains) + 1):
        index = np.flatnonzero(data.cases["valid"].domain_M == code)
        index = index[blend.learnt(code).numpy()[data.cases["valid"].target_M[index] - 1]]
        most = max(200, _NUMBERS // (len(names) * data.n_items[code - 1]))
        if len(index) > most:
            index = np.sort(np.random.default_rng(0).choice(index, most, replace=False))
        if len(index):
            batches = [features(index[start : start + 128]) for start in range(0, len(index), 128)]
            blend.weights_DF[code - 1, -len(names) :] = fit_weights(batches, start_F).float()
    train_s = time.perf_counter() - began

    def score(part: str, index: Array) -> Array:
        return np.asarray(blend(*read(part, index)).numpy(), dtype=np.float32)

    weights = dict(zip(data.domains, blend.weights_DF.tolist(), strict=True))
    return Fitted({"": View(score)}, 0, train_s, {"blend": weights}, notes)


class StartedSASRec(SASRec):
    """SASRec whose items start where ours do; of more than one domain in either form, for the pairs counted are."""

    def __init__(self, form: str, name: str) -> None:
        super().__init__(form, name=name, search=SEARCH[:3], initial_items=started_items)
        self.kind = "multi-domain"


PEERS = (
    PlainEnsemble(),
    StartedSASRec("mixed-all", STARTED["mixed"]),
    StartedSASRec("all", STARTED["single"]),
    EquippedEnsemble(),
    FittedNeighbours(),
)
