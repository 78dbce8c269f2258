"""Scoring in a Spark worker: users in Arrow batches, their lists into a Parquet file, batch by batch.

Each worker process loads a model once, two while an experiment runs; what it holds does not grow with the users.
Seen items are left out, except in domains that repeat. Short lists and cold users are filled from popularity and
say so in `source`.

Shapes: U users of a batch, E events, R rows of lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from jobs.arms import Split
from jobs.histories import Histories
from jobs.list_files import LISTS, Written, list_writers
from jobs.loaded_model import LoadedModel, widen
from jobs.schemas import ANYONE, CANDIDATE_ARM, CHAMPION_ARM
from jobs.splits import Window
from syncrec_model import Recommender, TopN, Vocabulary, load_model

POPULAR_DEPTH = 5_000
FEWEST_TOGETHER = 16
"""Products of fewer rows are rounded otherwise: smaller batches are filled up, so that a list is always one."""
SOURCES = pa.array(["model", "popularity"])


@dataclass(frozen=True, kw_only=True)
class ScoringTask:
    """What a worker needs besides the users; small, and paths instead of contents.

    popular, shares: per vocabulary domain the item indexes by popularity and their shares of recent events.
    """

    model_folder: str
    vocabulary_file: str
    version: str
    domains: tuple[str, ...]
    repeats: tuple[str, ...]
    max_length: int
    serve: Window
    top_n: int
    min_history: int
    popular: tuple[NDArray[np.int64], ...]
    shares: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Who is served by which version: all users by the champion, or a part of them by the candidate.

    tasks: by arm. split: who is in which arm, None where the champion serves all.
    """

    tasks: Mapping[str, ScoringTask]
    split: Split | None = None

    def parts(self, users: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """Users of a batch by arm; no empty part."""
        if self.split is None:
            yield CHAMPION_ARM, users
            return
        is_candidate_U = self.split.are_candidates(users["user_id"])
        for arm, is_own_U in ((CHAMPION_ARM, ~is_candidate_U), (CANDIDATE_ARM, is_candidate_U)):
            if is_own_U.any():
                yield arm, users.filter(pa.array(is_own_U))


@lru_cache(maxsize=2)
def load_once(model_folder: str, vocabulary_file: str, version: str) -> LoadedModel:
    """The version, widened to tonight's vocabulary, once a process."""
    import torch

    torch.set_num_threads(1)  # Spark runs one worker a core
    model, own, views, metadata = load_model(Path(model_folder))
    return widen(version, model, own, views, metadata, Vocabulary.load(Path(vocabulary_file)))


def score_batches(
    batches: Iterable[pa.RecordBatch], serving: Serving, written: Mapping[str, Written]
) -> Iterator[pa.RecordBatch]:
    """The Spark worker: users in, the files that hold their lists out, one an arm."""
    scorers: dict[str, Scorer] = {}
    with list_writers(written) as files:
        for batch in batches:
            for arm, users in serving.parts(pa.Table.from_batches([batch])) if batch.num_rows else ():
                if arm not in scorers:
                    task = serving.tasks[arm]
                    loaded = load_once(task.model_folder, task.vocabulary_file, task.version)
                    scorers[arm] = Scorer(loaded, task)
                files[arm].write(scorers[arm].lists(users))
    for own in files.values():
        yield own.made()


class Scorer:
    """Recommends for users, a batch at a time.

    Parameters
    ----------
    loaded
        The version, widened to tonight's vocabulary.
    task
        The run's settings.
    """

    def __init__(self, loaded: LoadedModel, task: ScoringTask) -> None:
        self.loaded, self.task, self.vocabulary = loaded, task, loaded.vocabulary
        self._recommender = Recommender(loaded.model, loaded.vocabulary, loaded.views)
        self._item_ids = pa.chunked_array([pa.array(ids, pa.string()) for ids in self.vocabulary.item_ids])
        self._offsets = np.cumsum([0, *self.vocabulary.n_items])
        self._known_V = _known(loaded)
        self._unknown = [
            np.arange(known + 1, n + 1)
            for known, n in zip(loaded.known_items, self.vocabulary.n_items, strict=True)
        ]

    def lists(self, users: pa.Table) -> pa.Table:
        """Recommend for one batch of users.

        Parameters
        ----------
        users
            Rows of `sequences`, one a user.

        Returns
        -------
        Table
            user_id, domain, rank, item_id, score, source in that order of rows; at most top_n a user and domain.
        """
        histories = Histories.of(users)
        seen = self._seen_items(users, histories)
        model_rows = self._model_rows(histories, seen)
        filled = self._popular_rows(model_rows, seen, len(users))
        rows = TopN.join([model_rows, filled])
        is_filled_R = np.repeat([False, True], [len(model_rows), len(filled)])
        if len(filled):
            place_R = rows.user * len(self.vocabulary.domains) + rows.domain
            order = np.argsort(place_R * (self.task.top_n + 1) + rows.rank, kind="stable")
            rows, is_filled_R = _taken(rows, order), is_filled_R[order]
        at_R = self._offsets[rows.domain.astype(np.int64) - 1] + rows.item - 1
        ids = self._item_ids.take(pa.array(at_R)).cast(pa.string())
        return pa.table(
            [
                pa.DictionaryArray.from_arrays(rows.user.astype(np.int32), users["user_id"].combine_chunks()),
                pa.DictionaryArray.from_arrays(rows.domain.astype(np.int32) - 1, list(self.vocabulary.domains)),
                pa.array(rows.rank.astype(np.int32)),
                ids,
                pa.array(rows.score.astype(np.float64)),
                pa.DictionaryArray.from_arrays(is_filled_R.astype(np.int32), SOURCES),
            ],
            schema=LISTS,
        )

    def _model_rows(self, histories: Histories, seen: Sequence[Sequence[NDArray[np.int64]]]) -> TopN:
        """What the model ranks, for the users that are not cold."""
        task = self.task
        data = histories.cut(task.serve, self.vocabulary, task.domains, task.max_length)
        data = data.last(self.loaded.model.config.max_length)
        starts = np.array([0, *self._offsets[:-1]])  # by domain code; padding is item 0 of code 0
        known_U = self._known_V[starts[data.cross_domains_UT] + data.cross_items_UT].sum(1)
        warm = np.flatnonzero(known_U >= task.min_history)
        if not len(warm):
            return TopN.join([])
        users = np.resize(warm, max(len(warm), FEWEST_TOGETHER))
        hidden: list[list[NDArray[np.int64]]] = [
            [np.concatenate([s, u]) if len(u) else s for s, u in zip(seen[user], self._unknown, strict=True)]
            for user in users.tolist()
        ]
        top = self._recommender.top_n(data.select(users), task.top_n, seen=hidden, batch_size=len(users))
        if len(users) > len(warm):
            top = _taken(top, top.user < len(warm))
        return TopN(warm[top.user], top.domain, top.rank, top.item, top.score)

    def _seen_items(self, users: pa.Table, histories: Histories) -> list[list[NDArray[np.int64]]]:
        """Per user and vocabulary domain the items that must not come again; none where a domain repeats."""
        names, task = self.vocabulary.domains, self.task
        older = pc.list_flatten(users["older_items"]).to_numpy()
        owner = np.repeat(np.arange(len(users)), pc.list_value_length(users["older_items"]).to_numpy())
        user = np.concatenate([histories.rows_E, owner])
        code = np.concatenate([histories.codes_E, older >> 32])
        item = np.concatenate([histories.items_E.astype(np.int64), older & 0xFFFF_FFFF])
        width = len(names)
        own = [names.index(name) if name in names and name not in task.repeats else -1 for name in task.domains]
        domain = np.array(own)[code - 1]
        place = (user * width + domain)[domain >= 0]
        order = np.argsort(place, kind="stable")
        ends = np.searchsorted(place[order], np.arange(1, len(users) * width))
        parts = np.split(item[domain >= 0][order], ends)
        return [parts[row * width : (row + 1) * width] for row in range(len(users))]

    def _popular_rows(self, rows: TopN, seen: Sequence[Sequence[NDArray[np.int64]]], n_users: int) -> TopN:
        """What popularity adds to lists that are shorter than top_n."""
        task, n_domains = self.task, len(self.vocabulary.domains)
        place = rows.user * n_domains + rows.domain.astype(np.int64) - 1
        counts = np.bincount(place, minlength=n_users * n_domains)
        order = np.argsort(place, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)])
        found: list[TopN] = []
        for short in np.flatnonzero(counts < task.top_n):
            user, domain = divmod(int(short), n_domains)
            listed = rows.item[order[starts[short] : starts[short + 1]]]
            taken = np.concatenate([listed, seen[user][domain]])
            # Of the first n + m popular items at least n are not among m others.
            popular = task.popular[domain][: task.top_n + len(taken)]
            take = np.flatnonzero(~np.isin(popular, taken))[: task.top_n - len(listed)]
            ranks = np.arange(len(listed) + 1, len(listed) + 1 + len(take), dtype=np.int32)
            found.append(
                TopN(
                    np.full(len(take), user), np.full(len(take), domain + 1, np.int8), ranks,
                    popular[take].astype(np.int32), task.shares[domain][take].astype(np.float32),
                )
            )  # fmt: skip
        return TopN.join(found)


