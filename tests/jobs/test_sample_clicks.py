"""The made-up click log of the sample: its uplift is the one that was planted, its lines are what ingest reads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo

from jobs.lakehouse import Lakehouse
from jobs.sample_clicks import HEADER, click_lines, main, write_clicks
from jobs.schemas import ANYONE, TABLES
from jobs.settings import Settings

DAY = date(2024, 1, 31)
LISTS = {f"u{n}": {domain: [f"{domain}{k}" for k in range(5)] for domain in ("a", "b", "c")} for n in range(6_000)}
CANDIDATES = frozenset(f"u{n}" for n in range(0, 6_000, 2))


def rate(lines: list[str], users: frozenset[str]) -> float:
    clicks = [line.endswith(",1") for line in lines if line.split(",")[0] in users]
    return sum(clicks) / len(clicks)


def test_the_candidates_lists_are_clicked_more_by_the_planted_uplift() -> None:
    for uplift in (0.0, 0.5):
        lines = list(click_lines(LISTS, CANDIDATES, DAY, uplift=uplift, seed=7))
        ratio = rate(lines, CANDIDATES) / rate(lines, frozenset(LISTS) - CANDIDATES)
        assert ratio == pytest.approx(1 + uplift, abs=0.1)
    assert lines == list(click_lines(LISTS, CANDIDATES, DAY, uplift=0.5, seed=7)), "the same gives the same"
    without = {user: found for user, found in LISTS.items() if user != "u17"}
    fewer = click_lines(without, CANDIDATES, DAY, uplift=0.5, seed=7)
    assert list(fewer) == [line for line in lines if not line.startswith("u17,")], "the others' stay as they were"
    users = {line.split(",")[0] for line in lines}
    assert 0.75 < len(users) / len(LISTS) < 0.85
    times = [datetime.fromtimestamp(int(line.split(",")[3]), UTC).date() for line in lines]
    assert set(times) == {DAY}
    assert len({tuple(line.split(",")[:4]) for line in lines}) == len(lines), "no impression twice"


def test_the_log_lies_in_the_landing_day_and_is_of_the_lists_before_it(settings: Callable[..., Settings]) -> None:
    own = settings(sample={"users": 20})
    lakehouse = Lakehouse(own)
    lakehouse.create_tables()
    night = date(2024, 1, 30)
    row = {"domain": "books", "rank": 1, "item_id": "x", "arm": "candidate", "ds": night}
    tables = {
        "recommendations": [{**row, "user_id": user} for user in ("ann", "bob", "cyd", "dan", ANYONE)],
        "nights": [{"ds": night, "run_id": "r", "decision": "promoted"}],
    }
    for name, rows in tables.items():
        files = lakehouse.stage_arrow(
            name, pa.Table.from_pylist(rows, schema=TABLES[name].arrow_schema), night, "test"
        )
        lakehouse.replace(name, EqualTo("ds", night.isoformat()), files, ds=night, run_id="test")
    assert "about the lists of 2024-01-30, 4 users in the candidate's arm" in write_clicks(own, DAY, 0.2)
    folder = own.landing_path / DAY.isoformat()
    lines = (folder / "clicks.csv").read_text().splitlines()
    assert lines[0] == HEADER and {line.split(",")[0] for line in lines[1:]} <= {"ann", "bob", "cyd", "dan"}
    assert {"books.csv", "_SUCCESS", "clicks.csv"} <= {file.name for file in folder.iterdir()}


def test_what_cannot_be_made_up_is_one_line(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, words in (
        ({}, "no [sample]"),
        ({"sample": {"users": 20}}, "no published night before 2024-01-31"),
    ):
        own = settings(**changes)
        monkeypatch.setattr("jobs.sample_clicks.load_settings", lambda path, own=own: own)
        assert main(["--ds", DAY.isoformat(), "--config", str(Path("x"))]) == 1
        assert words in capsys.readouterr().err
