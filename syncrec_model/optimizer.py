"""AdamW for a model whose item table is too large to be read and written whole at every step.

Shapes: V rows of a table, R rows that a step names, C channels.

With 1,000,000 items of 64 channels a dense step moves the gradient (256 MB, made once for every use of the table),
its norm, and seven passes over weights and moments, for some 40,000 rows that a batch really touches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class RowAdamW(torch.optim.AdamW):
    """AdamW; of a parameter with a sparse gradient it touches only the rows that the gradient names.

    For dense gradients it is torch's fused AdamW to the bit. For the rows of a sparse one it deviates from AdamW in
    this alone: in a step that does not name a row, the row's moments do not decay, momentum does not move it, and
    weight decay does not shrink it. A row named at every step gets AdamW's update; bias correction counts the steps
    of the table, not of the row (as torch.optim.SparseAdam, which has no weight decay). The state has AdamW's names
    and shapes.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        by_rows = [
            (parameter, parameter.grad, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        for parameter, _, _ in by_rows:
            parameter.grad = None
        result = super().step(closure)
        for parameter, gradient, group in by_rows:
            self._step_rows(parameter, gradient.coalesce(), group)
            parameter.grad = gradient
        return result

    def _step_rows(self, parameter: nn.Parameter, gradient_VC: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta1, beta2), lr = float(state["step"]), group["betas"], group["lr"]
        rows_R, gradient_RC = gradient_VC.indices()[0], gradient_VC.values()
        mean_RC = state["exp_avg"].index_select(0, rows_R).lerp_(gradient_RC, 1 - beta1)
        square_RC = state["exp_avg_sq"].index_select(0, rows_R).mul_(beta2)
        square_RC.addcmul_(gradient_RC, gradient_RC, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows_R, mean_RC)
        state["exp_avg_sq"].index_copy_(0, rows_R, square_RC)
        scale_RC = square_RC.div_(1 - beta2**step).sqrt_().add_(group["eps"])
        weight_RC = parameter.index_select(0, rows_R).mul_(1 - lr * group["weight_decay"])
        weight_RC.addcdiv_(mean_RC, scale_RC, value=-lr / (1 - beta1**step))
        parameter.index_copy_(0, rows_R, weight_RC)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients, dense and sparse, so that their joint norm is at most max_norm; return what it was.

    Sparse gradients come out with one entry a row.
    """
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(parameter.grad.is_sparse for parameter in learning if parameter.grad is not None):
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if norm.device.type != "cpu" or not norm <= max_norm:  # one pass less where there is nothing to clip
            torch.nn.utils.clip_grads_with_norm_(learning, max_norm, norm)
        return norm
    values = []
    for parameter in learning:
        gradient = parameter.grad
        if gradient is not None and gradient.is_sparse:
            parameter.grad = gradient.coalesce()
            gradient = parameter.grad.values()
        if gradient is not None:
            values.append(gradient)
    norm = torch.nn.utils.get_total_norm(values)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale)
    return norm
