"""Small random worlds for the equation tests: a log, a configuration, random weights, and the reference's reading.

Drawn by hypothesis, always the same ones: every run of the suite proves the same thing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np
import reference
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from reference_losses import Frozen, Result, State, step
from reference_sequences import Event, Sequence, serving_sequences, training_sequences

from syncrec_model import ModelConfig, SequenceSet, SyNCRec
from syncrec_model.batches import SequenceReader, TrainingBatch
from syncrec_model.packing import PackedSequences

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def laws(max_examples: int) -> settings:
    """The same shapes on every run and every machine, however slow."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],  # worlds are small as they come; shrinking one takes minutes
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass(frozen=True, eq=False)
class World:
    """users: 0..n_users - 1, some perhaps without events; sizes: V_d; window: T of the stored sequences."""

    config: ModelConfig
    sizes: tuple[int, ...]
    n_users: int
    window: int
    events: tuple[Event, ...]
    seed: int

    def __repr__(self) -> str:
        log = [(e.user, e.item, e.domain, e.time) for e in self.events]
        return f"World(seed={self.seed}, sizes={self.sizes}, T={self.window}, {self.config}, log={log})"

    @cached_property
    def domains(self) -> tuple[str, ...]:
        return tuple(f"domain {d}" for d in range(1, len(self.sizes) + 1))

    @cached_property
    def data(self) -> SequenceSet:
        columns = zip(*((e.user, e.item, e.domain, e.time) for e in self.events), strict=True)
        user, item, domain, time = (np.array(column) for column in columns)
        return SequenceSet.from_events(
            user_ids=user, item_indexes=item, domain_codes=domain, timestamps=time,
            domains=self.domains, n_items=self.sizes, max_length=self.window, users=np.arange(self.n_users),
        )  # fmt: skip

    @cached_property
    def model(self) -> SyNCRec:
        """A model in float64 whose every number is random, in training mode."""
        model = SyNCRec(self.config, self.domains, self.sizes).double()
        fill(model, self.seed)
        with torch.no_grad():
            model.correction.lambda_D.fill_(1 / len(self.sizes))  # 1 / D was made in float32
            model.blend.weights_DF[:, :2] = torch.from_numpy(
                np.random.default_rng(self.seed).random((len(self.sizes), 2))
            )
        return model.train()

    @cached_property
    def weights(self) -> dict[str, reference.Array]:
        return weights_of(self.model)

    @cached_property
    def batch(self) -> TrainingBatch:
        return self.batch_of(range(self.n_users))

    def batch_of(self, users: Any) -> TrainingBatch:
        return SequenceReader(self.data).training(np.array(users))

    @cached_property
    def sequences(self) -> tuple[list[Sequence], list[Sequence]]:
        return self.sequences_of(range(self.n_users))

    def sequences_of(self, users: Any) -> tuple[list[Sequence], list[Sequence]]:
        return training_sequences(self.events, users, len(self.sizes), self.window)

    @cached_property
    def served(self) -> tuple[list[Sequence], list[Sequence]]:
        return serving_sequences(self.events, range(self.n_users), len(self.sizes), self.window)

    def negative(self, event: Event) -> int:
        return reference.other_item(event, self.sizes)

    def expected(self, state: State | None = None, users: Any = None, frozen: Frozen | None = None) -> Result:
        """What one training step must give."""
        sequences = self.sequences if users is None else self.sequences_of(users)
        state = State.start(len(self.sizes)) if state is None else state
        return step(self.weights, self.config, self.sizes, sequences, state, self.negative, frozen)

    def packed(self) -> tuple[tuple[PackedSequences, list[Sequence]], ...]:
        """Both families: what the model reads, and the same sequences as the reference reads them."""
        return (self.batch.cross, self.sequences[0]), (self.batch.single, self.sequences[1])


