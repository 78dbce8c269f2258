"""Dropout by random bytes: how many it drops, what it scales by, when it does nothing."""

from __future__ import annotations

import pytest
import torch

from syncrec_model.dropout import Dropout


@pytest.mark.parametrize(("p", "acting"), [(0.5, 128 / 256), (0.2, 51 / 256), (0.95, 243 / 256)])
def test_the_share_dropped_and_the_scale_keep_the_mean(p, acting):
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(1000, 401))
    assert (out == 0).double().mean().item() == pytest.approx(acting, abs=0.003)
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - acting)])
    assert out.mean().item() == pytest.approx(1, abs=0.02)


def test_elements_are_dropped_independently_in_rows_and_columns():
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(4096, 64)) != 0).double()
    correlation = torch.corrcoef(kept.T).fill_diagonal_(0)
    assert correlation.abs().max() < 0.08  # 5 sigma of 4096 fair coins
    assert kept.mean(1).std().item() == pytest.approx((0.25 / 64) ** 0.5, rel=0.1)


def test_draws_follow_torchs_generator():
    dropout, x = Dropout(0.3), torch.randn(5, 7)
    torch.manual_seed(2)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(2)
    assert torch.equal(dropout(x), first) and not torch.equal(first, second)


def test_nothing_is_dropped_in_evaluation_or_at_p_0():
    x = torch.randn(4, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(0.5).eval().added_to(x, x), 2 * x)


def test_added_to_is_the_sum_and_the_gradient_passes_what_was_kept():
    dropout, x, residual = Dropout(0.4), torch.randn(6, 9, requires_grad=True), torch.randn(6, 9)
    torch.manual_seed(3)
    expected = residual + dropout(x)
    torch.manual_seed(3)
    out = dropout.added_to(residual, x)
    assert torch.allclose(out, expected)
    out.sum().backward()
    assert torch.allclose(x.grad * x, out - residual, atol=1e-6)
