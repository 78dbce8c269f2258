"""Section 6: SC-MIM, InfoNCE between the single and the cross view of one user, per domain.

Shapes: N single tokens, R single rows, C channels, D domains, u users with both views of one domain.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import TrainingBatch
from .config import ModelConfig

_COSINE_SCALE = 10.0


class MutualInformation(nn.Module):
    """L^d = -(rho(single, cross) - log sum over users u' of exp rho(single(u'), cross))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.score = config.mim_score
        self.others_only = config.mim_others_only
        self.weight_CC = nn.Parameter(torch.eye(config.channels) * config.channels**-0.5)

    def forward(self, y_cross_NC: Tensor, y_single_NC: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Return per domain the mean loss over users (0 where undefined) and whether it is defined, both [D].

        A domain is defined when at least two users of the batch have both views.
        """
        single_RC, cross_RC, has_view_R = pooled_views(y_cross_NC, y_single_NC, batch)
        rows_per_domain = list(batch.single.rows_per_task[1:])
        losses, defined = [], []
        for single_uC, cross_uC, has_view_u in zip(
            torch.split(single_RC, rows_per_domain),
            torch.split(cross_RC, rows_per_domain),
            torch.split(has_view_R, rows_per_domain),
            strict=True,
        ):
            users = torch.nonzero(has_view_u).squeeze(1)
            enough = len(users) >= 2
            losses.append(self.contrast(single_uC[users], cross_uC[users]) if enough else single_uC.sum() * 0)
            defined.append(enough)
        return torch.stack(losses), torch.tensor(defined, device=single_RC.device)

    def contrast(self, single_uC: Tensor, cross_uC: Tensor) -> Tensor:
        """Return the mean InfoNCE over users."""
        rho_uu = self.rho(single_uC, cross_uC)  # row: whose single view; column: whose cross view
        positive_u = rho_uu.diagonal()
        if self.others_only:
            own = torch.eye(len(rho_uu), dtype=torch.bool, device=rho_uu.device)
            rho_uu = rho_uu.masked_fill(own, -torch.inf)
        return -(positive_u - rho_uu.logsumexp(dim=0)).mean()

    def rho(self, single_uC: Tensor, cross_uC: Tensor) -> Tensor:
        """Return the agreement of every single view with every cross view, [u, u]."""
        if self.score == "sigmoid":
            return torch.sigmoid(single_uC @ self.weight_CC @ cross_uC.T)
        return _COSINE_SCALE * (F.normalize(single_uC @ self.weight_CC, dim=-1) @ F.normalize(cross_uC, dim=-1).T)


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
