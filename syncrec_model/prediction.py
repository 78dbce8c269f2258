"""Section 4: prediction losses, one value per target.

Shapes: N targets of one domain, V items of that domain, S negatives drawn for it, C channels, R rows,
D1 = D + 1 domain codes (0 is none).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .batches import TrainingBatch
from .cross_entropy import can_keep, cross_entropy
from .draws import event_draws
from .embedding import DomainTable
from .partition import log_partition
from .sampling import Negatives, NegativeSampler

_AT_ONCE = 2**27  # scores of all domains that a GPU holds at once: half a gigabyte, some four times in a step


def softmax_losses(y_NC: Tensor, table: Tensor | DomainTable, target_N: Tensor) -> Tensor:
    """Return the cross-entropy of each target over all V items of its domain. target_N: 1-based index inside it."""
    table = _as_table(table)
    if can_keep(y_NC, table.n_items):
        return cross_entropy(y_NC, table.all(), target_N - 1)
    return log_partition(y_NC, table.all()) - target_scores(y_NC, table, target_N)


def pair_losses(kind: str, positive_N: Tensor, negative_N: Tensor) -> Tensor:
    """Return the loss of each target from its own score s+ and that of one negative, s-.

    pairwise: -log sigmoid(P(x+) - P(x-)) with P = sigmoid(s), the paper's.
    bce: -log P(x+) - log(1 - P(x-)), the released code's.
    """
    if kind == "pairwise":
        return -F.logsigmoid(torch.sigmoid(positive_N) - torch.sigmoid(negative_N))
    return -F.logsigmoid(positive_N) - F.logsigmoid(-negative_N)


def sampled_losses(y_NC: Tensor, table: Tensor | DomainTable, target_N: Tensor, negatives: Negatives) -> Tensor:
    """Return the cross-entropy of each target among itself and the negatives of the batch.

    -s+ + log(exp(s+) + sum over drawn items i other than the target of exp(s_i) / E[times i is drawn]): the sum in
    the logarithm is on average that of the full softmax. The target needs no correction: it is always there.
    """
    table = _as_table(table)
    items_S, log_count_S = negatives
    place_N = torch.searchsorted(items_S, target_N)
    places_N2 = torch.stack([place_N, place_N + 1], 1)
    is_target_N2 = items_S[places_N2.clamp(max=len(items_S) - 1)] == target_N[:, None]
    left_out_N2 = torch.where(is_target_N2 & (places_N2 < len(items_S)), places_N2, -1)
    others_N = log_partition(y_NC, table.take(items_S), log_count_S, left_out_N2)
    score_N = target_scores(y_NC, table, target_N).to(others_N.dtype)
    return torch.logaddexp(others_N, score_N) - score_N


def target_scores(y_NC: Tensor, table: DomainTable, item_N: Tensor) -> Tensor:
    """Return s = y . M(x) of one item per target, [N]."""
    return (y_NC * table.take(item_N)).sum(-1)


def _as_table(table: Tensor | DomainTable) -> DomainTable:
    return DomainTable(table, 0, len(table)) if isinstance(table, Tensor) else table


def uniform_negatives(
    target_N: Tensor, domain_N: Tensor, n_items_D1: Tensor, uniform_N: Tensor | None = None
) -> Tensor:
    """Draw one uniform item of the target's domain per target, never the target itself.

    n_items_D1: items by domain code (entry 0 unused). A domain with one item has no negative: its target returns.
    uniform_N: the numbers in [0, 1) that decide; None: new ones of the global generator.
    """
    if uniform_N is None:
        uniform_N = torch.rand(target_N.shape, device=target_N.device, dtype=torch.float64)
    others_N = (n_items_D1[domain_N] - 1).clamp(min=1)
    draw_N = 1 + (uniform_N * others_N).long()
    draw_N = draw_N + (draw_N >= target_N).long()
    return torch.minimum(draw_N, n_items_D1[domain_N])


def target_draws(batch: TrainingBatch) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return a uniform number for every cross and every single target that only its event and the seed decide."""
    if batch.seed is None:
        return None, None
    cross, single = batch.cross, batch.single
    return (
        event_draws(batch.seed, batch.cross_users_R[cross.rows_N], cross.tasks_N, cross.columns_N),
        event_draws(batch.seed, batch.single_users_R[single.rows_N], single.tasks_N, single.columns_N),
    )


