"""Waiting for a landing day: what completes it, and what the person on call reads when it does not come."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from jobs.command import Run
from jobs.errors import JobError
from jobs.landing import NO_MARKER
from jobs.settings import Settings
from jobs.wait_for_landing import missing, wait, wait_for_landing

DS = date(2024, 1, 6)


@pytest.fixture
def day(settings: Callable[..., Settings]) -> Path:
    folder = settings().landing_path / DS.isoformat()
    folder.mkdir(parents=True)
    return folder


def lacks(settings: Settings) -> list[str]:
    return missing(settings.landing_path / DS.isoformat(), settings.landing, settings.sources)


def with_required(settings: Callable[..., Settings], name: str, **landing: Any) -> Settings:
    sources = [source.model_dump() | {"required": source.name == name} for source in settings().sources]
    return settings(sources=sources, landing=landing)


def run_of(settings: Settings) -> Run:
    return Run(ds=DS, run_id="r", settings=settings, arguments=Namespace())


def old(file: Path) -> None:
    file.write_text("u,i,5,1\n")
    os.utime(file, (time.time() - 3600,) * 2)


def test_a_day_is_complete_with_its_marker(settings: Callable[..., Settings], day: Path) -> None:
    assert lacks(settings()) == [f"the marker file _SUCCESS ({NO_MARKER})"]
    (day / "_SUCCESS").touch()
    assert lacks(settings()) == []


def test_a_marker_does_not_stand_in_for_a_required_file(settings: Callable[..., Settings], day: Path) -> None:
    (day / "_SUCCESS").touch()
    assert lacks(with_required(settings, "toys")) == ["source 'toys' (toys*.csv*)"]
    (day / "toys-1.csv.gz").touch()
    assert lacks(with_required(settings, "toys")) == []


@pytest.mark.parametrize("marker", [None, ""])
def test_without_a_marker_the_required_files_complete_a_day(
    settings: Callable[..., Settings], day: Path, marker: str | None
) -> None:
    needs_books = with_required(settings, "books", marker=marker)
    old(day / "toys.csv")
    assert lacks(needs_books) == ["source 'books' (books*.csv)"]
    old(day / "books.csv")
    assert lacks(needs_books) == []


def test_without_a_marker_an_empty_folder_is_no_day(settings: Callable[..., Settings], day: Path) -> None:
    (only,) = lacks(settings(landing={"marker": ""}))
    assert only.startswith("any file of a configured source (books*.csv, ")


def test_without_a_marker_a_file_that_has_just_changed_may_still_grow(
    settings: Callable[..., Settings], day: Path
) -> None:
    (day / "books.csv").write_text("half a li")
    assert lacks(settings(landing={"marker": "", "poll_seconds": 30})) == [
        "the end of writing books.csv (changed within 30 s)"
    ]


def test_waits_until_nothing_is_missing() -> None:
    looks = iter([["a", "b"], ["b"], []])
    slept: list[float] = []
    still, waited = wait(
        lambda: next(looks),
        timeout_seconds=60,
        poll_seconds=15,
        sleep=slept.append,
        clock=lambda: 15.0 * len(slept),
    )
    assert (still, waited, slept) == ([], 30.0, [15, 15])


def test_gives_up_at_the_timeout_and_never_sleeps_beyond_it() -> None:
    slept: list[float] = []
    still, waited = wait(
        lambda: ["a"], timeout_seconds=40, poll_seconds=15, sleep=slept.append, clock=lambda: sum(slept)
    )
    assert (still, waited, slept) == (["a"], 40, [15, 15, 10])


def test_the_closing_line_counts_the_files(settings: Callable[..., Settings], day: Path) -> None:
    for name in ("books.csv", "toys.csv", "_SUCCESS", "unrelated.txt"):
        (day / name).touch()
    assert wait_for_landing(run_of(settings())) == f"complete: 2 files in {day}"


def test_a_wrong_option_of_the_model_stops_the_night_before_it_waits(settings: Callable[..., Settings]) -> None:
    soon = {"timeout_minutes": 0.0001, "poll_seconds": 0.001}
    with pytest.raises(JobError, match="did you mean dropout"):
        wait_for_landing(run_of(settings(model={"options": {"dropot": 0.2}}, landing=soon)))


def test_the_timeout_says_what_is_missing_what_is_there_and_where(
    settings: Callable[..., Settings], day: Path
) -> None:
    (day / "books.csv").touch()
    short = with_required(settings, "toys", timeout_minutes=0.0001, poll_seconds=0.001)
    with pytest.raises(JobError) as raised:
        wait_for_landing(run_of(short))
    text = str(raised.value)
    for part in (str(day), "source 'toys' (toys*.csv*)", "the marker file _SUCCESS", "there is books.csv"):
        assert part in text
    assert "may be absent has required = false" in text
    (day / "toys.csv").touch()
    with pytest.raises(JobError, match=r"marker file _SUCCESS.*run this step again$"):
        wait_for_landing(run_of(short))


def test_the_timeout_says_that_there_is_no_folder(settings: Callable[..., Settings]) -> None:
    with pytest.raises(JobError, match="missing the folder itself; no such folder"):
        wait_for_landing(run_of(settings(landing={"timeout_minutes": 0.0001, "poll_seconds": 0.001})))
