"""The row of the single-domain SASRec of a kept library, RecTools, in the library's own environment.

    .venv/bench/bin/python -m benchmarks.kept_sasrec --users FILE --channels 64 --batch 128

One SASRec a domain, as one would serve them without SyNCRec. A step takes a batch of users: each model trains one
step on those of them who have two or more events in its domain (RecTools' least), so a user counts when all of
its domains' models have seen it. RecTools' own batch making, network (FFN as wide as the model, as SASRec's
authors have it), full softmax over the domain's items (its default) and Adam; without the loop of Lightning around.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rectools import Columns, __version__
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from benchmarks.measure import measure
from benchmarks.workload import Users

DROPOUT = 0.5
FILLER = -1  # users who only make every item known to the library; they are in no batch


class DomainModel:
    """One domain's SASRec with its optimizer and its users' sessions."""

    def __init__(self, users: Users, domain: int, channels: int, device: torch.device) -> None:
        width = users.items_UT.shape[1]
        model = SASRecModel(
            n_blocks=2, n_heads=1, n_factors=channels, dropout_rate=DROPOUT, session_max_len=width, loss="softmax"
        )
        model._build_model_from_dataset(_every_item(int(users.n_items_D[domain - 1]), width + 1))
        self.device = device
        self.collate: Callable[..., dict[str, torch.Tensor]] = model.data_preparator._collate_fn_train
        self.module = model.lightning_model.to(device)
        self.module._xavier_normal_init()
        self.module.train()
        self.optimizer = self.module.configure_optimizers()
        to_internal = model.data_preparator.item_id_map.convert_to_internal
        self.sessions = {
            row: (to_internal(items).tolist(), [1.0] * len(items), {})
            for row in range(len(users.items_UT))
            if len(items := users.items_UT[row][users.domains_UT[row] == domain]) >= 2
        }

    def step(self, rows: Sequence[int]) -> None:
        """Train one step on those of the users who have a session here."""
        sessions = [self.sessions[row] for row in rows if row in self.sessions]
        if not sessions:
            return
        batch = {name: values.to(self.device) for name, values in self.collate(sessions).items()}
        loss = self.module.loss_calculator(self.module.get_batch_logits(batch), batch["y"], batch["yw"])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def _every_item(n_items: int, length: int) -> Dataset:
    """Return interactions in which every item 1..n_items occurs, two or more to a user."""
    items = np.resize(np.arange(1, n_items + 1), max(2, -(-n_items // length)) * length)
    frame = pd.DataFrame(
        {
            Columns.User: FILLER - np.arange(len(items)) // length,
            Columns.Item: items,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2014-01-01"),
        }
    )
    return Dataset.construct(frame)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the row."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch in .venv/bench sees no CUDA device")
    device = torch.device(arguments.device)
    users = Users.load(arguments.users)
    torch.manual_seed(0)
    models = [DomainModel(users, d, arguments.channels, device) for d in range(1, len(users.domains) + 1)]

    def step(number: int) -> None:
        rows = range(number * arguments.batch, (number + 1) * arguments.batch)
        for model in models:
            model.step(rows)

    note = f"RecTools {__version__}, torch {torch.__version__}"
    return measure(
        step, warm=arguments.warm, timed=arguments.timed, seconds=arguments.seconds, device=device, note=note
    ).to_dict()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--users", type=Path, required=True, help="file of benchmarks.workload.Users")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--timed", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    logging.disable(logging.INFO)
    try:
        print(json.dumps(run(parser.parse_args(argv))))
    except (ValueError, OSError) as error:
        print(f"kept_sasrec: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
