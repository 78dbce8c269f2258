"""Section 5: the negative transfer gap (NTG) phi, the lambda recursion, and what corrects the cross loss.

Shapes: D domains, N targets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .distributed import sum_over_ranks


def domain_sums(values_N: Tensor, domain_N: Tensor, n_domains: int) -> Tensor:
    """Return the sum of the values per domain, [D]. domain_N: 1-based codes."""
    return values_N.new_zeros(n_domains).index_add(0, domain_N - 1, values_N)


def transfer_gap(
    cross_loss_N: Tensor, single_loss_N: Tensor, shared_N: Tensor, single_domain_N: Tensor, n_domains: int
) -> tuple[Tensor, Tensor]:
    """Return phi's per-domain sum and count over the targets that both tasks predict, over all ranks.

    phi(d) = mean of (single loss - cross loss), no gradient. phi > 0: the other domains help d.
    """
    with torch.no_grad():
        if not len(cross_loss_N):  # a rank without users in the last batch
            cross_loss_N = cross_loss_N.new_zeros(1)
        exact = torch.promote_types(single_loss_N.dtype, torch.float32)
        both_N = shared_N >= 0
        gap_N = single_loss_N.to(exact) - cross_loss_N[shared_N.clamp(min=0)].to(exact)
        sums_D = domain_sums(torch.where(both_N, gap_N, 0.0), single_domain_N, n_domains)
        counts_D = domain_sums(both_N.to(exact), single_domain_N, n_domains)
        return sum_over_ranks(sums_D), sum_over_ranks(counts_D)


class LossCorrection(nn.Module):
    """lambda <- softmax((alpha * lambda + beta * phi) / delta), and the weight that each domain's cross loss gets.

    lambda and phi are state (buffers): saved, resumed and equal on all ranks. A domain without a shared target
    in the batch keeps its last phi.
    """

    lambda_D: Tensor
    phi_D: Tensor
    smooth_phi_D: Tensor

    def __init__(self, n_domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.correction
        self.temperature = config.temperature
        self.floor = config.correction_floor
        self.momentum = config.correction_momentum
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.ones(()))
        self.register_buffer("lambda_D", torch.full((n_domains,), 1.0 / n_domains))
        self.register_buffer("phi_D", torch.zeros(n_domains))
        self.register_buffer("smooth_phi_D", torch.zeros(n_domains))

    def forward(self, gap_sums_D: Tensor, gap_counts_D: Tensor) -> Tensor:
        """Take one step of the recursion (training) and return the weights, [D].

        paper: the new lambda itself, with the gradient to alpha and beta. uniform: ones. bounded: D * lambda of
        the smoothed gap up to the step before, drawn towards 1 until it lies within bounds, no gradient.
        """
        measured_D = gap_sums_D / gap_counts_D.clamp(min=1)
        phi_D = torch.where(gap_counts_D > 0, measured_D.to(self.phi_D.dtype), self.phi_D)
        driver_D = self.smooth_phi_D if self.kind == "bounded" else phi_D
        lambda_D = torch.softmax(
            (self.alpha * self.lambda_D.clone() + self.beta * driver_D) / self.temperature, dim=0
        )
        if self.training:
            with torch.no_grad():
                self.smooth_phi_D.lerp_(phi_D, 1 - self.momentum)
                self.phi_D.copy_(phi_D)
                self.lambda_D.copy_(lambda_D)
        return self.weights(lambda_D)

    def weights(self, lambda_D: Tensor) -> Tensor:
        """Return what a given lambda multiplies the cross losses with, by the configured rule, [D].

        bounded: 1 + s (D lambda - 1) with the largest s <= 1 that keeps every weight within [floor, 2 - floor].
        Drawing all domains by one factor keeps the mean at exactly 1 and the domains in order; clamping each
        alone would do neither.
        """
        if self.kind == "uniform":
            return torch.ones_like(lambda_D).detach()
        if self.kind == "paper":
            return lambda_D
        excess_D = len(lambda_D) * lambda_D.detach() - 1
        excess_D = excess_D - excess_D.mean()  # what rounding left of the softmax's sum
        scale = ((1 - self.floor) / excess_D.abs().max().clamp(min=torch.finfo(lambda_D.dtype).tiny)).clamp(max=1)
        return 1 + scale * excess_D
