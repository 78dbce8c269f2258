"""Section 7: from histories to the best N items per user and domain; exact, and memory is bounded by the batch.

Shapes: U users, B users of a batch, D domains, V items of one domain, C channels,
E known events of plain histories, R rows, P pairs of a user and an item; of a SequenceSet: N single rows, T steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batches import SequenceReader
from .data import SequenceSet
from .evaluation import VIEWS
from .first_pass import Pairs
from .histories import Event, known_events
from .model import SyNCRec
from .ranking import best_items
from .served import EncodedUsers, served_view
from .vocabulary import Vocabulary

Array = NDArray[Any]
Seen = Sequence[Sequence[Array]]


@dataclass(frozen=True)
class TopN:
    """One entry per recommendation, ordered by user, domain, rank. rank starts at 1; item is the domain's index."""

    user: Array
    domain: Array
    rank: Array
    item: Array
    score: Array

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def join(cls, parts: Sequence[TopN]) -> TopN:
        """Return the parts as one."""
        if not parts:
            return cls(*(np.zeros(0, dtype=kind) for kind in (np.int64, np.int8, np.int32, np.int32, np.float32)))
        names = ("user", "domain", "rank", "item", "score")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class PlainRecommendations:
    """items: per history and domain the (item_id, score) best first; ignored_items: unknown items per history."""

    items: list[dict[str, list[tuple[str, float]]]]
    ignored_items: list[int]


