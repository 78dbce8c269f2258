"""Pairs counted as a plain loop counts them; item vectors give the PPMI matrix back; neighbours score histories."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import DOMAINS, N_ITEMS, random_set

from syncrec_model import ModelConfig, SequenceSet, SyNCRec, TrainingConfig, fit
from syncrec_model import cooccurrence as co
from syncrec_model.neighbours import DECAY, Neighbours

OFFSETS = np.array([0, *np.cumsum([0, *N_ITEMS[:-1]])])


def stacked_rows(data: SequenceSet) -> list[list[int]]:
    """The stored histories as lists of stacked items, oldest first."""
    rows = OFFSETS[data.cross_domains_UT] + data.cross_items_UT
    return [[int(item) for item in row if item] for row in rows]


def loop_counts(data: SequenceSet, window: int) -> Counter[tuple[int, int]]:
    counts: Counter[tuple[int, int]] = Counter()
    for row in stacked_rows(data):
        for i, left in enumerate(row):
            for j in range(i + 1, min(i + window, len(row) - 1) + 1):
                if left != row[j]:
                    counts[left, row[j]] += 1 / (j - i)
                    counts[row[j], left] += 1 / (j - i)
    return counts


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([7, 50, 20_000_000]))
def test_pairs_are_counted_as_a_loop_counts_them(seed: int, window: int, at_once: int) -> None:
    data = random_set(seed, max_length=6, n_users=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(co, "_PAIRS_AT_ONCE", at_once)  # merging in parts changes nothing
        found = co.count_pairs(data, window)
    expected = loop_counts(data, window)
    pairs = list(zip(found.row_P.tolist(), found.column_P.tolist(), strict=True))
    assert pairs == sorted(expected)
    np.testing.assert_allclose(found.count_P, [expected[pair] for pair in pairs])


def test_vectors_of_full_rank_give_the_positive_information_back() -> None:
    """U S V' of all ranks is the PPMI matrix; its symmetric part is what U sqrt(S) keeps where S is positive."""
    counts = co.count_pairs(random_set(1, max_length=8, n_users=40))
    total = counts.totals
    context = total**0.75 / (total**0.75).sum()
    ppmi = np.zeros((counts.size, counts.size))
    ppmi[counts.row_P, counts.column_P] = np.maximum(
        0, np.log(counts.count_P / (total[counts.row_P] * context[counts.column_P]))
    )
    vectors = co.start_vectors(counts, counts.size - 1).double().numpy()
    # rows are U sqrt(S): their Gram matrix is U S U', the polar factor of the matrix
    u, s, _ = np.linalg.svd(ppmi)
    np.testing.assert_allclose(vectors @ vectors.T, u @ np.diag(s) @ u.T, atol=2e-4)


def test_items_without_a_pair_keep_their_start_and_the_others_get_one_length() -> None:
    data = random_set(2, max_length=8, n_users=5)
    model = SyNCRec(ModelConfig(channels=4, max_length=8), DOMAINS, N_ITEMS)
    before = model.embedding.items_VC.detach().clone()
    co.start_items(model.embedding, co.count_pairs(data))
    seen = sorted({item for row in stacked_rows(data) if len(set(row)) > 1 for item in row})
    after = model.embedding.items_VC.detach()
    unseen = [item for item in range(len(after)) if item not in seen]
    assert unseen and torch.equal(after[unseen], before[unseen])
    assert after[seen].square().sum(1).mean().sqrt().item() == pytest.approx(0.8, rel=1e-4)


def test_the_first_training_starts_items_and_a_random_start_stays_random() -> None:
    data = random_set(3, max_length=5, n_users=12)
    config = TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-9, threads=1, device="cpu")
    lengths = {}
    for start in ("cooccurrence", "random"):
        torch.manual_seed(0)
        model = SyNCRec(ModelConfig(channels=4, max_length=5, start=start), DOMAINS, N_ITEMS)
        fit(model, data, None, config, progress=False)
        lengths[start] = model.embedding.items_VC.detach().square().sum(1).mean().sqrt().item()
    assert lengths["random"] < 0.1 < lengths["cooccurrence"]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_neighbours_score_histories_as_a_loop_does(seed: int, kept: int) -> None:
    data = random_set(seed, max_length=6, n_users=10)
    counts = loop_counts(data, co.WINDOW)
    total = Counter[int]()
    for (left, _), count in counts.items():
        total[left] += count
    near = {p: c / (total[p[0]] ** 0.5 * total[p[1]] ** 0.3) for p, c in counts.items()}
    found = Neighbours(N_ITEMS).double()
    found.learn(co.count_pairs(data), torch.zeros(1 + sum(N_ITEMS)), kept)
    rows = [row for row in stacked_rows(data)][:4]
    row_N = torch.tensor([r for r, row in enumerate(rows) for _ in row], dtype=torch.int64)
    item_N = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    age_N = torch.tensor([len(row) - 1 - i for row in rows for i in range(len(row))], dtype=torch.int64)
    for code in (1, 2, 3):
        first = OFFSETS[code]
        inside = range(first + 1, first + N_ITEMS[code - 1] + 1)
        expected = np.zeros((len(rows), N_ITEMS[code - 1]))
        for r, row in enumerate(rows):
            for i, item in enumerate(row):
                best = sorted((round(-near[item, x], 9), x) for x in inside if (item, x) in near)[:kept]
                for _, x in best:
                    expected[r, x - first - 1] += near[item, x] * DECAY ** (len(row) - 1 - i)
        scores = found.scores(row_N, item_N, age_N, len(rows), code)
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-7)
