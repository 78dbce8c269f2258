"""C2DSR's adapter: its ids, sequences and loss; the loss is compared with its own trainer's in its checkout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.peers import c2dsr
from benchmarks.peers.c2dsr_loss import loss
from benchmarks.quality.data import cut
from benchmarks.quality.protocol import Budget

DOMAINS = ("one", "two", "three")


def test_the_loss_on_the_steps_that_count_is_that_of_their_trainer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = os.environ.get("SYNCREC_PEERS")
    if not folder or not (Path(folder) / "C2DSR").is_dir():
        pytest.skip("SYNCREC_PEERS names no folder that holds a checkout C2DSR")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", f"{rng.integers(30):02}", DOMAINS[rng.integers(3)], t)
        for user in range(40)
        for t in range(25)
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "ts"])
    data = cut("tiny", events, events.iloc[:0], DOMAINS, split="leave-one-out")
    modules = c2dsr.import_code(Budget(checkouts=Path(folder)))
    torch.manual_seed(0)
    pair = c2dsr.Pair(data, 2, 8, "cpu", modules)
    for part in pair.model.modules():
        for name in ("p", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    pair.model.train()
    ours = loss(pair.trainer, pair.batches[0])
    ours.backward()  # type: ignore[no-untyped-call]
    gradients = {name: part.grad.clone() for name, part in pair.model.named_parameters() if part.grad is not None}
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    values = [ours.item(), pair.trainer.train_batch(pair.batches[0])]
    expected_gradients = {name: part.grad for name, part in pair.model.named_parameters() if part.grad is not None}
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert len(gradients) > 40
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-6)


def test_a_pairs_ids_start_with_its_domain() -> None:
    data = type("Data", (), {"n_items": (2, 3, 2)})()
    assert c2dsr.pair_ids(data, 2)[1:].tolist() == [3, 4, 0, 1, 2, 5, 6]
    assert c2dsr.pair_ids(data, 1)[1:].tolist() == list(range(7))
    assert c2dsr.pair_ids(data, 3)[1:].tolist() == [2, 3, 4, 5, 6, 0, 1]


@pytest.mark.parametrize("n", [1, 2, 9, 11, 30, 31, 95])
def test_cuts_learn_every_event_but_the_first_once(n: int) -> None:
    ids = np.arange(n)
    learnt: list[int] = []
    for sequence in c2dsr.cuts(ids):
        assert 2 <= len(sequence) <= c2dsr.LENGTH and sequence == list(range(sequence[0], sequence[-1] + 1))
        learnt += sequence[1:][-c2dsr.LEARNT :]
    assert sorted(learnt) == list(range(1, n))


def test_case_ids_place_events_and_padding() -> None:
    *ids, last_x_B = c2dsr.case_ids([np.array([7, 1, 9]), np.array([8]), np.array([], dtype=int)], 5, 20)
    whole, x, y, place, x_place, y_place = (values.numpy() for values in ids)
    assert whole[0, -3:].tolist() == [7, 1, 9] and (whole[0, :-3] == 20).all() and (whole[2] == 20).all()
    assert x[0, -3:].tolist() == [20, 1, 20] and y[0, -3:].tolist() == [7, 20, 9]
    assert place[0, -4:].tolist() == [0, 1, 2, 3] and x_place[0, -3:].tolist() == [0, 1, 0]
    assert y_place[0, -3:].tolist() == [1, 0, 2]
    assert last_x_B.tolist() == [c2dsr.LENGTH - 2, c2dsr.LENGTH - 1, c2dsr.LENGTH - 1]
