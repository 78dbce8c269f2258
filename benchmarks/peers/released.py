"""The released code of SyNCRec (public repository cpark88/SyNCRec), ranked honestly.

Its models.py and modules.py are imported by benchmarks/released_code.py, which lists its two edits, and trained
with the settings of its train.sh (2 layers, 1 head, 5 experts, dropout 0.5, batch 128, Adam 1e-3, 50 events) at the
width of the table. Scores are those of its own predict_full: the cross tower at the newest step, times the items.

Repairs, all of them at run time:

1. Its run_pretrain.py chooses the checkpoint by its test cases; here validation chooses (macro NDCG@10).
2. Its dataset never draws a user's validation and test items as negatives, which gives them away; here the user's
   training items alone are spared. Negatives are drawn anew each epoch, as there.
3. No torch.distributed, one process, and shuffling by numpy.
4. Padding is not encoded (`WithoutPadding`): the same figures but for the order of dropout's draws, faster. Its
   gate still reads the whole window.
5. Its lambda state keeps the autograd graph of all steps before; it is detached after each step. No gradient went
   through it.
6. Users whose training events are fewer than two are left out: they have no target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers.published import (
    Negatives,
    TrainRows,
    WithoutPadding,
    checkout,
    dot_view,
    n_parameters,
    train_best,
    validation,
)
from benchmarks.quality.data import QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View
from benchmarks.released_code import FIRST_ID, N_DOMAINS, load_released

REPOSITORY = "cpark88/SyNCRec"
COMMIT = "2292eef3da4d33434d4f4e7f37938d0e40aa120f"
LENGTH = 50
BATCH = 128
NOTES = (
    "its model and losses, unchanged; our training loop around them",
    "the checkpoint is chosen on validation; its own code chooses on test",
    "negatives spare the user's training items only; its own loader spares validation and test items too",
    "padding is not encoded, the same figures but for the order of dropout's draws: faster than it ships",
)


class Released(Peer):
    """The authors' own model and losses."""

    name = "released"
    kind = "multi-domain"
    source = f"{REPOSITORY} at {COMMIT[:10]} (Park et al., SIGIR 2024)"
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
        path = checkout(budget, REPOSITORY, COMMIT, "src/models.py", "src/modules.py")
        if len(data.domains) != N_DOMAINS:
            raise ValueError(f"the released code is written for {N_DOMAINS} domains, not {len(data.domains)}")
        torch.manual_seed(seed)
        model = load_released(
            path / "src", n_items=sum(data.n_items), channels=settings["channels"], max_length=LENGTH,
            device=budget.device,
        )  # fmt: skip
        module: Any = model.module
        leave_out_padding(module)
        rows, negatives, rng = TrainRows.of(data, LENGTH), Negatives(data), np.random.default_rng(seed)
        optimizer = model.optimizer()

        def epoch() -> None:
            for index in rows.batches(rng, BATCH):
                inputs, targets = rows.inputs.take(index), rows.targets.take(index)
                negative_BT = negatives.draw(rng, rows.user_N[index], targets.items_NT)
                losses = model.loss(
                    inputs.items_NT, inputs.domains_NT, targets.items_NT, negative_BT, targets.domains_NT
                )
                optimizer.zero_grad()
                losses.total.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                module.shaply_values_update = module.shaply_values_update.detach()

        view = dot_view(data, LENGTH, model.last_outputs, lambda: module.item_embeddings.weight[FIRST_ID:])
        training = train_best(module, epoch, lambda: validation(data, view), budget)
        notes = (*NOTES, *training.notes)
        return Fitted({"": view}, n_parameters(module), training.seconds, training.chosen, notes)


def leave_out_padding(module: Any) -> None:
    """Give its encoder, which is every one of its experts, no padding."""
    module.item_encoder = WithoutPadding(module.item_encoder)
    module.expert_ = nn.ModuleList([module.item_encoder] * len(module.expert_))


PEERS: tuple[Peer, ...] = (Released(),)
