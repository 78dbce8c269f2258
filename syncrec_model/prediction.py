"""Section 4: prediction losses, one value per target.

Shapes: N targets of one domain, V items of that domain, S negatives drawn for it, C channels, R rows,
D1 = D + 1 domain codes (0 is none).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .batches import TrainingBatch
from .draws import event_draws
from .embedding import DomainTable
from .partition import in_one_tile, log_partition
from .sampling import Negatives, NegativeSampler


def target_losses(
    kind: str, y_NC: Tensor, table: Tensor | DomainTable, target_N: Tensor, negative_N: Tensor
) -> Tensor:
    """Return l of each target. target_N, negative_N: 1-based index of the item inside the domain.

    softmax: cross-entropy over all V items of the domain (negative_N is not used).
    pairwise: -log sigmoid(P(x+) - P(x-)) with P = sigmoid(score), the paper's.
    bce: -log P(x+) - log(1 - P(x-)), the released code's.
    """
    table = _as_table(table)
    if kind == "softmax":
        if in_one_tile(y_NC, table.n_items):
            return F.cross_entropy(y_NC @ table.all().T, target_N - 1, reduction="none")
        return log_partition(y_NC, table.all()) - target_scores(y_NC, table, target_N)
    positive_N, chosen_N = target_scores(y_NC, table, target_N), target_scores(y_NC, table, negative_N)
    if kind == "pairwise":
        return -F.logsigmoid(torch.sigmoid(positive_N) - torch.sigmoid(chosen_N))
    return -F.logsigmoid(positive_N) - F.logsigmoid(-chosen_N)


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
    tables: Sequence[Tensor | DomainTable],
    batch: TrainingBatch,
    n_items_D1: Tensor,
    sampler: NegativeSampler | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the losses of all cross targets and of all single targets; shared events share their negatives.

    sampler: for softmax, which domains are sampled; None: all are full.
    """
    cross_negative_N = single_negative_N = torch.zeros(0, dtype=torch.int64, device=y_cross_NC.device)
    if kind != "softmax":
        cross_draw_N, single_draw_N = target_draws(batch)
        cross_negative_N = uniform_negatives(batch.cross_targets_N, batch.cross_domains_N, n_items_D1, cross_draw_N)
        own_N = uniform_negatives(batch.single_targets_N, batch.single_domains_N, n_items_D1, single_draw_N)
        shared_N = batch.shared_N
        single_negative_N = torch.where(shared_N >= 0, cross_negative_N[shared_N.clamp(min=0)], own_N)
    cross_index, losses, split = [], [], []
    single_start = 0
    for domain, table in enumerate(tables, start=1):
        index_n = torch.nonzero(batch.cross_domains_N == domain).squeeze(1)
        n_single = batch.single.tokens_per_task[domain]
        part = slice(single_start, single_start + n_single)
        single_start += n_single
        y_nC = torch.cat([y_cross_NC[index_n], y_single_NC[part]])
        target_n = torch.cat([batch.cross_targets_N[index_n], batch.single_targets_N[part]])
        negative_n = target_n
        if kind != "softmax":
            negative_n = torch.cat([cross_negative_N[index_n], single_negative_N[part]])
        negatives = sampler.draw(domain, batch.seed) if sampler is not None and kind == "softmax" else None
        if negatives is not None:
            losses.append(sampled_losses(y_nC, table, target_n, negatives))
        else:
            losses.append(target_losses(kind, y_nC, table, target_n, negative_n))
        cross_index.append(index_n)
        split += [len(index_n), n_single]
    parts = torch.split(torch.cat(losses), split)
    in_domain_order_N = torch.cat(parts[0::2])
    cross_loss_N = torch.zeros_like(in_domain_order_N).index_copy(0, torch.cat(cross_index), in_domain_order_N)
    return cross_loss_N, torch.cat(parts[1::2])
