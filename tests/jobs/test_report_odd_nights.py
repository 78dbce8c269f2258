"""Pages of nights that did not go as planned: a failed ingest, a day that came twice, a backfill, a rollback."""

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.audits import NOTHING_PUBLISHED
from jobs.backfill import AGAIN
from jobs.query import connect
from jobs.report import main
from jobs.report_index import _to_look_at
from jobs.settings import load_settings
from tests.jobs.test_report import Page
from tests.sql.planted import D29, D30, D31, fill, put, write_config

FEB1, FEB2 = date(2024, 2, 1), date(2024, 2, 2)
RULE = "at most half of a day's lines of source games are refused for their time"
STOPPED = f"interactions: 96 of 96 rows, against the rule '{RULE}' (on 2024-02-02: is time_unit = 's' right?)"
AUDIT = {"table_name": "interactions", "success": True, "failed": 0}
ACCOUNT = "lines read = events + rejected lines + duplicates"
NO_TEXT = "2024-01-31/toys.csv (source 'toys'): the header line is not UTF-8 text"


def step(run_id: str, name: str, outcome: str, message: str = "", hour: int = 1) -> dict[str, Any]:
    times = {"started_at": datetime(2024, 2, 2, hour, tzinfo=UTC), "seconds": 3.0, "attempt": 1}
    return {"run_id": run_id, "step": name, "outcome": outcome, "message": message, **times}


