"""SyNCRec: one model of all domains, with cross-domain and single-domain towers (SIGIR'24, arXiv 2407.11245).

The parts in the order of the paper: embedding.py (section 2), experts.py, gates.py, towers.py (3), prediction.py
(4), transfer.py (5), mutual_information.py (6); here they meet, with the total loss and the scores (7).

Shapes: B users, N packed tokens, R rows, T steps, C channels, K experts, D domains, V items of one domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .batches import TrainingBatch
from .blend import Blend
from .config import ModelConfig
from .distributed import sum_over_ranks
from .embedding import SharedEmbedding
from .experts import ExpertStack
from .gates import SequenceGate, StepGate
from .mutual_information import MutualInformation
from .packing import CROSS, PackedSequences
from .prediction import family_losses
from .sampling import NegativeSampler
from .towers import Towers
from .transfer import LossCorrection, domain_sums, transfer_gap


@dataclass(frozen=True)
class Losses:
    """The total to minimise (with gradient) and, per domain [D] without gradient, what it is made of.

    *_sum_D over *_count_D targets; gap_*_D: phi's sum and count; mim_D where mim_defined_D; weight_D: what
    multiplied the cross losses. With several ranks total, mim_D and the sums and counts of the two families are
    this rank's share: their sum over ranks is the global batch's; the others are the same on every rank.
    """

    total: Tensor
    single_sum_D: Tensor
    single_count_D: Tensor
    cross_sum_D: Tensor
    cross_count_D: Tensor
    gap_sum_D: Tensor
    gap_count_D: Tensor
    mim_D: Tensor
    mim_defined_D: Tensor
    weight_D: Tensor


class SyNCRec(nn.Module):
    """The model. Buffers: lambda and phi (in `correction`), the weights and the item neighbours of the blend."""

    n_items_D1: Tensor
    row_domains_V: Tensor

    def __init__(self, config: ModelConfig, domains: Sequence[str], n_items: Sequence[int]) -> None:
        super().__init__()
        if config.architecture != "syncrec":
            raise ValueError(f"SyNCRec: the configuration asks for {config.architecture!r}; use build_model")
        self._describe(config, domains, n_items)
        c, tasks = config, len(domains) + 1
        self.embedding = SharedEmbedding(n_items, c.max_length, c.channels, c.dropout)
        shape = (c.n_layers, c.channels, c.n_heads, c.ffn_multiplier, c.dropout)
        self.cross_experts = ExpertStack(c.n_cross_experts, *shape)  # 1..j: runners' teachers, the cross task
        self.single_experts = ExpertStack(c.n_experts - c.n_cross_experts, *shape)  # j+1..K: the single tasks
        self.gates: nn.Module
        if c.gate == "step":
            self.gates = StepGate(tasks, c.n_experts, c.channels)
        else:
            self.gates = SequenceGate(tasks, c.n_experts, c.channels, c.max_length)
        self.towers = Towers(tasks, c.channels, c.ffn_multiplier, c.dropout)
        self.correction = LossCorrection(len(domains), c)
        self.mutual_information = MutualInformation(c) if c.mim else None
        self.embedding.row_gradients = bool(self.negative_sampler.sampled)

    def _describe(self, config: ModelConfig, domains: Sequence[str], n_items: Sequence[int]) -> None:
        """Check and keep what every architecture knows about itself."""
        if not domains or len(domains) != len(n_items):
            raise ValueError(
                f"SyNCRec: {len(domains)} domains but {len(n_items)} item counts; give one count a domain"
            )
        for domain, count in zip(domains, n_items, strict=True):
            if count < 1:
                raise ValueError(f"SyNCRec: domain {domain!r} has no items; leave the domain out")
        self.config = config
        self.domains = tuple(domains)
        self.n_items = tuple(int(count) for count in n_items)
        full = config.full_softmax_items if config.loss == "softmax" else max(n_items)
        self.items_started = config.start == "random"  # by cooccurrence.py in training, or by an older model
        self.negative_sampler = NegativeSampler(self.n_items, full, config.sampled_negatives)
        self.blend = Blend(self.n_items, config.neighbours)
        self.register_buffer("n_items_D1", torch.tensor([0, *self.n_items]), persistent=False)
        rows_D1 = torch.tensor([1, *self.n_items])  # of the item table: padding, then domain by domain
        self.register_buffer(
            "row_domains_V", torch.arange(len(rows_D1)).repeat_interleave(rows_D1), persistent=False
        )

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """As torch's; weights that come from elsewhere are not started anew by a training."""
        self.items_started = True
        return super().load_state_dict(*arguments, **options)

    def mixture(self, packed: PackedSequences, *, learning: str) -> Tensor:
        """Section 3: sum over k of g_k f^k(E), [N, C]; only the task family's own experts learn.

        learning: "cross" or "single". The other family's experts pass their value alone (SG): they run without a
        graph, on E without its gradient.
        """
        e_NC = self.embedding(packed)
        g_NK = self.gates(e_NC, packed)
        j = self.config.n_cross_experts
        mixed_NC = torch.zeros_like(e_NC)
        for family, stack, gate_NK in (
            ("cross", self.cross_experts, g_NK[:, :j]),
            ("single", self.single_experts, g_NK[:, j:]),
        ):
            if stack.n_experts == 0:
                continue
            if self.config.stop_gradient and family != learning:
                with torch.no_grad():
                    f_KNC = stack(e_NC.detach(), packed)
            else:
                f_KNC = stack(e_NC, packed)
            mixed_NC = mixed_NC + (gate_NK.T.unsqueeze(-1) * f_KNC).sum(0)
        return mixed_NC

    def views(self, packed: PackedSequences) -> Tensor:
        """Return Y of every token: Y_cross where the rows are cross sequences, else Y^d_single, [N, C]."""
        if not len(packed.items_N):  # a rank without users in the last batch still joins the others' sums
            return self.embedding.positions_TC[:0]
        learning = "cross" if packed.tokens_per_task[CROSS] else "single"
        return cast(Tensor, self.towers(self.mixture(packed, learning=learning), packed.tokens_per_task))

    def learnt(self, packed: PackedSequences) -> PackedSequences:
        """Return histories without the events of items that training never had.

        All that training did to such a vector is push it away from every target; a history that holds one would be
        read as if that meant something.
        """
        dropped_N = self.blend.never_learnt(packed.items_N)
        return packed.without(dropped_N) if bool(dropped_N.any()) else packed

    def encode(self, packed: PackedSequences) -> Tensor:
        """Return Y of every row's newest step that `learnt` leaves, [R, C], rows as packed."""
        packed = self.learnt(packed)
        learning = "cross" if packed.tokens_per_task[CROSS] else "single"
        mixed_RC = self.mixture(packed, learning=learning).index_select(0, packed.last_R)
        return cast(Tensor, self.towers(mixed_RC, packed.rows_per_task))

    def scores(self, y_RC: Tensor, domain_code: int) -> Tensor:
        """Return the scores s = y . M(x) of all items of one domain (1-based code), [R, V], float32."""
        table_VC = self.embedding.tables()[domain_code - 1]
        return (y_RC @ table_VC.T).float()

    def forward(self, batch: TrainingBatch) -> Losses:
        """Section 7: L = eta (sum of single and corrected cross losses) + (1 - eta) SC-MIM.

        In training mode this takes one step of the lambda recursion.
        """
        y_cross_NC, y_single_NC = self.views(batch.cross), self.views(batch.single)
        cross_N, single_N = family_losses(
            self.config.loss, y_cross_NC, y_single_NC, self.embedding.domain_tables(), batch, self.n_items_D1,
            self.negative_sampler, self.row_domains_V,
        )  # fmt: skip
        n_domains = len(self.domains)
        cross_sum_D = domain_sums(cross_N, batch.cross_domains_N, n_domains)
        single_sum_D = domain_sums(single_N, batch.single_domains_N, n_domains)
        cross_count_D = domain_sums(torch.ones_like(cross_N), batch.cross_domains_N, n_domains)
        single_count_D = domain_sums(torch.ones_like(single_N), batch.single_domains_N, n_domains)
        gap_sum_D, gap_count_D = transfer_gap(cross_N, single_N, batch.shared_N, batch.single_domains_N, n_domains)
        weight_D = self.correction(gap_sum_D, gap_count_D)
        # Both families are divided by their targets of the global batch; the ranks' gradients are summed.
        single = single_sum_D.sum() / sum_over_ranks(single_count_D.sum()).clamp(min=1)
        cross = (weight_D * cross_sum_D).sum() / sum_over_ranks(cross_count_D.sum()).clamp(min=1)
        total = self.config.eta * (single + cross)
        mim_D, defined_D = torch.zeros_like(weight_D), torch.zeros_like(weight_D, dtype=torch.bool)
        if self.mutual_information is not None:
            mim_D, defined_D = self.mutual_information(y_cross_NC, y_single_NC, batch)
            total = total + (1 - self.config.eta) * mim_D.sum() / defined_D.sum().clamp(min=1)
        return Losses(
            total, single_sum_D.detach(), single_count_D, cross_sum_D.detach(), cross_count_D,
            gap_sum_D, gap_count_D, mim_D.detach(), defined_D, weight_D.detach(),
        )  # fmt: skip
