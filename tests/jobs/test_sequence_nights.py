"""Which night builds on which, from the summaries of snapshots alone: no data, no Spark."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo

from jobs.build_sequences import make_plan
from jobs.command import Run
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.night import Night
from jobs.schemas import INTERACTIONS
from jobs.sequence_nights import SequenceNight, find_previous, night_of, past_nights, shape_of
from jobs.sequence_sets import state_of
from jobs.settings import Settings

D = [date(2024, 1, 1) + timedelta(days=n) for n in range(6)]


class Project:
    """Tables whose snapshots say what nights say; the rows do not matter here."""

    def __init__(self, make: Callable[..., Settings]) -> None:
        self._make = make
        self.change()
        self.lakehouse = Lakehouse(self.settings)
        self.lakehouse.create_tables()

    def change(self, domains: tuple[str, ...] = ("books", "toys", "groceries"), **sequences: int) -> None:
        own = {"max_length": 20, "valid_days": 1, "test_days": 1, **sequences}
        self.settings = self._make(domains={name: {} for name in domains}, sequences=own)

    def land(self, *days: date, rows: int = 1) -> None:
        for day in days:
            blank = {field.name: pa.nulls(rows, field.type) for field in INTERACTIONS.arrow_schema}
            table = pa.table({**blank, "arrival_ds": pa.array([day] * rows, pa.date32())})
            files = self.lakehouse.stage_arrow("interactions", table, day, "test")
            where = EqualTo("arrival_ds", day.isoformat())
            self.lakehouse.replace("interactions", where, files, ds=day, run_id="test")

    def run(self, ds: date, full: bool = False) -> Run:
        return Run(ds=ds, run_id="test", settings=self.settings, arguments=Namespace(full=full))

    def publish(self, ds: date, base: bool = False) -> SequenceNight:
        """What build_sequences leaves for a night: incremental where it may be, but for `base`."""
        interactions = self.lakehouse.current_snapshot("interactions")
        plan = make_plan(self.run(ds, full=base), self.lakehouse, interactions)
        previous = plan.previous
        made = SequenceNight(
            ds=ds, base_ds=previous.base_ds if previous else ds, previous_ds=previous.ds if previous else None,
            previous_snapshot=plan.parent if previous else None, interactions_snapshot=interactions,
            shape=shape_of(self.settings), kind="incremental" if previous else "full", reason=plan.reason, events=7,
        )  # fmt: skip
        snapshot = self.lakehouse.replace(
            "sequences", EqualTo("ds", ds.isoformat()), [], ds=ds, run_id="test", properties=made.properties(),
            even_if_empty=True,
        )  # fmt: skip
        (newest, *_) = past_nights(self.lakehouse, snapshot)
        assert newest.snapshot == snapshot and newest.properties() == made.properties()
        return newest

    def previous(self, ds: date) -> tuple[SequenceNight | None, str]:
        """What the night of ds would build on, and why."""
        current, interactions = (self.lakehouse.current_snapshot(name) for name in ("sequences", "interactions"))
        return find_previous(self.lakehouse, current, ds, shape_of(self.settings), interactions)


@pytest.fixture
def project(settings: Callable[..., Settings]) -> Project:
    return Project(settings)


def test_a_night_builds_on_the_latest_one_before_it_also_when_run_again(project: Project) -> None:
    project.land(*D)
    assert project.previous(D[1]) == (None, "no sequences of an earlier night")
    first = project.publish(D[1])
    second = project.publish(D[3])
    assert (second.base_ds, second.previous_ds, second.kind) == (D[1], D[1], "incremental")
    assert second.reason == "on the night of 2024-01-02"
    third = project.publish(D[3])
    assert third.previous_ds == D[1]  # once more: not on itself
    assert project.previous(D[5])[0] == third
    assert project.previous(D[2])[0] == first
    assert make_plan(project.run(D[5], full=True), project.lakehouse, None).reason == "--full asked for it"


def ingested_again(project: Project) -> None:
    project.land(D[1], rows=2)


def two_ingested_again(project: Project) -> None:
    project.land(D[1], D[2])


def ingested_late(project: Project) -> None:
    project.land(D[0])


def built_again(project: Project) -> None:
    project.publish(D[1], base=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda project: project.change(max_length=50), "T changed from 20 to 50"),
        (lambda project: project.change(valid_days=2), "valid_days changed from 1 to 2"),
        (lambda project: project.change(test_days=2), "test_days changed from 1 to 2"),
        (
            lambda project: project.change(domains=("books", "groceries", "toys")),
            "the list of domains changed from books toys groceries to books groceries toys",
        ),
        (ingested_again, "the landing day 2024-01-02 was ingested again"),
        (two_ingested_again, "the landing days 2024-01-02 and 1 more were ingested again"),
        (ingested_late, "the landing day 2024-01-01 was ingested after the night of 2024-01-03"),
        (built_again, "the sequences of 2024-01-02 were built again after those of 2024-01-03"),
    ],
)
def test_what_makes_a_night_build_everything_anew(
    project: Project, change: Callable[[Project], Any], reason: str
) -> None:
    project.land(D[1], D[2], D[3])
    project.publish(D[1])
    project.publish(D[2])
    assert project.previous(D[3])[0] is not None
    change(project)
    assert project.previous(D[3]) == (None, reason)
    full = project.publish(D[3])
    assert (full.kind, full.reason, full.base_ds) == ("full", reason, D[3])
    assert project.previous(D[4])[0] == full


def test_new_arrivals_and_later_nights_change_nothing(project: Project) -> None:
    project.land(D[1], D[2])
    before = project.publish(D[2])
    project.land(D[3], D[4])
    project.publish(D[4])
    project.publish(D[4])
    assert project.previous(D[3]) == (before, "on the night of 2024-01-03")


def test_a_snapshot_of_interactions_that_is_gone_asks_for_a_full_build(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.land(D[1])
    project.publish(D[1])
    monkeypatch.setattr(Lakehouse, "has_snapshot", lambda *_: False)
    assert project.previous(D[2]) == (None, "the interactions that the night of 2024-01-02 read are no longer kept")


def test_readers_say_what_does_not_fit(project: Project) -> None:
    project.land(D[1], D[2], D[3])
    project.publish(D[1])
    second = project.publish(D[2])
    night = Night(project.run(D[2]), project.lakehouse)
    assert state_of(project.run(D[2]), project.lakehouse, night) == second
    project.change(test_days=2)
    with pytest.raises(JobError, match=r"test_days changed from 1 to 2 since .*: run build_sequences again"):
        state_of(project.run(D[2]), project.lakehouse, night)
    project.change()
    project.publish(D[1])
    assert state_of(project.run(D[2]), project.lakehouse, night) == second  # its snapshot is pinned
    current = project.lakehouse.current_snapshot("sequences")
    with pytest.raises(JobError, match="2024-01-02 were built again after those of 2024-01-03: build these again"):
        night_of(project.lakehouse, current, D[2])
    with pytest.raises(JobError, match="no sequences of 2024-01-04: run build_sequences"):
        night_of(project.lakehouse, current, D[3])
    with pytest.raises(JobError, match="no sequences of 2024-01-04: run build_sequences"):
        night_of(project.lakehouse, None, D[3])
