"""Show that the preset `released` computes what the released research code computes, to the last digits.

    python -m benchmarks.released_agreement --released PATH/OF/SyNCRec [--dtype float32] [--dropout 0.5]

Both models get the same weights, histories, negatives, permutation of users and random seed; two training steps
(the second sees the moved lambda) and one prediction are compared. With dropout its draws are the same too.
The released code is read from its own checkout (public repository cpark88/SyNCRec), never copied.

Shapes: B users, T steps, C channels, V items of all domains.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.released_code import FIRST_ID, ReleasedCodeAbsent, ReleasedModel, add_argument, load_released
from syncrec_model import ModelConfig, SequenceSet
from syncrec_model.batches import SequenceReader
from syncrec_model.released import ReleasedSyNCRec

DOMAINS = ("one", "two", "three", "four", "five")  # the released code knows exactly five
N_ITEMS = (7, 5, 9, 4, 6)
LENGTHS = (9, 1, 4, 12, 7, 2, 8, 10)  # one event, a full window, longer than the window
MAX_LENGTH = 8
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
SEED = 20240711
# Our modules under the released code's names.
_MODULES = {
    "embedding.norm": "LayerNorm",
    "gate.single": "patitioned_gating.w_gate_single",
    "gate.cross": "patitioned_gating.w_gate_cross",
    "gate.single_noise": "patitioned_gating.w_noise_single",
    "gate.cross_noise": "patitioned_gating.w_noise_cross",
    "tower.inward": "prediction_layer.dense_1",
    "tower.outward": "prediction_layer.dense_2",
    "tower.norm": "prediction_layer.LayerNorm",
    "contrast": "mip_norm",
}
_LAYER = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "out": "attention.dense",
    "norm": "attention.LayerNorm",
    "ffn.inward": "intermediate.dense_1",
    "ffn.outward": "intermediate.dense_2",
    "ffn.norm": "intermediate.LayerNorm",
}


def small_model(dropout: float = 0.0) -> ReleasedSyNCRec:
    """Return a small model of ours whose every weight is drawn from numpy by its name."""
    config = replace(
        ModelConfig.preset("released"), channels=12, n_heads=2, n_experts=10, n_cross_experts=8,
        max_length=MAX_LENGTH, dropout=dropout,
    )  # fmt: skip
    model = ReleasedSyNCRec(config, DOMAINS, N_ITEMS)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("alpha", "beta")) or isinstance(tensor, torch.nn.Parameter):
                draw = np.random.default_rng(zlib.crc32(name.encode())).normal(0.0, 0.3, tuple(tensor.shape))
                tensor.copy_(torch.as_tensor(draw + (1.0 if name.endswith("norm.weight") else 0.0)))
    return model


def histories(seed: int = 0) -> list[list[tuple[int, int]]]:
    """Return per user the (item index, domain code) in time order."""
    rng = np.random.default_rng(seed)
    found = []
    for length in LENGTHS:
        codes = rng.integers(1, len(DOMAINS) + 1, length)
        found.append([(int(rng.integers(1, N_ITEMS[code - 1] + 1)), int(code)) for code in codes])
    return found


def as_sequence_set(users: Sequence[Sequence[tuple[int, int]]]) -> SequenceSet:
    """Return the histories as the model's own sequences."""
    rows = [(u, item, code, t) for u, events in enumerate(users) for t, (item, code) in enumerate(events)]
    user, item, code, time = (np.array(column) for column in zip(*rows, strict=True))
    return SequenceSet.from_events(
        user_ids=user, item_indexes=item, domain_codes=code, timestamps=time,
        domains=DOMAINS, n_items=N_ITEMS, max_length=MAX_LENGTH,
    )  # fmt: skip


def released_rows(events: Sequence[Sequence[tuple[int, int]]]) -> tuple[Tensor, Tensor]:
    """Return stacked items and domain codes of plain histories, left-padded, [B, T] each."""
    offsets = np.cumsum([0, *N_ITEMS])
    items_BT = torch.zeros(len(events), MAX_LENGTH, dtype=torch.int64)
    domains_BT = torch.zeros_like(items_BT)
    for row, known in enumerate(events):
        for column, (item, code) in enumerate(known, start=MAX_LENGTH - len(known)):
            items_BT[row, column] = int(offsets[code - 1]) + item
            domains_BT[row, column] = code
    return items_BT, domains_BT


