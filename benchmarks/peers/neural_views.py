"""The view of a peer whose score is a product of a history's vector and an item's vector.

Shapes: M cases, m cases of one domain, V_d items of that domain, V items of all, S sampled candidates, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.quality.data import Array, QualityData
from benchmarks.quality.protocol import View
from syncrec_model.vocabulary import stacked_offsets


def product_view(
    data: QualityData, histories: Mapping[str, Array], items: Mapping[int, Array], *, comparable: bool
) -> View:
    """Return the view. histories: per part [M, C], of every case; items: per domain code [V_d, C].

    comparable: whether scores of items of different domains come from one softmax.
    """

    def score(part: str, index: Array) -> Array:
        code = int(data.cases[part].domain_M[index[0]])
        return np.asarray(histories[part][index] @ items[code].T, dtype=np.float32)

    def sampled(part: str, index: Array) -> Array:
        cases = data.cases[part]
        offsets_D1 = np.array([0, *stacked_offsets(data.n_items)])
        target_m = offsets_D1[cases.domain_M[index]] + cases.target_M[index]
        rows_mS = np.concatenate([target_m[:, None], cases.negatives_MS[index]], 1) - 1
        scores_mV = histories[part][index] @ stacked_VC.T
        return np.asarray(np.take_along_axis(scores_mV, rows_mS, 1), dtype=np.float32)

    if not comparable:
        return View(score)
    stacked_VC = np.concatenate([items[code] for code in range(1, len(data.domains) + 1)])
    return View(score, sampled)
