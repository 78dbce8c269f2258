"""Small random logs and models that the tests of the model share."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from syncrec_model import ModelConfig, SequenceSet, SyNCRec

DOMAINS = ("books", "toys", "food")
N_ITEMS = (7, 5, 9)


def random_events(seed: int = 0, n_users: int = 8, mean_length: int = 6, n_items: tuple[int, ...] = N_ITEMS):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 2 * mean_length, n_users)
    user = np.repeat(np.arange(n_users), lengths)
    domain = rng.integers(1, len(n_items) + 1, len(user))
    item = np.array([rng.integers(1, n_items[d - 1] + 1) for d in domain])
    return {
        "user_ids": np.array([f"u{u:03d}" for u in user]),
        "item_indexes": item,
        "domain_codes": domain,
        "timestamps": rng.integers(0, 40, len(user)),
        "domains": DOMAINS[: len(n_items)],
        "n_items": n_items,
    }


def random_set(seed: int = 0, *, max_length: int = 5, window=None, **options) -> SequenceSet:
    return SequenceSet.from_events(**random_events(seed, **options), max_length=max_length, window=window)


def small_model(seed: int = 0, n_items: tuple[int, ...] = N_ITEMS, **changes) -> SyNCRec:
    torch.manual_seed(seed)
    config = ModelConfig(channels=8, max_length=5, n_experts=3, n_cross_experts=1, dropout=0.0)
    model = SyNCRec(dataclasses.replace(config, **changes), DOMAINS[: len(n_items)], n_items).double()
    with torch.no_grad():  # away from the symmetric start, so that every path matters
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def packed_order(data: SequenceSet) -> list[int]:
    """Return the single rows in the order in which a batch of all users packs them: by domain, then user."""
    return sorted(range(len(data.single_users_N)), key=lambda n: (data.single_domains_N[n], data.single_users_N[n]))


def planted_sets(n_users: int = 250, max_length: int = 8, seed: int = 0):
    """Return (train, valid, counts): after item i of a domain mostly comes i + 1 of the same domain, in a ring."""
    rng = np.random.default_rng(seed)
    n_items = (12, 10)
    user, item, domain, time = [], [], [], []
    for u in range(n_users):
        at = [int(rng.integers(n)) for n in n_items]
        for t in range(10):
            d = int(rng.integers(2))
            at[d] = (at[d] + 1) % n_items[d] if rng.random() < 0.9 else int(rng.integers(n_items[d]))
            user.append(u), item.append(at[d] + 1), domain.append(d + 1), time.append(t)
    columns = [np.array(column) for column in (user, item, domain, time)]
    options = {"domains": ("books", "toys"), "n_items": n_items, "max_length": max_length}

    def cut(before: int, window=None) -> SequenceSet:
        kept = columns[3] < before
        u, i, d, t = (column[kept] for column in columns)
        return SequenceSet.from_events(
            user_ids=u, item_indexes=i, domain_codes=d, timestamps=t, window=window, **options
        )

    early = columns[3] < 8
    counts = {
        name: np.bincount(columns[1][early & (columns[2] == code)], minlength=n_items[code - 1] + 1)[1:]
        for code, name in ((1, "books"), (2, "toys"))
    }
    return cut(8), cut(10, window=(8, 10)), counts
