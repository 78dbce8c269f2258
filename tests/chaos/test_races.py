"""Who works at the same time: two runs of one day, a backfill beside tonight's run, a rollback beside scoring.

`make test-lost` (SYNCREC_TEST_LOST=1): many minutes. Real commands, started together; each race ends with one
complete result, and whoever lost says so in one line.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from jobs.lakehouse import Lakehouse
from jobs.registry import CHALLENGER, CHAMPION, PREVIOUS
from tests.chaos import contents
from tests.chaos.nights import Chaos
from tests.chaos.project import FIRST, SECOND, STEPS

pytestmark = pytest.mark.skipif(not os.environ.get("SYNCREC_TEST_LOST"), reason="many minutes: make test-lost")
OF_THE_RUN = ("run_id", "model_version", "served_version", "challenger", "champion")
"""Columns that say who won."""
LOST = re.compile(
    r"error: \w+ [\d-]+: (table \w+: run '.+' published day .+; its result stands|run '.+' published the "
    r"recommendations of .+ its result stands|run publish first: the night of .+ is not published by run)"
)


@dataclass
class Racer:
    """One of those who work at the same time: its run, its day, and the steps that it has lost."""

    run_id: str
    ds: date
    lost: str = ""


def together(chaos: Chaos, step: str, racers: Sequence[Racer]) -> None:
    """Start a step of several runs at once; whoever lost before does nothing more."""
    project = chaos.project
    running = []
    for racer in racers:
        if not racer.lost:
            log = chaos.home / f"race-{racer.run_id}.log"
            log.unlink(missing_ok=True)
            running.append((racer, log, project.start(project.command(step), racer.ds, log, racer.run_id)))
    for racer, log, process in running:
        code = process.wait(900)
        said = log.read_text(encoding="utf-8", errors="replace")
        if code == 1 and LOST.match(said.splitlines()[-1]):
            racer.lost = f"{step}: {said.splitlines()[-1]}"
            print(racer.run_id, racer.lost)
        else:
            assert code in (0, 99), f"{step} of {racer.run_id} ended with {code}:\n{said[-4000:]}"


def rows(chaos: Chaos, name: str, but: Collection[str] = OF_THE_RUN) -> str:
    """The content of a table, without who made it."""
    lakehouse = Lakehouse(chaos.settings)
    table = lakehouse.read_arrow(name, lakehouse.current_snapshot(name))
    kept = [column for column in table.column_names if column not in (*but, *contents.VOLATILE.get(name, ()))]
    return contents.hash_of(table.select(kept).to_pylist())


def night_of(chaos: Chaos, ds: date) -> dict[str, Any]:
    lakehouse = Lakehouse(chaos.settings)
    found = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights")).to_pylist()
    (row,) = [row for row in found if row["ds"] == ds]
    return dict(row)


def aliases(chaos: Chaos) -> dict[str, str | None]:
    """The version of each alias, from the file: MLflow's client here may hold one that restore() has replaced."""
    database = chaos.settings.tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = dict(connection.execute("select alias, version from registered_model_aliases").fetchall())
    return {alias: str(found[alias]) if alias in found else None for alias in (CHAMPION, PREVIOUS, CHALLENGER)}


def content_of(chaos: Chaos, names: Sequence[str]) -> dict[str, str]:
    return {name: rows(chaos, name) for name in names}


DATA = ("interactions", "rejected_interactions", "items", "impressions", "sequences", "recommendations", "nights")


