"""From the lakehouse to the model: vocabulary, sequences and popularity of one night as numpy arrays."""

from __future__ import annotations

from datetime import date, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyiceberg.expressions import And, GreaterThanOrEqual, LessThanOrEqual

from jobs.command import Run
from jobs.errors import JobError
from jobs.histories import Histories
from jobs.lakehouse import Lakehouse
from jobs.night import Night
from jobs.schemas import SEQUENCES
from jobs.sequence_nights import SequenceNight, difference, night_of, shape_of
from jobs.splits import split_windows
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
    run: Run, lakehouse: Lakehouse, night: Night, vocabulary: Vocabulary, *splits: str
) -> tuple[SequenceSet, ...]:
    """Splits of the night, in one reading of its users' latest rows.

    Raises
    ------
    JobError
        The night has no sequences, or they were built by other settings: run build_sequences.
    """
    settings = run.settings
    state = state_of(run, lakehouse, night)
    columns = ("user_id", "items", "domains", "times", "ds")
    rows = lakehouse.read_arrow(SEQUENCES.name, state.snapshot, state.rows(), columns=columns)
    histories = Histories.of(latest(rows))
    own = settings.sequences
    windows = {w.split: w for w in split_windows(run.cutoff, own.valid_days, own.test_days)}
    sets = []
    for split in splits:
        made = histories.cut(windows[split], vocabulary, settings.domain_names, own.max_length)
        if made.n_users == 0 and split in ("train", "serve"):
            raise JobError(
                f"no {split} sequences of {run.ds}: more history is needed, "
                f"events before {windows[split].cut:%Y-%m-%d}"
            )
        sets.append(made)
    return tuple(sets)


def state_of(run: Run, lakehouse: Lakehouse, night: Night) -> SequenceNight:
    """The night's own sequences.

    Raises
    ------
    JobError
        There are none, or they were built by other settings: run build_sequences.
    """
    state = night_of(lakehouse, night.snapshot(SEQUENCES.name), run.ds)
    if changes := difference(state.shape, shape_of(run.settings)):
        raise JobError(f"{changes} since the sequences of {run.ds} were built: run build_sequences again")
    return state


def latest(rows: pa.Table) -> pa.Table:
    """The latest row of every user, ordered by user."""
    order = pc.sort_indices(rows, [("user_id", "ascending"), ("ds", "ascending")])
    users = rows["user_id"].take(order).combine_chunks()
    if not len(users):
        return rows
    is_last = pc.not_equal(users[:-1], users[1:]).to_numpy(zero_copy_only=False)
    return rows.take(order.filter(pa.array(np.append(is_last, True))))


def count_events(
    lakehouse: Lakehouse, night: Night, ds: date, since: datetime, before: datetime, vocabulary: Vocabulary
) -> tuple[NDArray[np.int64], ...]:
    """Popularity: the events of every item in a span of time, counted from the night's interactions.

    Returns
    -------
    tuple of arrays
        Per domain V_d counts in the order of the item indexes.
    """
    # No event arrives before its time, so files of earlier days hold none of the span: nothing grows with history.
    arrived = And(
        GreaterThanOrEqual("arrival_ds", since.date().isoformat()), LessThanOrEqual("arrival_ds", ds.isoformat())
    )
    files = lakehouse.files("interactions", night.snapshot("interactions"), arrived)
    counts = [np.zeros(n, np.int64) for n in vocabulary.n_items]
    if not files:
        return tuple(counts)
    rows = duckdb.connect().execute(
        "select domain, item_index, count(*) from read_parquet(?) "
        "where known_ds <= ? and ts >= ? and ts < ? group by all",
        [files, ds, since, before],
    )  # fmt: skip
    codes = {name: code for code, name in enumerate(vocabulary.domains)}
    while batch := rows.fetchmany(100_000):
        for domain, index, n in batch:
            if domain in codes:
                counts[codes[domain]][index - 1] = n
    return tuple(counts)
