"""What the released research code computes (architecture "released"), with SyNCRec's interface, for comparison.

Shapes: B rows, T steps of the window, C channels, K experts, J and S of them of the cross and the single family,
D domains, V items of all domains, F features of the blend, N packed tokens, R packed rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import TrainingBatch
from .config import ModelConfig
from .distributed import sum_over_ranks
from .model import Losses, SyNCRec
from .packing import CROSS, PackedSequences
from .released_parts import (
    START_SCALE,
    PartitionedGate,
    PostNormFFN,
    ReleasedCorrection,
    ReleasedEmbedding,
    SharedExpert,
    attention_mask,
    negatives_of_all_domains,
)

_LOSS_SCALE = 1e-3
_TINY = 1e-24  # inside the logarithms


@dataclass(frozen=True)
class Window:
    """X left-padded to T. items_BT, targets_BT: stacked item row, 0 = none; *domains_BT: domain code, 0 = none."""

    items_BT: Tensor
    domains_BT: Tensor
    targets_BT: Tensor
    target_domains_BT: Tensor


class ReleasedSyNCRec(SyNCRec):
    """The released code's model: same inputs, same measures, its own mathematics. Not a reference, not advised.

    Reproduced, and proven against that code (benchmarks/released_agreement.py): experts, towers and gates are each
    one module that stands in every place of a list; the gate is noisy, also in evaluation, and splits its mass
    between the two families of experts by a fixed ratio (here j / K); post-norm encoder; domain embeddings, layer
    norm and dropout on the embedding; a blank's embeddings random and frozen; X^d is X with blanks, which the
    attention sees because its mask comes from X; single losses at the steps whose target lies in the domain;
    bce with one negative from all domains, not in the user's row; lambda = softmax of a recursion of its own raw
    state, with alpha and beta at their random start; SC-MIM as a sigmoid pair loss against the input items of
    another user, divided by all steps with their padding; losses summed, the single family divided by D, both
    by 1000; X has no [SOS], so a user's first event is nobody's target; the cross view is the tower's last step.

    Not reproduced: its Adam without clipping and warm-up, its last batch dropped in evaluation, 100 negatives in
    evaluation and the epoch chosen on the test split (fit and rank_cases do what they do for every model); a
    training row that holds one event more than ours; negatives that also avoid the user's later test events
    (a leak); raw state lost at the end of a run, private to a rank, and gradients never shared between ranks.

    The single view has no counterpart there (it predicts with the cross tower alone): it reads the events of one
    domain without blanks, which is X of a user who has no others.
    """

    embedding: ReleasedEmbedding  # type: ignore[assignment]
    correction: ReleasedCorrection  # type: ignore[assignment]

    def __init__(self, config: ModelConfig, domains: Sequence[str], n_items: Sequence[int]) -> None:
        nn.Module.__init__(self)  # SyNCRec's parts are not built
        self._describe(config, domains, n_items)
        self.embedding = ReleasedEmbedding(n_items, config)
        self.expert = SharedExpert(config)
        self.gate = PartitionedGate(config)
        self.tower = PostNormFFN(config)
        self.correction = ReleasedCorrection(len(domains), config)
        self.register_buffer("ends_D", torch.tensor(list(accumulate(n_items))), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=START_SCALE)
                nn.init.zeros_(module.bias)
        self.contrast = nn.Linear(config.channels, config.channels) if config.mim else None

    # --- from packed tokens to the window and back ----------------------------------------------------------

    def window(self, packed: PackedSequences, batch: TrainingBatch | None = None) -> Window:
        """Return the rows as X, oldest step first; [SOS] has no place in it. With `batch` also their targets."""
        shape = (len(packed.last_R), self.config.max_length)
        kept_n = torch.nonzero(packed.items_N > 0).squeeze(1)
        place_n = (packed.rows_N[kept_n], shape[1] - 1 - packed.positions_N[kept_n])
        items_n = packed.items_N[kept_n]
        ends_D = self.get_buffer("ends_D")
        columns = [items_n, torch.searchsorted(ends_D, items_n) + 1]
        if batch is not None:
            domain_n = batch.cross_domains_N[kept_n]
            columns += [F.pad(ends_D, (1, 0))[domain_n - 1] + batch.cross_targets_N[kept_n], domain_n]
        empty_BT = torch.zeros(shape, dtype=torch.int64, device=items_n.device)
        filled = [empty_BT.index_put(place_n, column_n) for column_n in columns]
        return Window(*filled, *[empty_BT] * (4 - len(filled)))

    def mixture(self, packed: PackedSequences, *, learning: str) -> Tensor:
        """Return the gated sum of the experts at every token, [N, C]."""
        window = self.window(packed)
        mixed_BTC = self.window_mixture(window, window.domains_BT > 0, learning)
        return mixed_BTC[packed.rows_N, self.config.max_length - 1 - packed.positions_N]

    def views(self, packed: PackedSequences) -> Tensor:
        """Return Y of every token, [N, C]; zero at [SOS], which is no step here."""
        learning = "cross" if packed.tokens_per_task[CROSS] else "single"
        y_NC = self.tower(self.mixture(packed, learning=learning))
        return y_NC * (packed.items_N > 0).unsqueeze(1)  # type: ignore[no-any-return]

    def encode(self, packed: PackedSequences) -> Tensor:
        """Return Y of every row's newest step, [R, C], rows as packed."""
        learning = "cross" if packed.tokens_per_task[CROSS] else "single"
        mixed_NC = self.mixture(packed, learning=learning)
        return self.tower(mixed_NC[packed.last_R])  # type: ignore[no-any-return]

    # --- the model ------------------------------------------------------------------------------------------

    def window_mixture(self, window: Window, visible_BT: Tensor, learning: str) -> Tensor:
        """Return the gated sum of the experts, [B, T, C], for X with blanks wherever it is not visible."""
        e_BTC = self.embedding(window.items_BT * visible_BT, window.domains_BT * visible_BT)
        gate_BS, gate_BJ = self.gate(e_BTC, learning)
        mask_B1TT = attention_mask(window.items_BT, e_BTC.dtype)
        mixed_BTC = torch.zeros_like(e_BTC)
        for family, gate_BK in (("single", gate_BS), ("cross", gate_BJ)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and family == learning):
                f_KBTC = self.expert(e_BTC, mask_B1TT, gate_BK.shape[1])
            mixed_BTC = mixed_BTC + torch.einsum("bk,kbtc->btc", gate_BK, f_KBTC)
        return mixed_BTC

    def forward(self, batch: TrainingBatch) -> Losses:
        """Return the losses of a batch, of its cross rows alone; draws negatives and the other users."""
        window = self.window(batch.cross, batch)
        first_BT = torch.cat([window.items_BT, window.targets_BT], dim=1)
        negatives_BT = negatives_of_all_domains(first_BT, sum(self.n_items))[:, : window.items_BT.shape[1]]
        others_B = torch.randperm(len(negatives_BT), device=negatives_BT.device)
        return self.losses(window, negatives_BT, others_B)

    def losses(self, window: Window, negatives_BT: Tensor, others_B: Tensor) -> Losses:
        """Return the losses with given random choices; with several ranks this rank's share.

        negatives_BT: one stacked item row per step. others_B: whose items each row is contrasted with.
        """
        codes = range(1, len(self.domains) + 1)
        y_single_BTC, single_sums = torch.zeros(()), []
        for code in codes:
            reads_BT = window.domains_BT == code
            y_BTC = self.tower(self.window_mixture(window, reads_BT, "single"))
            y_single_BTC = y_single_BTC + y_BTC * reads_BT.unsqueeze(-1)
            single_sums.append(self._pair_losses(y_BTC, window, negatives_BT, code).sum())
        y_cross_BTC = self.tower(self.window_mixture(window, window.domains_BT > 0, "cross"))
        cross_losses = [self._pair_losses(y_cross_BTC, window, negatives_BT, code) for code in codes]
        single_D, cross_D = torch.stack(single_sums), torch.stack([values_n.sum() for values_n in cross_losses])
        count_D = torch.tensor([len(values_n) for values_n in cross_losses]).to(cross_D)
        gap_sum_D, gap_count_D = sum_over_ranks((single_D - cross_D).detach()), sum_over_ranks(count_D)
        lambda_D = self.correction(gap_sum_D, gap_count_D)
        total = (single_D.mean() + (lambda_D * cross_D).sum()) * _LOSS_SCALE
        mim_D, defined_D = torch.zeros_like(count_D), torch.zeros_like(count_D, dtype=torch.bool)
        if self.contrast is not None:
            mim_BT = self._contrast_losses(self.contrast(y_cross_BTC), y_single_BTC, window, others_B)
            total = total + mim_BT.sum() / sum_over_ranks(torch.tensor(mim_BT.numel()).to(count_D)).clamp(min=1)
            mim_D, defined_D = _means_by_input_domain(mim_BT.detach(), window, len(codes))
        return Losses(
            total, single_D.detach(), count_D, cross_D.detach(), count_D, gap_sum_D, gap_count_D,
            mim_D, defined_D, lambda_D,
        )  # fmt: skip

    def _pair_losses(self, y_BTC: Tensor, window: Window, negatives_BT: Tensor, code: int) -> Tensor:
        """Return -log P(x+) - log(1 - P(x-)) of the steps whose target lies in the domain, [n]."""
        at = torch.nonzero(window.target_domains_BT == code, as_tuple=True)
        y_nC = y_BTC[at]
        positive_n = (self.embedding.items(window.targets_BT[at]) * y_nC).sum(-1)
        negative_n = (self.embedding.items(negatives_BT[at]) * y_nC).sum(-1)
        return -(positive_n.sigmoid() + _TINY).log() - (1 - negative_n.sigmoid() + _TINY).log()

    def _contrast_losses(self, own_BTC: Tensor, y_single_BTC: Tensor, window: Window, others_B: Tensor) -> Tensor:
        """Return -log sigmoid(P(own single view) - P(the other user's input item)), [B, T], 0 without a target."""
        own_BT = (own_BTC * y_single_BTC).sum(-1).sigmoid()
        other_BT = (own_BTC * self.embedding.items(window.items_BT[others_B])).sum(-1).sigmoid()
        return -F.logsigmoid(own_BT - other_BT) * (window.targets_BT > 0)

    # --- starting from an older model -----------------------------------------------------------------------

    @torch.no_grad()
    def start_from(self, older: ReleasedSyNCRec, tasks: Tensor, older_tasks: Tensor) -> None:
        """Copy everything but the items of an older model of the same shape; tasks: codes that both know, 0 too."""
        self.embedding.items_VC[0] = older.embedding.items_VC[0]
        self.embedding.types_DC[tasks] = older.embedding.types_DC[older_tasks]
        self.embedding.positions_TC.copy_(older.embedding.positions_TC)
        parts = ["embedding.norm", "expert", "gate", "tower"]
        if self.contrast is not None and older.contrast is not None:
            parts.append("contrast")
        for name in parts:
            self.get_submodule(name).load_state_dict(older.get_submodule(name).state_dict())
        domains, older_domains = tasks[1:] - 1, older_tasks[1:] - 1
        for name in ("raw_D", "lambda_D", "phi_D"):
            self.correction.get_buffer(name)[domains] = older.correction.get_buffer(name)[older_domains]
        self.correction.lambda_D.div_(self.correction.lambda_D.sum())
        self.correction.alpha.copy_(older.correction.alpha)
        self.correction.beta.copy_(older.correction.beta)
        self.blend.start_from(older.blend, domains, older_domains)


def _means_by_input_domain(loss_BT: Tensor, window: Window, n_domains: int) -> tuple[Tensor, Tensor]:
    """Return (this rank's share of) the mean loss of the steps that read each domain, and whether any does, [D]."""
    at = torch.nonzero(window.targets_BT > 0, as_tuple=True)
    domain_n = window.domains_BT[at] - 1
    sum_D = loss_BT.new_zeros(n_domains).index_add(0, domain_n, loss_BT[at])
    count_D = sum_over_ranks(torch.bincount(domain_n, minlength=n_domains))
    return sum_D / count_D.clamp(min=1), count_D > 0
