"""Section 3: gates g^c and g^d, one per task, a softmax over all K experts.

Shapes: N packed tokens, R rows, T steps, C channels, K experts, D1 = D + 1 tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .packing import PackedSequences


class StepGate(nn.Module):
    """g(e_t) = softmax(W e_t): one mixture a step, causal."""

    def __init__(self, n_tasks: int, n_experts: int, channels: int) -> None:
        super().__init__()
        self.weight_DKC = nn.Parameter(torch.randn(n_tasks, n_experts, channels) * 0.02)

    def forward(self, e_NC: Tensor, packed: PackedSequences) -> Tensor:
        """Return the mixture of every token, [N, K]."""
        logits = [
            e_nC @ weight_KC.T
            for e_nC, weight_KC in zip(
                torch.split(e_NC, list(packed.tokens_per_task)), self.weight_DKC, strict=True
            )
            if len(e_nC)
        ]
        return torch.cat(logits).softmax(dim=-1)


class SequenceGate(nn.Module):
    """g(E) = softmax(W flatten(E)), the paper's: one mixture a sequence.

    NOT causal inside a training row: the mixture of every step sees the whole window, later steps included. In
    evaluation and serving a row ends before its target, so there nothing leaks.
    """

    def __init__(self, n_tasks: int, n_experts: int, channels: int, max_length: int) -> None:
        super().__init__()
        self.weight_DTKC = nn.Parameter(torch.randn(n_tasks, max_length, n_experts, channels) * 0.02)

    def forward(self, e_NC: Tensor, packed: PackedSequences) -> Tensor:
        """Return the mixture of every token (its row's), [N, K]."""
        n_experts = self.weight_DTKC.shape[2]
        logits_RK = e_NC.new_zeros(len(packed.last_R), n_experts)
        start = 0
        for task, count in enumerate(packed.tokens_per_task):
            if count == 0:
                continue
            part = slice(start, start + count)
            every_nTK = torch.einsum("nc,tkc->ntk", e_NC[part], self.weight_DTKC[task])
            position_n1K = packed.positions_N[part, None, None].expand(-1, 1, n_experts)
            own_nK = every_nTK.gather(1, position_n1K).squeeze(1)
            logits_RK = logits_RK.index_add(0, packed.rows_N[part], own_nK.to(logits_RK.dtype))
            start += count
        return logits_RK.softmax(dim=-1).index_select(0, packed.rows_N)