def test_two_runs_of_one_day_at_once(chaos: Chaos) -> None:
    """Every step of both at the same moment, to the end: also two promotions."""
    chaos.project.restore("before-rollback")
    alone = content_of(chaos, DATA)
    chaos.project.restore("before-ingest")
    racers = [Racer("race-a", SECOND), Racer("race-b", SECOND)]
    for step in STEPS:
        if step != "report":
            together(chaos, step, racers)
            for racer in racers:  # Airflow tries a step again that lost; whose day is published has nothing to try
                if racer.lost.startswith(step) and step not in ("publish", "move_alias"):
                    racer.lost = ""
                    together(chaos, step, [racer])
    winners = [racer for racer in racers if not racer.lost]
    assert winners, "somebody wins"
    assert content_of(chaos, DATA) == alone
    night = night_of(chaos, SECOND)
    lakehouse = Lakehouse(chaos.settings)
    shown = lakehouse.read_arrow("recommendations", lakehouse.current_snapshot("recommendations")).to_pylist()
    assert {row["model_version"] for row in shown if row["ds"] == SECOND} == {night["served_version"]}
    assert night["run_id"] in {racer.run_id for racer in winners}
    found = aliases(chaos)
    assert (found[CHAMPION], found[PREVIOUS]) == (night["served_version"], "1")


def test_a_backfill_during_tonights_run(chaos: Chaos) -> None:
    chaos.project.restore("before-rollback")
    alone, found = content_of(chaos, DATA), aliases(chaos)
    chaos.project.restore("before-ingest")
    tonight, past = Racer(f"night-{SECOND}", SECOND), Racer("backfill", FIRST)
    for step in STEPS:
        if step not in ("ingest_clicks", "report"):
            # FIRST is the newest published night until tonight's is; to a backfill's run it is past all the same.
            only = step in ("train", "evaluate")
            together(chaos, step, [tonight] if only else [tonight, past])
            for racer in (tonight, past):
                if racer.lost.startswith(step):
                    racer.lost = ""
                    together(chaos, step, [racer])
    assert not tonight.lost and not past.lost
    chaos.project.step("ingest_clicks", SECOND)
    after = content_of(chaos, DATA)
    for name in DATA:
        if name not in ("sequences", "nights"):  # how much of the state a night writes anew, and why, may differ
            assert after[name] == alone[name], name
    assert night_of(chaos, FIRST)["run_id"] == "backfill"
    assert aliases(chaos) == found


def test_a_rollback_during_scoring(chaos: Chaos) -> None:
    project = chaos.project
    project.restore("before-rollback")
    for step in ("build_sequences", "gate"):
        project.step(step, SECOND, "again")
    log = chaos.home / "race-score.log"
    scoring = project.start(project.command("score"), SECOND, log, "again")
    said = project.job("rollback", "--reason", "race")
    assert "champion: version 1; withdrawn: version 2" in said
    assert scoring.wait(900) == 0, log.read_text()[-4000:]
    code, said, _ = project.run(project.command("publish"), SECOND, "again")
    assert code == 1 and "version 2 was rolled back while this night worked (" in said, said[-2000:]
    assert night_of(chaos, SECOND)["decision"] == "rolled_back", "nothing of it is shown"
    for step in ("gate", "score", "publish", "move_alias"):  # as the error says
        project.step(step, SECOND, "again")
    night = night_of(chaos, SECOND)
    assert (night["run_id"], night["served_version"]) == ("again", "1")
    assert aliases(chaos)[CHAMPION] == "1"


def test_a_rollback_and_a_promotion_at_the_same_moment(chaos: Chaos) -> None:
    project = chaos.project
    project.restore("before-move_alias")  # version 2 is published, version 1 still champion
    log, other = chaos.home / "race-move.log", chaos.home / "race-rollback.log"
    moving = project.start(project.command("move_alias"), SECOND, log)
    command = [sys.executable, "-m", "jobs.rollback", "--reason", "race"]
    rolling = project.start(command, SECOND, other)
    codes, said = (moving.wait(900), rolling.wait(900)), other.read_text()
    assert codes[0] == 0 and codes[1] in (0, 1), (codes, said[-2000:])
    if codes[1] == 1:  # it looked before the alias had moved
        assert "there is no previous one" in said
        assert aliases(chaos)[CHAMPION] == "2"
        project.job("rollback", "--reason", "race")
    assert aliases(chaos)[CHAMPION] == "1"
    assert night_of(chaos, SECOND)["decision"] == "rolled_back"
