"""Two processes train the same model as one process with the same global batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import SETTINGS, everything, trained, validated
from ranks import on_ranks

Outcome = dict[str, Any]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    return on_ranks(2, everything, folder, folder)


def differing(one: Outcome, two: Outcome, tolerance: float = 1e-9) -> list[str]:
    """Name what differs between two outcomes: weights, buffers, figures of any epoch."""
    found = [
        f"{name}: {gap:.1e}"
        for name, value in one["weights"].items()
        if (gap := (value - two["weights"][name]).abs().max().item()) > tolerance
    ]
    for epoch, (ours, theirs) in enumerate(zip(one["figures"], two["figures"], strict=True), start=1):
        for part, other in (*((ours[0][d], theirs[0][d]) for d in ours[0]), (ours[1], theirs[1])):
            assert part.keys() == other.keys()
            found += [
                f"epoch {epoch} {name}: {part[name]} {other[name]}"
                for name in part
                if part[name] != pytest.approx(other[name], abs=tolerance, rel=0, nan_ok=True)
            ]
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_train_as_one(two_ranks: list[Outcome], name: str) -> None:
    alone = trained(**SETTINGS[name])
    start = trained(**SETTINGS[name], learning_rate=1e-12, weight_decay=0.0)["weights"]
    moved = [key for key, value in alone["weights"].items() if (value - start[key]).abs().max() > 1e-3]
    assert len(moved) > 20, "the comparison would say nothing"
    assert not differing(alone, two_ranks[0]["settings"][name])


@pytest.mark.parametrize("name", SETTINGS)
def test_both_ranks_hold_the_same_lambda_phi_and_weights_to_the_bit(two_ranks: list[Outcome], name: str) -> None:
    one, two = (outcome["settings"][name] for outcome in two_ranks)
    assert {"correction.lambda_D", "correction.phi_D", "correction.smooth_phi_D"} <= one["weights"].keys()
    for key, value in one["weights"].items():
        assert torch.equal(value, two["weights"][key]), key
    assert str(one["figures"]) == str(two["figures"])
    assert (one["told"], two["told"]) == ([1, 2], []), "only rank 0 reports"


def test_ranks_share_validation_and_stop_together(two_ranks: list[Outcome]) -> None:
    alone = validated()
    assert alone["stopped_early"] and len(alone["figures"]) < 8
    for outcome in two_ranks:
        assert outcome["validated"]["best_epoch"] == alone["best_epoch"]
        assert not differing(alone, outcome["validated"])


def test_ranks_resume_from_rank_0s_checkpoint_to_the_bit(two_ranks: list[Outcome]) -> None:
    whole = two_ranks[0]["settings"]["softmax, uniform"]
    for outcome in two_ranks:
        assert outcome["resumed"]["resumed_after"] == 1
        for key, value in whole["weights"].items():
            assert torch.equal(value, outcome["resumed"]["weights"][key]), key
