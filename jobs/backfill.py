"""A past night run again: how it is told from tonight's, and which version was champion then.

A night is past where a later one is published, and in every run of a backfill, the newest night's too. It scores
with the version that served then; where none did, it trains one on the data up to its day. It moves no alias, and
no later version takes part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from jobs.command import Run
from jobs.lakehouse import Lakehouse
from jobs.registry import CHAMPION, Registry, Version
from jobs.schemas import NIGHTS, ROLLED_BACK

AGAIN = "a past night again"
"""How the gate's reason begins for a night that trains nothing because a version was champion then."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """A past night's place.

    newest: the newest published night; its own day where none is. champion: of its day; None: there was none.
    """

    newest: date
    champion: str | None


def past(ds: date, nights: Sequence[Mapping[str, Any]], *, backfill: bool = False) -> Past | None:
    """The past that a day lies in, None for a night that no later one follows and no backfill runs.

    nights: rows of `nights`, with ds, served_version and decision. Nights that were rolled back served nobody.
    """
    newest = max((row["ds"] for row in nights), default=ds)
    if newest <= ds and not backfill:
        return None
    served = [row for row in nights if row["ds"] <= ds and row["decision"] != ROLLED_BACK]
    last = max(served, key=lambda row: row["ds"], default=None)
    return Past(newest=newest, champion=str(last["served_version"]) if last else None)


def past_of(lakehouse: Lakehouse, run: Run) -> Past | None:
    """The past that a night lies in, as its run and `nights` tell it."""
    columns = ("ds", "served_version", "decision")
    rows = lakehouse.read_arrow(NIGHTS.name, lakehouse.current_snapshot(NIGHTS.name), columns=columns)
    return past(run.ds, rows.to_pylist(), backfill=run.backfill)


def champion_of(registry: Registry, then: Past | None) -> Version | None:
    """The champion of a night: the alias, in a past one (`past_of`) the version that served it.

    Raises
    ------
    JobError
        That version is no longer in the registry.
    """
    if then is None:
        return registry.at_alias(CHAMPION)
    return registry.version(then.champion) if then.champion else None
