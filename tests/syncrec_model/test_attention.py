"""Both ways to compute attention agree: batched products on the CPU, torch's own kernel for the rest."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from syncrec_model.experts import attend, attention_by_products


@pytest.mark.parametrize(("rows", "width"), [(3, 1), (4, 7), (2, 50)])
def test_products_equal_torchs_kernel_in_value_and_gradient(rows, width):
    torch.manual_seed(0)
    qkv = torch.randn(rows, width, 24, dtype=torch.float64, requires_grad=True)
    q, k, v = (part.unsqueeze(1) for part in qkv.chunk(3, dim=2))
    kernel = F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
    products = attention_by_products(qkv)
    assert torch.allclose(products, kernel, atol=1e-12)
    weights = torch.randn_like(products)
    (one,) = torch.autograd.grad((products * weights).sum(), qkv)
    (other,) = torch.autograd.grad((kernel * weights).sum(), qkv)
    assert torch.allclose(one, other, atol=1e-12)


def test_two_equal_heads_are_each_the_single_head():
    torch.manual_seed(1)
    one = torch.randn(2, 11, 3 * 4, dtype=torch.float64)  # 2 experts, 11 slots
    q, k, v = one.chunk(3, dim=2)
    doubled = torch.cat([q, q, k, k, v, v], dim=2)
    rectangles = ((2, 4), (1, 3))
    single = attend(one, 1, rectangles)
    assert torch.allclose(attend(doubled, 2, rectangles), torch.cat([single, single], dim=2), atol=1e-12)


def test_cudnns_kernel_is_left_out_where_torch_chooses_and_is_back_afterwards(monkeypatch):
    """Torch 2.11 takes it in bf16 on Hopper, and it compiles a plan for every new shape: .46 s a step, not .03."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    seen = []
    kernel = F.scaled_dot_product_attention

    def watched(*args, **kwargs):
        seen.append((torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()))
        return kernel(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    attend(torch.randn(2, 11, 24), 2, ((2, 4), (1, 3)))
    assert seen == [(False, True), (False, True)]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