def audit(run_id: str, rule: str, observed: str, checked: int = 3) -> dict[str, Any]:
    return {**AUDIT, "run_id": run_id, "rule": rule, "observed": observed, "checked": checked}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 January was rolled back, the 30th backfilled, on the 31st ingest failed, 1 February came twice."""
    config = write_config(tmp_path_factory.mktemp("odd"))
    settings = load_settings(config)
    lakehouse = fill(settings, nights=(D29, D30))
    number = lakehouse.current_snapshot("nights")
    nights = {row["ds"]: row for row in lakehouse.read_arrow("nights", number).to_pylist()}

    def day(ds: date, **tables: list[dict[str, Any]]) -> None:
        for name, rows in tables.items():
            put(lakehouse, name, ds, [row | {"ds": ds} for row in rows])

    bad = {"decision": "rolled_back", "reason": "rolled back to version 0: bad (before: promoted: first champion)"}
    warning = {"run_id": "run-29", "rule": "warning", "domain": "", "outcome": "warning"}
    drop = warning | {"rule": "champion", "domain": "books", "outcome": "passed", "words": "", "cases": 30}
    drop |= {"value": 0.1, "rival_value": 0.2, "low": -0.25, "high": 0.05, "tolerance": 0.05}
    old = warning | {"words": "the champion's data are 15 days old"}
    day(D29, nights=[nights[D29] | bad], gate_checks=[old, drop, drop | {"domain": "toys", "value": 0.195}])
    again = {
        "run_id": "backfill__30",
        "decision": "no_challenger",
        "reason": f"{AGAIN}: version 1 served",
    }
    rules = [audit(run, rule, "0 of 3 rows") for run in ("run-30", "backfill__30") for rule in ("one", "two")]
    day(
        D30,
        nights=[nights[D30] | again | {"challenger": None, "served_version": "1", "champion_before": "1"}],
        audits=[*rules, audit("run-30", "broken then", "1 of 3 rows") | {"success": False, "failed": 1}],
        steps=[step("run-30", "ingest", "done"), step("backfill__30", "ingest", "done", hour=2)],
    )
    day(D31, steps=[step("manual__31", "ingest", "failed", f"{NO_TEXT}; the log says more")])
    broken = audit("manual__feb2", RULE, "broken on 2024-02-02", 96) | {"success": False, "failed": 96}
    day(FEB2, audits=[broken], steps=[step("manual__feb2", "ingest", "failed", f"{NOTHING_PUBLISHED}{STOPPED}")])
    (settings.state / "logs").mkdir()
    (settings.state / "logs" / "night-2024-01-31.log").touch()
    fails = step("scheduled__32", "train", "failed", "ValueError; the log says more", hour=2)
    day(
        FEB1,
        nights=[nights[D30] | {"run_id": "scheduled__32"}],
        audits=[audit("scheduled__32", ACCOUNT, "1,090 = 0 + 0 + 1,090", 1090)],
        steps=[step("scheduled__32", "ingest", "done"), fails],
    )
    for ds in (D29, D30, D31, FEB1, FEB2):
        assert main(["--config", str(config), "--ds", ds.isoformat()]) == 0
    return settings.state / "reports"


def top(page: Page) -> str:
    return page.text[: page.text.index("What serves")]


def part(page: Page, name: str) -> str:
    return re.split(r'<h2 id="\w+">', page.html)[1:][name_of(page).index(name)]


def name_of(page: Page) -> list[str]:
    return re.findall(r'<h2 id="(\w+)"', page.html)


def test_a_night_whose_ingest_failed_does_not_say_that_nothing_arrived(odd: Path) -> None:
    page = Page(odd / "2024-01-31.html")
    assert f"✗ Step ingest failed: {NO_TEXT}; logs/night-2024-01-31.log says more." in top(page)
    assert "Nothing was ingested: the step ingest failed." in part(page, "data")
    assert "No event arrived" not in page.text and "No line was refused" not in page.text
    assert "users keep the recommendations of 2024-01-30" in top(page)


def test_what_stopped_a_night_is_said_once_and_the_index_keeps_the_question_at_its_end(odd: Path) -> None:
    page = Page(odd / "2024-02-02.html")
    assert f"✗ Step ingest failed: {NOTHING_PUBLISHED}{STOPPED}." in top(page)
    assert top(page).count(RULE) == 1, "its audit says no more than the step"
    assert f"2024-02-02 ✗ not published – – ingest failed: {STOPPED}" in Page(odd / "index.html").text


def test_a_day_that_came_twice_is_no_empty_day(odd: Path) -> None:
    page = Page(odd / "2024-02-01.html")
    again = "1,090 lines came, all of them duplicates of earlier days: was a day delivered again?"
    assert f"! {again}" in top(page) and "No event arrived" not in page.text
    assert "1,090 lines were read: 0 events, 0 refused, 1,090 duplicates" in part(page, "data")
    assert "ValueError; the task's log in Airflow says more." in top(page), "no file of make nightly"


def test_a_night_run_again_says_when_its_figures_were_measured_and_counts_one_run(odd: Path) -> None:
    page = Page(odd / "2024-01-30.html")
    first = "measured when this night first ran (run-30), with version 2 as challenger and version 1 as champion."
    assert first in part(page, "transfer") and first in part(page, "quality")
    assert "tonight" not in part(page, "transfer")
    assert "2 rules were checked" in page.text and "interactions: 2 rules held" in page.text
    assert (
        "! Another run of this day, run-30, was stopped. Audit of interactions failed: 1 of 3 rows, against the"
        in top(page)
    )
    assert "worse than the single-domain view" not in top(page), "that version serves nobody"
    assert "A past night, made again by version 1, the champion of that day." in top(page)
    assert "serves on" not in top(page)


def test_a_night_that_was_rolled_back_is_headed_so(odd: Path) -> None:
    page = Page(odd / "2024-01-29.html")
    assert "↩ Rolled back" in top(page) and "Published" not in top(page)
    assert "This night was rolled back to version 0: bad (before: promoted: first champion)." in top(page)
    assert "! Gate: the champion's data are 15 days old." in top(page)
    assert "Decision rolled back to version 0: bad (before" in page.text, "once"
    assert (
        "books champion ~ passed: may be chance 0.100 0.200" in page.text and "toys champion ✓ passed" in page.text
    )
    assert "×: a night that was rolled back." in page.text and "(rolled back)" in page.html
    assert "×" not in Page(odd / "2024-01-31.html").text.split("What came in?")[1]


def test_a_run_that_did_not_publish_its_night_has_no_decision(odd: Path) -> None:
    with connect(load_settings(odd.parent.parent / "syncrec.toml")) as connection:
        found = connection.execute(
            "select distinct run_id, published, decision from ntg_by_night order by 1"
        ).fetchall()
    assert found == [("run-29", True, "rolled_back"), ("run-30", False, None)], "backfill__30 published the 30th"


def test_the_index_says_what_stopped_a_night_and_where_to_look(odd: Path) -> None:
    index = Page(odd / "index.html")
    assert f"2024-01-31 ✗ not published – – ingest failed: {NO_TEXT}; logs/night-2024-01-31.log" in index.text
    count = len(re.findall(r"<li><span class=.(?:look|bad).>", Page(odd / "2024-02-01.html").html))
    assert count >= 2 and f"published, {count} to look at" in index.text
    assert "2024-01-29 ↩ rolled back" in index.text
    hidden = index.html[index.html.index(">2024-01-31<") :]
    assert hidden.count(' class="empty"') == 1 and 'class="version empty"' in hidden, "no labels without a value"


def test_the_page_of_another_run_says_nothing_about_the_one_that_published(odd: Path, tmp_path: Path) -> None:
    page = (odd / "2024-02-01.html").read_text(encoding="utf-8")
    assert '<meta name="look" content="' in page[:2000]
    copy = tmp_path / "2024-02-01.html"
    copy.write_text(page, encoding="utf-8")
    assert _to_look_at(copy, "scheduled__32")["look"] >= 2
    assert _to_look_at(copy, "another")["look"] == _to_look_at(tmp_path / "none.html", "another")["look"] == 0
