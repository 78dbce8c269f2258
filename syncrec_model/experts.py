"""Section 3: sequential experts, each its own causal Transformer, computed together.

Shapes: K experts of the stack, N packed tokens, S slots of the attention rectangles laid end to end, C channels,
I and O channels in and out of a map, R rows, W width of a rectangle, H heads, L = C / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import PackedSequences


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
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_KNC: Tensor, packed: PackedSequences) -> Tensor:
        """Return the layer's output, [K, N, C]."""
        x_KNC = x_KNC + self.dropout(self.attention_out(self.attend(self.attention_norm(x_KNC), packed)))
        return x_KNC + self.dropout(self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x_KNC)))))  # type: ignore[no-any-return]

    def attend(self, x_KNC: Tensor, packed: PackedSequences) -> Tensor:
        """Attend inside each row: tokens into right-padded rectangles, causal attention, tokens out again."""
        n_experts, _, channels = x_KNC.shape
        qkv_KN = self.qkv(x_KNC)
        n_slots = sum(rows * width for rows, width in packed.rectangles)
        padded_KS = qkv_KN.new_zeros(n_experts, n_slots, 3 * channels).index_copy(1, packed.slots_N, qkv_KN)
        outputs = []
        for part, (rows, width) in zip(
            padded_KS.split([rows * width for rows, width in packed.rectangles], dim=1),
            packed.rectangles,
            strict=True,
        ):
            q, k, v = part.reshape(n_experts * rows, width, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
            out_RHWL = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            outputs.append(out_RHWL.transpose(1, 2).reshape(n_experts, rows * width, channels))
        return torch.cat(outputs, dim=1).index_select(1, packed.slots_N)


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
        x_KNC = e_NC.expand(self.n_experts, -1, -1)
        for layer in self.layers:
            x_KNC = layer(x_KNC, packed)
        return self.norm(x_KNC)  # type: ignore[no-any-return]
