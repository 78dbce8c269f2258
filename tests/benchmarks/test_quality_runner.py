"""Runs of the quality benchmark: they resume, go on past absent and crashing rows, and choose on validation."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.plan import Scale, UnknownRow, order, seeds
from benchmarks.quality.process import Task, run_alone, run_together
from benchmarks.quality.protocol import Fitted, Peer
from benchmarks.quality.runner import Busy, Runner
from benchmarks.quality.systems import Row, choose_rivals, systems_of
from benchmarks.quality.trials import DONE, FAILED
from tests.benchmarks.quality_peers import BUDGET, Planted, Silent, lines, tiny

ONE = Scale(1, 1)
DATA = tiny()


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls.txt"


def runner(tmp_path: Path, *peers: Peer, scale: Scale = ONE, **values: object) -> Runner:
    return Runner(DATA, BUDGET, tmp_path / "cache", peers, scale, Silent(tmp_path), **values)


def run(tmp_path: Path, *peers: Peer, scale: Scale = ONE) -> dict[str, Row]:
    return runner(tmp_path, *peers, scale=scale).run()


def test_finished_cells_are_read_and_a_stopped_run_goes_on(tmp_path: Path, calls: Path) -> None:
    default = Planted(calls, "default", "ours", {"valid": 0.2}, {"valid": 0.9})
    first = run(tmp_path, default)
    assert len(lines(calls)) == 2
    again = run(tmp_path, default, scale=Scale(3, 3))
    assert lines(calls)[2:] == ["default {'valid': 0.9} 1", "default {'valid': 0.9} 2"]
    assert again["default"].results[0].figures == first["default"].results[0].figures
    assert [trial.outcome for trial in again["default"].trials] == ["done"] * 4
    other = runner(tmp_path, default)
    other.budget = other.cache.budget = replace(BUDGET, epochs=4)
    other.run()
    assert len(lines(calls)) == 6  # another budget of epochs is another cell


def test_a_report_trains_nothing(tmp_path: Path, calls: Path) -> None:
    here, missing = Planted(calls, "here", "trivial"), Planted(calls, "missing", "trivial")
    run(tmp_path, here)
    rows = runner(tmp_path, here, missing, scale=Scale(2, 2), train=False).run()
    assert len(lines(calls)) == 1 and sorted(rows["here"].results) == [0]
    assert rows["missing"].absent == "not trained yet"


def test_absent_and_crashing_rows_say_so_and_the_run_goes_on(tmp_path: Path, calls: Path) -> None:
    rows = run(
        tmp_path,
        Planted(calls, "absent", "multi-domain", {"absent": True}, {"valid": 0.1}),
        Planted(calls, "crashing", "multi-domain", crash="always"),
        Planted(calls, "unlucky", "multi-domain", {"crash": 1}),
        Planted(calls, "reader", "ensemble", needs=("unlucky",)),
        Planted(calls, "fine", "trivial"),
        scale=Scale(2, 2),
    )
    assert rows["absent"].absent == "its library is not installed" and not rows["absent"].results
    assert rows["crashing"].errors == ["seed 0, no settings: the loss is not finite"]
    assert sorted(rows["unlucky"].results) == [0] and "seed 1" in rows["unlucky"].errors[0]
    assert sorted(rows["fine"].results) == [0, 1]
    assert "absent {'valid': 0.1} 0" not in lines(calls)  # what is absent under one setting is so under all
    log = next((tmp_path / "cache").rglob("crashing-*.log")).read_text()
    assert "Traceback" in log and "first line" in log
    kept = [(trial.outcome, trial.message) for trial in rows["unlucky"].trials]
    assert kept == [("done", ""), ("failed", "the loss is not finite")]
    assert "unlucky" in rows["reader"].errors[0]  # its scores are not kept, and no row may read them so


def test_a_killed_training_is_a_crash_of_its_row(tmp_path: Path, calls: Path) -> None:
    class Killed(Planted):
        def fit(self, *_: object) -> object:
            os.kill(os.getpid(), 9)

    rows = run(tmp_path, Killed(calls, "killed", "trivial"), Planted(calls, "fine", "trivial"))
    assert "SIGKILL (out of memory?)" in rows["killed"].errors[0] and rows["fine"].results


def test_settings_and_rivals_are_chosen_on_validation_not_on_test(tmp_path: Path, calls: Path) -> None:
    rows = run(
        tmp_path,
        Planted(calls, "searched", "single-domain", {"valid": 0.1, "test": 1.0}, {"valid": 0.9, "test": 0.1}),
        Planted(calls, "a", "single-domain", valid=(1.0, 0.1), test=0.0),
        Planted(calls, "b", "trivial", valid=(0.0, 1.0), test=0.0),
        Planted(calls, "cross", "multi-domain", valid=0.3, test=1.0),
        Planted(calls, "best", "ensemble", valid=0.8, test=0.1),
        Planted(calls, "default", "ours", valid=1.0),
    )
    assert rows["searched"].results[0].cell.settings == {"valid": 0.9, "test": 0.1}
    assert len(rows["searched"].trials) == 2
    rivals = choose_rivals(systems_of(rows.values(), DATA), DATA)
    assert rivals.single == {"books": "a", "toys": "b"} and rivals.multi == "best"


def test_headline_rows_and_rivals_get_more_seeds_and_readers_pass_theirs_on(tmp_path: Path, calls: Path) -> None:
    rows = run(
        tmp_path,
        Planted(calls, "default", "ours"),
        Planted(calls, "ours.other", "ours"),
        Planted(calls, "best", "single-domain", valid=0.9),
        Planted(calls, "worse", "single-domain", valid=0.1),
        Planted(calls, "fixed", "single-domain", valid=0.0, seeded=False, keeps_scores=True),
        Planted(calls, "member", "multi-domain", keeps_scores=True),
        Planted(calls, "ensemble.plain", "ensemble", needs=("member", "fixed")),
        scale=Scale(3, 2),
    )
    counts = {name: len(row.results) for name, row in rows.items()}
    assert counts == {
        "default": 3, "ours.other": 2, "best": 3, "worse": 2, "fixed": 1, "member": 3, "ensemble.plain": 3,
    }  # fmt: skip
    assert not rows["ensemble.plain"].errors


def test_an_ensemble_is_made_anew_when_it_would_read_other_cells(tmp_path: Path, calls: Path) -> None:
    ensemble = Planted(calls, "ensemble.plain", "ensemble", needs=("member",))
    run(tmp_path, Planted(calls, "member", "multi-domain", {"valid": 0.1}, keeps_scores=True), ensemble)
    better = Planted(calls, "member", "multi-domain", {"valid": 0.1}, {"valid": 0.9}, keeps_scores=True)
    run(tmp_path, better, ensemble)
    run(tmp_path, better, ensemble)
    assert [line.split()[0] for line in lines(calls)] == ["member", "ensemble.plain", "member", "ensemble.plain"]
    scores = [folder.name for folder in (tmp_path / "cache").rglob("scores/*")]
    assert len(scores) == 1  # what lost the search leaves no scores


def test_scores_that_were_removed_are_made_again_for_the_row_that_reads_them(tmp_path: Path, calls: Path) -> None:
    member = Planted(calls, "member", "multi-domain", keeps_scores=True)
    run(tmp_path, member)
    for file in (tmp_path / "cache").rglob("scores/*/*"):
        file.unlink()
    next((tmp_path / "cache").rglob("scores/*")).rmdir()
    run(tmp_path, member)
    assert len(lines(calls)) == 1  # nobody reads them
    rows = run(tmp_path, member, Planted(calls, "ensemble.plain", "ensemble", needs=("member",)))
    assert len(lines(calls)) == 3 and rows["ensemble.plain"].results


def test_rows_come_after_what_they_need_and_mistakes_are_named(calls: Path) -> None:
    member = Planted(calls, "member", "trivial", keeps_scores=True)
    reader = Planted(calls, "reader", "ensemble", needs=("member",))
    alone = Planted(calls, "alone", "trivial")
    peers = {"reader": reader, "alone": alone, "member": member}
    assert [peer.name for peer in order(peers)] == ["member", "reader", "alone"]
    assert [peer.name for peer in order(peers, ["reader"])] == ["member", "reader"]
    with pytest.raises(UnknownRow, match="no row readre; there are reader, alone, member"):
        order(peers, ["readre"])
    with pytest.raises(ValueError, match="must set keeps_scores"):
        order({**peers, "member": Planted(calls, "member", "trivial")})
    circle = Planted(calls, "member", "trivial", keeps_scores=True, needs=("reader",))
    with pytest.raises(ValueError, match="need one another"):
        order(
            {"reader": Planted(calls, "reader", "ensemble", needs=("member",), keeps_scores=True), "member": circle}
        )
    assert len(seeds(member, [member, reader], Scale())) == 5 and len(seeds(alone, [alone], Scale())) == 3


def test_a_row_whose_need_is_left_out_says_so(tmp_path: Path, calls: Path) -> None:
    rows = run(tmp_path, Planted(calls, "reader", "ensemble", needs=("slow",)))
    assert rows["reader"].absent == "reads the scores of slow, which is no row of this run" and not lines(calls)


def test_progress_is_a_line_a_cell_with_the_time_left(tmp_path: Path, calls: Path) -> None:
    running = runner(
        tmp_path, Planted(calls, "a", "trivial", {"valid": 0.7}), Planted(calls, "b", "trivial", crash=0)
    )
    running.run()
    first, second = running.progress.lines
    assert first.startswith("[1/2] a valid=0.7 seed 0: validation 0.") and "left" in first
    assert second.startswith("[2/2] b seed 0: failed: the loss is not finite")


def test_two_runs_do_not_train_in_one_folder(tmp_path: Path, calls: Path) -> None:
    running = runner(tmp_path, Planted(calls, "a", "trivial"))
    with (running.cache.folder / "lock").open("w") as lock:
        running._take(lock)
        with pytest.raises(Busy, match="another run"):
            running.run()


def test_what_stops_a_run_stops_the_child_and_what_it_started(tmp_path: Path) -> None:
    reader, writer = os.pipe()

    def work() -> None:
        if os.fork() == 0:
            time.sleep(60)
        (tmp_path / "started").touch()
        time.sleep(60)

    def stop() -> None:
        if (tmp_path / "started").exists():
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_alone(Task(work, tmp_path / "log"), stop)
    os.close(writer)
    assert os.read(reader, 1) == b""  # nobody holds the other end any more
    assert time.monotonic() - began < 30


def test_so_many_run_at_once_and_each_says_how_it_ended(tmp_path: Path) -> None:
    def meet(own: str, other: str) -> None:
        (tmp_path / own).touch()
        until = time.monotonic() + 20
        while not (tmp_path / other).exists():
            assert time.monotonic() < until, "the other one has not begun"
            time.sleep(0.01)

    def fail() -> None:
        assert (tmp_path / "a").exists(), "a place was free before the first two met"
        raise ValueError("no such luck")

    works = [lambda: meet("a", "b"), lambda: meet("b", "a"), fail]
    tasks = [Task(work, tmp_path / "log") for work in works]
    waiting = list(tasks)
    ended = dict(run_together(lambda: waiting.pop(0) if waiting else None, 2))
    assert [ended[task].word for task in tasks] == [DONE, DONE, FAILED]
    assert ended[tasks[2]].message == "ValueError: no such luck"


def test_rows_of_one_cell_are_trained_side_by_side_and_readers_wait_for_what_they_read(
    tmp_path: Path, calls: Path
) -> None:
    class Meeting(Planted):
        """Ends once the other two have begun."""

        def fit(self, *arguments: Any) -> Fitted:
            found = super().fit(*arguments)
            until = time.monotonic() + 20
            while len(lines(calls)) < 3:
                assert time.monotonic() < until, "the others have not begun"
                time.sleep(0.01)
            return found

    rows = runner(
        tmp_path,
        Meeting(calls, "a", "trivial"),
        Meeting(calls, "b", "multi-domain", keeps_scores=True),
        Planted(calls, "reader", "ensemble", needs=("b",)),
        Meeting(calls, "c", "ours"),
        jobs=3,
    ).run()
    assert list(rows) == ["a", "b", "reader", "c"] and all(row.results for row in rows.values())
    assert sorted(line.split()[0] for line in lines(calls)[:3]) == ["a", "b", "c"]
    assert lines(calls)[3].startswith("reader")


def test_ours_begins_first_and_what_is_absent_is_asked_once(tmp_path: Path, calls: Path) -> None:
    rows = run(
        tmp_path,
        Planted(calls, "quick", "trivial"),
        Planted(calls, "absent", "multi-domain", {"absent": True}, {"valid": 0.1}, {"valid": 0.2}),
        Planted(calls, "reader", "ensemble", needs=("absent",)),
        Planted(calls, "default", "ours"),
    )
    assert [line.split()[0] for line in lines(calls)] == ["default", "absent", "quick"]
    assert rows["reader"].absent == "reads the scores of absent: its library is not installed"


def test_what_stops_several_stops_all_of_them(tmp_path: Path) -> None:
    def work(name: str) -> None:
        (tmp_path / name).write_text(str(os.getpid()))
        time.sleep(60)

    def stop() -> None:
        if all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
            raise KeyboardInterrupt

    tasks = [Task(partial(work, name), tmp_path / f"log{name}") for name in "ab"]
    take = lambda: tasks.pop() if tasks else None  # noqa: E731
    with pytest.raises(KeyboardInterrupt), closing(run_together(take, 2, stop)) as ended:
        next(ended)
    for name in "ab":
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)


def test_fewer_trials_leave_ensembles_all_their_settings(calls: Path) -> None:
    settings = ({"valid": 0.1}, {"valid": 0.2})
    few = Scale(1, 1, trials=1)
    assert len(few.settings(Planted(calls, "sasrec", "multi-domain", *settings))) == 1
    assert len(few.settings(Planted(calls, "ensemble.plain", "ensemble", *settings))) == 2
