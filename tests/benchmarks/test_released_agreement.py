"""The preset `released` computes what the released research code computes.

released_golden.json holds that code's own figures, written from its checkout by
`python -m benchmarks.released_agreement --released PATH --write-golden tests/benchmarks/released_golden.json`
(numpy's default_rng draws weights, histories, negatives and permutation: nothing depends on torch's draws).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks.released_agreement import TOLERANCE, compare, golden_figures

GOLDEN = Path(__file__).with_name("released_golden.json")


def test_agrees_with_the_committed_figures_of_the_released_code():
    golden, ours = json.loads(GOLDEN.read_text()), golden_figures()
    assert golden.keys() == ours.keys()
    assert golden["step 1 total"] > 0.1 and len(golden["last output"]) == 8
    for name, value in golden.items():
        assert torch.allclose(torch.tensor(ours[name]), torch.tensor(value), rtol=1e-5, atol=1e-8), name


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
def test_agrees_with_a_checkout_of_the_released_code(dtype, dropout):
    path = os.environ.get("SYNCREC_RELEASED")
    if not path:
        pytest.skip("SYNCREC_RELEASED names no checkout of cpark88/SyNCRec")
    found = compare(Path(path), getattr(torch, dtype), dropout)
    assert len(found) > 100
    assert max(found.values()) <= TOLERANCE[dtype], max(found, key=found.get)
