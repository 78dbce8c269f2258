"""One row of the training benchmark in a process of its own, so that the peak memory is the row's.

    python -m benchmarks.train_row ours-fp32 --users FILE --channels 64 --batch 128

Prints one line of JSON. benchmarks/train.py makes the file of users and calls this; the rows are listed there.
Shapes: U users, B users of the batch, T steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import PRECISIONS, Measured, matrix_peak, measure, peak_gib
from benchmarks.released_code import ReleasedCodeAbsent, add_argument, load_released
from benchmarks.workload import Users
from syncrec_model import ModelConfig, SequenceSet, SyNCRec, TrainingConfig
from syncrec_model.machine import choose_device
from syncrec_model.training import TrainingRun, fit

OURS = {"ours-fp32": ("paper", "fp32"), "ours-bf16": ("paper", "bf16"), "default-fp32": ("default", "fp32")}


def sequence_set(users: Users) -> SequenceSet:
    """Return the users as our model reads them: each row, and its split by domain."""
    n_users, width = users.items_UT.shape
    owners, kinds, items, places = [], [], [], []
    for row in range(n_users):
        for domain in np.unique(users.domains_UT[row][users.domains_UT[row] > 0]):
            columns = np.flatnonzero(users.domains_UT[row] == domain)
            owners.append(row)
            kinds.append(domain)
            items.append(np.pad(users.items_UT[row, columns], (width - len(columns), 0)))
            places.append(np.pad(columns, (width - len(columns), 0), constant_values=-1))
    single_items_NT = np.array(items)
    return SequenceSet(
        domains=tuple(users.domains.tolist()),
        n_items=tuple(users.n_items_D.tolist()),
        user_ids=np.arange(n_users),
        cross_items_UT=users.items_UT,
        cross_domains_UT=users.domains_UT,
        cross_lengths_U=(users.items_UT > 0).sum(1),
        cross_targets_UT=np.zeros(users.items_UT.shape, dtype=bool),
        single_users_N=np.array(owners),
        single_domains_N=np.array(kinds),
        single_items_NT=single_items_NT,
        single_places_NT=np.array(places),
        single_lengths_N=(single_items_NT > 0).sum(1),
    )


def model_config(preset: str, channels: int, max_length: int) -> ModelConfig:
    """Return the preset at a width.

    The paper's preset takes the released train.sh's and defaults' 2 layers, 1 head, FFN 4 times as wide and dropout
    0.5; our default preset keeps its own.
    """
    config = replace(ModelConfig.preset(preset), channels=channels, max_length=max_length)
    if preset == "paper":
        config = replace(config, n_layers=2, n_heads=1, ffn_multiplier=4, dropout=0.5)
    return config


def ours(users: Users, row: str, arguments: argparse.Namespace) -> Callable[[int], object]:
    """Return one step of ours: exactly what `fit` does with a batch of users, batch making included."""
    preset, precision = OURS[row]
    data = sequence_set(users)
    torch.manual_seed(0)
    config = model_config(preset, arguments.channels, data.max_length)
    model = SyNCRec(config, data.domains, data.n_items)
    settings = TrainingConfig(
        batch_size=arguments.batch, device=arguments.device, precision=precision, compile=arguments.compiled
    )
    run = TrainingRun(model, data, None, settings)
    model.train()
    return lambda number: run.step(_batch(number, arguments.batch), number)


def released(users: Users, arguments: argparse.Namespace) -> Callable[[int], object]:
    """Return one step of the released code: its loss and its Adam; it clips nothing.

    Its loader draws negatives one by one in Python, in other processes; drawing them at once is kinder to it.
    """
    torch.manual_seed(0)
    model = load_released(
        arguments.released,
        n_items=users.n_items,
        n_domains=len(users.domains),
        channels=arguments.channels,
        max_length=users.items_UT.shape[1],
        device=str(choose_device(arguments.device)),
    )
    optimizer = model.optimizer()
    rows = ReleasedRows(users)

    def step(number: int) -> None:
        losses = model.loss(*rows.batch(_batch(number, arguments.batch)))
        optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


class ReleasedRows:
    """The same users as the released code reads them: as many inputs as targets, left-padded with 0.

    It has no [SOS]: its first input is the event before the row's first.
    """

    def __init__(self, users: Users) -> None:
        self.n_items = users.n_items
        self.domains_UT = users.domains_UT
        self.items_UT = np.where(users.items_UT > 0, users.items_UT + users.offsets_D1[users.domains_UT], 0)
        rows, first_U = np.arange(len(users.items_UT)), (users.items_UT == 0).sum(1)
        self.inputs_UT, self.input_domains_UT = (
            np.where(self.items_UT > 0, np.roll(values, 1, axis=1), 0)
            for values in (self.items_UT, self.domains_UT)
        )
        self.inputs_UT[rows, first_U] = users.before_item_U + users.offsets_D1[users.before_domain_U]
        self.input_domains_UT[rows, first_U] = users.before_domain_U
        self.rng = np.random.default_rng(0)

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what its loss takes; a negative is any item of any domain, as it draws them."""
        positive_BT = self.items_UT[index]
        negative_BT = np.where(positive_BT > 0, self.rng.integers(1, self.n_items + 1, positive_BT.shape), 0)
        arrays = (
            self.inputs_UT[index],
            self.input_domains_UT[index],
            positive_BT,
            negative_BT,
            self.domains_UT[index],
        )
        items, domains, positive, negative, positive_domains = map(torch.from_numpy, arrays)
        return items, domains, positive, negative, positive_domains


def _batch(number: int, size: int) -> np.ndarray:
    return np.arange(number * size, (number + 1) * size)


def whole(users: Users, arguments: argparse.Namespace) -> Measured:
    """Train our default preset on all the users for some epochs, as `fit` does, without validation cases."""
    data = sequence_set(users)
    config = model_config("default", arguments.channels, data.max_length)
    settings = TrainingConfig(
        epochs=arguments.epochs, batch_size=arguments.batch, device=arguments.device, precision=arguments.precision
    )
    began = time.perf_counter()
    result = fit(SyNCRec(config, data.domains, data.n_items), data, None, settings, progress=False)
    seconds = time.perf_counter() - began
    note = f"{data.n_users:,} users, {len(result.epochs)} epochs, {arguments.precision}, no validation"
    return Measured(seconds, peak_gib(choose_device(arguments.device)), 0.0, len(result.epochs), note)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for."""
    device = choose_device(arguments.device)
    if arguments.row == "peak":
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        return {
            "peak": matrix_peak(device, arguments.precisions),
            "device": f"{device.type}: {name}, torch {torch.__version__}",
        }
    users = Users.load(arguments.users)
    if arguments.row == "whole":
        return whole(users, arguments).to_dict()
    step = released(users, arguments) if arguments.row == "released" else ours(users, arguments.row, arguments)
    return measure(
        step,
        warm=arguments.warm,
        timed=arguments.timed,
        seconds=arguments.seconds,
        device=device,
        count=not arguments.compiled,  # a compiled step hides its products: the eager row counts them
    ).to_dict()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("row", choices=[*OURS, "released", "whole", "peak"])
    parser.add_argument("--users", type=Path, help="file of benchmarks.workload.Users")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--timed", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS), help="of peak"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compiled", action="store_true")
    add_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 2 after a one-line error."""
    try:
        print(json.dumps(run(parse(argv))))
    except (ValueError, ReleasedCodeAbsent, OSError) as error:
        print(f"train_row: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
