"""Section 3: gates g^c and g^d, one per task, a softmax over all K experts.

Shapes: N packed tokens, R rows, T steps, C channels, I = steps x channels of a window, K experts, D1 = D + 1 tasks.
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
        logits, start, first_row = [], 0, 0
        for task, (n_tokens, n_rows) in enumerate(zip(packed.tokens_per_task, packed.rows_per_task, strict=True)):
            if n_tokens == 0:
                continue
            part = slice(start, start + n_tokens)
            position_n, row_n = packed.positions_N[part], packed.rows_N[part] - first_row
            width = int(position_n.max()) + 1
            flat_RI = e_NC.new_zeros(n_rows * width, e_NC.shape[1])
            flat_RI = flat_RI.index_copy(0, row_n * width + position_n, e_NC[part]).reshape(n_rows, -1)
            logits.append(flat_RI @ self.weight_DTKC[task, :width].transpose(1, 2).flatten(0, 1).to(flat_RI.dtype))
            start, first_row = start + n_tokens, first_row + n_rows
        logits_RK = torch.cat(logits)
        return logits_RK.softmax(dim=-1).index_select(0, packed.rows_N)
