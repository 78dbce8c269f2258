"""Section 3: sequential experts, each its own causal Transformer, computed together.

Shapes: K experts of the stack, N packed tokens, S slots of the attention rectangles laid end to end, C channels,
I and O channels in and out of a map, R rows, W width of a rectangle, H heads, L = C / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .dropout import Dropout
from .packing import PackedSequences

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Torch's attention kernels but cuDNN's, which torch prefers on Hopper in bf16 and which compiles a plan for every
shape it has not seen: our rectangles have new ones in nearly every batch (docs/benchmarks/training.md, On a GPU).
"""


class ExpertNorm(nn.Module):
    """Layer norm with its own scale and shift for every expert."""

    def __init__(self, n_experts: int, channels: int) -> None:
        super().__init__()
        self.scale_KC = nn.Parameter(torch.ones(n_experts, channels))
        self.shift_KC = nn.Parameter(torch.zeros(n_experts, channels))

    def forward(self, x_KNC: Tensor) -> Tensor:
        """Normalise each token."""
        normed_KNC = F.layer_norm(x_KNC, x_KNC.shape[-1:])
        return torch.addcmul(self.shift_KC[:, None], normed_KNC, self.scale_KC[:, None])


class ExpertLinear(nn.Module):
    """One linear map per expert."""

    def __init__(self, n_experts: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight_KIO = nn.Parameter(torch.empty(n_experts, n_in, n_out))
        self.bias_KO = nn.Parameter(torch.zeros(n_experts, n_out))
        nn.init.normal_(self.weight_KIO, std=n_in**-0.5)

    def forward(self, x_KNI: Tensor) -> Tensor:
        """Return x W + b, expert by expert."""
        return torch.baddbmm(self.bias_KO[:, None], x_KNI, self.weight_KIO)

    def after(self, norm: ExpertNorm, x_KNI: Tensor) -> Tensor:
        """Return norm(x) W + b with the norm's scale and shift moved into the map: the same values, less work.

        x may be one input for all experts, [1, N, I].
        """
        normed_KNI = F.layer_norm(x_KNI, x_KNI.shape[-1:]).expand(len(self.bias_KO), -1, -1)
        weight_KIO = norm.scale_KC.unsqueeze(2) * self.weight_KIO
        bias_K1O = torch.baddbmm(self.bias_KO[:, None], norm.shift_KC[:, None], self.weight_KIO)
        return torch.baddbmm(bias_K1O, normed_KNI, weight_KIO)


class ExpertLayer(nn.Module):
    """Causal self-attention, then a feed-forward net with GELU; residuals around both, layer norm before both."""

    def __init__(self, n_experts: int, channels: int, n_heads: int, ffn_multiplier: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = ExpertNorm(n_experts, channels)
        self.qkv = ExpertLinear(n_experts, channels, 3 * channels)
        self.attention_out = ExpertLinear(n_experts, channels, channels)
        self.ffn_norm = ExpertNorm(n_experts, channels)
        self.ffn_in = ExpertLinear(n_experts, channels, ffn_multiplier * channels)
        self.ffn_out = ExpertLinear(n_experts, ffn_multiplier * channels, channels)
        self.dropout = Dropout(dropout)

    def forward(self, x_KSC: Tensor, rectangles: tuple[tuple[int, int], ...]) -> Tensor:
        """Return the layer's output, [K, S, C]."""
        qkv_KS = self.qkv.after(self.attention_norm, x_KSC)
        attended_KSC = attend(qkv_KS, self.n_heads, rectangles)
        x_KSC = self.dropout.added_to(x_KSC, self.attention_out(attended_KSC))
        inner_KS = F.gelu(self.ffn_in.after(self.ffn_norm, x_KSC))
        return self.dropout.added_to(x_KSC, self.ffn_out(inner_KS))


def attend(qkv_KS: Tensor, n_heads: int, rectangles: tuple[tuple[int, int], ...]) -> Tensor:
    """Causal self-attention inside each row of each rectangle, [K, S, C] from queries, keys, values [K, S, 3C]."""
    n_experts, _, channels = qkv_KS.shape[0], qkv_KS.shape[1], qkv_KS.shape[2] // 3
    outputs = []
    for part, (rows, width) in zip(
        torch.split(qkv_KS, [rows * width for rows, width in rectangles], dim=1), rectangles, strict=True
    ):
        qkv_RW = part.reshape(n_experts * rows, width, 3 * channels)
        if qkv_KS.device.type == "cpu" and n_heads == 1:
            out_RWC = attention_by_products(qkv_RW)
        else:
            q, k, v = qkv_RW.reshape(len(qkv_RW), width, 3, n_heads, -1).permute(2, 0, 3, 1, 4)
            with sdpa_kernel(KERNELS):
                out_RWC = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        outputs.append(out_RWC.reshape(n_experts, rows * width, channels))
    return torch.cat(outputs, dim=1)


def attention_by_products(qkv_RW: Tensor) -> Tensor:
    """Causal attention with one head as two batched products, [R, W, C]: faster than torch's own on short rows."""
    q_RWC, k_RWC, v_RWC = qkv_RW.chunk(3, dim=2)
    width, channels = q_RWC.shape[1:]
    ahead_WW = q_RWC.new_full((width, width), -torch.inf).triu(1)
    logits_RWW = torch.baddbmm(ahead_WW, q_RWC, k_RWC.transpose(1, 2), alpha=channels**-0.5)
    return torch.bmm(logits_RWW.softmax(dim=-1), v_RWC)


class ExpertStack(nn.Module):
    """K distinct experts f^1..f^K over the same input."""

    def __init__(
        self, n_experts: int, n_layers: int, channels: int, n_heads: int, ffn_multiplier: int, dropout: float
    ) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.layers = nn.ModuleList(
            ExpertLayer(n_experts, channels, n_heads, ffn_multiplier, dropout) for _ in range(n_layers)
        )
        self.norm = ExpertNorm(n_experts, channels)

    def forward(self, e_NC: Tensor, packed: PackedSequences) -> Tensor:
        """Return f^k(E) of every expert, [K, N, C]."""
        x_KSC = packed.into_slots(e_NC).unsqueeze(0)
        for layer in self.layers:
            x_KSC = layer(x_KSC, packed.rectangles)
        return self.norm(packed.out_of_slots(x_KSC))  # type: ignore[no-any-return]
