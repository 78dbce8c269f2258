"""The layers of the released research code's model (released.py), each written anew from what that code computes.

Shapes: B rows, T steps of the window, C channels, K experts, J and S of them of the cross and the single family,
D domains, H heads, L = C / H, W items of a row, V items of all domains, X = T C.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig

START_SCALE = 0.02  # standard deviation of every weight at the start
_NORM_EPSILON = 1e-12
_HIDDEN = -10000.0  # added to the attention score of a step that must not be seen
_NOISE_FLOOR = 1e-3


class ReleasedEmbedding(nn.Module):
    """Layer norm and dropout of item + domain + position. Row 0 of items and domains is a blank: random, frozen."""

    def __init__(self, n_items: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.table_sizes = (1, *n_items)
        self.items_VC = nn.Parameter(torch.randn(sum(self.table_sizes), config.channels) * START_SCALE)
        self.types_DC = nn.Parameter(torch.randn(len(self.table_sizes), config.channels) * START_SCALE)
        # Row 0: the newest step, as in SharedEmbedding.
        self.positions_TC = nn.Parameter(torch.randn(config.max_length, config.channels) * START_SCALE)
        self.norm = nn.LayerNorm(config.channels, eps=_NORM_EPSILON)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, items_BT: Tensor, domains_BT: Tensor) -> Tensor:
        """Return E, [B, T, C]; blanks have an embedding of their own, like any item."""
        e_BTC = self.items(items_BT) + F.embedding(domains_BT, self.types_DC, padding_idx=0)
        return self.dropout(self.norm(e_BTC + self.positions_TC.flip(0)))  # type: ignore[no-any-return]

    def items(self, items_BT: Tensor) -> Tensor:
        """Return M[x], [B, T, C]; no gradient reaches the blank."""
        return F.embedding(items_BT, self.items_VC, padding_idx=0)

    def tables(self) -> tuple[Tensor, ...]:
        """Return M^d for every domain, [V_d, C]."""
        return torch.split(self.items_VC, list(self.table_sizes))[1:]


class PostNormFFN(nn.Module):
    """LN(x + FFN(x)): the second half of an encoder layer, and the one tower."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.ffn_multiplier * config.channels
        self.inward, self.outward = nn.Linear(config.channels, inner), nn.Linear(inner, config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.channels, eps=_NORM_EPSILON)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the normalised sum, [B, T, C]."""
        return self.norm(self.dropout(self.outward(F.gelu(self.inward(x_BTC)))) + x_BTC)  # type: ignore[no-any-return]


class PostNormLayer(nn.Module):
    """LN(x + attention(x)), then the feed-forward half."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(config.channels, config.channels) for _ in range(4))
        self.weight_dropout = nn.Dropout(config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.channels, eps=_NORM_EPSILON)
        self.ffn = PostNormFFN(config)

    def forward(self, x_BTC: Tensor, mask_B1TT: Tensor) -> Tensor:
        """Return the layer's output, [B, T, C]."""
        q_BHTL, k_BHTL, v_BHTL = (
            layer(x_BTC).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores_BHTT = q_BHTL @ k_BHTL.transpose(-1, -2) * q_BHTL.shape[-1] ** -0.5
        weights_BHTT = self.weight_dropout((scores_BHTT + mask_B1TT).softmax(dim=-1))
        attended_BTC = (weights_BHTT @ v_BHTL).transpose(1, 2).flatten(2)
        return self.ffn(self.norm(self.dropout(self.out(attended_BTC)) + x_BTC))  # type: ignore[no-any-return]


class SharedExpert(nn.Module):
    """The one Transformer that stands in every place of the list of experts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PostNormLayer(config) for _ in range(config.n_layers))
        self.drops = config.dropout > 0

    def forward(self, e_BTC: Tensor, mask_B1TT: Tensor, n_copies: int) -> Tensor:
        """Return the experts' outputs, [copies, B, T, C]; they differ by their dropout alone."""
        different = n_copies if self.drops and self.training else 1
        outputs = []
        for _ in range(different):
            x_BTC = e_BTC
            for layer in self.layers:
                x_BTC = layer(x_BTC, mask_B1TT)
            outputs.append(x_BTC)
        return torch.stack(outputs).expand(n_copies, -1, -1, -1)


class PartitionedGate(nn.Module):
    """One noisy gate for all tasks: a softmax inside each family of experts, each family given a fixed mass.

    The noise stays on in evaluation, as there. It moves nothing then: without dropout the experts are equal, and
    the masses sum to 1. Not causal: the mixture of every step sees the whole window.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        window, j = config.max_length * config.channels, config.n_cross_experts
        self.own_mass = j / config.n_experts  # the released code's cross_expert_ratio
        self.single, self.single_noise = (nn.Linear(window, config.n_experts - j) for _ in range(2))
        self.cross, self.cross_noise = (nn.Linear(window, j) for _ in range(2))

    def forward(self, e_BTC: Tensor, learning: str) -> tuple[Tensor, Tensor]:
        """Return the weights of the single experts [B, S] and of the cross experts [B, J]."""
        flat_BX = e_BTC.flatten(1)
        cross_mass = self.own_mass if learning == "cross" else 1 - self.own_mass
        single_BS = self._family(flat_BX, self.single, self.single_noise)
        return single_BS * (1 - cross_mass), self._family(flat_BX, self.cross, self.cross_noise) * cross_mass

    @staticmethod
    def _family(flat_BX: Tensor, weight: nn.Module, noise: nn.Module) -> Tensor:
        logits, spread = weight(flat_BX), F.softplus(noise(flat_BX)) + _NOISE_FLOOR
        return torch.softmax(logits + torch.randn_like(logits) * spread, dim=1)


class ReleasedCorrection(nn.Module):
    """raw <- alpha raw + beta phi; lambda = softmax(raw / delta). No gradient anywhere: alpha, beta never move.

    alpha and beta start anywhere in (-1, 1): with beta below 0 the weighting is inverted.
    """

    alpha: Tensor
    beta: Tensor
    raw_D: Tensor
    lambda_D: Tensor
    phi_D: Tensor

    def __init__(self, n_domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.register_buffer("alpha", torch.rand(()) * 2 - 1)
        self.register_buffer("beta", torch.rand(()) * 2 - 1)
        self.register_buffer("raw_D", torch.full((n_domains,), 1.0 / n_domains))
        self.register_buffer("lambda_D", torch.full((n_domains,), 1.0 / n_domains))
        self.register_buffer("phi_D", torch.zeros(n_domains))

    @torch.no_grad()
    def forward(self, gap_sums_D: Tensor, gap_counts_D: Tensor) -> Tensor:
        """Take one step of the recursion (training) and return lambda, [D]; a domain without targets has phi 0."""
        phi_D = (gap_sums_D / gap_counts_D.clamp(min=1)).to(self.raw_D.dtype)
        raw_D = self.alpha * self.raw_D + self.beta * phi_D
        lambda_D = torch.softmax(raw_D / self.temperature, dim=0)
        if self.training:
            for buffer_D, value_D in ((self.phi_D, phi_D), (self.raw_D, raw_D), (self.lambda_D, lambda_D)):
                buffer_D.copy_(value_D)
        return lambda_D


def attention_mask(items_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to attention scores, [B, 1, T, T]: no later step, no step without an event in X."""
    steps = items_BT.shape[1]
    causal_TT = torch.ones(steps, steps, dtype=torch.bool, device=items_BT.device).tril()
    seen_B1TT = (items_BT > 0)[:, None, None] & causal_TT
    return (~seen_B1TT).to(dtype) * _HIDDEN


def negatives_of_all_domains(row_items_BW: Tensor, n_items: int) -> Tensor:
    """Draw as many uniform items of all domains per row as it has columns, none of them an item of the row.

    row_items_BW: stacked item rows from 1, 0 where there is none. A row that holds every item gets the last one.
    """
    sorted_BW = row_items_BW.sort(dim=1).values
    repeated_BW = F.pad(sorted_BW[:, 1:] == sorted_BW[:, :-1], (1, 0)) | (sorted_BW == 0)
    beyond = n_items + row_items_BW.shape[1] + 1  # stays above every place below
    held_BW = sorted_BW.masked_fill(repeated_BW, beyond).sort(dim=1).values  # distinct, the rest at the end
    n_free_B1 = (n_items - (held_BW <= n_items).sum(1, keepdim=True)).clamp(min=1)
    place_BW = (torch.rand(row_items_BW.shape, device=held_BW.device, dtype=torch.float64) * n_free_B1).long() + 1
    # The p-th free item is p plus the number of held items below it.
    free_below_BW = held_BW - 1 - torch.arange(held_BW.shape[1], device=held_BW.device)
    return (place_BW + torch.searchsorted(free_below_BW, place_BW)).clamp(max=n_items)
