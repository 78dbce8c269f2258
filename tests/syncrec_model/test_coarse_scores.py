"""The error bound of the first pass holds, and is no larger than the worst case."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from syncrec_model.coarse_scores import CoarseTable, choose_precision
from syncrec_model.ranking import ItemTable, best_items

HALF_STEP = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}  # of numbers from 1 on


def errors(query, items, bias, precision):
    """Return |r' - s| with r' from the rounded numbers in float64, before sums round, and the rows' bounds."""
    table = CoarseTable.of(items, bias, precision)
    rows, bound = table.query(query)
    exact = query.double() @ items.double().T + (0 if bias is None else bias.double())
    return (rows.double() @ table.items_VK.double().T - exact).abs().max(1).values.numpy(), bound


@pytest.mark.parametrize("precision", list(HALF_STEP))
def test_random_scores_are_inside_the_bound(precision):
    g = torch.Generator().manual_seed(0)
    query, items = (torch.randn(m, 64, generator=g, dtype=torch.float64) for m in (50, 2000))
    for bias in (None, torch.randn(2000, generator=g, dtype=torch.float64) * 100):
        error, bound = errors(query, items, bias, precision)
        assert (error <= bound).all() and (error > 0).all()


@pytest.mark.parametrize("precision", list(HALF_STEP))
def test_the_worst_rounding_is_inside_the_bound_and_nearly_fills_it(precision):
    step = HALF_STEP[precision]
    item = torch.full((1, 64), 1 + 0.99 * step, dtype=torch.float64)  # all of it is rounded down
    ones = torch.ones(1, 64, dtype=torch.float64)
    for query, items in ((ones, item), (item, ones)):
        error, bound = errors(query, items, None, precision)
        assert 0.99 * 64 * step == pytest.approx(error[0]) and error[0] <= bound[0]
        assert precision == torch.float32 or bound[0] < 1.1 * error[0]


def test_an_item_that_the_first_pass_takes_for_worse_is_still_found():
    best, other = torch.full((64,), 1 + 0.99 * 2**-8), torch.full((64,), 1 + 1.01 * 2**-8)
    other[:7] = 1 + 0.5 * 2**-8
    items = torch.stack([other, best])  # exact: 64.247 < 64.248; from rounded numbers 64.45 > 64
    found = best_items(torch.ones(20, 64), ItemTable(items), 1, precision=torch.bfloat16)
    assert found.item.tolist() == [1] * 20


def test_a_sum_of_large_numbers_that_cancel_is_inside_the_bound():
    g = torch.Generator().manual_seed(0)
    query, items = torch.randn(40, 64, generator=g) * 1e3, torch.randn(500, 64, generator=g) * 1e3
    table = CoarseTable.of(items, None, torch.float32)
    rows, bound = table.query(query)
    error = (rows @ table.items_VK.T).double() - query.double() @ items.double().T
    assert (error.abs().max(1).values.numpy() <= bound).all() and error.abs().max() > 0


def test_lossy_products_widen_the_bound():
    table, query = CoarseTable.of(torch.ones(3, 4), None, torch.float32), torch.ones(2, 4)
    before, (_, narrow) = torch.get_float32_matmul_precision(), table.query(query)
    torch.set_float32_matmul_precision("medium")
    try:
        assert (table.query(query)[1] > 1000 * narrow).all()
    finally:
        torch.set_float32_matmul_precision(before)


def test_few_rows_and_other_devices_take_float32():
    assert choose_precision(1, torch.device("cpu")) == torch.float32
    assert choose_precision(1000, torch.device("meta")) == torch.float32
    assert np.isfinite(CoarseTable.of(torch.zeros(2, 3), None, torch.bfloat16).query(torch.zeros(1, 3))[1]).all()
