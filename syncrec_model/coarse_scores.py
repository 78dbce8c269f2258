"""A first pass over all items: scores of low precision with a proven bound on their error, for ranking.py.

Shapes: B rows, V items, v items at once, C channels, J columns of the bias, K = C + J.

The exact score of a row and an item is s = q . e + b, computed in float64. The first pass computes r from rounded
q', e', b' (bfloat16 or float32) with float32 sums, and rounds r to its precision. Before that last rounding
|r - s| <= |q - q'| |e| + |q'| |e - e'| + |b - b'| + K u (|q'| |e'| + |b'|), u the unit of the float32 sums: by
Cauchy and Schwarz, and the usual bound of a sum in any order. The last rounding keeps the order of what it rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

_UNIT = 2.0**-23  # of float32, twice the relative error of one rounding
_LOSSY_UNIT = 2.0**-6  # of a matrix product that torch was allowed to compute in less than float32
_TINY = 1e-30  # products below the smallest normal numbers are flushed to 0
_FEW_ROWS = 16  # below it a bfloat16 product is no faster, and other code than the tested one
_MOST = 1e37  # scores beyond it could overflow
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class CoarseTable:
    """Item vectors in the first pass's precision, the bias in the columns behind, and how far they are off.

    norm, far, size: the largest |e|, |e - e'| and |e'|; bias_far, bias_size: the largest |b - b'| and |b'|.
    """

    items_VK: Tensor
    channels: int
    norm: float
    far: float
    size: float
    bias_far: float
    bias_size: float

    @classmethod
    def of(cls, items_VC: Tensor, bias_V: Tensor | None, precision: torch.dtype) -> CoarseTable:
        """Round the vectors and measure how far that is. Raises ValueError where a number is not finite."""
        n_items, channels = items_VC.shape
        bias_VJ = _bias_columns(bias_V, n_items, precision).to(items_VC.device)
        coarse_VK = items_VC.new_empty(n_items, channels + bias_VJ.shape[1], dtype=precision)
        coarse_VK[:, channels:] = bias_VJ
        norm = far = size = 0.0
        for start in range(0, n_items, _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            exact_vC = items_VC[part].double()
            coarse_VK[part, :channels] = exact_vC
            rounded_vC = coarse_VK[part, :channels].double()
            norms = [_largest_norm(x_vC) for x_vC in (exact_vC, exact_vC - rounded_vC, rounded_vC)]
            norm, far, size = (max(pair) for pair in zip((norm, far, size), norms, strict=True))
            if not np.isfinite(norms).all():
                raise ValueError("ranking: an item's vector or bias is not a finite number; the model is broken")
        bias_size = float(bias_VJ.double().abs().sum(1).max()) if n_items else 0.0
        bias_far = 0.0 if bias_V is None else float((bias_V.double() - bias_VJ.double().sum(1)).abs().max())
        if not np.isfinite([bias_size, bias_far]).all():
            raise ValueError("ranking: an item's vector or bias is not a finite number; the model is broken")
        if not bias_VJ.shape[1] and items_VC.dtype == precision:
            coarse_VK = items_VC
        return cls(coarse_VK, channels, norm, far, size, bias_far, bias_size)

    @property
    def output_unit(self) -> float:
        """How far the last rounding moves a score, relative to it."""
        return 2.0**-8 if self.items_VK.dtype == torch.bfloat16 else 0.0

    def query(self, query_BC: Tensor) -> tuple[Tensor, Array]:
        """Return (rows as the product takes them, [B, K]; the bound on |r - s| of every row, [B], float64).

        Raises ValueError where a number is not finite, or scores could overflow.
        """
        rows_BK = torch.ones(
            len(query_BC), self.items_VK.shape[1], dtype=self.items_VK.dtype, device=query_BC.device
        )
        rows_BK[:, : self.channels] = query_BC
        exact_BC, rounded_BC = query_BC.double(), rows_BK[:, : self.channels].double()
        norm_B, far_B, size_B = (x.norm(dim=1).cpu().numpy() for x in (exact_BC, exact_BC - rounded_BC, rounded_BC))
        most_B = np.maximum(norm_B * self.norm, size_B * self.size) + self.bias_size + self.bias_far
        if not (most_B < _MOST).all():
            raise ValueError("ranking: scores are not finite numbers; the model is broken")
        lossy = torch.get_float32_matmul_precision() != "highest" and self.items_VK.dtype == torch.float32
        sums_B = (self.items_VK.shape[1] + 4) * _UNIT * most_B + (_LOSSY_UNIT * most_B if lossy else 0)
        bound_B = far_B * self.norm + size_B * self.far + self.bias_far + sums_B + _TINY
        return rows_BK, bound_B * (1 + 1e-9)


def _largest_norm(x_vC: Tensor) -> float:
    return float(x_vC.norm(dim=1).max())


def _bias_columns(bias_V: Tensor | None, n_items: int, precision: torch.dtype) -> Tensor:
    """Return columns whose sum is nearly the bias: two, as bfloat16 products come in pairs; none without a bias."""
    if bias_V is None:
        return torch.empty(n_items, 0, dtype=precision)
    high_V = bias_V.to(precision)
    return torch.stack([high_V, (bias_V.double() - high_V.double()).to(precision)], 1)


def choose_precision(n_rows: int, device: torch.device) -> torch.dtype:
    """Return the faster precision of a first pass: bfloat16 where the processor multiplies it, else float32."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if device.type == "cpu" and n_rows >= _FEW_ROWS and supported is not None and supported():
        return torch.bfloat16
    return torch.float32