def family_losses(
    kind: str,
    y_cross_NC: Tensor,
    y_single_NC: Tensor,
    tables: Sequence[DomainTable],
    batch: TrainingBatch,
    n_items_D1: Tensor,
    sampler: NegativeSampler | None = None,
    row_domains_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the losses of all cross targets and of all single targets; shared events share their negatives.

    sampler: for softmax, which domains are sampled; None: all are full. row_domains_V: domain code of every row of
    the item table, 0 for none: with it a GPU computes the softmaxes of all domains at once.
    """
    if kind != "softmax":
        return _pair_family_losses(kind, y_cross_NC, y_single_NC, tables, batch, n_items_D1)
    n_targets, nobody_samples = len(y_cross_NC) + len(y_single_NC), sampler is None or not sampler.sampled
    if row_domains_V is not None and nobody_samples and _at_once(y_cross_NC, n_targets * len(row_domains_V)):
        return all_domains_losses(y_cross_NC, y_single_NC, tables, batch, row_domains_V)
    cross_index, losses, split = [], [], []
    single_start = 0
    for domain, table in enumerate(tables, start=1):
        index_n = torch.nonzero(batch.cross_domains_N == domain).squeeze(1)
        n_single = batch.single.tokens_per_task[domain]
        part = slice(single_start, single_start + n_single)
        single_start += n_single
        y_nC = torch.cat([y_cross_NC[index_n], y_single_NC[part]])
        target_n = torch.cat([batch.cross_targets_N[index_n], batch.single_targets_N[part]])
        negatives = sampler.draw(domain, batch.seed) if sampler is not None else None
        if negatives is not None:
            losses.append(sampled_losses(y_nC, table, target_n, negatives))
        else:
            losses.append(softmax_losses(y_nC, table, target_n))
        cross_index.append(index_n)
        split += [len(index_n), n_single]
    parts = torch.split(torch.cat(losses), split)
    in_domain_order_N = torch.cat(parts[0::2])
    cross_loss_N = torch.zeros_like(in_domain_order_N).index_copy(0, torch.cat(cross_index), in_domain_order_N)
    return cross_loss_N, torch.cat(parts[1::2])


def _at_once(y_NC: Tensor, n_scores: int) -> bool:
    return y_NC.device.type == "cuda" and n_scores <= _AT_ONCE


def all_domains_losses(
    y_cross_NC: Tensor,
    y_single_NC: Tensor,
    tables: Sequence[DomainTable],
    batch: TrainingBatch,
    row_domains_V: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return what the full softmaxes of `family_losses` are, from one product with the whole table.

    Scores of other domains' items are made and masked: D times the arithmetic in a tenth of the kernels. A GPU
    waits for their launches, and the arithmetic costs it little; a CPU is faster domain by domain.
    """
    starts_D1 = torch.tensor([0, *(table.start - 1 for table in tables)], device=y_cross_NC.device)
    domain_N = torch.cat([batch.cross_domains_N, batch.single_domains_N])
    target_N = torch.cat([batch.cross_targets_N, batch.single_targets_N]) + starts_D1[domain_N]
    scores_NV = torch.cat([y_cross_NC, y_single_NC]) @ tables[0].items_VC.T
    scores_NV = scores_NV.masked_fill(row_domains_V[None] != domain_N[:, None], -torch.inf)
    loss_N = F.cross_entropy(scores_NV, target_N, reduction="none")
    cross_loss_N, single_loss_N = torch.split(loss_N, [len(y_cross_NC), len(y_single_NC)])
    return cross_loss_N, single_loss_N


def _pair_family_losses(
    kind: str,
    y_cross_NC: Tensor,
    y_single_NC: Tensor,
    tables: Sequence[DomainTable],
    batch: TrainingBatch,
    n_items_D1: Tensor,
) -> tuple[Tensor, Tensor]:
    """As family_losses, with one negative a target: all rows of the table in one look-up, hence one gradient."""
    cross_draw_N, single_draw_N = target_draws(batch)
    cross_negative_N = uniform_negatives(batch.cross_targets_N, batch.cross_domains_N, n_items_D1, cross_draw_N)
    own_N = uniform_negatives(batch.single_targets_N, batch.single_domains_N, n_items_D1, single_draw_N)
    shared_N = batch.shared_N
    single_negative_N = torch.where(shared_N >= 0, cross_negative_N[shared_N.clamp(min=0)], own_N)
    starts_D1 = torch.tensor([0, *(table.start - 1 for table in tables)], device=y_cross_NC.device)
    start_N = starts_D1[torch.cat([batch.cross_domains_N, batch.single_domains_N])]
    positive_N = torch.cat([batch.cross_targets_N, batch.single_targets_N]) + start_N
    negative_N = torch.cat([cross_negative_N, single_negative_N]) + start_N
    rows_2NC = replace(tables[0], start=1).take(torch.stack([positive_N, negative_N]))
    scores_2N = (torch.cat([y_cross_NC, y_single_NC]) * rows_2NC).sum(-1)
    loss_N = pair_losses(kind, scores_2N[0], scores_2N[1])
    cross_loss_N, single_loss_N = torch.split(loss_N, [len(y_cross_NC), len(y_single_NC)])
    return cross_loss_N, single_loss_N