def fill(model: torch.nn.Module, seed: int, scale: float = 0.6) -> None:
    """Random parameters from numpy, by name: torch's generator and the order of modules do not matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rng = np.random.default_rng([seed, crc32(name.encode())])
            values = scale * rng.standard_normal((1, *parameter.shape))
            parameter.copy_(torch.from_numpy(values)[0])


def weights_of(model: torch.nn.Module) -> dict[str, reference.Array]:
    return {name: value.detach().numpy().astype(np.float64).copy() for name, value in model.state_dict().items()}


def by_sequence(packed: PackedSequences, values_N: torch.Tensor) -> list[np.ndarray]:
    """Return the tokens of each packed row, oldest first."""
    values, rows, columns = (t.detach().numpy() for t in (values_N, packed.rows_N, packed.columns_N))
    order = np.lexsort((columns, rows))
    return [values[order][rows[order] == row] for row in range(len(packed.last_R))]


def assert_steps(packed: PackedSequences, values_N: torch.Tensor, expected: list[np.ndarray]) -> None:
    """Compare token values with the reference's, sequence by sequence."""
    found = by_sequence(packed, values_N)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)


def random_config(rng: random.Random, **fixed: Any) -> ModelConfig:
    n_experts, n_heads = rng.randint(2, 5), rng.choice([1, 2])
    values = {
        "channels": n_heads * rng.randint(2, 8 // n_heads),
        "n_heads": n_heads,
        "n_experts": n_experts,
        "n_cross_experts": rng.randint(1, n_experts - 1),
        "n_layers": rng.choice([1, 2]),
        "ffn_multiplier": rng.randint(1, 3),
        "max_length": rng.randint(2, 8),
        "dropout": 0.0,
        "gate": rng.choice(["step", "sequence"]),
        "loss": rng.choice(["softmax", "pairwise", "bce"]),
        "correction": rng.choice(["uniform", "paper", "bounded"]),
        "correction_floor": rng.choice([0.0, 0.25, 0.9]),
        "correction_momentum": rng.choice([0.0, 0.5, 0.9]),
        "temperature": rng.choice([0.2, 1.0, 3.0]),
        "mim": rng.random() < 0.8,
        "mim_score": rng.choice(["sigmoid", "cosine"]),
        "mim_others_only": rng.choice([True, False]),
        "stop_gradient": rng.choice([True, False]),
        "eta": rng.choice([0.3, 0.9]),
    }
    values |= fixed
    if values["correction"] != "bounded":  # nothing else reads them, and the configuration refuses idle settings
        values = {
            name: value for name, value in values.items() if name not in ("correction_floor", "correction_momentum")
        }
    return ModelConfig(**values)


@st.composite
def worlds(draw: Any, domains: tuple[int, ...] = (1, 2, 3, 10), min_users: int = 1, **fixed: Any) -> World:
    """Users of every kind: none, one or more events than the window holds, without some domain, ties in time.

    Hypothesis gives the seed alone: left to choose the shapes it mostly takes the smallest.
    """
    seed = draw(st.integers(0, 2**32 - 1))
    rng = random.Random(seed)
    config, n_domains = random_config(rng, **fixed), rng.choice(domains)
    largest = 2 if config.loss != "softmax" else 5  # two items leave one negative: nothing is left to chance
    sizes = tuple(rng.randint(1, largest) for _ in range(n_domains))
    window = rng.choice([config.max_length, rng.randint(2, config.max_length)])
    n_users = rng.randint(min_users, 5)
    empty_domain = rng.choice([0, n_domains]) if n_domains > 1 else 0
    lengths = [rng.choice([1, 2, window, window + 1, 2 * window]) for _ in range(n_users)]
    lengths[1:] = [rng.choice([length, length, length, 0]) for length in lengths[1:]]
    return World(config, sizes, n_users, window, random_log(lengths, sizes, empty_domain, seed), seed)


def random_log(lengths: list[int], sizes: tuple[int, ...], empty_domain: int, seed: int) -> tuple[Event, ...]:
    """lengths: events per user; empty_domain: the code of a domain that nobody visits, 0 for none."""
    rng = np.random.default_rng(seed)
    lines: list[tuple[int, int, int, float]] = []
    open_to_all = [d for d in range(1, len(sizes) + 1) if d != empty_domain]
    for user, length in enumerate(lengths):
        visited = rng.choice(open_to_all, size=min(len(open_to_all), int(rng.integers(1, 5))), replace=False)
        for _ in range(length):
            domain = int(rng.choice(visited))
            lines.append((user, int(rng.integers(1, sizes[domain - 1] + 1)), domain, float(rng.integers(0, 12))))
    order = rng.permutation(len(lines))
    return tuple(Event(*lines[place], number) for number, place in enumerate(order))
