"""The pins of a night: chosen once, kept over retries."""

from __future__ import annotations

from argparse import Namespace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from jobs.command import Run
from jobs.errors import JobError
from jobs.night import Night
from jobs.night_files import write_whole


class Lake:
    """A catalog whose newest snapshot moves on."""

    def __init__(self, warehouse: Path) -> None:
        self.warehouse = warehouse
        self.newest = 1

    def current_snapshot(self, table: str) -> int:
        return self.newest


def night(lake: Any, settings: Any, run_id: str = "scheduled__x") -> Night:
    return Night(Run(ds=date(2024, 1, 5), run_id=run_id, settings=settings(), arguments=Namespace()), lake)


def test_a_pin_is_kept_when_the_table_moves_on(tmp_path: Path, settings: Any) -> None:
    lake = Lake(tmp_path)
    assert night(lake, settings).snapshot("interactions") == 1
    lake.newest = 2
    assert night(lake, settings).snapshot("interactions") == 1
    assert night(lake, settings, "another").snapshot("interactions") == 2


def test_a_job_by_hand_goes_on_with_the_newest_run_of_the_day(tmp_path: Path, settings: Any) -> None:
    lake = Lake(tmp_path)
    night(lake, settings).pin("items", 7)
    by_hand = night(lake, settings, "manual")
    assert by_hand.snapshot("items") == 7
    assert by_hand.run_id == "scheduled__x"


def test_a_missing_note_names_the_step_to_run(tmp_path: Path, settings: Any) -> None:
    with pytest.raises(JobError, match="run gate first: this night has no served version yet"):
        night(Lake(tmp_path), settings).noted("served_version", made_by="gate")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pins.json"
    write_whole(file, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
