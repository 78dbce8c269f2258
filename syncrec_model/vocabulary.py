"""Vocabulary: which item id has which index, per domain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Vocabulary:
    """Item ids per domain, ordered by index. Indexes are 1-based inside a domain; 0 is padding.

    The stacked row of an item in the embedding is `offsets[domain] + index`, so row 0 is padding and a domain's
    items are contiguous. An id that occurs in two domains is two items.
    """

    domains: tuple[str, ...]
    item_ids: tuple[list[str], ...]

    def __post_init__(self) -> None:
        if not self.domains:
            raise ValueError("Vocabulary: no domains; give at least one")
        if len(set(self.domains)) != len(self.domains):
            raise ValueError(f"Vocabulary: a domain is named twice in {', '.join(self.domains)}")
        if len(self.domains) != len(self.item_ids):
            raise ValueError(f"Vocabulary: {len(self.domains)} domains but {len(self.item_ids)} lists of item ids")
        for domain, ids in zip(self.domains, self.item_ids, strict=True):
            if len(set(ids)) != len(ids):
                raise ValueError(f"Vocabulary: domain {domain!r} lists an item id twice; indexes must be unique")

    @property
    def n_items(self) -> tuple[int, ...]:
        """V_d: items per domain."""
        return tuple(len(ids) for ids in self.item_ids)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Stacked row of a domain's item = its offset + the item's index."""
        return stacked_offsets(self.n_items)

    @cached_property
    def _indexes(self) -> tuple[dict[str, int], ...]:
        return tuple({item_id: i for i, item_id in enumerate(ids, start=1)} for ids in self.item_ids)

    def domain_code(self, domain: str) -> int:
        """Return the 1-based code of a domain; an unknown one is refused with the known names."""
        if domain not in self.domains:
            raise ValueError(f"unknown domain {domain!r}; this vocabulary knows {', '.join(self.domains)}")
        return self.domains.index(domain) + 1

    def index_of(self, domain: str, item_id: str) -> int:
        """Return the item's index in its domain, or 0 (padding) when the item is unknown."""
        return self._indexes[self.domain_code(domain) - 1].get(item_id, 0)

    def item_id(self, domain: str, index: int) -> str:
        """Return the item id behind a 1-based index."""
        ids = self.item_ids[self.domain_code(domain) - 1]
        if not 1 <= index <= len(ids):
            raise ValueError(f"item index {index} of domain {domain!r} is outside 1..{len(ids)}")
        return ids[index - 1]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        form = {"domains": list(self.domains), "item_ids": [list(ids) for ids in self.item_ids]}
        Path(path).write_text(json.dumps(form, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote."""
        try:
            form: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(tuple(form["domains"]), tuple(list(ids) for ids in form["item_ids"]))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a vocabulary file ({error}); write it with Vocabulary.save") from error


def stacked_offsets(n_items: Sequence[int]) -> tuple[int, ...]:
    """Return per domain the number of items of the domains before it."""
    offsets, total = [], 0
    for count in n_items:
        offsets.append(total)
        total += count
    return tuple(offsets)