def named_as_released(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights (or gradients) under the released code's names and in its layout."""
    found: dict[str, Tensor] = {}
    for name, value in ours.items():
        module, _, tail = name.rpartition(".")
        if name in ("embedding.items_VC", "embedding.types_DC"):
            unused = value.new_zeros(FIRST_ID - 1, value.shape[1])
            kind = name.split(".")[1].partition("s_")[0]
            found[f"{kind}_embeddings.weight"] = torch.cat([value[:1], unused, value[1:]])
        elif name == "embedding.positions_TC":
            found["position_embeddings.weight"] = value.flip(0)
        elif name in ("correction.alpha", "correction.beta"):
            found[f"{tail}.weight"] = value.reshape(1, 1)
        elif module.startswith("expert.layers."):
            _, _, number, part = module.split(".", 3)
            found[f"item_encoder.layer.{number}.{_LAYER[part]}.{tail}"] = value
        elif module in _MODULES:
            found[f"{_MODULES[module]}.{tail}"] = value
    return found


class _Criterion(torch.nn.Module):
    """Its BCELoss for any precision: it feeds float32 targets."""

    def forward(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every element."""
        return torch.nn.functional.binary_cross_entropy(probability, target.to(probability), reduction="none")


def released_twin(path: Any, model: ReleasedSyNCRec) -> ReleasedModel:
    """Load the released code with our model's sizes, then with our model's weights."""
    config = model.config
    theirs = load_released(
        path, n_items=sum(model.n_items), channels=config.channels, max_length=config.max_length,
        n_experts=config.n_experts, n_layers=config.n_layers, n_heads=config.n_heads, dropout=config.dropout,
    )  # fmt: skip
    theirs.module.criterion = _Criterion()
    theirs.module.to(model.embedding.items_VC.dtype)
    named = dict(theirs.module.named_parameters())
    with torch.no_grad():
        for name, value in named_as_released(model.state_dict()).items():
            named[name].copy_(value)
    return theirs


class Step(NamedTuple):
    """What one training step gave: values by name, gradients by the released code's parameter names."""

    values: dict[str, Tensor]
    gradients: dict[str, Tensor]


class Run(NamedTuple):
    """Two training steps, the lambda state moving on, and the output after every user's newest event, [B, C]."""

    steps: list[Step]
    last_BC: Tensor


def our_run(model: ReleasedSyNCRec) -> Run:
    """Run ours, from the stored sequences on."""
    data = as_sequence_set(histories())
    reader, users = SequenceReader(data), np.arange(data.n_users)
    batch = reader.training(users)
    steps = []
    for number in (1, 2):
        model.train().zero_grad()
        torch.manual_seed(SEED + number)
        losses = model.losses(model.window(batch.cross, batch), *random_choices(number))
        losses.total.backward()  # type: ignore[no-untyped-call]
        total, single = losses.total.detach(), losses.single_sum_D.mean() / 1000
        cross = (losses.weight_D * losses.cross_sum_D).sum() / 1000
        values = {"single": single, "cross": cross, "mim": total - single - cross, "total": total}
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        steps.append(Step(values, named_as_released(gradients)))
    with torch.no_grad():
        return Run(steps, model.eval().encode(reader.serving_cross(users)))


def released_run(path: Any, model: ReleasedSyNCRec) -> Run:
    """Run the released code with our model's weights, on rows made from the plain histories."""
    theirs = released_twin(path, model)
    rows = [events[-MAX_LENGTH:] for events in histories()]  # the window of ours
    items_BT, domains_BT = released_rows([events[:-1] for events in rows])
    targets_BT, target_domains_BT = released_rows([events[1:] for events in rows])
    steps = []
    for number in (1, 2):
        theirs.module.train().zero_grad()
        negatives_BT, others_B = random_choices(number)
        torch.manual_seed(SEED + number)
        with mock.patch("torch.randperm", lambda *_, chosen=others_B: chosen):
            losses = theirs.loss(items_BT, domains_BT, targets_BT, negatives_BT, target_domains_BT)
        losses.total.backward()  # type: ignore[no-untyped-call]
        values = dict(zip(("total", "single", "cross", "mim"), (part.detach() for part in losses), strict=True))
        gradients = {n: p.grad.clone() for n, p in theirs.module.named_parameters() if p.grad is not None}
        steps.append(Step(values, gradients))
    with torch.no_grad():
        theirs.module.eval()
        return Run(steps, theirs.last_outputs(*released_rows(rows)))


def random_choices(seed: int) -> tuple[Tensor, Tensor]:
    """Return negatives [B, T] and a permutation of users [B] for both."""
    rng = np.random.default_rng(seed)
    shape = (len(LENGTHS), MAX_LENGTH)
    return torch.from_numpy(rng.integers(1, sum(N_ITEMS) + 1, shape)), torch.from_numpy(rng.permutation(shape[0]))


def figures(run: Run) -> dict[str, Any]:
    """Return a run as plain numbers: of every gradient its norm and its product with fixed random numbers."""
    found: dict[str, Any] = {"last output": run.last_BC.tolist()}
    for number, step in enumerate(run.steps, start=1):
        found |= {f"step {number} {name}": value.item() for name, value in step.values.items()}
        for name, value in step.gradients.items():
            chosen = np.random.default_rng(zlib.crc32(name.encode())).normal(size=tuple(value.shape))
            product = (value * torch.as_tensor(chosen)).sum().item()
            found[f"step {number} gradient {name}"] = [value.norm().item(), product]
    return found


def golden_figures(path: Any = None) -> dict[str, Any]:
    """Return the figures in float64 without dropout: of the released code at `path`, or of ours."""
    with _default(torch.float64):
        model = small_model()
        return figures(released_run(path, model) if path else our_run(model))


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def compare(path: Any, dtype: torch.dtype, dropout: float = 0.0) -> dict[str, float]:
    """Return the largest difference of everything that is compared, by name.

    A gradient is compared relative to its largest entry, or to a tenth of the largest of all where that is
    larger: some are zero but for rounding (key biases always, gates without dropout).
    """
    with _default(dtype):
        model = small_model(dropout)
        ours, theirs = our_run(model), released_run(path, model)
    found: dict[str, float] = {}
    for number, (own, other) in enumerate(zip(ours.steps, theirs.steps, strict=True), start=1):
        for name, value in other.values.items():
            found[f"step {number} {name}"] = (own.values[name] - value).abs().item()
        found |= _gradient_differences(own.gradients, other.gradients, f"step {number} gradient ")
    found["last step's output"] = (ours.last_BC - theirs.last_BC).abs().max().item()
    return found


def _gradient_differences(ours: dict[str, Tensor], theirs: dict[str, Tensor], label: str) -> dict[str, float]:
    if ours.keys() != theirs.keys():
        raise ValueError(f"{label}: only one of the two has one for {', '.join(ours.keys() ^ theirs.keys())}")
    least = max(value.abs().max().item() for value in theirs.values()) / 10
    return {
        label + name: (ours[name] - value).abs().max().item() / max(value.abs().max().item(), least)
        for name, value in theirs.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print every difference; 0 when all are within the tolerance of the precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_argument(parser)
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float64")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--write-golden", type=Path, help="also write the released code's figures for the test")
    parsed = parser.parse_args(argv)
    try:
        if parsed.write_golden:
            parsed.write_golden.write_text(json.dumps(golden_figures(parsed.released), indent=1) + "\n")
        found = compare(parsed.released, getattr(torch, parsed.dtype), parsed.dropout)
    except ReleasedCodeAbsent as error:
        print(error, file=sys.stderr)
        return 2
    for name, difference in found.items():
        print(f"{name:<75} {difference:.1e}")
    worst, tolerance = max(found.values()), TOLERANCE[parsed.dtype]
    print(f"{len(found)} comparisons in {parsed.dtype}: at most {worst:.1e} apart, {tolerance:g} allowed")
    return int(worst > tolerance)


if __name__ == "__main__":
    raise SystemExit(main())
