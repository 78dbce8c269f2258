"""From the lakehouse to the model: vocabulary, sequences and popularity of one night as numpy arrays."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyiceberg.expressions import And, EqualTo, LessThanOrEqual

from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.night import Night
from syncrec_model import SequenceSet, Vocabulary


def read_vocabulary(lakehouse: Lakehouse, night: Night, ds: date, domains: tuple[str, ...]) -> Vocabulary:
    """The items that the night of ds knows, per domain in the order of their indexes.

    A domain without any item yet is left out: there is nothing to learn or to recommend in it.

    Raises
    ------
    JobError
        The indexes of a domain are not 1, 2, 3, ...: the items table was changed by hand.
    """
    rows = lakehouse.read_arrow(
        "items",
        night.snapshot("items"),
        LessThanOrEqual("arrival_ds", ds.isoformat()),
        columns=("domain", "item_id", "item_index"),
    ).sort_by([("domain", "ascending"), ("item_index", "ascending")])
    item_ids: dict[str, list[str]] = {}
    for domain in domains:
        own = rows.filter(pc.equal(rows["domain"], domain))
        indexes = own["item_index"].to_numpy()
        if not np.array_equal(indexes, np.arange(1, len(indexes) + 1)):
            raise JobError(
                f"items of domain '{domain}' known at {ds} are not numbered 1..{len(indexes)} without gaps"
            )
        if len(indexes):
            item_ids[domain] = own["item_id"].to_pylist()
    if not item_ids:
        raise JobError(f"no items known at {ds}: ingest a day with events first")
    return Vocabulary(tuple(item_ids), tuple(item_ids.values()))


def read_sequences(
    lakehouse: Lakehouse,
    night: Night,
    ds: date,
    split: str,
    vocabulary: Vocabulary,
    domains: tuple[str, ...],
    window_start: datetime | None = None,
) -> SequenceSet:
    """One split of the night; events at or after `window_start` are flagged as targets (None: no targets).

    `domains` are those of the settings, whose places are the codes in the tables.
    """
    where = And(EqualTo("ds", ds.isoformat()), EqualTo("split", split))
    cross = lakehouse.read_arrow(
        "cross_sequences", night.snapshot("cross_sequences"), where,
        columns=("user_id", "item_indexes", "domain_codes", "times", "length"),
    ).sort_by("user_id")  # fmt: skip
    single = lakehouse.read_arrow(
        "single_sequences", night.snapshot("single_sequences"), where,
        columns=("user_id", "domain", "item_indexes", "places", "length"),
    ).sort_by([("user_id", "ascending"), ("domain", "ascending")])  # fmt: skip
    if cross.num_rows == 0 and split in ("train", "serve"):
        raise JobError(f"no {split} sequences of {ds}: run build_sequences for that day, or more history is needed")
    return to_sequence_set(cross, single, vocabulary, domains, window_start)


def to_sequence_set(
    cross: pa.Table,
    single: pa.Table,
    vocabulary: Vocabulary,
    domains: tuple[str, ...],
    window_start: datetime | None = None,
) -> SequenceSet:
    """Turn rows of the two sequence tables into the model's arrays.

    Parameters
    ----------
    cross, single
        Rows of one split, columns as in `jobs.schemas`.
    vocabulary
        Gives the model's domains and their sizes.
    domains
        The domains of the settings: the codes of the tables count in their order.
    window_start
        Events at or after it are the ones to predict.
    """
    micros = _micros(window_start)
    times_UT = _matrix(cross["times"])
    codes = pa.array(range(1, len(vocabulary.domains) + 1), pa.int32())
    own_codes = np.array([0, *[vocabulary.domains.index(d) + 1 if d in vocabulary.domains else 0 for d in domains]])
    domain_codes = codes.take(pc.index_in(single["domain"], pa.array(vocabulary.domains)))
    return SequenceSet(
        domains=vocabulary.domains,
        n_items=vocabulary.n_items,
        user_ids=np.asarray(cross["user_id"].to_pylist(), dtype=object),
        cross_items_UT=_matrix(cross["item_indexes"]),
        cross_domains_UT=own_codes[_matrix(cross["domain_codes"])],
        cross_lengths_U=cross["length"].to_numpy(),
        cross_targets_UT=(times_UT > 0) & (times_UT >= micros)
        if micros is not None
        else np.zeros_like(times_UT, bool),
        single_users_N=pc.index_in(single["user_id"], cross["user_id"].combine_chunks()).to_numpy(),
        single_domains_N=domain_codes.to_numpy(),
        single_items_NT=_matrix(single["item_indexes"]),
        single_places_NT=_matrix(single["places"]),
        single_lengths_N=single["length"].to_numpy(),
    )


def _micros(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    flat = column.combine_chunks()
    if isinstance(flat, pa.ChunkedArray):  # an empty column stays chunked
        flat = pa.concat_arrays(flat.chunks) if flat.num_chunks else pa.array([], flat.type)
    values: NDArray[Any] = flat.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(flat), -1) if len(flat) else values.reshape(0, 1)


def count_events(
    lakehouse: Lakehouse, night: Night, ds: date, since: datetime, before: datetime, vocabulary: Vocabulary
) -> tuple[NDArray[np.int64], ...]:
    """Popularity: the events of every item in a span of time, counted from the night's interactions.

    Returns
    -------
    tuple of arrays
        Per domain V_d counts in the order of the item indexes.
    """
    files = lakehouse.files(
        "interactions", night.snapshot("interactions"), LessThanOrEqual("arrival_ds", ds.isoformat())
    )
    counts = [np.zeros(n, np.int64) for n in vocabulary.n_items]
    if not files:
        return tuple(counts)
    rows = duckdb.connect().execute(
        "select domain, item_id, count(*) from read_parquet(?) "
        "where arrival_ds <= ? and ts >= ? and ts < ? group by all",
        [files, ds, since, before],
    )  # fmt: skip
    codes = {name: code for code, name in enumerate(vocabulary.domains)}
    while batch := rows.fetchmany(10_000):
        for domain, item_id, n in batch:
            if domain in codes and (index := vocabulary.index_of(domain, item_id)):
                counts[codes[domain]][index - 1] = n
    return tuple(counts)
