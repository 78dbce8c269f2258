"""Which version a past night scores with, and that none of its steps asks for a later one."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.backfill import Past, champion_of, past, past_of
from jobs.errors import NothingToDo
from jobs.registry import Version
from jobs.settings import Settings
from jobs.train import check_due
from tests.conftest import SettingsFactory
from tests.jobs.small_nights import SmallNights, day


def night(n: int, version: str, decision: str = "promoted") -> dict[str, Any]:
    return {"ds": day(n), "served_version": version, "decision": decision}


NIGHTS = [night(3, "1"), night(4, "1", "no_challenger"), night(5, "2"), night(6, "3", "rolled_back"), night(7, "2")]


@pytest.mark.parametrize(
    ("n", "champion"),
    [
        (1, None),  # before the first night: nobody served
        (3, "1"),
        (4, "1"),
        (5, "2"),
        (6, "2"),  # what served it was rolled back: nobody shall get it again
    ],
)
def test_a_past_night_scores_with_what_served_then(n: int, champion: str | None) -> None:
    assert past(day(n), NIGHTS) == Past(newest=day(7), champion=champion)


def test_the_newest_night_and_a_new_one_are_not_past() -> None:
    assert past(day(7), NIGHTS) is None
    assert past(day(8), NIGHTS) is None
    assert past(day(1), []) is None


def test_every_night_of_a_backfill_is_past_the_newest_and_a_new_one_too() -> None:
    assert past(day(7), NIGHTS, backfill=True) == Past(newest=day(7), champion="2")
    assert past(day(8), NIGHTS, backfill=True) == Past(newest=day(7), champion="2")
    assert past(day(1), [], backfill=True) == Past(newest=day(1), champion=None)


def test_a_day_that_was_passed_over_has_the_champion_of_the_night_before_it() -> None:
    assert past(day(5), [night(3, "1"), night(9, "2")]) == Past(newest=day(9), champion="1")


def test_nights_tell_it_and_the_alias_does_not(settings: SettingsFactory) -> None:
    own = SmallNights(settings)
    for n in (1, 3):
        own.night(day(n))
    asked: list[str] = []
    registry: Any = SimpleNamespace(
        at_alias=lambda alias: Version(number="99", run_id="r", tags={}),
        version=lambda number: asked.append(number) or Version(number=number, run_id="r", tags={}),
    )
    assert past_of(own.lakehouse, own.run(day(2))) == Past(newest=day(3), champion="1")
    found = [champion_of(registry, past_of(own.lakehouse, own.run(day(n)))) for n in (0, 1, 2, 3, 4)]
    assert [version.number if version else None for version in found] == [None, "1", "1", "99", "99"]
    assert asked == ["1", "1"]
    run = own.run(day(3), "backfill__2024-01-04T00:00:00+00:00")
    again = champion_of(registry, past_of(own.lakehouse, run))
    assert again is not None and again.number == "1", "Airflow's name of a backfill's run"


def test_training_leaves_a_past_night_to_its_champion(settings: SettingsFactory) -> None:
    own: Settings = settings()
    with pytest.raises(NothingToDo, match="version 4 was champion on 2024-01-02 and scores"):
        check_due(own, None, None, day(1), Past(newest=day(7), champion="4"))
    later = Version(number="9", run_id="r", tags={"ds": "2024-01-08"})
    check_due(own, None, later, day(1), Past(newest=day(7), champion=None))  # nobody served: it is trained on
    assert date(2024, 1, 2) == day(1)
