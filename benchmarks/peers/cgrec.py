"""CGRec (public repository cpark88/CGRec): written for five domains, each weighted by its Shapley value.

Park et al., Cracking the Code of Negative Transfer: A Cooperative Game Theoretic Approach for Cross-Domain
Sequential Recommendation, CIKM 2023. Its models.py is imported unchanged and trained with the settings of its
train.sh (2 layers, 2 heads, dropout 0.5, batch 128, Adam 1e-3, 50 events) at the width of the table. Scores are
those of its own predict_full: the item level at the newest step, times the items' embeddings.

Repairs, all of them at run time:

1. Its `device` is set after construction, because it names a GPU; no torch.distributed, one process.
2. Its two category levels: the sets here have no categories. Its released loader gives both levels the domain, with
   vocabularies that have one and two names more than domains; so does this adapter.
3. Its run_pretrain.py chooses the checkpoint by its test cases; here validation chooses (macro NDCG@10).
4. Its dataset never draws a user's validation and test items as negatives, which gives them away; here the user's
   training items alone are spared. Negatives are drawn anew each epoch, as there.
5. The losses of the 30 coalitions become numbers before they are used: they are computed without gradient.
6. Padding is not encoded (`WithoutPadding`, `OnlyEncoded`): the same figures but for the order of dropout's draws.
7. Users whose training events are fewer than two are left out: they have no target.

What stays as it is: a loss counts for the domain of the event before its target, and the two scalars that move the
Shapley values never get a gradient, so that they stay as they were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.published import (
    Negatives,
    OnlyEncoded,
    Rows,
    TrainRows,
    WithoutPadding,
    checkout,
    dot_view,
    import_alone,
    n_parameters,
    train_best,
    validation,
)
from benchmarks.quality.data import Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View

REPOSITORY = "cpark88/CGRec"
COMMIT = "9108dd04637decd616448e30d1d604eddb2a3543"
LENGTH = 50
BATCH = 128
N_DOMAINS = 5
FIRST_ID = 5  # of types and of items: pad, unk, eos, sos, mask come before
N_TYPES = FIRST_ID + N_DOMAINS
COARSE, COARSER = N_TYPES + 1, N_TYPES + 2  # sizes of its vocabularies cat2 and cat1
NOTES = (
    "its model and losses, unchanged; our training loop around them",
    "both category levels are the domain, as in its released loader: the set has no categories",
    "the checkpoint is chosen on validation; its own code chooses on test",
    "negatives spare the user's training items only; its own loader spares validation and test items too",
    "coalitions without gradient and no padding encoded: the same figures but for the order of dropout's draws",
)


class CGRec(Peer):
    """Five domains in one Transformer, each domain's loss weighted by its marginal contribution."""

    name = "CGRec"
    kind = "multi-domain"
    source = f"{REPOSITORY} at {COMMIT[:10]} (Park et al., CIKM 2023)"
    search: Sequence[Mapping[str, Any]] = ({"channels": 64}, {"channels": 128})
    slow = True

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Train its model.

        Raises
        ------
        PeerAbsent : there is no checkout.
        ValueError : the set has not the five domains that its code is written for.
        """
        path = checkout(budget, REPOSITORY, COMMIT, "src/models.py", "src/modules.py", "src/utils.py")
        if len(data.domains) != N_DOMAINS:
            raise ValueError(f"CGRec's code is written for {N_DOMAINS} domains, not {len(data.domains)}")
        torch.manual_seed(seed)
        device = torch.device(budget.device)
        module = load_cgrec(path / "src", sum(data.n_items), settings["channels"], LENGTH, device)
        rows, negatives, rng = TrainRows.of(data, LENGTH), Negatives(data), np.random.default_rng(seed)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

        def epoch() -> None:
            for index in rows.batches(rng, BATCH):
                inputs, targets = rows.inputs.take(index), rows.targets.take(index)
                negative_BT = negatives.draw(rng, rows.user_N[index], targets.items_NT)
                total = loss(module, rng, inputs, targets, negative_BT)
                optimizer.zero_grad()
                total.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        def encode(items_BT: Tensor, domains_BT: Tensor) -> Tensor:
            item_BT, type_BT = shifted(items_BT).to(device), shifted(domains_BT).to(device)
            found: Tensor = module.get_last_emb(item_BT, type_BT, type_BT, type_BT, None, None, "y")[2]
            return found

        view = dot_view(data, LENGTH, encode, lambda: module.item_embeddings.weight[FIRST_ID:])
        training = train_best(module, epoch, lambda: validation(data, view), budget)
        notes = (*NOTES, *training.notes)
        return Fitted({"": view}, n_parameters(module), training.seconds, training.chosen, notes)


def load_cgrec(folder: Path, n_items: int, channels: int, length: int, device: torch.device) -> Any:
    """Build its model with repairs 1, 5 and 6."""
    (models,) = import_alone(folder, "models")
    module = models.CausalModel(
        args=SimpleNamespace(
            type_size=N_TYPES, cat2_size=COARSE, cat1_size=COARSER, item_size=FIRST_ID + n_items,
            hidden_size=channels, max_seq_length=length, num_hidden_layers=2, num_attention_heads=2,
            hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5, hidden_act="gelu", initializer_range=0.02,
            loss_type="negative", shaply_value="y", hierarhical="y", local_rank=0,
        )
    )  # fmt: skip
    module.device = device
    module.item_encoder = WithoutPadding(module.item_encoder)
    module.prediction_layer_1 = OnlyEncoded(module.prediction_layer_1)
    module.prediction_layer_2 = OnlyEncoded(module.prediction_layer_2)
    module.shaply_layer = torch.no_grad()(module.shaply_layer)
    return module.to(device)


def loss(module: Any, rng: np.random.Generator, inputs: Rows, targets: Rows, negative_BT: Tensor) -> Tensor:
    """Return its loss of one batch, by its own training entry point `pretrain_seq`."""
    type_BT, positive_type_BT = shifted(inputs.domains_NT), shifted(targets.domains_NT)
    cat1_BT = other_types(rng, type_BT, positive_type_BT, COARSER)
    cat2_BT = other_types(rng, type_BT, positive_type_BT, COARSE)
    batch = (
        shifted(inputs.items_NT), shifted(targets.items_NT), shifted(negative_BT), None, None,
        type_BT, positive_type_BT, cat1_BT, type_BT, positive_type_BT, cat2_BT, type_BT,
    )  # fmt: skip
    found: Tensor = module.pretrain_seq(*(None if ids is None else ids.to(module.device) for ids in batch), "y")[0]
    return found


def shifted(ids_BT: Tensor) -> Tensor:
    """Return ids 1.. as its ids, which start after the special ones; 0 stays 0."""
    return torch.where(ids_BT > 0, ids_BT + (FIRST_ID - 1), 0)


def other_types(rng: np.random.Generator, type_BT: Tensor, positive_BT: Tensor, size: int) -> Tensor:
    """Draw for every target a type that the row does not hold; its vocabularies have names that no event has."""
    free_BN = np.ones((len(type_BT), size), dtype=bool)
    free_BN[:, :FIRST_ID] = False
    rows_B = np.arange(len(type_BT))[:, None]
    free_BN[rows_B, type_BT.numpy()] = free_BN[rows_B, positive_BT.numpy()] = False
    order_BN: Array = np.argsort(~free_BN, axis=1, kind="stable")  # the free ones in front
    drawn_BT = (rng.random(tuple(type_BT.shape)) * free_BN.sum(1)[:, None]).astype(np.int64)
    return torch.from_numpy(np.take_along_axis(order_BN, drawn_BT, axis=1)) * (positive_BT > 0)


PEERS: tuple[Peer, ...] = (CGRec(),)
