"""Sections 4 to 7 of MODEL.md: losses, NTG, lambda, SC-MIM, total and prediction equal the numpy reference."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import reference_losses
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_losses import Result, State
from reference_sequences import history
from worlds import TOLERANCE, World, laws, worlds

from syncrec_model import Losses, Recommender, Vocabulary
from syncrec_model.model import SyNCRec
from syncrec_model.prediction import pair_losses, softmax_losses


@pytest.mark.parametrize("kind", ["softmax", "pairwise", "bce"])
def test_each_prediction_loss_with_given_negatives(kind: str):
    rng = np.random.default_rng(0)
    y_NC, table_VC = rng.normal(size=(40, 4)), rng.normal(size=(9, 4))
    target_N, negative_N = rng.integers(1, 10, 40), rng.integers(1, 10, 40)
    if kind == "softmax":
        found_N = softmax_losses(*(torch.from_numpy(a) for a in (y_NC, table_VC, target_N)))
    else:
        pair = ((y_NC * table_VC[item_N - 1]).sum(1) for item_N in (target_N, negative_N))
        found_N = pair_losses(kind, *(torch.from_numpy(scores_N) for scores_N in pair))
    for n in range(40):
        scores = np.array([y_NC[n] @ row for row in table_VC])
        expected = reference_losses.target_loss(kind, scores, target_N[n], negative_N[n])
        np.testing.assert_allclose(found_N[n], expected, **TOLERANCE)
    if kind == "pairwise":
        assert found_N.min() > 0.313 and found_N.max() < 1.314  # two sigmoids bound it


def check_sums(losses: Losses, expected: Result) -> None:
    for name in ("cross_sum_D", "cross_count_D", "single_sum_D", "single_count_D"):
        np.testing.assert_allclose(getattr(losses, name), getattr(expected, name), **TOLERANCE, err_msg=name)


@laws(15)
@given(worlds(loss="softmax"))
def test_softmax_losses_of_every_domain(world: World):
    check_sums(world.model(world.batch), world.expected())


@laws(15)
@given(worlds(loss="pairwise"))
def test_pairwise_losses_of_every_domain(world: World):
    check_sums(world.model(world.batch), world.expected())


@laws(15)
@given(worlds(loss="bce"))
def test_bce_losses_of_every_domain(world: World):
    check_sums(world.model(world.batch), world.expected())


@laws(25)
@given(worlds())
def test_transfer_gap(world: World):
    """phi(d): single minus cross loss over the events that both tasks predict, and those alone."""
    losses, expected = world.model(world.batch), world.expected()
    np.testing.assert_allclose(losses.gap_sum_D, expected.gap_sum_D, **TOLERANCE)
    assert losses.gap_count_D.tolist() == expected.gap_count_D.tolist()
    assert not losses.gap_sum_D.requires_grad


def subsets(world: World) -> list[list[int]]:
    """Batches of one training run: all users, some, the first one (who always has events) alone, all."""
    everyone = list(range(world.n_users))
    return [everyone, everyone[::2], [0], everyone]


def assert_state(model: SyNCRec, state: State) -> None:
    for name in ("lambda_D", "phi_D", "smooth_phi_D"):
        np.testing.assert_allclose(getattr(model.correction, name), getattr(state, name), **TOLERANCE, err_msg=name)


@laws(15)
@given(worlds(min_users=2))
def test_lambda_recursion_over_several_steps(world: World):
    """lambda and phi after each batch; a domain without a shared target keeps its phi; evaluation moves nothing."""
    state = State.start(len(world.sizes))
    for users in subsets(world):
        batch = world.batch_of(users)
        world.model.eval()(batch)
        assert_state(world.model, state)
        world.model.train()(batch)
        state = world.expected(state, users).state
        assert_state(world.model, state)


def check_correction(world: World, seed: int) -> None:
    """The weights after each of several steps, with gaps large and small, and domains that have none."""
    n_domains, correction, rng = len(world.sizes), world.model.correction, np.random.default_rng(seed)
    alpha, beta, state = correction.alpha.item(), correction.beta.item(), State.start(n_domains)
    for _ in range(5):
        count_D = rng.integers(0, 4, n_domains).astype(float)
        sum_D = 5 * rng.normal(size=n_domains) * count_D
        weight_D = correction(torch.from_numpy(sum_D), torch.from_numpy(count_D))
        expected_D, state = reference_losses.corrected(world.config, alpha, beta, state, sum_D, count_D)
        np.testing.assert_allclose(weight_D.detach(), expected_D, **TOLERANCE)
        assert_state(world.model, state)
        if world.config.correction == "bounded":
            room = 1 - world.config.correction_floor
            assert abs(weight_D.mean().item() - 1) < 1e-12 and (weight_D - 1).abs().max() <= room + 1e-12
        assert weight_D.requires_grad == (world.config.correction == "paper")


@laws(10)
@given(worlds(correction="uniform"), st.integers(0, 99))
def test_uniform_correction(world: World, seed: int):
    check_correction(world, seed)


@laws(20)
@given(worlds(correction="paper"), st.integers(0, 99))
def test_correction_of_the_paper(world: World, seed: int):
    check_correction(world, seed)


@laws(40)
@given(worlds(correction="bounded"), st.integers(0, 99))
def test_bounded_correction(world: World, seed: int):
    check_correction(world, seed)


def check_mutual_information(world: World) -> None:
    losses, expected = world.model(world.batch), world.expected()
    for d in range(len(world.sizes)):
        assert losses.mim_defined_D[d].item() == (expected.mim_D[d] is not None)
        np.testing.assert_allclose(losses.mim_D[d], expected.mim_D[d] or 0, **TOLERANCE)


@laws(20)
@given(worlds(min_users=3, mim=True, mim_score="sigmoid"))
def test_mutual_information_of_the_paper(world: World):
    check_mutual_information(world)


@laws(20)
@given(worlds(min_users=3, mim=True, mim_score="cosine"))
def test_mutual_information_of_scaled_cosines(world: World):
    check_mutual_information(world)


@laws(30)
@given(worlds())
def test_total_loss(world: World):
    """eta (mean single + mean corrected cross) + (1 - eta) mean SC-MIM, on a step whose lambda is not uniform."""
    state = State.start(len(world.sizes))
    for users in subsets(world)[-2:]:
        losses, expected = world.model(world.batch_of(users)), world.expected(state, users)
        np.testing.assert_allclose(losses.total.detach(), expected.total, **TOLERANCE)
        np.testing.assert_allclose(losses.weight_D, expected.weight_D, **TOLERANCE)
        state = expected.state


def served_by_reference(world: World, user: int, domain: int, kind: str) -> np.ndarray:
    cross, single = world.served
    return reference.served_scores(
        world.weights, world.config, world.sizes,
        cross[user], single[(domain - 1) * world.n_users + user], kind,
    )  # fmt: skip


def recommender(world: World, kind: str) -> Recommender:
    words = Vocabulary(world.domains, tuple([f"{d}-{x}" for x in range(n)] for d, n in enumerate(world.sizes)))
    return Recommender(world.model, words, dict.fromkeys(world.domains, kind))


@laws(15)
@given(worlds(domains=(1, 2, 3)), st.sampled_from(["cross", "single", "blend"]), st.integers(1, 5))
def test_prediction(world: World, kind: str, n: int):
    """The best n of V_d that the user has not met, of the served view; n = 1 is the argmax. Scores are float32."""
    served = recommender(world, kind)
    found = served.top_n(world.data, n)
    encoded = served.encode(world.data)
    for domain, name in enumerate(world.domains, start=1):
        scores_UV = served.score(encoded, name)
        for user in range(world.n_users):
            expected = served_by_reference(world, user, domain, kind)
            np.testing.assert_allclose(scores_UV[user], expected, rtol=2e-6, atol=2e-6)
            known = {event.item for event in history(world.events, user, domain)[-world.window :]}
            best = sorted((-score, x) for x, score in enumerate(expected, start=1) if x not in known)[:n]
            mine = (found.user == user) & (found.domain == domain)
            assert len(best) == mine.sum() and not known & set(found.item[mine].tolist())
            ours = [expected[x - 1] for x in found.item[mine]]  # equal scores may swap, others not
            np.testing.assert_allclose(ours, [-score for score, _ in best], rtol=4e-6, atol=4e-6)


@laws(20)
@given(worlds())
def test_whole_model(world: World):
    """Two training steps and the scores served after them, end to end."""
    state = State.start(len(world.sizes))
    for users in subsets(world)[-2:]:
        losses, expected = world.model(world.batch_of(users)), world.expected(state, users)
        check_sums(losses, expected)
        np.testing.assert_allclose(losses.total.detach(), expected.total, **TOLERANCE)
        state = expected.state
    assert_state(world.model, state)
    cross, single = world.served
    encoded = recommender(world, "blend").encode(world.data)
    for user in range(world.n_users):
        y_C = reference.last_view(world.weights, world.config, world.sizes, cross[user])
        np.testing.assert_allclose(encoded.y_cross_BC[user], y_C, **TOLERANCE)
        for domain in range(1, len(world.sizes) + 1):
            steps = single[(domain - 1) * world.n_users + user]
            y_C = reference.last_view(world.weights, world.config, world.sizes, steps)
            np.testing.assert_allclose(encoded.y_single_DBC[domain - 1, user], y_C, **TOLERANCE)