class Recommender:
    """A trained model, its vocabulary and the view that is served in each domain."""

    def __init__(self, model: SyNCRec, vocabulary: Vocabulary, views: Mapping[str, str]) -> None:
        if vocabulary.domains != model.domains or vocabulary.n_items != model.n_items:
            raise ValueError("Recommender: model and vocabulary have different domains or item counts")
        for domain in model.domains:
            if views.get(domain) not in VIEWS:
                raise ValueError(
                    f"Recommender: view {views.get(domain)!r} of domain {domain!r}; give one of {', '.join(VIEWS)}"
                )
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.views = dict(views)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.embedding.items_VC.device

    @torch.inference_mode()
    def encode(self, data: SequenceSet) -> EncodedUsers:
        """Return every user's views after the newest event."""
        reader, users = SequenceReader(data), np.arange(data.n_users)
        cross, single = reader.serving_cross(users).to(self.device), reader.serving_single(users).to(self.device)
        y_single_RC = self.model.encode(single)
        y_single_DBC = y_single_RC.reshape(len(self.model.domains), len(users), -1)
        return EncodedUsers(self.model.encode(cross), y_single_DBC, cross, single)

    @torch.inference_mode()
    def score(self, users: EncodedUsers, domain: str) -> Tensor:
        """Return the served scores of all items of a domain as evaluation ranks them, [B, V], float32.

        Item index i is column i - 1. top_n ranks by products of the same numbers in float64: equal to these within
        the rounding of float32 sums.
        """
        code = self.vocabulary.domain_code(domain)
        view = self.views[domain]
        if view == "cross":
            return self.model.scores(users.y_cross_BC, code)
        single_BV = self.model.scores(users.y_single_DBC[code - 1], code)
        if view == "single":
            return single_BV
        cross_BV = self.model.scores(users.y_cross_BC, code)
        return cast(Tensor, self.model.blend(cross_BV, single_BV, users.cross, users.single, code))

    def top_n(
        self,
        data: SequenceSet,
        n: int,
        *,
        seen: Seen | None = None,
        repeats: Collection[str] = (),
        batch_size: int = 256,
    ) -> TopN:
        """Return the best n items per user and domain; fewer where a domain has fewer unseen items.

        seen[user][domain code - 1]: item indexes the user knows; by default the stored events. They are left out
        except in the domains of `repeats`. Ties go to the lower item index.
        """
        return TopN.join(list(self.top_n_batches(data, n, seen=seen, repeats=repeats, batch_size=batch_size)))

    def top_n_batches(
        self,
        data: SequenceSet,
        n: int,
        *,
        seen: Seen | None = None,
        repeats: Collection[str] = (),
        batch_size: int = 256,
    ) -> Iterator[TopN]:
        """As top_n, one batch of users after the other: nothing grows with the number of users."""
        self._check_call(data, n, seen, repeats)
        for start in range(0, data.n_users, batch_size):
            users = np.arange(start, min(start + batch_size, data.n_users))
            part = data.select(users)
            known = _stored_items(part) if seen is None else [seen[user] for user in users.tolist()]
            yield self._top_n_of(part, n, known, repeats, start)

    def _top_n_of(self, data: SequenceSet, n: int, seen: Seen, repeats: Collection[str], first_user: int) -> TopN:
        users = self.encode(data)
        parts = []
        for code, domain in enumerate(self.model.domains, start=1):
            served = served_view(self.model, code, self.views[domain], users)
            known = _seen_pairs([] if domain in repeats else [own[code - 1] for own in seen], len(served.table))
            try:
                found = best_items(served.query_BC, served.table, n, excluded=known, added=served.added)
            except ValueError as error:
                raise ValueError(f"top_n: domain {domain!r}: {error}") from None
            parts.append(
                TopN(
                    found.row + first_user,
                    np.full(len(found.row), code, np.int8),
                    (found.rank + 1).astype(np.int32),
                    (found.item + 1).astype(np.int32),
                    found.score,
                )
            )
        joined = TopN.join(parts)
        row_R = joined.user - first_user  # inside a domain users and ranks are in order; 16 bits sort fast
        order = np.argsort(row_R.astype(np.uint16) if data.n_users < 1 << 16 else row_R, kind="stable")
        return TopN(*(getattr(joined, name)[order] for name in ("user", "domain", "rank", "item", "score")))

    def top_n_of_histories(
        self,
        histories: Sequence[Sequence[Event]],
        n: int,
        *,
        users: Sequence[object] | None = None,
        repeats: Collection[str] = (),
    ) -> tuple[TopN, Array]:
        """As top_n for plain histories (see known_events); also the number of unknown items of each, [U].

        All items of a history are left out of its lists, also those older than the window. users: their names,
        for the sentences of refusals.
        """
        known = known_events(histories, self.vocabulary, users)
        data = SequenceSet.from_events(
            user_ids=known.user_E,
            item_indexes=known.item_E,
            domain_codes=known.domain_E,
            domains=self.model.domains,
            n_items=self.model.n_items,
            max_length=self.model.config.max_length,
            users=np.arange(len(histories)),
        )
        n_domains = len(self.model.domains)
        seen: list[list[Any]] = [[[] for _ in range(n_domains)] for _ in histories]
        for user, code, item in zip(known.user_E, known.domain_E, known.item_E, strict=True):
            seen[user][code - 1].append(item)
        return self.top_n(data, n, seen=seen, repeats=repeats), known.ignored_U

    def recommend(
        self, histories: Sequence[Sequence[Event]], n: int, *, repeats: Collection[str] = ()
    ) -> PlainRecommendations:
        """Recommend for plain histories, each a list of (item_id, domain, ts) in any order.

        Unknown items are ignored and counted; an unknown domain is refused with the known names.
        """
        found, ignored_U = self.top_n_of_histories(histories, n, repeats=repeats)
        lists: list[dict[str, list[tuple[str, float]]]] = [{d: [] for d in self.model.domains} for _ in histories]
        for user, code, item, score in zip(found.user, found.domain, found.item, found.score, strict=True):
            domain = self.model.domains[code - 1]
            lists[user][domain].append((self.vocabulary.item_id(domain, int(item)), float(score)))
        return PlainRecommendations(lists, ignored_U.tolist())

    def _check_call(self, data: SequenceSet, n: int, seen: Seen | None, repeats: Collection[str]) -> None:
        if data.domains != self.model.domains or data.n_items != self.model.n_items:
            raise ValueError("top_n: the sequences and the model have different domains or item counts")
        if data.max_length > self.model.config.max_length:
            raise ValueError(
                f"top_n: sequences of {data.max_length} steps, the model reads {self.model.config.max_length}"
            )
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"top_n: n = {n!r}; give a whole number, at least 1")
        if seen is not None and len(seen) != data.n_users:
            raise ValueError(f"top_n: seen lists {len(seen)} users, the sequences have {data.n_users}")
        if isinstance(repeats, str) or any(domain not in self.model.domains for domain in repeats):
            raise ValueError(f"top_n: repeats = {repeats!r}; give names among {', '.join(self.model.domains)}")


def _stored_items(data: SequenceSet) -> list[list[Array]]:
    """Return per user and domain the items of the stored rows."""
    seen = [[np.zeros(0, np.int64)] * len(data.domains) for _ in range(data.n_users)]
    for user, code, items in zip(data.single_users_N, data.single_domains_N, data.single_items_NT, strict=True):
        seen[user][code - 1] = items[items > 0]
    return seen


def _seen_pairs(items: Sequence[Array], n_items: int) -> Pairs:
    """Return the pairs of row and item that are in no list. items: per row the item indexes (from 1)."""
    if not items:
        return Pairs.none()
    row_P = np.repeat(np.arange(len(items)), [len(own) for own in items])
    item_P = np.concatenate([np.asarray(own, np.int64) for own in items]) - 1
    if len(item_P) and not 0 <= item_P.min() <= item_P.max() < n_items:
        raise ValueError(f"top_n: a seen item index is outside 1..{n_items}")
    return Pairs(row_P, item_P, np.zeros(len(row_P)))
