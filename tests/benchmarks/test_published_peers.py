"""Adapters of published systems: what is ours is tested alone, the rest where SYNCREC_PEERS names the checkouts."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.peers import c2dsr, cgrec, released
from benchmarks.peers.published import (
    PATIENCE,
    Negatives,
    OnlyEncoded,
    Rows,
    TrainRows,
    WithoutPadding,
    checkout,
    dot_view,
    import_alone,
    train_best,
    validation,
)
from benchmarks.quality.cells import batches, rank
from benchmarks.quality.data import QualityData, cut
from benchmarks.quality.protocol import Budget, Peer, PeerAbsent, View
from benchmarks.released_code import load_released
from syncrec_model.vocabulary import stacked_offsets

DOMAINS = ("one", "two", "three", "four", "five")
PEERS: tuple[Peer, ...] = (*released.PEERS, *cgrec.PEERS, *c2dsr.PEERS)


def log(users: int = 60, length: int = 40, seed: int = 0) -> pd.DataFrame:
    """Every user walks through the items of one taste: what comes next can be learnt."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        taste, n = user % 2, length if user % 3 else 4
        for step in range(n):
            domain = int(rng.integers(5))
            rows.append(
                (f"u{user:03}", f"{domain}-{20 * taste + rng.integers(20):02}", DOMAINS[domain], 100 * step)
            )
    return pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "ts"])


@pytest.fixture(scope="module")
def data() -> QualityData:
    events = log()
    return cut("tiny", events, events.iloc[:0], DOMAINS, split="leave-one-out")


def no_other_row(name: str) -> View:
    raise AssertionError(f"read the scores of {name}")


