"""What the views of sql/views stand on besides tables: the newest night's cuts, and functions of the same name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.lakehouse import Lakehouse
from jobs.schemas import SEQUENCES
from jobs.sequence_nights import past_nights
from jobs.splits import micros, split_windows

# Views that unfold lists are written with Spark's names of these functions; DuckDB gets them as macros.
SPARK_NAMES = (
    "explode(list) as unnest(list)",
    "sequence(low, high) as generate_series(low, high)",
    "size(list) as len(list)",
    "try_element_at(list, place) as list_extract(list, place)",
)
_NO_NIGHT = (
    "select date '1970-01-01' as ds, date '1970-01-01' as base_ds, 1 as max_length, {list_of}('') as domains, "
    "0 as valid_start, 0 as test_start, 0 as cutoff where false"
)


def in_order(files: Sequence[Path]) -> list[Path]:
    """The files of views, each after those that it reads."""
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    ordered: list[Path] = []
    while waiting := [file for file in files if file not in ordered]:
        names = "|".join(file.stem for file in waiting)
        ready = [file for file in waiting if not re.search(rf"\b(from|join) ({names})\b", texts[file])]
        if not ready:
            raise ValueError(f"views that read each other: {names}")
        ordered += ready
    return ordered


def sequences_night(lakehouse: Lakehouse, list_of: str) -> str:
    """SQL of the view `sequences_night`, one row out of the newest snapshots of `sequences`.

    ds and base_ds: the days of the newest night's state; max_length: T; domains: their names by code; valid_start,
    test_start, cutoff: where its splits are cut, microseconds since 1970 UTC. `list_of` is the engine's function
    that makes a list.
    """
    nights = past_nights(lakehouse, lakehouse.current_snapshot(SEQUENCES.name))
    night = max(nights, key=lambda night: night.ds, default=None)  # the first of equals: the newest commit
    if night is None:
        return _NO_NIGHT.format(list_of=list_of)
    shape, ds = night.shape, night.ds
    cutoff = datetime(ds.year, ds.month, ds.day, tzinfo=UTC) + timedelta(days=1)
    _, valid, test, serve = split_windows(cutoff, shape["valid_days"], shape["test_days"])
    domains = ", ".join(f"'{name}'" for name in shape["domains"])
    return (
        f"select date '{ds}' as ds, date '{night.base_ds}' as base_ds, {shape['max_length']} as max_length, "
        f"{list_of}({domains}) as domains, {micros(valid.start)} as valid_start, "
        f"{micros(test.start)} as test_start, {micros(serve.cut)} as cutoff"
    )
