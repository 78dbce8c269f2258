"""The served view as products and pairs is the blend; lists are those of all its scores sorted."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from small_models import DOMAINS, N_ITEMS, random_set

from syncrec_model import ModelConfig, Recommender, SyNCRec, Vocabulary, served
from syncrec_model.blend import FEATURES
from syncrec_model.cooccurrence import count_pairs
from syncrec_model.ranking import ItemTable

LOG = {"max_length": 8, "n_users": 40, "mean_length": 9}
VOCABULARY = Vocabulary(
    DOMAINS, tuple([f"{d[0]}{i}" for i in range(1, n + 1)] for d, n in zip(DOMAINS, N_ITEMS, strict=True))
)


def blended(weights: list[float], **changes: object) -> Recommender:
    torch.manual_seed(3)
    model = SyNCRec(ModelConfig(channels=8, max_length=8, dropout=0.0, **changes), DOMAINS, N_ITEMS)
    train = random_set(5, **LOG)
    model.blend.learn(train, count_pairs(train))
    with torch.no_grad():
        model.embedding.items_VC.mul_(20)
        model.blend.weights_DF[:] = torch.tensor(weights)
    return Recommender(model, VOCABULARY, dict.fromkeys(DOMAINS, "blend"))


def dense(recommender: Recommender, users: served.EncodedUsers, code: int) -> np.ndarray:
    """Write the products and pairs out, [B, V], float64."""
    view = served.served_view(recommender.model, code, "blend", users)
    scores = view.query_BC.double().numpy() @ view.table.items_VC.double().numpy().T
    if view.table.bias_V is not None:
        scores = scores + view.table.bias_V.numpy()
    for pairs in view.added:
        np.add.at(scores, (pairs.row, pairs.item), pairs.value)
    return scores


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_alone_and_all_together_are_the_blend(name: str) -> None:
    data = random_set(6, **LOG)
    alone = [1.5 if feature == name else 0.0 for feature in FEATURES]
    for weights in (alone, [0.5, -0.3, 2.0, -1.0, 0.7]):
        recommender = blended(weights)
        users = recommender.encode(data)
        for code, domain in enumerate(DOMAINS, start=1):
            expected = recommender.score(users, domain).numpy()
            np.testing.assert_allclose(dense(recommender, users, code), expected, rtol=1e-5, atol=1e-5)
            assert np.ptp(expected) > 0.1


@pytest.mark.parametrize(
    "weights", [[1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 0.5, 3.0, 2.0, 0.5], [1.0, 0.5, -3.0, 2.0, -0.5]]
)
def test_lists_are_those_of_all_scores_sorted(weights: list[float]) -> None:
    data, recommender = random_set(6, **LOG), blended(weights)
    users, found = recommender.encode(data), recommender.top_n(data, 4, repeats=["toys"], batch_size=40)
    rows_UD = data.single_rows_UD()
    for code in (1, 2, 3):
        scores = dense(recommender, users, code).astype(np.float32)
        for user in range(data.n_users):
            row = rows_UD[user, code - 1]
            if row >= 0 and code != 2:
                scores[user, data.single_items_NT[row][data.single_items_NT[row] > 0] - 1] = -np.inf
            order = [i for i in np.argsort(-scores[user], kind="stable")[:4] if scores[user, i] > -np.inf]
            mine = (found.user == user) & (found.domain == code)
            assert found.item[mine].tolist() == [i + 1 for i in order]
            assert found.score[mine].tolist() == scores[user, order].tolist()


def test_items_are_prepared_once_and_anew_after_a_change() -> None:
    data, model = random_set(6, **LOG), blended([1.0, 1.0, 0.0, 0.0, 0.5]).model
    users = Recommender(model, VOCABULARY, dict.fromkeys(DOMAINS, "blend")).encode(data)

    def table(of: SyNCRec) -> ItemTable:
        return served.served_view(of, 1, "blend", users).table

    first = table(model)
    assert table(model) is first
    with torch.no_grad():
        model.embedding.items_VC[3] = 0
    second = table(model)
    assert second is not first and not second.items_VC[2].any()
    model.blend.weights_DF[0, 4] = 0.25
    assert torch.equal(table(model).bias_V * 2, second.bias_V)
    kept = len(served._TABLES)
    del model
    gc.collect()
    assert len(served._TABLES) < kept


def test_a_broken_model_is_refused_with_the_domain() -> None:
    recommender = blended([1.0, 1.0, 0.0, 0.0, 0.0])
    with torch.no_grad():
        recommender.model.embedding.items_VC[-1] = torch.nan
    with pytest.raises(ValueError, match=r"top_n: domain 'books': .*not finite numbers"):
        recommender.top_n(random_set(6, **LOG), 2)