def folder_of_checkouts(peer: Peer) -> Path:
    folder = os.environ.get("SYNCREC_PEERS")
    name = peer.source.partition(" ")[0].partition("/")[2]
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"SYNCREC_PEERS names no folder that holds a checkout {name}")
    return Path(folder)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_without_a_checkout_it_says_what_to_do(peer: Peer, data: QualityData, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(PeerAbsent, match=r"git clone https://github.com/\w+/\w+ .*commit \w{10}"):
            peer.fit(data, peer.search[0], 0, Budget(checkouts=folder), tmp_path, no_other_row)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_it_trains_and_ranks_the_same_under_a_seed(peer: Peer, data: QualityData, tmp_path: Path) -> None:
    budget = Budget(epochs=2, checkouts=folder_of_checkouts(peer))
    before = set(sys.modules)
    torch.set_num_threads(1)
    fitted = peer.fit(data, {"channels": 16}, 0, budget, tmp_path, no_other_row)
    assert fitted.parameters > 1000 and fitted.train_s > 0 and fitted.notes
    assert not {"modules", "models", "utils", "model"} & (set(sys.modules) - before)
    for part in ("valid", "test"):
        ranks = rank(data, part, fitted.views[""])
        assert np.isfinite(ranks["full"]).all()
    if peer.name != "C2DSR":  # its share of a case's cross-domain candidates cannot be compared
        assert np.isfinite(ranks["all100"]).all()
    again = peer.fit(data, {"channels": 16}, 0, budget, tmp_path, no_other_row)
    for _, index in batches(data, "test"):
        np.testing.assert_allclose(
            fitted.views[""].score("test", index), again.views[""].score("test", index), rtol=1e-4, atol=1e-5
        )


def test_rows_hold_the_newest_events_as_stacked_items(data: QualityData) -> None:
    rows = TrainRows.of(data, length=10)
    train = data.train
    for row, user in enumerate(rows.user_N):
        mine = train.take(train.user_E == user)
        stacked = np.array(stacked_offsets(data.n_items))[mine.domain_E - 1] + mine.item_E
        kept = min(10, len(mine) - 1)
        assert rows.targets.items_NT[row, -kept:].tolist() == stacked[-kept:].tolist()
        assert rows.inputs.items_NT[row, -kept:].tolist() == stacked[-kept - 1 : -1].tolist()
        assert rows.targets.domains_NT[row, -kept:].tolist() == mine.domain_E[-kept:].tolist()
        assert not rows.inputs.items_NT[row, :-kept].any() and not rows.targets.domains_NT[row, :-kept].any()


def test_rows_of_people_without_events_are_padding() -> None:
    nothing = np.array([], dtype=np.int64)
    rows = Rows.of([(nothing, nothing), (np.array([2]), np.array([2]))], 2, 3, (4, 5))
    assert rows.items_NT.tolist() == [[0, 0, 0], [0, 0, 6]] and rows.domains_NT.tolist() == [[0, 0, 0], [0, 0, 2]]


def test_every_row_is_in_one_batch(data: QualityData) -> None:
    rows = TrainRows.of(data, length=10)
    found = list(rows.batches(np.random.default_rng(0), 7))
    assert sorted(np.concatenate(found)) == list(range(len(rows.user_N))) and {len(b) for b in found[:-1]} == {7}


def test_negatives_spare_the_users_training_items_and_nothing_else(data: QualityData) -> None:
    train, offsets = data.train, np.array(stacked_offsets(data.n_items))
    negatives, rng = Negatives(data), np.random.default_rng(0)
    for user in (0, 1):
        mine = set((offsets[train.domain_E - 1] + train.item_E)[train.user_E == user].tolist())
        drawn = negatives.draw(rng, np.array([user]), torch.ones(1, 20_000, dtype=torch.int64))
        assert set(drawn[0].tolist()) == set(range(1, sum(data.n_items) + 1)) - mine
    assert not negatives.draw(rng, np.array([0]), torch.zeros(1, 5, dtype=torch.int64)).any()


class Encoder(torch.nn.Module):
    """A causal attention in the form of the released encoders: additive mask, a list of layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.key = torch.nn.Linear(channels, channels)

    def forward(self, x_BTC: torch.Tensor, mask_B1TT: torch.Tensor, **_: Any) -> list[torch.Tensor]:
        weight = (x_BTC @ self.key(x_BTC).mT + mask_B1TT[:, 0]).softmax(-1)
        return [x_BTC, x_BTC + weight @ x_BTC]


def test_leaving_out_padding_changes_no_figure() -> None:
    torch.manual_seed(0)
    encoder, x_BTC = Encoder(6), torch.randn(7, 9, 6)
    length_B = torch.tensor([9, 1, 4, 0, 6, 2, 9])
    real_BT = torch.arange(9) >= 9 - length_B[:, None]
    mask = (1.0 - (real_BT[:, None, None, :] * torch.ones(9, 9).tril()[None, None])) * -10_000.0
    expected, found = encoder(x_BTC, mask)[-1], WithoutPadding(encoder, group=2)(x_BTC, mask)[-1]
    read_BT = real_BT | (length_B == 0)[:, None]
    torch.testing.assert_close(found[read_BT], expected[read_BT])
    alone = WithoutPadding(encoder, group=1)(x_BTC, mask)[-1]
    assert not alone[~read_BT].any()
    once = WithoutPadding(encoder, group=2).eval()
    with torch.no_grad():
        assert once(x_BTC, mask)[-1] is once(x_BTC, mask)[-1]
        torch.testing.assert_close(once(2 * x_BTC, mask)[-1][read_BT], encoder(2 * x_BTC, mask)[-1][read_BT])


@pytest.mark.parametrize("peer", (*released.PEERS, *cgrec.PEERS), ids=lambda peer: peer.name)
def test_leaving_out_padding_changes_no_figure_of_theirs(peer: Peer, data: QualityData) -> None:
    source = folder_of_checkouts(peer) / peer.source.partition(" ")[0].partition("/")[2] / "src"
    rows, n_items = TrainRows.of(data, 12), sum(data.n_items)
    inputs, targets = rows.inputs, rows.targets
    negative = Negatives(data).draw(np.random.default_rng(0), rows.user_N, targets.items_NT)
    found = []
    for padded in (False, True):
        torch.manual_seed(0)
        if peer.name == "released":
            model = load_released(source, n_items=n_items, channels=8, max_length=12)
            module: Any = model.module
            released.leave_out_padding(module)
        else:
            module = cgrec.load_cgrec(source, n_items, 8, 12, torch.device("cpu"))
        if padded:
            module.item_encoder = module.item_encoder.encoder
            if peer.name == "released":
                module.expert_ = torch.nn.ModuleList([module.item_encoder] * 5)
            else:
                module.prediction_layer_1 = module.prediction_layer_1.layer
                module.prediction_layer_2 = module.prediction_layer_2.layer
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        if peer.name == "released":
            losses = model.loss(inputs.items_NT, inputs.domains_NT, targets.items_NT, negative, targets.domains_NT)
            loss = losses.total
        else:
            loss = cgrec.loss(module, np.random.default_rng(0), inputs, targets, negative)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name.replace(".encoder.", ".").replace(".layer.", "."): parameter.grad
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_steps_that_are_zero_stay_zero() -> None:
    layer = torch.nn.Linear(3, 3)
    x_BTC = torch.tensor([[[0.0, 0, 0], [1, 2, 3]], [[0, 0, 1], [4, 5, 6]]], requires_grad=True)
    found = OnlyEncoded(layer)(x_BTC)
    assert not found[0, 0].any()
    torch.testing.assert_close(found.flatten(0, 1)[1:], layer(x_BTC).flatten(0, 1)[1:])
    found.sum().backward()
    assert x_BTC.grad is not None and not x_BTC.grad[0, 0].any() and x_BTC.grad[1, 1].any()


def test_dot_view_scores_the_domains_items_and_the_sampled_candidates(data: QualityData) -> None:
    embedding = torch.randn(sum(data.n_items), 4, generator=torch.Generator().manual_seed(0))

    def encode(items_BT: torch.Tensor, domains_BT: torch.Tensor) -> torch.Tensor:
        assert (domains_BT > 0).equal(items_BT > 0)
        return embedding[items_BT[:, -1] - 1]

    view = dot_view(data, 8, encode, lambda: embedding)
    cases, offsets = data.cases["test"], stacked_offsets(data.n_items)
    histories = list(data.histories("test"))
    assert view.sampled is not None
    for code, index in batches(data, "test"):
        scores, sampled = view.score("test", index), view.sampled("test", index)
        assert scores.shape == (len(index), data.n_items[code - 1])
        for row, case in enumerate(index):
            item, domain, _ = histories[case]
            vector = embedding[offsets[domain[-1] - 1] + item[-1] - 1]
            own = embedding[offsets[code - 1] :][: data.n_items[code - 1]]
            np.testing.assert_allclose(scores[row], (own @ vector).numpy(), rtol=1e-4, atol=1e-6)
            assert math.isclose(sampled[row, 0], scores[row, cases.target_M[case] - 1], rel_tol=1e-4)
            other = embedding[cases.negatives_MS[case] - 1] @ vector
            np.testing.assert_allclose(sampled[row, 1:], other.numpy(), rtol=1e-4, atol=1e-6)


def test_validation_is_the_mean_over_domains(data: QualityData) -> None:
    cases = data.cases["valid"]

    def score(part: str, index: np.ndarray) -> np.ndarray:
        code = int(cases.domain_M[index[0]])
        scores = np.zeros((len(index), data.n_items[code - 1]), dtype=np.float32)
        scores[np.arange(len(index)), cases.target_M[index] - 1] = 1.0 if code < 3 else -1.0
        return scores

    assert validation(data, View(score), [1, 2]) == 1.0 and validation(data, View(score), [3]) == 0.0
    assert validation(data, View(score)) == pytest.approx(2 / 5)


def test_the_best_epochs_weights_are_left() -> None:
    module, values = torch.nn.Linear(1, 1), iter([0.1, 0.3, 0.2, 0.3, *[0.25] * (PATIENCE - 2), 0.9])

    def epoch() -> None:
        assert module.training
        with torch.no_grad():
            module.weight += 1

    with torch.no_grad():
        module.weight.fill_(0)
    found = train_best(module, epoch, lambda: next(values), Budget(epochs=30, patience=3))
    assert found.best_epoch == 2 and len(found.values) == 2 + PATIENCE
    assert module.weight.item() == 2 and not module.training


def test_no_epoch_begins_once_the_core_minutes_are_spent() -> None:
    module = torch.nn.Linear(1, 1)
    values = iter([0.1, 0.2])
    found = train_best(module, lambda: None, lambda: next(values), Budget(core_minutes=0))
    assert found.values == [0.1] and found.chosen["out_of_core_minutes"]
    assert "after 1 epochs" in found.notes[0] and "longer training may do better" in found.notes[0]
    whole = train_best(module, lambda: None, lambda: next(values), Budget(epochs=1, core_minutes=0))
    assert not whole.stopped and not whole.notes and "out_of_core_minutes" not in whole.chosen


def test_a_checkout_is_found_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(PeerAbsent, match=r"no a\.py"):
        checkout(Budget(checkouts=tmp_path), "someone/Thing", "0" * 40, "a.py")
    (tmp_path / "Thing").mkdir()
    (tmp_path / "Thing" / "a.py").touch()
    assert checkout(Budget(checkouts=tmp_path), "someone/Thing", "0" * 40, "a.py") == tmp_path / "Thing"


def test_two_checkouts_may_use_the_same_names(tmp_path: Path) -> None:
    found = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "inner.py").write_text(f"VALUE = {value}\n")
        (folder / "utils.py").write_text("from parts.inner import VALUE\n")
        (folder / "models.py").write_text("from utils import VALUE\nimport json\n")
        found.append(import_alone(folder, "models")[0])
    assert [module.VALUE for module in found] == [1, 2]
    assert not {"models", "utils", "parts", "parts.inner"} & set(sys.modules)
    assert str(tmp_path / "2") not in sys.path and "json" in sys.modules


def test_types_of_other_rows_are_drawn() -> None:
    type_BT = torch.tensor([[0, 5, 6, 5], [5, 6, 7, 8]])
    positive_BT = torch.tensor([[0, 6, 5, 9], [6, 7, 8, 9]])
    drawn = torch.stack(
        [cgrec.other_types(np.random.default_rng(seed), type_BT, positive_BT, cgrec.COARSER) for seed in range(50)]
    )
    assert set(drawn[:, 0, 1:].flatten().tolist()) == {7, 8, 10, 11} and not drawn[:, 0, 0].any()
    assert set(drawn[:, 1].flatten().tolist()) == {10, 11}
    one = cgrec.other_types(np.random.default_rng(0), type_BT, positive_BT, cgrec.COARSE)
    assert one[1].tolist() == [10] * 4
