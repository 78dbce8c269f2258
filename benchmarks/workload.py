"""The users that every row of the training benchmark sees: synthetic ids in the shapes of set A5.

numpy alone: the environments of other libraries import this file, too.
Shapes: U users, T steps, B users of a batch, D domains.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
A5_FILE = Path(__file__).resolve().parent / "shapes" / "a5.json"
MAX_LENGTH = 50
LENGTHS = ("full", "a5")


@dataclass(frozen=True)
class Shape:
    """One shape of the table: r channels, B users a step, rows full or as long as those of A5."""

    channels: int
    lengths: str
    batch: int

    @property
    def name(self) -> str:
        """E.g. r64.a5."""
        return f"r{self.channels}.{self.lengths}"

    @classmethod
    def parse(cls, name: str, batch: int | None = None) -> Shape:
        """Read r64.full, r512.a5, ...; B is 128, above 128 channels 32, unless given.

        Raises
        ------
        ValueError : the name is of another form.
        """
        found = re.fullmatch(r"r([1-9]\d*)\.(\w+)", name)
        if found is None or found[2] not in LENGTHS:
            raise ValueError(f"shape {name!r}: write rCHANNELS.LENGTHS with lengths {' or '.join(LENGTHS)}: r64.a5")
        channels = int(found[1])
        return cls(channels, found[2], batch or (128 if channels <= 128 else 32))


@dataclass(frozen=True, eq=False)
class Users:
    """Users in the order in which batches take them, rows left-padded with 0.

    domains: names. n_items_D: items of each. items_UT: index 1.. inside the domain. domains_UT: code 1..D.
    before_item_U, before_domain_U: the event before the row's first: other codes have no [SOS], they read it there.
    """

    domains: Array
    n_items_D: Array
    items_UT: Array
    domains_UT: Array
    before_item_U: Array
    before_domain_U: Array

    @property
    def offsets_D1(self) -> Array:
        """What to add to an item's index to have its row of all items stacked, by domain code (0 for padding)."""
        return np.concatenate([[0, 0], np.cumsum(self.n_items_D)[:-1]])

    @property
    def n_items(self) -> int:
        """All items."""
        return int(self.n_items_D.sum())

    def save(self, path: Path) -> None:
        """Write as .npz."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(**{field.name: file[field.name] for field in fields(cls)})


@cache
def a5() -> dict[str, Any]:
    """Return the counts of set A5."""
    counts: dict[str, Any] = json.loads(A5_FILE.read_text(encoding="utf-8"))
    return counts


def make_users(shape: Shape, n_batches: int, seed: int = 0) -> Users:
    """Make the users of `n_batches` batches; the same for the same arguments.

    full: T events each, domains drawn by their share of A5. a5: lengths and numbers of domains as in A5, every
    batch a stratified sample of all its users, so that a few batches stand for an epoch.

    Raises
    ------
    ValueError : A5 has not enough users for so many batches of this size.
    """
    rng = np.random.default_rng(seed)
    counts = a5()["domains"]
    share_D = np.array([entry["stored_events"] for entry in counts.values()], dtype=float)
    share_D /= share_D.sum()
    n_items_D = np.array([entry["items"] for entry in counts.values()])
    if shape.lengths == "full":
        kinds = [(MAX_LENGTH, 0)] * (n_batches * shape.batch)
    else:
        kinds = _stratified(shape.batch, n_batches, rng)
    domains_UT = np.zeros((len(kinds), MAX_LENGTH), dtype=np.int64)
    for row, (length, n_domains) in enumerate(kinds):
        domains_UT[row, MAX_LENGTH - length :] = _row_domains(length, n_domains, share_D, rng)
    n_items_D1 = np.concatenate([[0], n_items_D])
    before_domain_U = rng.choice(len(share_D), len(kinds), p=share_D) + 1
    return Users(
        domains=np.array(list(counts)),
        n_items_D=n_items_D,
        items_UT=np.where(domains_UT > 0, 1 + _below(n_items_D1[domains_UT], rng), 0),
        domains_UT=domains_UT,
        before_item_U=1 + _below(n_items_D1[before_domain_U], rng),
        before_domain_U=before_domain_U,
    )


def _stratified(batch: int, n_batches: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return (length, number of domains) of each user, batch by batch: one user of each of B strata by length."""
    every = [
        (length, n_domains)
        for length, *by_domains in a5()["users_by_length"]
        for n_domains, users in enumerate(by_domains, start=1)
        for _ in range(users)
    ]
    depth = len(every) // batch
    if n_batches > depth:
        raise ValueError(f"set A5 has {len(every):,} users: at most {depth} batches of {batch}, not {n_batches}")
    strata = np.arange(depth * batch).reshape(batch, depth)
    chosen = rng.permuted(strata, axis=1)[:, :n_batches].T  # [batches, B]
    return [every[index] for index in rng.permuted(chosen, axis=1).reshape(-1)]


def _row_domains(length: int, n_domains: int, share_D: Array, rng: np.random.Generator) -> Array:
    """Return the domain code of each event; 0 domains asked for means any number."""
    if n_domains == 0:
        return rng.choice(len(share_D), length, p=share_D) + 1
    active = rng.choice(len(share_D), n_domains, replace=False, p=share_D)
    more = rng.choice(active, length - n_domains, p=share_D[active] / share_D[active].sum())
    return rng.permutation(np.concatenate([active, more])) + 1


def _below(limits: Array, rng: np.random.Generator) -> Array:
    """Draw a whole number from 0 up to below each limit."""
    return (rng.random(limits.shape) * limits).astype(np.int64)
