"""A project whose nights are made in milliseconds, without Spark: rows that mean nothing, commits that mean all."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.expressions import EqualTo

from jobs.build_sequences import make_plan
from jobs.command import Run
from jobs.lakehouse import Lakehouse
from jobs.maintain import tidy_up
from jobs.night import Night
from jobs.publish import publish
from jobs.schemas import INTERACTIONS, ITEMS, RECOMMENDATIONS, SEQUENCES, TABLES
from jobs.sequence_nights import SequenceNight, shape_of
from jobs.settings import Settings

FIRST = date(2024, 1, 1)
LATER = timedelta(hours=72)
"""How much later maintenance looks at the clock: more than the hours in which nothing is removed."""


def day(n: int) -> date:
    return FIRST + timedelta(days=n)


class SmallNights:
    """Tables, and nights that go through the commits of real ones."""

    def __init__(self, make: Callable[..., Settings], **maintenance: Any) -> None:
        own = {"nights": 3, "snapshot_days": 2, "keep_days": {"recommendations": 5}, **maintenance}
        self.settings = make(maintenance=own)
        self.lakehouse = Lakehouse(self.settings)
        self.lakehouse.create_tables()

    def run(self, ds: date, run_id: str = "", **arguments: Any) -> Run:
        own = Namespace(full=False, dry_run=False)
        vars(own).update(arguments)
        return Run(ds=ds, run_id=run_id or f"run-{ds}", settings=self.settings, arguments=own)

    def maintain(self, ds: date, *, later: timedelta = LATER, **arguments: Any) -> str:
        return tidy_up(self.run(ds, "maintenance", **arguments), datetime.now(UTC) + later)

    # --- the steps of a night ---------------------------------------------------------------------------

    def stage(self, name: str, ds: date, *parts: list[dict[str, Any]]) -> list[str]:
        schema = TABLES[name].arrow_schema
        files = []
        for rows in parts:
            files += self.lakehouse.stage_arrow(name, pa.Table.from_pylist(rows, schema=schema), ds, "test")
        return files

    def ingest(self, ds: date, run_id: str = "", rows: int = 2) -> None:
        run = self.run(ds, run_id)
        events = [
            {"user_id": f"u{n}", "item_id": f"{ds}", "domain": "books", "event_day": ds, "arrival_ds": ds}
            | {
                "ts": datetime(ds.year, ds.month, ds.day, tzinfo=UTC),
                "event_id": n,
                "item_index": 1,
                "known_ds": ds,
            }
            for n in range(rows)
        ]
        parent = self.lakehouse.current_snapshot(ITEMS.name)
        item = {"domain": "books", "item_id": f"{ds}", "item_index": 1, "arrival_ds": ds}
        items = self.lakehouse.append(
            ITEMS.name, self.stage(ITEMS.name, ds, [item]), parent=parent, ds=ds, run_id="i"
        )
        files = self.stage(INTERACTIONS.name, ds, events[:1], events[1:])
        where = EqualTo("arrival_ds", ds.isoformat())
        snapshot = self.lakehouse.replace(INTERACTIONS.name, where, files, ds=ds, run_id=run.run_id)
        night = Night(run, self.lakehouse)
        night.pin(INTERACTIONS.name, snapshot)
        night.pin(ITEMS.name, items or -1)

    def build(self, ds: date, run_id: str = "", *, full: bool = False) -> SequenceNight:
        run = self.run(ds, run_id, full=full)
        night = Night(run, self.lakehouse)
        interactions = night.snapshot(INTERACTIONS.name)
        plan = make_plan(run, self.lakehouse, interactions)
        previous = plan.previous
        made = SequenceNight(
            ds=ds, base_ds=previous.base_ds if previous else ds, previous_ds=previous.ds if previous else None,
            previous_snapshot=plan.parent if previous else None, interactions_snapshot=interactions,
            shape=shape_of(self.settings), kind="incremental" if previous else "full", reason=plan.reason, events=1,
        )  # fmt: skip
        files = self.stage(SEQUENCES.name, ds, [{"user_id": "u0", "n_events": 1, "ds": ds}])
        snapshot = self.lakehouse.replace(
            SEQUENCES.name, EqualTo("ds", ds.isoformat()), files, ds=ds, run_id=run.run_id,
            properties=made.properties(), even_if_empty=True,
        )  # fmt: skip
        night.pin(SEQUENCES.name, snapshot)
        return made

    def score(self, ds: date, run_id: str = "") -> list[str]:
        row = {"domain": "books", "rank": 1, "item_id": "x", "score": 1.0, "source": "model", "ds": ds}
        parts = [[{**row, "user_id": f"u{n}", "model_version": "1", "arm": "champion"}] for n in range(3)]
        files = self.stage(RECOMMENDATIONS.name, ds, *parts)
        Night(self.run(ds, run_id), self.lakehouse).note(
            recommendations_staged=files, recommendations_count=3, served_version="1", decision="promoted",
            reason="",
        )  # fmt: skip
        return files

    def publish(self, ds: date, run_id: str = "") -> None:
        publish(self.run(ds, run_id))

    def night(self, ds: date, *, full: bool = False) -> None:
        self.ingest(ds)
        self.build(ds, full=full)
        self.score(ds)
        self.publish(ds)

    # --- looking ----------------------------------------------------------------------------------------

    def rows(self, name: str, snapshot: int | None = None) -> list[dict[str, Any]]:
        number = snapshot or self.lakehouse.current_snapshot(name)
        return sorted(self.lakehouse.read_arrow(name, number).to_pylist(), key=str)

    def contents(self) -> dict[str, list[dict[str, Any]]]:
        return {name: self.rows(name) for name in TABLES}

    def pinned(self) -> Iterator[tuple[str, date, int]]:
        """Table, night and snapshot of every pin in `nights`, newest night first."""
        for row in sorted(self.rows("nights"), key=lambda row: row["ds"], reverse=True):
            for name in ("interactions", "items", "sequences", "recommendations"):
                yield name, row["ds"], row[f"{name}_snapshot"]

    def files(self, kind: str = "**/*.parquet") -> set[Path]:
        return set((self.lakehouse.warehouse / "syncrec").glob(kind))

    def manifests(self, name: str) -> int:
        table = self.lakehouse.table(name)
        snapshot = table.current_snapshot()
        return len(snapshot.manifests(table.io)) if snapshot else 0

    def live_files(self) -> int:
        numbers = [(name, self.lakehouse.current_snapshot(name)) for name in TABLES]
        return sum(len(self.lakehouse.files(name, number)) for name, number in numbers)
