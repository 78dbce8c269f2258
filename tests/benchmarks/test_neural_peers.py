"""SASRec peers: they learn a planted rule, read only what lies before a case, and are the same under one seed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers import neural_rows, sasrec
from benchmarks.peers.neural_validation import Epochs, domain_cases, macro, read_cases, write_cases
from benchmarks.quality.cells import rank
from benchmarks.quality.data import PARTS, QualityData
from benchmarks.quality.protocol import Budget, View
from tests.benchmarks.neural_world import N_ITEMS, SETTINGS, fit, planted, scores, share_first


@pytest.fixture(scope="module")
def data() -> QualityData:
    return planted()


@pytest.mark.parametrize("form", sasrec.FORMS)
def test_sasrec_learns_a_planted_rule(form: str, data: QualityData, tmp_path: Path) -> None:
    fitted = fit(sasrec.SASRec(form), data, tmp_path, SETTINGS)
    assert share_first(fitted, data) > 0.97
    assert all(figures["valid_ndcg10"] > 0.97 for figures in fitted.chosen.values())
    assert len(fitted.chosen) == (1 if form.startswith("mixed") else 2)


def test_the_time_split_has_several_cases_a_user(tmp_path: Path) -> None:
    data = planted(120, "time")
    assert len(data.cases["test"]) > len(np.unique(data.cases["test"].user_M))
    fitted = fit(sasrec.SASRec("mixed"), data, tmp_path, SETTINGS)
    assert share_first(fitted, data) > 0.9


def test_one_seed_is_one_model_and_another_seed_another(data: QualityData, tmp_path: Path) -> None:
    peer, settings = sasrec.SASRec("single"), {**SETTINGS, "dropout": 0.3}
    few = Budget(threads=1, epochs=2)
    folders = [tmp_path / name for name in ("first", "again", "other")]
    first, again, other = (fit(peer, data, folders[n], settings, n // 2, few) for n in range(3))
    for a, b, c in zip(scores(first, data), scores(again, data), scores(other, data), strict=True):
        assert np.array_equal(a, b) and not np.allclose(a, c)


def test_a_case_is_scored_from_its_history_alone(data: QualityData, tmp_path: Path) -> None:
    """With other targets the same training gives the same scores."""
    peer = sasrec.SASRec("mixed")
    before = scores(fit(peer, data, tmp_path / "before", SETTINGS), data)
    last_E = np.append(data.events.user_E[1:] != data.events.user_E[:-1], True)
    data.events.item_E[last_E] = data.events.item_E[last_E] % N_ITEMS + 1
    try:
        after = scores(fit(peer, data, tmp_path / "after", SETTINGS), data)
    finally:
        data.events.item_E[last_E] = (data.events.item_E[last_E] - 2) % N_ITEMS + 1
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_single_models_see_only_their_domain(data: QualityData) -> None:
    catalogue = neural_rows.Catalogue.of(data, (2,), outside_items=False)
    log = neural_rows.training_log(data, catalogue, outside=True)
    assert (log.domain_E == 1).all() and log.stacked_E.max() == N_ITEMS == catalogue.sizes[0]
    for part in PARTS:
        index, rows = neural_rows.case_rows(data, part, catalogue, 50)
        assert (data.cases[part].domain_M[index] == 2).all()
        expected = [int((domain == 2).sum()) for _, domain, _ in data.histories(part)]
        assert (rows.end_R - rows.first_R).tolist() == np.array(expected)[index].tolist()


def test_outside_items_train_only_where_they_are_asked_for(data: QualityData) -> None:
    wide = neural_rows.Catalogue.of(data, (1, 2), outside_items=True)
    narrow = neural_rows.Catalogue.of(data, (1, 2), outside_items=False)
    assert wide.sizes == (26, 26) and narrow.sizes == wide.ranked == (20, 20)
    assert neural_rows.training_log(data, wide, outside=True).stacked_E.max() == 52
    kept = neural_rows.training_log(data, narrow, outside=True)
    assert kept.stacked_E.max() == 40 and kept.user_E.max() >= data.n_users
    assert neural_rows.training_log(data, wide, outside=False).user_E.max() < data.n_users


def test_long_rows_are_cut_and_every_event_is_a_target_once(data: QualityData) -> None:
    catalogue = neural_rows.Catalogue.of(data, (1, 2), outside_items=True)
    log = neural_rows.training_log(data, catalogue, outside=True)
    rows = neural_rows.training_rows(log, data.n_users, 4)
    assert ((rows.end_R - rows.first_R + rows.sos_R) <= 4).all()
    places = np.sort(np.concatenate([rows.packed(np.array([r]), 2)[1] for r in range(len(rows))]))
    first_E = np.append(True, log.user_E[1:] != log.user_E[:-1])
    assert places.tolist() == np.flatnonzero(~first_E | (log.user_E < data.n_users)).tolist()


def model_and_rows(data: QualityData) -> tuple[sasrec.SASRecModel, neural_rows.Rows]:
    catalogue = neural_rows.Catalogue.of(data, (1, 2), outside_items=False)
    torch.manual_seed(0)
    model = sasrec.SASRecModel(catalogue, sasrec.Settings(channels=16))
    with torch.no_grad():
        model.embedding.items_VC.mul_(50)
    log = neural_rows.training_log(data, catalogue, outside=False)
    return model.eval(), neural_rows.training_rows(log, data.n_users, 50)


def test_sasrec_is_causal(data: QualityData) -> None:
    model, rows = model_and_rows(data)
    inputs, _, _ = rows.batch(np.array([5]), 2)
    changed, _, _ = rows.batch(np.array([5]), 2)
    changed.items_N[4:] = changed.items_N[4:] % 40 + 1
    with torch.no_grad():
        before, after = model(inputs), model(changed)
    assert torch.equal(before[:4], after[:4]) and not torch.allclose(before[4:], after[4:])


def test_neighbours_in_a_batch_change_nothing(data: QualityData) -> None:
    model, rows = model_and_rows(data)
    alone = torch.cat([model.losses(*rows.batch(np.array([row]), 2)) for row in range(30)]).detach()
    together = [
        model.losses(*rows.batch(order, 2)).detach()
        for order in (np.arange(30), np.random.default_rng(0).permutation(30))
    ]
    for losses in together:
        assert torch.allclose(losses.sort().values, alone.sort().values, atol=1e-5)
    histories = model.histories(rows)
    shuffled = np.random.default_rng(1).permutation(len(rows))
    shuffled_rows = (values[shuffled] for values in (rows.first_R, rows.end_R, rows.sos_R))
    again = model.histories(neural_rows.Rows(rows.log, *shuffled_rows))
    assert np.allclose(histories[shuffled], again, atol=1e-5)


def test_losses_are_the_softmax_inside_the_targets_domain(data: QualityData) -> None:
    model, rows = model_and_rows(data)
    inputs, target_N, domain_N = rows.batch(np.arange(8), 2)
    with torch.no_grad():
        y_NC, losses = model(inputs), model.losses(inputs, target_N, domain_N)
        items = [torch.from_numpy(values) for values in model.items().values()]
    expected = [
        -torch.log_softmax(y @ items[domain - 1].T, 0)[target - 1]
        for wanted in (1, 2)
        for y, domain, target in zip(y_NC, domain_N.tolist(), target_N.tolist(), strict=True)
        if domain == wanted
    ]
    assert torch.allclose(losses, torch.stack(expected), atol=1e-5)


def test_the_item_table_begins_as_given(data: QualityData, tmp_path: Path) -> None:
    given = np.arange(40 * 32, dtype=np.float64).reshape(40, 32) / 1e4
    catalogue = neural_rows.Catalogue.of(data, (2,), outside_items=True)
    model = sasrec.SASRecModel(catalogue, sasrec.Settings(channels=32))
    drawn = model.embedding.items_VC[21:].clone()
    model.start_from(data, given)
    assert np.allclose(model.items()[2], given[20:]) and torch.equal(model.embedding.items_VC[21:], drawn)
    peer = sasrec.SASRec("all", name="sasrec-equipped", initial_items=lambda data: given[:, :8])
    assert peer.name == "sasrec-equipped"
    with pytest.raises(ValueError, match="channels"):
        fit(peer, data, tmp_path, SETTINGS)


def test_validation_ranks_as_the_harness_does(data: QualityData, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = {code: rng.integers(0, 6, (len(data.cases["valid"]), N_ITEMS)).astype(np.float32) for code in (1, 2)}
    view = View(lambda part, index: drawn[int(data.cases[part].domain_M[index[0]])][index])
    ranks, domain_M = rank(data, "valid", view)["full"], data.cases["valid"].domain_M
    gains = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0)
    cases = {code: domain_cases(data, code) for code in (1, 2)}
    found = macro(cases, lambda code, index: drawn[code][index])
    assert found == pytest.approx(np.mean([gains[domain_M == code].mean() for code in (1, 2)]))
    write_cases(tmp_path / "cases.npz", cases)
    assert macro(read_cases(tmp_path / "cases.npz"), lambda code, index: drawn[code][index]) == found


def test_patience_counts_from_the_best_epoch() -> None:
    epochs = Epochs(most=10, patience=2)
    found = [(epochs.add(value), epochs.finished) for value in (0.1, 0.3, 0.2, 0.3)]
    assert found == [(True, False), (True, False), (False, False), (False, True)]
    assert epochs.figures() == {"epoch": 2, "epochs": 4, "valid_ndcg10": 0.3}
    blind = Epochs(most=3, patience=1)
    assert all(blind.add(float("nan")) for _ in range(3)) and blind.finished and blind.best == 3
