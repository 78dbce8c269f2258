"""The study kit's columns: the ids and times of a log, checked, as numbers; a bad one is named with its row.

Shapes: E events.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Units of time by their parts of a second."""
_FIRST_SECOND, _LAST_SECOND = 473_385_600, 4_102_444_800  # 1985 to 2100: numbers that are surely dates
_NO_ID = ("", "nan", "NaN", "None", "null")


class StudyError(ValueError):
    """A log or a study cannot be used; the message says what is wrong, where, and what to do."""


def ids_of(path: Path, column: Any, name: str) -> tuple[Array, list[str]]:
    """Return the place of each event's id, [E], and the ids as text in that order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    missing = pc.is_null(column, nan_is_null=True)
    if pa.types.is_floating(column.type):
        valid = column.filter(pc.invert(missing))
        if pc.any(pc.not_equal(valid, pc.floor(valid))).as_py():
            raise StudyError(f"{path}: column '{name}' holds fractions; ids are texts or whole numbers")
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        missing = pc.or_kleene(missing, pc.is_in(column, pa.array(_NO_ID, column.type)))
    elif not pa.types.is_integer(column.type):
        raise StudyError(f"{path}: column '{name}' is of type {column.type}; ids are texts or whole numbers")
    n_missing = pc.sum(missing).as_py()
    if n_missing:
        first = int(np.flatnonzero(missing.to_numpy())[0])
        raise StudyError(
            f"{path}: column '{name}' has no id in {n_missing:,} of {len(column):,} rows (empty or NaN; the first "
            f"is row {first + 1:,}): take these rows out, or mend what wrote them"
        )
    if pa.types.is_floating(column.type):
        column = column.cast(pa.int64())
    encoded = pc.dictionary_encode(column).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    ids = encoded.dictionary.cast(pa.string()).to_pylist()
    return encoded.indices.to_numpy().astype(np.int64), ids


def times_of(path: Path, column: Any, name: str) -> tuple[Array, str | None]:
    """Return the times as numbers, [E], and their unit where the column says it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = _parsed(path, column, name)
    unit = None
    if pa.types.is_temporal(column.type):
        column, unit = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()), "us"
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise StudyError(
            f"{path}: column '{name}' is of type {kind}; times are numbers, timestamps or ISO 8601 texts"
        )
    missing = pc.is_null(column, nan_is_null=True)
    if n_missing := pc.sum(missing).as_py():
        first = int(np.flatnonzero(missing.to_numpy())[0])
        raise StudyError(
            f"{path}: column '{name}' has no time in {n_missing:,} of {len(column):,} rows (the first is row "
            f"{first + 1:,}): without a time an event has no place in a sequence; take these rows out"
        )
    ts_E = column.to_numpy()
    if len(ts_E) > 1 and ts_E.min() == ts_E.max():
        raise StudyError(
            f"{path}: column '{name}' has one value, {ts_E[0]}, in all rows: nothing comes before another"
        )
    return ts_E, unit


def _parsed(path: Path, column: Any, name: str) -> Any:
    """Return texts as numbers or timestamps."""
    import pyarrow as pa

    kinds = (pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC"), pa.timestamp("us"))
    for kind in kinds:
        if (parsed := _cast(column, kind)) is not None:
            return parsed
    row, kind = max(((_first_not(column, kind), kind) for kind in kinds), key=lambda found: found[0])
    if row <= 1 and any(_cast(column.slice(1), kind) is not None for kind in kinds):
        row = 0
    elif row and _cast(column.slice(row + 1), kind) is not None:
        pass
    elif row:
        raise StudyError(
            f"{path}: column '{name}' holds times of several forms: {column[row].as_py()!r} in {_row(path, row)} "
            "is the first that is none of the form of those before it; bring all to one form"
        )
    else:
        raise StudyError(
            f"{path}: column '{name}' holds texts that are no ISO 8601 times, such as {column[0].as_py()!r}: "
            "write them as 2024-03-01T12:00:00 or as numbers"
        )
    raise StudyError(
        f"{path}: column '{name}' holds {column[row].as_py()!r} in {_row(path, row)}, which is no time of the form "
        "of the others: mend or take out that row"
    )


def _row(path: Path, place: int) -> str:
    return f"row {place + 1:,}{' below the header' if '.csv' in path.suffixes else ''}"


def _cast(column: Any, kind: Any) -> Any:
    """The column as this kind; None where a text is none."""
    import pyarrow as pa

    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        return None


def _first_not(column: Any, kind: Any) -> int:
    """The place of the first text that is none of this kind; there is one."""
    sound, all_ = 0, len(column)
    while all_ - sound > 1:
        middle = (sound + all_) // 2
        if _cast(column.slice(sound, middle - sound), kind) is not None:
            sound = middle
        else:
            all_ = middle
    return sound


def unit_of(place: str, ts_E: Array, domains: list[str], domain_E: Array, wanted: str | None) -> str | None:
    """Return the unit that the values show; refuse two units in one log, and one that is not the wanted one."""
    if wanted is not None and wanted not in UNITS:
        raise StudyError(f"time unit {wanted!r}: choose one of {', '.join(UNITS)}")
    class_E = np.full(len(ts_E), -1)
    for number, parts in enumerate(UNITS.values()):
        class_E[(ts_E >= _FIRST_SECOND * parts) & (ts_E < _LAST_SECOND * parts)] = number
    found = [unit for number, unit in enumerate(UNITS) if (class_E == number).any()]
    if len(found) > 1:
        where = "; ".join(
            f"{unit}: {(class_E == list(UNITS).index(unit)).sum():,} events of "
            + ", ".join(domains[code] for code in np.unique(domain_E[class_E == list(UNITS).index(unit)]))
            for unit in found
        )
        raise StudyError(
            f"{place} mixes units of time ({where}): bring all to one unit, or events are out of order"
        )
    seen = found[0] if found else None
    if wanted is not None and seen is not None and wanted != seen:
        middle = float(np.median(ts_E))
        day = datetime.fromtimestamp(middle / UNITS[seen], UTC)
        raise StudyError(
            f"{place} is not in {wanted}: {middle:.0f} is {day:%Y-%m-%d} in {seen} and far from now in {wanted}. "
            f"Give --unit {seen}"
        )
    return wanted or seen
