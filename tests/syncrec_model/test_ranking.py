"""The tiled ranking against a sort of all exact scores: ties, hidden items, additions, tiles, precisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syncrec_model import first_pass, ranking, topk_pass
from syncrec_model.first_pass import Pairs
from syncrec_model.ranking import ItemTable, best_items

PRECISIONS = (torch.bfloat16, torch.float32)


def pairs_of(rng: np.random.Generator, n_rows: int, n_items: int, size: int, scale: float = 1.0) -> Pairs:
    """Random pairs; several may be the same."""
    row, item = np.sort(rng.integers(0, n_rows, size)), rng.integers(0, n_items, size)
    return Pairs(row, item, rng.integers(-8, 9, size) / 4 * scale)


def brute_force(query, items, n, *, bias=None, excluded=None, added=()):
    """Sort all float64 scores, rounded to float32, by falling score and rising index."""
    scores = query.double().numpy() @ items.double().numpy().T
    if bias is not None:
        scores = scores + bias.double().numpy()
    for pairs in added:
        np.add.at(scores, (pairs.row, pairs.item), pairs.value)
    scores = scores.astype(np.float32)
    if excluded is not None:
        scores[excluded.row, excluded.item] = -np.inf
    lists = []
    for row in scores:
        order = np.lexsort((np.arange(len(row)), -row))[:n]
        lists.append([(int(item), float(row[item])) for item in order if row[item] > -np.inf])
    return lists


def lists_of(found, n_rows):
    lists = [[] for _ in range(n_rows)]
    for row, rank, item, score in zip(found.row, found.rank, found.item, found.score, strict=True):
        assert rank == len(lists[row])
        lists[row].append((int(item), float(score)))
    return lists


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_items=st.integers(1, 90),
    n_rows=st.integers(0, 40),
    n=st.integers(1, 100),
    channels=st.integers(1, 9),
    grid=st.sampled_from([1, 2, 0]),  # whole numbers: many ties; 0: none
    shift=st.sampled_from([0.0, -30.0, 30.0]),
    precision=st.sampled_from(PRECISIONS),
    tile=st.sampled_from([7, 32, 1 << 15]),
    by_topk=st.booleans(),  # as on a GPU
)
def test_equals_a_sort_of_all_exact_scores(
    seed, n_items, n_rows, n, channels, grid, shift, precision, tile, by_topk
):
    rng = np.random.default_rng(seed)
    query, items = (torch.from_numpy(rng.standard_normal((m, channels))) for m in (n_rows, n_items))
    if grid:
        query, items = (query * grid).round(), (items * grid).round()
    bias = torch.from_numpy(np.round(rng.standard_normal(n_items)) + shift) if seed % 2 or shift else None
    at_most = n_rows * n_items
    excluded = pairs_of(rng, n_rows, n_items, int(rng.integers(0, at_most + 1))) if n_rows else None
    added = [
        pairs_of(rng, n_rows, n_items, int(rng.integers(0, at_most + 1))) for _ in range(seed % 3 if n_rows else 0)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_pass, "ITEMS_AT_ONCE", tile)
        patch.setattr(topk_pass, "_SCORES", tile * 40)
        patch.setattr(topk_pass, "_MORE", 1)
        if by_topk:
            patch.setattr(ranking, "_by_topk", lambda device: True)
            precision = torch.float32
        found = best_items(
            query.float(), ItemTable(items.float(), bias), n, excluded=excluded, added=added, precision=precision
        )
    expected = brute_force(query.float(), items.float(), n, bias=bias, excluded=excluded, added=added)
    assert lists_of(found, n_rows) == expected


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shift", [0.0, -100.0])
def test_a_large_table_in_tiles_and_blocks_of_rows(monkeypatch, precision, shift):
    monkeypatch.setattr(first_pass, "ITEMS_AT_ONCE", 2000)
    rng = np.random.default_rng(0)
    query, items = (torch.from_numpy(rng.standard_normal((m, 64), dtype=np.float32)) for m in (150, 7001))
    items *= torch.from_numpy(rng.lognormal(0, 1, (7001, 1)).astype(np.float32))  # a few are much longer
    bias = torch.from_numpy(rng.standard_normal(7001)) + shift
    hidden, near = pairs_of(rng, 150, 7001, 5000), pairs_of(rng, 150, 7001, 20000, scale=20.0)
    found = best_items(query, ItemTable(items, bias), 25, excluded=hidden, added=[near], precision=precision)
    assert lists_of(found, 150) == brute_force(query, items, 25, bias=bias, excluded=hidden, added=[near])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-6])
@pytest.mark.parametrize("by_topk", [False, True])
def test_scores_that_the_first_pass_cannot_tell_apart(monkeypatch, precision, sign, spread, by_topk):
    if by_topk:
        monkeypatch.setattr(ranking, "_by_topk", lambda device: True)
        precision = torch.float32
    rng = np.random.default_rng(3)
    query = torch.from_numpy(rng.uniform(0.5, 1, (40, 24)).astype(np.float32)) * sign
    items = torch.from_numpy((1 + spread * rng.standard_normal((2000, 24))).astype(np.float32))
    near = pairs_of(rng, 40, 2000, 4000, scale=spread)
    for bias in (None, torch.from_numpy(spread * rng.standard_normal(2000))):
        found = best_items(query, ItemTable(items, bias), 10, added=[near], precision=precision)
        assert lists_of(found, 40) == brute_force(query, items, 10, bias=bias, added=[near])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("module", "name"), [(first_pass, "_MOST_CANDIDATES"), (ranking, "_ROOM")])
def test_all_scores_equal_with_little_room(monkeypatch, precision, module, name):
    monkeypatch.setattr(module, name, 100)
    found = best_items(torch.zeros(9, 4), ItemTable(torch.randn(300, 4)), 3, precision=precision)
    assert lists_of(found, 9) == [[(0, 0.0), (1, 0.0), (2, 0.0)]] * 9


def test_a_list_does_not_depend_on_the_other_rows_or_the_precision():
    rng = np.random.default_rng(1)
    query, items = (torch.from_numpy(rng.standard_normal((m, 64), dtype=np.float32)) for m in (140, 3000))
    whole = best_items(query, ItemTable(items), 10)
    alone = best_items(query[131:132], ItemTable(items), 10)
    assert (alone.item == whole.item[1310:1320]).all() and (alone.score == whole.score[1310:1320]).all()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, 1e30])
def test_numbers_that_are_not_finite_are_refused(broken):
    rows, items = torch.randn(20, 4), torch.randn(30, 4)
    for at in (rows, items):
        kept, at[3, 2] = at[3, 2].item(), broken
        if broken != 1e30:
            with pytest.raises(ValueError, match=r"not .*finite number.*broken"):
                best_items(rows, ItemTable(items), 3)
        at[3, 2] = kept
    rows[0], items[0] = broken, broken
    with pytest.raises(ValueError, match="finite number"):
        best_items(rows, ItemTable(items), 3)
    with pytest.raises(ValueError, match="bias is not a finite"):
        best_items(torch.randn(2, 4), ItemTable(torch.randn(3, 4), torch.tensor([0, torch.nan, 0])), 3)
    pairs = Pairs(np.array([0]), np.array([0]), np.array([np.nan]))
    with pytest.raises(ValueError, match="added to a score is not a finite"):
        best_items(torch.randn(2, 4), ItemTable(torch.randn(3, 4)), 3, added=[pairs])


def test_impossible_pairs_are_refused():
    table, rows = ItemTable(torch.randn(30, 4)), torch.randn(2, 4)
    for row, item, said in (
        ([0], [30], r"outside 0\.\.29"),
        ([0], [-1], r"outside 0\.\.29"),
        ([1, 0], [1, 1], "ascending"),
        ([2], [1], r"inside 0\.\.1"),
    ):
        with pytest.raises(ValueError, match=said):
            best_items(rows, table, 3, excluded=Pairs(np.array(row), np.array(item), np.zeros(len(row))))


def test_threads_give_the_same_lists():
    rng = np.random.default_rng(2)
    query, items = (torch.from_numpy(rng.standard_normal((m, 16), dtype=np.float32)) for m in (300, 500))
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(best_items(query, ItemTable(items), 5))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert all((a == b).all() for a, b in zip(*found, strict=True))


def test_ties_go_to_the_lower_index_whatever_the_sign():
    scores = ItemTable(torch.tensor([[0.0], [2.0], [-0.0], [2.0], [-3.0], [-3.0], [-1.0]]))
    hidden = Pairs(np.array([0]), np.array([1]), np.zeros(1))
    found = best_items(torch.ones(1, 1), scores, 7, excluded=hidden)
    assert found.item.tolist() == [3, 0, 2, 6, 4, 5] and found.rank.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.score.tolist() == [2, 0, 0, -1, -3, -3]


@pytest.mark.parametrize(("n", "items"), [(1, [1]), (2, [1, 0]), (3, [1, 0, 2]), (4, [1, 0, 2, 4])])
def test_a_tie_at_the_end_of_the_list_takes_the_lower_indexes(n, items):
    vectors = torch.tensor([[1.0, 3.0, 1.0, 0.5, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]]).T
    found = best_items(torch.eye(2), ItemTable(vectors.contiguous()), n)
    assert found.item[found.row == 0].tolist() == items and found.item[found.row == 1].tolist() == list(range(n))
