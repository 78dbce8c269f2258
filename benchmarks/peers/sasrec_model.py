"""The network of sasrec.py and its settings: one table of items, a causal Transformer, a softmax a domain.

Shapes: N packed tokens, n of them in one domain, R rows, V items of a domain, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.neural_rows import Catalogue, Rows, by_length
from benchmarks.quality.data import Array, QualityData
from syncrec_model.embedding import SharedEmbedding
from syncrec_model.experts import ExpertStack
from syncrec_model.packing import PackedSequences
from syncrec_model.prediction import softmax_losses

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a search may set. batch_size: rows of a step. average_epochs: as TrainingConfig's: moving average."""

    channels: int = 64
    n_layers: int = 2
    n_heads: int = 1
    ffn_multiplier: int = 2
    dropout: float = 0.2
    max_length: int = 50
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    average_epochs: float = 0.0


class SASRecModel(nn.Module):
    """A causal Transformer over items of one table, which is its output too."""

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        super().__init__()
        s = settings
        self.catalogue, self.n_domains = catalogue, len(catalogue.codes)
        self.embedding = SharedEmbedding(catalogue.sizes, s.max_length, s.channels, s.dropout)
        self.stack = ExpertStack(1, s.n_layers, s.channels, s.n_heads, s.ffn_multiplier, s.dropout)

    def forward(self, inputs: PackedSequences) -> Tensor:
        """Return what every token predicts with, [N, C]."""
        return self.stack(self.embedding(inputs), inputs)[0]  # type: ignore[no-any-return]

    def losses(self, inputs: PackedSequences, target_N: Tensor, domain_N: Tensor) -> Tensor:
        """Return the cross-entropy of every target over all items of its domain, ordered by domain, [N]."""
        y_NC = self(inputs)
        losses = []
        for domain, table_VC in enumerate(self.embedding.tables(), start=1):
            index_n = torch.nonzero(domain_N == domain).squeeze(1)
            if len(index_n):
                losses.append(softmax_losses(y_NC[index_n], table_VC, target_N[index_n]))
        return torch.cat(losses)

    @torch.no_grad()
    def start_from(self, data: QualityData, stacked_VC: Array) -> None:
        """Let the candidates' rows of the table begin as given (all domains' items, stacked); the others as drawn.

        Raises
        ------
        ValueError : the array is not [V, C].
        """
        expected = (sum(data.n_items), self.embedding.items_VC.shape[1])
        if stacked_VC.shape != expected:
            raise ValueError(f"initial_items gave {stacked_VC.shape}; the table needs {expected} (items, channels)")
        starts = np.cumsum([0, *data.n_items])
        for code, n_ranked, table_VC in zip(
            self.catalogue.codes, self.catalogue.ranked, self.embedding.tables(), strict=True
        ):
            rows_VC = np.ascontiguousarray(stacked_VC[starts[code - 1] : starts[code]], dtype=np.float32)
            table_VC[:n_ranked] = torch.from_numpy(rows_VC)

    @torch.no_grad()
    def histories(self, rows: Rows) -> Array:
        """Return the vector of every row's newest token, [R, C]; in evaluation mode."""
        self.eval()
        items_VC = self.embedding.items_VC
        found_RC = np.zeros((len(rows), items_VC.shape[1]), dtype=np.float32)
        for index_B in by_length(rows, _ROWS_AT_ONCE):
            inputs = rows.packed(index_B, self.n_domains, items_VC.device.type)[0].to(items_VC.device)
            found_RC[index_B] = self(inputs)[inputs.last_R].cpu().numpy()
        return found_RC

    @torch.no_grad()
    def items(self) -> dict[int, Array]:
        """Return the candidates' vectors by the domain's code, [V_d, C]."""
        catalogue, tables = self.catalogue, self.embedding.tables()
        return {
            code: table_VC[:n_ranked].cpu().numpy().copy()
            for code, n_ranked, table_VC in zip(catalogue.codes, catalogue.ranked, tables, strict=True)
        }
