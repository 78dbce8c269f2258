"""Section 6: SC-MIM, InfoNCE between the single and the cross view of one user, per domain.

Shapes: N single tokens, R single rows, C channels, D domains, u users with both views of one domain on this rank,
m on all ranks; U and M: the same of all domains together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import TrainingBatch
from .config import ModelConfig
from .distributed import gather_rows
from .transfer import domain_sums

_COSINE_SCALE = 10.0


class MutualInformation(nn.Module):
    """L^d = -(rho(single, cross) - log sum over users u' of exp rho(single(u'), cross))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.score = config.mim_score
        self.others_only = config.mim_others_only
        self.weight_CC = nn.Parameter(torch.eye(config.channels) * config.channels**-0.5)

    def forward(self, y_cross_NC: Tensor, y_single_NC: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Return per domain this rank's share of the mean loss over users and whether it is defined, both [D].

        The other users of all ranks are negatives, and the shares of all ranks sum to the mean over all their
        users. A domain is defined when at least two users of the global batch have both views; elsewhere 0.
        """
        single_RC, cross_RC, has_view_R = pooled_views(y_cross_NC, y_single_NC, batch)
        rows = torch.nonzero(has_view_R).squeeze(1)
        cross_UC, domain_U = cross_RC[rows], batch.single.tasks_R[rows]
        (single_MC, domain_M), start = gather_rows(single_RC[rows], domain_U)
        n_domains = len(batch.single.rows_per_task) - 1
        if single_RC.device.type == "cuda":
            return self.all_domains(single_MC, domain_M, cross_UC, domain_U, start, n_domains)
        losses, defined = [], []
        for domain in range(1, n_domains + 1):
            own_u = torch.nonzero(domain_U == domain).squeeze(1)
            all_m = torch.nonzero(domain_M == domain).squeeze(1)
            enough = len(all_m) >= 2
            if enough:
                place_u = torch.searchsorted(all_m, own_u + start)
                losses.append(self.contrast(single_MC[all_m], cross_UC[own_u], place_u).sum() / len(all_m))
            else:
                losses.append(single_RC.sum() * 0)
            defined.append(enough)
        return torch.stack(losses), torch.tensor(defined, device=single_RC.device)

    def all_domains(
        self, single_MC: Tensor, domain_M: Tensor, cross_UC: Tensor, domain_U: Tensor, start: int, n_domains: int
    ) -> tuple[Tensor, Tensor]:
        """Return the same from one product of all views, other domains masked: a GPU waits for launches."""
        place_U = torch.arange(len(domain_U), device=domain_U.device)
        rho_MU = self.rho(single_MC, cross_UC)
        own_U = rho_MU[place_U + start, place_U]
        apart_MU = domain_M[:, None] != domain_U[None]
        if self.others_only:
            apart_MU[place_U + start, place_U] = True
        count_D = domain_sums(torch.ones_like(domain_M, dtype=rho_MU.dtype), domain_M, n_domains)
        enough_D = count_D >= 2
        enough_U = enough_D[domain_U - 1]  # a user alone: nothing to contrast with, perhaps not even a sum
        contrast_U = rho_MU.masked_fill(apart_MU & enough_U, -torch.inf).logsumexp(dim=0) - own_U
        sums_D = domain_sums(torch.where(enough_U, contrast_U, 0.0), domain_U, n_domains)
        return sums_D / count_D.clamp(min=1), enough_D

    def contrast(self, single_mC: Tensor, cross_uC: Tensor, place_u: Tensor) -> Tensor:
        """Return the InfoNCE of each cross view, [u]. place_u: where in m the same user's single view is."""
        rho_mu = self.rho(single_mC, cross_uC)
        own = (place_u, torch.arange(len(place_u), device=place_u.device))
        positive_u = rho_mu[own]
        if self.others_only:
            rho_mu = rho_mu.index_put(own, rho_mu.new_tensor(-torch.inf))
        return rho_mu.logsumexp(dim=0) - positive_u

    def rho(self, single_mC: Tensor, cross_uC: Tensor) -> Tensor:
        """Return the agreement of every single view with every cross view, [m, u]."""
        if self.score == "sigmoid":
            return torch.sigmoid(single_mC @ self.weight_CC @ cross_uC.T)
        return _COSINE_SCALE * (F.normalize(single_mC @ self.weight_CC, dim=-1) @ F.normalize(cross_uC, dim=-1).T)


def pooled_views(y_cross_NC: Tensor, y_single_NC: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return each single row's two views, the mean over the steps whose input item both sequences hold.

    Returns [R, C], [R, C] and whether the row has any such step, [R].
    """
    both_n = torch.nonzero(batch.views_N >= 0).squeeze(1)
    row_n = batch.single.rows_N[both_n]
    empty_RC = y_single_NC.new_zeros(len(batch.single.last_R), y_single_NC.shape[1])
    single_RC = empty_RC.index_add(0, row_n, y_single_NC[both_n])
    cross_RC = empty_RC.index_add(0, row_n, y_cross_NC[batch.views_N[both_n]].to(empty_RC.dtype))
    count_R = torch.bincount(row_n, minlength=len(empty_RC))
    divisor_R1 = count_R.clamp(min=1).unsqueeze(1)
    return single_RC / divisor_R1, cross_RC / divisor_R1, count_R > 0
