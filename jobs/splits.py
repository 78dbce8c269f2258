"""The splits of a night, cut by event time.

    train   events before the validation window
    valid   ... and the validation window; its events are the ones to predict
    test    ... and the test window, which ends with ds; its events are the ones to predict
    serve   everything before the cutoff: what tonight's recommendations start from

A user has a row of valid or test only where the window holds an event of that user.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

EVER = datetime(1900, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
"""Microseconds of a day."""


class Window(NamedTuple):
    """One split: events before `cut` count; a user needs an event at or after `start` to have a row in it."""

    split: str
    start: datetime
    cut: datetime


def split_windows(cutoff: datetime, valid_days: int, test_days: int) -> tuple[Window, ...]:
    """The four splits of the night that ends at `cutoff`, cut by event time."""
    test_start = cutoff - timedelta(days=test_days)
    valid_start = test_start - timedelta(days=valid_days)
    return (
        Window("train", EVER, valid_start),
        Window("valid", valid_start, test_start),
        Window("test", test_start, cutoff),
        Window("serve", EVER, cutoff),
    )


def micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
