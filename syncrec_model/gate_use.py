"""How much each task's gate leans on each expert: means of the gates of section 3 over evaluation cases.

Shapes: M cases, R rows, V items, C channels, K experts.
"""

from __future__ import annotations

import numpy as np
import torch

from .batches import SequenceReader
from .data import SequenceSet
from .model import SyNCRec
from .packing import PackedSequences

CASES = 2000


@torch.inference_mode()
def gate_use(model: SyNCRec, data: SequenceSet, *, max_cases: int = CASES) -> dict[str, dict[str, list[float]]]:
    """Return the mean mixture by view and domain, [K] each: experts 1..j are the cross task's own.

    The mixtures are those of the newest step before every flagged event (of at most `max_cases` a domain, evenly
    spaced). "cross" is the one task of all domains, split by the event's domain; "single" holds a task a domain.
    A domain without cases has no entry. Empty for an architecture whose gates see no packed rows ("released").
    """
    if type(model) is not SyNCRec:
        return {}
    device = model.embedding.items_VC.device
    reader = SequenceReader(data, device.type)
    cases = reader.cases()
    was_training = model.training
    model.eval()
    found: dict[str, dict[str, list[float]]] = {"cross": {}, "single": {}}
    for code, domain in enumerate(data.domains, start=1):
        index = np.flatnonzero(cases.domain_M == code)
        index = index[:: -(-len(index) // max_cases) or 1]
        if len(index):
            part = cases.take(index)
            found["cross"][domain] = _mean(model, reader.case_cross(part).to(device))
            found["single"][domain] = _mean(model, reader.case_single(part).to(device))
    model.train(was_training)
    return found


def _mean(model: SyNCRec, packed: PackedSequences) -> list[float]:
    packed = model.learnt(packed)
    g_RK = model.gates(model.embedding(packed), packed).index_select(0, packed.last_R)
    return [float(value) for value in g_RK.double().mean(0)]
