"""The blend adds up what it says, its weights are the best on validation, and the guard compares honest halves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import DOMAINS, N_ITEMS, random_set

import syncrec_model.blend_fit as blend_fit
from syncrec_model import ModelConfig, SyNCRec, TrainingConfig, TrainingRun, load_model, rank_cases, save_model
from syncrec_model.batches import SequenceReader
from syncrec_model.blend import FEATURES
from syncrec_model.blend_fit import _features, candidates, cross_fitted_ranks, fit_blend, fit_weights
from syncrec_model.cooccurrence import count_pairs
from syncrec_model.vocabulary import Vocabulary

LOG = {"max_length": 8, "n_users": 40, "mean_length": 9}


def learned(**changes: object) -> SyNCRec:
    torch.manual_seed(3)
    model = SyNCRec(ModelConfig(channels=8, max_length=8, dropout=0.0, **changes), DOMAINS, N_ITEMS)
    train = random_set(5, **LOG)
    model.blend.learn(train, count_pairs(train))
    with torch.no_grad():
        model.embedding.items_VC.mul_(20)
    return model.eval()


def test_the_blend_is_the_weighted_sum_of_its_features() -> None:
    model, data = learned(), random_set(6, **LOG)
    reader, users = SequenceReader(data), np.arange(data.n_users)
    cross, single = reader.serving_cross(users), reader.serving_single(users)
    with torch.no_grad():
        y_cross, y_single = model.encode(cross), model.encode(single).reshape(3, len(users), -1)
        for code in (1, 2, 3):
            weights = torch.randn(5)
            model.blend.weights_DF[code - 1] = weights
            views = model.scores(y_cross, code), model.scores(y_single[code - 1], code)
            parts = [model.blend.feature(name, *views, cross, single, code) for name in FEATURES]
            expected = sum(w * part for w, part in zip(weights, parts, strict=True))
            torch.testing.assert_close(model.blend(*views, cross, single, code), expected)
            own = parts[FEATURES.index("near_own")]
            alone = data.single_rows_UD()[:, code - 1] < 0
            assert alone.any() and not own[alone].any(), "no history in the domain, no neighbours of it"
            assert (parts[FEATURES.index("near")] >= 0).all() and own.any()


def test_the_weights_minimise_the_targets_cross_entropy() -> None:
    """A small step in any direction from what Newton found makes the penalised objective worse."""
    model, valid = learned(), random_set(7, window=(25, 60), **LOG)
    batches = list(_features(model, SequenceReader(valid), 1, ()))
    start_F = model.blend.start_F()
    found_F = fit_weights(batches, start_F)

    def objective(weights_F: torch.Tensor) -> float:
        total = 0.0
        for x_mVG, target_m in batches:
            logits = (x_mVG[..., :-1].double() @ weights_F) + x_mVG[..., -1]
            total += torch.nn.functional.cross_entropy(logits, target_m, reduction="sum").item()
        return total + 0.5 * 5.0 * float((spread_F / n).clamp(min=1e-6).square() @ (weights_F - start_F).square())

    n, spread_F = 0, torch.zeros(5, dtype=torch.float64)
    for x_mVG, _ in batches:
        for x_VG in x_mVG.double():
            spread_F += x_VG[x_VG[:, -1] == 0, :-1].std(0, correction=0)
            n += 1

    best = objective(found_F)
    assert best < objective(start_F.double())
    for direction in (*torch.eye(5, dtype=torch.float64), *torch.randn(5, 5, dtype=torch.float64)):
        for sign in (1, -1):
            assert objective(found_F + sign * 1e-2 * direction) > best


def test_items_of_the_history_have_no_say_in_the_fit() -> None:
    """They are no candidates: whatever score the model gives them, the weights stay."""
    model, valid = learned(neighbours=0), random_set(8, window=(25, 60), **LOG)
    batches = list(_features(model, SequenceReader(valid), 2, ()))
    changed = [(x.clone(), t) for x, t in batches]
    for x, _ in changed:
        x[..., :-1][x[..., -1] < 0] = 7.0
    start_F = model.blend.start_F()
    torch.testing.assert_close(fit_weights(changed, start_F), fit_weights(batches, start_F), rtol=1e-4, atol=1e-4)


def test_items_without_a_training_event_have_no_say_in_the_fit() -> None:
    """Neither as targets, which no weights make likely, nor as candidates."""
    model, valid = learned(), random_set(7, window=(25, 60), **LOG)
    cases = SequenceReader(valid).cases()
    targets = cases.target_M[cases.domain_M == 2]
    new = np.unique(targets)[:2]  # from 1
    popularity = model.blend.neighbours.popularity
    popularity.clamp_(min=1.0)  # every item of every domain has an event, but these two
    everything = sum(len(target_m) for _, target_m in _features(model, SequenceReader(valid), 2, ()))
    popularity[N_ITEMS[0] + torch.from_numpy(new)] = 0.0
    assert model.blend.learnt(2).tolist() == [item not in new for item in range(1, N_ITEMS[1] + 1)]
    assert model.blend.learnt(1).all() and model.blend.learnt(3).all()
    batches = list(_features(model, SequenceReader(valid), 2, ()))
    for x_mVG, target_m in batches:
        assert (x_mVG[:, new - 1, -1] < -1e8).all() and not np.isin(target_m.numpy() + 1, new).any()
    used = fit_blend(model, valid)
    assert used[1] == sum(len(target_m) for _, target_m in batches) == everything - np.isin(targets, new).sum()
    assert 0 < used[1] < everything == len(targets) and used[0] == (cases.domain_M == 1).sum()
    assert learned(neighbours=0).blend.learnt(1).all(), "without popularity nothing is known to be new"


def test_a_domain_without_cases_keeps_the_sum_of_both_views() -> None:
    model, valid = learned(), random_set(9, **LOG)
    assert fit_blend(model, valid) == [0, 0, 0]
    assert model.blend.weights_DF.tolist() == [[1, 1, 0, 0, 0]] * 3


def test_a_half_is_ranked_by_weights_of_the_other_half() -> None:
    model, valid = learned(), random_set(7, window=(25, 60), **LOG)
    fit_blend(model, valid)
    before = model.blend.weights_DF.clone()
    honest = cross_fitted_ranks(model, valid, ("cross", "single", "blend"))
    torch.testing.assert_close(model.blend.weights_DF, before)
    seen = rank_cases(model, valid)
    for view in ("cross", "single"):
        np.testing.assert_array_equal(honest.ranks[view], seen.ranks[view])
    half_U = np.random.default_rng(0).permutation(valid.n_users) % 2
    inside = np.flatnonzero(half_U == 0)
    fit_blend(model, valid.select(np.flatnonzero(half_U == 1)))
    expected = rank_cases(model, valid).ranks["blend"][np.isin(seen.user, inside)]
    np.testing.assert_array_equal(honest.ranks["blend"][np.isin(seen.user, inside)], expected)


def test_all_rows_of_a_person_lie_in_one_half(monkeypatch) -> None:
    model, valid = learned(), random_set(7, window=(25, 60), **LOG)
    persons_U = np.arange(valid.n_users) // 3 * 10  # three rows each; ids need not be dense
    fitted: list[set[int]] = []

    def fit_on(model, part, repeats) -> list[int]:
        fitted.append(set(persons_U[np.searchsorted(valid.user_ids, part.user_ids)].tolist()))
        return fit_blend(model, part, repeats)

    monkeypatch.setattr(blend_fit, "fit_blend", fit_on)
    cross_fitted_ranks(model, valid, ("blend",), persons_U=persons_U)
    first, second = fitted
    assert first and second and not first & second and first | second == set(persons_U.tolist())


@pytest.mark.parametrize("changes", [{}, {"neighbours": 0}])
def test_a_saved_blend_comes_back_whole(tmp_path, changes) -> None:
    model, data = learned(**changes), random_set(7, window=(25, 60), **LOG)
    fit_blend(model, data)
    words = Vocabulary(DOMAINS, tuple([f"{d}{i}" for i in range(n)] for d, n in zip(DOMAINS, N_ITEMS, strict=True)))
    save_model(tmp_path / "m", model, words, dict.fromkeys(DOMAINS, "blend"))
    again = load_model(tmp_path / "m")[0]
    np.testing.assert_array_equal(rank_cases(again, data).ranks["blend"], rank_cases(model, data).ranks["blend"])


def test_a_common_offset_of_a_view_changes_no_weight() -> None:
    """A softmax does not see it, and single precision would lose the curvature behind it."""
    model, valid = learned(neighbours=0), random_set(7, window=(25, 60), **LOG)
    batches = list(_features(model, SequenceReader(valid), 1, ()))
    moved = [(x.clone(), t) for x, t in batches]
    for x, _ in moved:
        x[..., 0] += 300.0
    start_F = model.blend.start_F()
    torch.testing.assert_close(fit_weights(moved, start_F), fit_weights(batches, start_F), rtol=1e-3, atol=1e-3)


def test_a_sample_of_a_large_domains_items_gives_nearly_the_same_weights(monkeypatch) -> None:
    rng = torch.Generator().manual_seed(0)
    x_mVF = torch.randn(300, 400, 2, generator=rng)
    logits = x_mVF @ torch.tensor([1.5, -0.5])
    target_m = torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]
    removed_mV = torch.zeros(300, 400, dtype=torch.bool)
    start_F = torch.ones(2)
    full_F = fit_weights([candidates(x_mVF.clone(), removed_mV, target_m)], start_F)
    monkeypatch.setattr("syncrec_model.blend_fit._MOST_ITEMS", 150)
    x_mSG, place_m = candidates(x_mVF.clone(), removed_mV, target_m)
    assert x_mSG.shape == (300, 151, 3) and (place_m == 150).all()
    torch.testing.assert_close(x_mSG[:, 150, :2], x_mVF[torch.arange(300), target_m])
    torch.testing.assert_close(fit_weights([(x_mSG, place_m)], start_F), full_F, rtol=0.15, atol=0.1)


def test_loaded_weights_are_trained_on_and_not_started_anew() -> None:
    data = random_set(5, **LOG)
    model = learned()
    again = SyNCRec(model.config, DOMAINS, N_ITEMS)
    again.load_state_dict(model.state_dict())
    TrainingRun(again, data, None, TrainingConfig(device="cpu"))
    torch.testing.assert_close(again.embedding.items_VC, model.embedding.items_VC)
