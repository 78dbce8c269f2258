"""publish and move_alias: two runs of one day end in one night, an unpublished night moves nothing."""

from __future__ import annotations

from argparse import Namespace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.command import Run
from jobs.errors import JobError, PublishConflict
from jobs.lakehouse import Lakehouse
from jobs.move_alias import move_alias
from jobs.night import Night
from jobs.nightly import Launcher
from jobs.publish import publish
from jobs.schemas import RECOMMENDATIONS

DAY = date(2024, 1, 5)


@pytest.fixture
def lakehouse(settings: Any) -> Lakehouse:
    made = Lakehouse(settings())
    made.create_tables()
    return made


def scored(lakehouse: Lakehouse, settings: Any, run_id: str, version: str) -> Run:
    """A run whose score and gate are done."""
    run = Run(ds=DAY, run_id=run_id, settings=settings(), arguments=Namespace())
    row = {"user_id": "u", "domain": "books", "rank": 1, "item_id": "x", "score": 1.0, "source": "model",
           "model_version": version, "arm": "champion", "ds": DAY}  # fmt: skip
    rows = pa.Table.from_pylist([row], schema=RECOMMENDATIONS.arrow_schema)
    Night(run, lakehouse).note(
        recommendations_staged=lakehouse.stage_arrow(RECOMMENDATIONS.name, rows, DAY, run_id),
        recommendations_count=1, served_version=version, decision="promoted", reason="better",
    )  # fmt: skip
    return run


def nights(lakehouse: Lakehouse) -> list[dict[str, Any]]:
    return list(lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights")).to_pylist())


def served(lakehouse: Lakehouse) -> list[str]:
    rows = lakehouse.read_arrow("recommendations", lakehouse.current_snapshot("recommendations"))
    return list(rows["model_version"].to_pylist())


def test_publishing_twice_is_publishing_once(lakehouse: Lakehouse, settings: Any) -> None:
    run = scored(lakehouse, settings, "a", "1")
    assert "1 recommendations of 2024-01-05 published" in publish(run)
    publish(run)
    (row,) = nights(lakehouse)
    assert (row["run_id"], row["served_version"]) == ("a", "1")
    assert row["recommendations_snapshot"] == lakehouse.current_snapshot("recommendations")
    assert served(lakehouse) == ["1"]


def test_a_killed_run_that_comes_back_after_another_one_does_not_mix_the_two(
    lakehouse: Lakehouse, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = scored(lakehouse, settings, "a", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Lakehouse, "last_writer", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # between the two commits
            publish(killed)
    assert served(lakehouse) == ["1"] and nights(lakehouse) == []
    publish(scored(lakehouse, settings, "b", "2"))
    with pytest.raises(PublishConflict, match="run 'b' published the recommendations of 2024-01-05"):
        publish(killed)
    (row,) = nights(lakehouse)
    assert (row["run_id"], row["served_version"], served(lakehouse)) == ("b", "2", ["2"])


def test_no_alias_moves_before_the_night_is_published(lakehouse: Lakehouse, settings: Any) -> None:
    with pytest.raises(JobError, match="run publish first: the night of 2024-01-05 is not published by run 'a'"):
        move_alias(scored(lakehouse, settings, "a", "1"))


def test_the_next_call_moves_the_aliases_that_a_kill_left_behind(
    lakehouse: Lakehouse, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scored(lakehouse, settings, "a", "1")
    publish(run)  # and no move_alias after it
    called = tmp_path / "called"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{called}"\n')
    python.chmod(0o755)
    monkeypatch.setenv("SYNCREC_HOME", str(tmp_path))
    launcher = Launcher(settings(), tmp_path / "syncrec.toml", lock=0)
    launcher.environment["SYNCREC_JOBS_PYTHON"] = str(python)
    launcher._finish_newest(lakehouse)
    assert called.read_text() == "-m jobs.move_alias --ds=2024-01-05 --run-id=a\n"
    Night(run, lakehouse).note(aliases_moved=True)
    launcher._finish_newest(lakehouse)
    assert called.read_text().count("\n") == 1
