"""The columns of an event log: checked, put in time order, cut at the end of the evaluation window.

Shapes: E events of a log.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def ordered_events(
    user_ids: ArrayLike,
    item_indexes: ArrayLike,
    domain_codes: ArrayLike,
    timestamps: ArrayLike | None,
    window: tuple[float, float] | None,
) -> dict[str, Array]:
    """Return the log's columns "user", "item", "domain", "time" and "target", [E], in time order.

    See `SequenceSet.from_events`, which this serves.

    Raises
    ------
    ValueError : columns of different lengths; indexes or codes that are no whole numbers; timestamps that are no
        finite numbers.
    """
    user = np.asarray(user_ids)
    time = np.arange(len(user)) if timestamps is None else np.asarray(timestamps)
    item, domain = _whole("item_indexes", item_indexes), _whole("domain_codes", domain_codes)
    for name, column in (("item_indexes", item), ("domain_codes", domain), ("timestamps", time)):
        if column.shape != (len(user),):
            raise ValueError(f"from_events: {name} has the shape {column.shape}, user_ids {(len(user),)}")
    if time.dtype.kind not in "iuf" or not np.isfinite(time).all():
        raise ValueError(
            f"from_events: timestamps must be finite numbers, such as seconds since 1970 (got {time.dtype}); "
            "of datetimes give values.astype('datetime64[s]').astype('int64')"
        )
    order = np.argsort(time, kind="stable")
    events = {"user": user[order], "item": item[order], "domain": domain[order], "time": time[order]}
    start, end = (np.inf, np.inf) if window is None else window
    events["target"] = events["time"] >= start
    before_end = events["time"] < end
    return {name: values[before_end] for name, values in events.items()}


def _whole(name: str, values: ArrayLike) -> Array:
    """Return whole numbers as int64, of whatever type they are; what is not whole is refused, not cut off."""
    given = np.asarray(values)
    try:
        with np.errstate(invalid="ignore"):
            whole = given.astype(np.int64)
        same = bool(np.all(whole == given))
    except (TypeError, ValueError, OverflowError):
        same = False
    if not same:
        raise ValueError(f"from_events: {name} must be whole numbers, got {given.dtype}")
    return whole
