"""What the audit of `recommendations` knows of each list, worked out by Spark's workers from the staged files.

A list whose rows lie next to each other is checked where it lies; the rules (jobs.audit_rules) ask besides that
each list lies in one piece. So nothing but one row a list passes through Spark.

Shapes: R rows of a row group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.list_files import codes, equals, row_groups, starts, whole
from jobs.schemas import RECOMMENDATIONS
from jobs.spark import frame_of

_COUNTS = ("rows", "ranks", "items", "unknown_items", "bad_scores", "bad_sources", "nameless")
_NAMES = ("user_id", "domain", "arm", "model_version")
_INTS = ("first", "last", *_COUNTS)
PIECES = ", ".join([*(f"{name} string" for name in _NAMES), *(f"{name} int" for name in _INTS)])


def lists_in(spark: SparkSession, files: list[str], item_files: list[str], ds: date) -> DataFrame:
    """One row a list of the staged files: what the rules of `recommendations_suite` look at; of every arm its own.

    Parameters
    ----------
    files
        The staged files.
    item_files, ds
        The files of `items`, and the night whose vocabulary counts.
    """
    frame = frame_of(spark, [(file,) for file in files], "file string").repartition(len(files))
    pieces = frame.mapInArrow(lambda batches: pieces_of_lists(batches, item_files, ds), PIECES)
    return pieces.groupBy("user_id", "domain", "arm", "model_version").agg(
        *[F.sum(name).alias(name) for name in _COUNTS],
        F.min("first").alias("first"),
        F.max("last").alias("last"),
        F.count(F.lit(1)).alias("pieces"),
    )


def pieces_of_lists(batches: Iterable[pa.RecordBatch], item_files: list[str], ds: date) -> Iterator[pa.RecordBatch]:
    """What an audit must know of the lists in files: one row for every run of rows of one list."""
    known = _item_ids(item_files, ds)
    for batch in batches:
        for file in batch["file"].to_pylist():
            for group in row_groups(file, RECOMMENDATIONS.column_names):
                yield _pieces(group, known)


def _item_ids(files: list[str], ds: date) -> dict[str, pa.Array]:
    """The vocabulary of a night: item ids by domain."""
    columns = ["domain", "item_id", "arrival_ds"]
    parts = [pq.read_table(file.removeprefix("file://"), columns=columns) for file in files]
    items = pa.concat_tables(parts, promote_options="default")  # some call a column "not null"
    items = items.filter(pc.less_equal(items["arrival_ds"], pa.scalar(ds)))
    domains = items["domain"].unique().to_pylist()
    return {d: items.filter(pc.equal(items["domain"], d))["item_id"].combine_chunks() for d in domains}


def _pieces(group: pa.Table, known: dict[str, pa.Array]) -> pa.RecordBatch:
    domain_R, item_R = codes(group["domain"]), codes(group["item_id"])
    rank_R = pc.fill_null(group["rank"], 0).to_numpy()
    start_R = np.logical_or.reduce([starts(codes(group[name])) for name in _NAMES])
    first = np.flatnonzero(start_R)
    piece_R = np.cumsum(start_R) - 1
    length = np.diff(np.append(first, len(group)))

    def different(values_R: NDArray[Any]) -> NDArray[np.int64]:
        keys_R = (piece_R.astype(np.int64) << 32) | values_R.astype(np.int64) & 0xFFFF_FFFF
        if not (keys_R[1:] > keys_R[:-1]).all():  # ranks lie in order as a rule, items never
            keys_R.sort()  # np.unique hashes, which takes ten times as long
        return np.bincount(keys_R[starts(keys_R)] >> 32, minlength=len(first))

    def count(is_R: NDArray[np.bool_]) -> NDArray[np.int32]:
        return np.asarray(np.add.reduceat(is_R, first, dtype=np.int32))

    score = group["score"]
    bad_score_R = ~np.isfinite(pc.fill_null(score, np.nan).to_numpy())
    sourced_R = equals(group["source"], "model") | equals(group["source"], "popularity")
    null_R = [group[name].is_null().to_numpy() for name in ("user_id", "model_version", "arm")]
    at = pa.array(first)
    columns = {
        **{name: whole(group[name]).take(at).cast(pa.string()) for name in _NAMES},
        "first": np.minimum.reduceat(rank_R, first),
        "last": np.maximum.reduceat(rank_R, first),
        "rows": length,
        "ranks": different(rank_R),
        "items": different(item_R),
        "unknown_items": count(~_is_known(group, domain_R, item_R, known)),
        "bad_scores": count(bad_score_R),
        "bad_sources": count(~sourced_R),
        "nameless": count(np.logical_or.reduce(null_R)),
    }
    arrays = [c if isinstance(c, pa.Array) else pa.array(c.astype(np.int32)) for c in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _is_known(
    group: pa.Table, domain_R: NDArray[np.int32], item_R: NDArray[np.int32], known: dict[str, pa.Array]
) -> NDArray[np.bool_]:
    """Whether the vocabulary holds a row's item in its domain."""
    ids, names = whole(group["item_id"]).dictionary, whole(group["domain"]).dictionary.to_pylist()
    found_R = np.zeros(len(group), bool)
    for code, name in enumerate(names):
        own_R = (domain_R == code) & (item_R >= 0)
        if name in known and own_R.any():
            used = np.flatnonzero(np.bincount(item_R[own_R], minlength=len(ids)))
            is_known = np.zeros(len(ids), bool)
            is_known[used] = pc.is_in(ids.take(pa.array(used)), value_set=known[name]).to_numpy(False)
            found_R[own_R] = is_known[item_R[own_R]]
    return found_R
