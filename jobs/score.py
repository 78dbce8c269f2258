"""Score: the version that the gate chose ranks every user's next items per domain, in Spark, and stages the table.

Each Python worker loads the model once and gets users in Arrow batches; memory does not grow with the users.
Seen items are left out, except in domains that repeat. Short lists and cold users are filled from popularity
and say so in `source`. The staged files are audited here and published by jobs.publish.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.audit_rules import recommendations_suite
from jobs.audits import record_audits, require, run_suite
from jobs.command import Run, run_job
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse, data_files
from jobs.loaded_model import LoadedModel, widen
from jobs.night import Night
from jobs.registry import Registry
from jobs.schemas import ANYONE, RECOMMENDATIONS, SEQUENCES
from jobs.sequence_rows import latest_rows
from jobs.sequence_sets import Histories, count_events, read_vocabulary, state_of
from jobs.spark import spark_session
from jobs.splits import Window, split_windows
from syncrec_model import Recommender, TopN, Vocabulary, load_model

log = logging.getLogger("syncrec")
POPULAR_DEPTH = 5_000
OUTPUT = "user_id string, domain string, rank int, item_id string, score double, source string"


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


@lru_cache(maxsize=2)
def _load_once(model_folder: str, vocabulary_file: str, version: str) -> LoadedModel:
    import torch

    torch.set_num_threads(1)  # Spark runs one worker a core
    model, own, views, metadata = load_model(Path(model_folder))
    return widen(version, model, own, views, metadata, Vocabulary.load(Path(vocabulary_file)))


def score_batches(batches: Iterable[pa.RecordBatch], task: ScoringTask) -> Iterator[pa.RecordBatch]:
    """The Spark worker: users in, recommendations out, batch by batch."""
    loaded = _load_once(task.model_folder, task.vocabulary_file, task.version)
    item_ids = [pa.array(ids, pa.string()) for ids in loaded.vocabulary.item_ids]
    for batch in batches:
        if batch.num_rows:
            yield score_users(pa.Table.from_batches([batch]), loaded, item_ids, task)


def score_users(
    users: pa.Table, loaded: LoadedModel, item_ids: Sequence[pa.Array], task: ScoringTask
) -> pa.RecordBatch:
    """Recommend for one batch of users.

    Parameters
    ----------
    users
        Rows of `sequences`, one a user.
    loaded
        The version, widened to tonight's vocabulary.
    item_ids
        Per vocabulary domain the item ids by index.
    task
        The run's settings.

    Returns
    -------
    RecordBatch
        user_id, domain, rank, item_id, score, source; at most top_n rows a user and domain.
    """
    histories = Histories.of(users)
    data = histories.cut(task.serve, loaded.vocabulary, task.domains, task.max_length)
    data = data.last(loaded.model.config.max_length)
    seen = _seen_items(users, histories, loaded.vocabulary, task)
    unknown = [
        np.arange(known + 1, n + 1) for known, n in zip(loaded.known_items, loaded.vocabulary.n_items, strict=True)
    ]
    hidden = [[np.union1d(s, u) for s, u in zip(own, unknown, strict=True)] for own in seen]
    recommender = Recommender(loaded.model, loaded.vocabulary, loaded.views)
    top = recommender.top_n(data, task.top_n, seen=hidden, batch_size=len(data.user_ids))
    known_U = _known_events(data.cross_items_UT, data.cross_domains_UT, loaded.known_items)
    warm = known_U >= task.min_history
    kept = warm[top.user]
    model_rows = TopN(*(getattr(top, name)[kept] for name in ("user", "domain", "rank", "item", "score")))
    filled = _popular_rows(model_rows, seen, task, len(data.user_ids))
    rows = TopN.join([model_rows, filled])
    sources = np.repeat(np.array(["model", "popularity"]), [len(model_rows), len(filled)])
    names = pa.array(loaded.vocabulary.domains, pa.string())
    ids = pa.array([None] * len(rows), pa.string()) if len(rows) == 0 else _item_ids(rows, item_ids)
    return pa.RecordBatch.from_arrays(
        [
            users["user_id"].combine_chunks().take(pa.array(rows.user)),
            names.take(pa.array(rows.domain.astype(np.int64) - 1)),
            pa.array(rows.rank.astype(np.int32)),
            ids,
            pa.array(rows.score.astype(np.float64)),
            pa.array(sources),
        ],
        names=["user_id", "domain", "rank", "item_id", "score", "source"],
    )


def _item_ids(rows: TopN, item_ids: Sequence[pa.Array]) -> pa.Array:
    offsets = np.cumsum([0, *[len(ids) for ids in item_ids]])
    stacked = pa.concat_arrays(list(item_ids))
    return stacked.take(pa.array(offsets[rows.domain.astype(np.int64) - 1] + rows.item - 1))


def _seen_items(
    users: pa.Table, histories: Histories, vocabulary: Vocabulary, task: ScoringTask
) -> list[list[NDArray[np.int64]]]:
    """Per user and vocabulary domain the items that must not be recommended again; none where a domain repeats."""
    older = pc.list_flatten(users["older_items"]).to_numpy()
    owner = np.repeat(np.arange(len(users)), pc.list_value_length(users["older_items"]).to_numpy())
    user = np.concatenate([histories.rows_E, owner])
    code = np.concatenate([histories.codes_E, older >> 32])
    item = np.concatenate([histories.items_E.astype(np.int64), older & 0xFFFF_FFFF])
    width = len(vocabulary.domains)
    filtered = [name for name in vocabulary.domains if name not in task.repeats]
    own = [vocabulary.domains.index(name) if name in filtered else -1 for name in task.domains]
    domain = np.array(own)[code - 1]
    place = (user * width + domain)[domain >= 0]
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(1, len(users) * width))
    parts = np.split(item[domain >= 0][order], ends)
    return [parts[row * width : (row + 1) * width] for row in range(len(users))]


def _known_events(items_UT: NDArray[Any], codes_UT: NDArray[Any], known_items: Sequence[int]) -> NDArray[np.int64]:
    limit = np.array([0, *known_items])
    counts: NDArray[np.int64] = ((items_UT > 0) & (items_UT <= limit[codes_UT])).sum(1)
    return counts


def _popular_rows(rows: TopN, seen: Sequence[Sequence[NDArray[np.int64]]], task: ScoringTask, n_users: int) -> TopN:
    """What popularity adds to lists that are shorter than top_n."""
    n_domains = len(task.popular)
    place = rows.user * n_domains + rows.domain.astype(np.int64) - 1
    counts = np.bincount(place, minlength=n_users * n_domains)
    order = np.argsort(place, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    found: list[TopN] = []
    for short in np.flatnonzero(counts < task.top_n):
        user, domain = divmod(int(short), n_domains)
        listed = rows.item[order[starts[short] : starts[short + 1]]]
        popular = task.popular[domain]
        free = ~np.isin(popular, np.concatenate([listed, seen[user][domain]]))
        take = np.flatnonzero(free)[: task.top_n - len(listed)]
        ranks = np.arange(len(listed) + 1, len(listed) + 1 + len(take), dtype=np.int32)
        found.append(
            TopN(
                np.full(len(take), user), np.full(len(take), domain + 1, np.int8), ranks,
                popular[take].astype(np.int32), task.shares[domain][take].astype(np.float32),
            )
        )  # fmt: skip
    return TopN.join(found)


def popularity(
    counts: Sequence[NDArray[np.int64]],
) -> tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[Any], ...]]:
    """Per domain the item indexes by falling count (ties: lower index) and their shares of all counts."""
    orders = [np.argsort(-c, kind="stable")[:POPULAR_DEPTH] for c in counts]
    shares = [c[o] / max(int(c.sum()), 1) for c, o in zip(counts, orders, strict=True)]
    return tuple(o + 1 for o in orders), tuple(shares)


def score(run: Run) -> str:
    """Rank, fill, stage, audit; note the staged files for publish."""
    settings, ds = run.settings, run.ds.isoformat()
    lakehouse = Lakehouse(settings)
    night = Night(run, lakehouse)
    version = str(night.noted("served_version", made_by="gate"))
    vocabulary = read_vocabulary(lakehouse, night, run.ds, settings.domain_names)
    task = _prepare(run, lakehouse, night, version, vocabulary)
    # A version whose vocabulary does not fit fails here, in one line, not in every worker.
    loaded = _load_once(task.model_folder, task.vocabulary_file, task.version)
    new_items = sum(vocabulary.n_items) - sum(loaded.known_items)
    log.info("scoring with version %s; %d items are newer than it", version, new_items)
    folder = lakehouse.stage_folder(RECOMMENDATIONS.name, run.ds, night.run_id)
    with spark_session(settings, f"score {ds}") as spark:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", settings.scoring.batch_users)
        users = _read_users(spark, run, lakehouse, night)
        rows = users.mapInArrow(lambda batches: score_batches(batches, task), OUTPUT)
        everyone = rows.unionByName(spark.createDataFrame(_anyone_rows(vocabulary, task), OUTPUT))
        (
            everyone.withColumn("model_version", F.lit(version))
            .withColumn("arm", F.lit("champion"))
            .withColumn("ds", F.lit(run.ds))
            .select(*RECOMMENDATIONS.column_names)
            .sortWithinPartitions("user_id", "domain", "rank")
            .write.parquet(str(folder))
        )
        staged = spark.read.parquet(str(folder))
        items = lakehouse.read(spark, "items", night.snapshot("items")).where(F.col("arrival_ds") <= F.lit(run.ds))
        results = run_suite(
            RECOMMENDATIONS.name, *recommendations_suite(vocabulary.domains, task.top_n, staged, items)
        )
        record_audits(lakehouse, results, run.ds, night.run_id)
        require(results)
        n_rows, n_users = staged.count(), staged.select("user_id").distinct().count() - 1
    night.note(recommendations_staged=data_files(folder), recommendations_count=n_rows)
    return f"{n_rows} recommendations for {n_users} users staged and audited"


def _prepare(run: Run, lakehouse: Lakehouse, night: Night, version: str, vocabulary: Vocabulary) -> ScoringTask:
    """Put model and vocabulary where every worker reads them: files in the warehouse, written whole."""
    settings = run.settings
    folder = lakehouse.warehouse / "_models"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary_file = folder / f"vocabulary-{run.ds}-{night.snapshot('items')}.json"
    if not vocabulary_file.exists():
        partial = vocabulary_file.with_suffix(f".{os.getpid()}")
        vocabulary.save(partial)
        os.replace(partial, vocabulary_file)
    since = run.cutoff - timedelta(days=settings.scoring.popularity_days)
    counts = count_events(lakehouse, night, run.ds, since, run.cutoff, vocabulary)
    popular, shares = popularity(counts)
    return ScoringTask(
        model_folder=str(_fetch_model(Registry(settings), folder, version)),
        vocabulary_file=str(vocabulary_file),
        version=version,
        domains=settings.domain_names,
        repeats=tuple(sorted(settings.repeating_domains)),
        max_length=settings.sequences.max_length,
        serve=split_windows(run.cutoff, settings.sequences.valid_days, settings.sequences.test_days)[-1],
        top_n=settings.scoring.top_n,
        min_history=settings.scoring.min_history,
        popular=popular,
        shares=shares,
    )


def _fetch_model(registry: Registry, folder: Path, version: str) -> Path:
    """A registered version never changes: fetch it once into the warehouse, named also by its training run."""
    target = folder / f"{registry.name}-{version}-{registry.version(version).run_id}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{target.name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        fetched = registry.download(version, partial)
        try:
            os.rename(fetched, target)
        except OSError as error:
            if not target.exists():
                raise JobError(f"cannot keep model version {version} in {target}: {error}") from error
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _read_users(spark: SparkSession, run: Run, lakehouse: Lakehouse, night: Night) -> DataFrame:
    """One row a user: where the night wrote all users, its rows as they lie; else the latest of each."""
    state = state_of(run, lakehouse, night)
    rows = lakehouse.read(spark, SEQUENCES.name, state.snapshot, state.rows())
    rows = rows.where(F.col("ds").between(F.lit(state.base_ds), F.lit(state.ds)))
    latest = rows if state.base_ds == state.ds else latest_rows(rows)
    return latest.select("user_id", "items", "domains", "times", "older_items")


def _anyone_rows(vocabulary: Vocabulary, task: ScoringTask) -> list[tuple[str, str, int, str, float, str]]:
    """The popularity lists for users whom the night has never seen."""
    return [
        (ANYONE, domain, rank, vocabulary.item_id(domain, int(item)), float(share), "popularity")
        for domain, items, shares in zip(vocabulary.domains, task.popular, task.shares, strict=True)
        for rank, (item, share) in enumerate(zip(items[: task.top_n], shares, strict=False), 1)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(score, argv)


if __name__ == "__main__":
    raise SystemExit(main())