def _taken(rows: TopN, which: NDArray[Any]) -> TopN:
    return TopN(*(getattr(rows, name)[which] for name in ("user", "domain", "rank", "item", "score")))


def _known(loaded: LoadedModel) -> NDArray[np.bool_]:
    """Return which rows of the item table mean something in a history: in the vocabulary of the version, learnt."""
    sizes = loaded.vocabulary.n_items
    parts = [np.arange(size) < known for size, known in zip(sizes, loaded.known_items, strict=True)]
    rows_V = torch.arange(1 + sum(sizes), device=loaded.model.embedding.items_VC.device)
    never_V = loaded.model.blend.never_learnt(rows_V).cpu().numpy()
    known_V: NDArray[np.bool_] = np.concatenate([[False], *parts]) & ~never_V
    return known_V


def popularity(
    counts: Sequence[NDArray[np.int64]],
) -> tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[Any], ...]]:
    """Per domain the item indexes by falling count (ties: lower index) and their shares of all counts."""
    orders = [np.argsort(-c, kind="stable")[:POPULAR_DEPTH] for c in counts]
    shares = [c[o] / max(int(c.sum()), 1) for c, o in zip(counts, orders, strict=True)]
    return tuple(o + 1 for o in orders), tuple(shares)


def anyone_lists(vocabulary: Vocabulary, task: ScoringTask) -> pa.Table:
    """The popularity lists for users whom the night has never seen, as `Scorer.lists` gives lists."""
    rows = [
        (ANYONE, domain, rank, vocabulary.item_id(domain, int(item)), float(share), "popularity")
        for domain, items, shares in zip(vocabulary.domains, task.popular, task.shares, strict=True)
        for rank, (item, share) in enumerate(zip(items[: task.top_n], shares, strict=False), 1)
    ]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in LISTS]
    return pa.table([pa.array(column, own.type) for column, own in zip(columns, LISTS, strict=True)], schema=LISTS)
