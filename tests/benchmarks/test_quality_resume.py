"""A killed or stopped cell goes on from its last epoch and ends as if nothing had been; a changed one does not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import weightings
from benchmarks.peers.ours import Ours
from benchmarks.peers.sasrec import Run, SASRec
from benchmarks.quality import attempts
from benchmarks.quality.attempts import NOTE, Meter, Spent, code_mark, prepare
from benchmarks.quality.plan import Scale
from benchmarks.quality.protocol import Fitted, Peer, PeerAbsent
from benchmarks.quality.runner import Runner
from benchmarks.quality.systems import Row
from tests.benchmarks.quality_peers import BUDGET, Planted, Silent, lines, tiny

DATA = tiny()
SMALL: dict[str, Any] = {"channels": 8, "max_length": 8, "n_experts": 2, "n_cross_experts": 1}
SASREC = {"channels": 16, "dropout": 0.3, "average_epochs": 0.7, "learning_rate": 1e-2, "batch_size": 8}


def runner(folder: Path, peer: Peer, **budget: Any) -> Runner:
    folder.mkdir(exist_ok=True)
    return Runner(DATA, replace(BUDGET, **budget), folder / "cache", [peer], Scale(1, 1), Silent(folder))


def run(folder: Path, peer: Peer, **budget: Any) -> Row:
    (row,) = runner(folder, peer, **budget).run().values()
    return row


def tell(folder: Path, what: str, deadly: str) -> None:
    """Write down what happens; SIGKILL this process where that is deadly, for the first time."""
    with (folder / "told").open("a") as told:
        told.write(f"{what}\n")
    if what == deadly and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def goes_on(folder: Path, peer: Callable[[Path], Peer], deadly: int) -> None:
    """Check that a cell that dies once ends as one that does not. deadly: which of the things told is."""
    whole, broken = folder / "whole", folder / "broken"
    whole.mkdir()
    (whole / "died").touch()
    expected = run(whole, peer(whole)).results[0]
    killed = run(broken, peer(broken))
    assert not killed.results and "SIGKILL" in killed.errors[0]
    (note,) = broken.rglob(NOTE)
    kept = Spent(**json.loads(note.read_text())["spent"])
    row = run(broken, peer(broken))
    found, told = row.results[0], lines(whole / "told")
    assert lines(broken / "told") == told[: deadly + 1] + told[deadly:]
    assert found.ranks.keys() == expected.ranks.keys()
    for name, ranks in expected.ranks.items():
        np.testing.assert_array_equal(found.ranks[name], ranks, err_msg=name)
    assert str(found.figures["chosen"]) == str(expected.figures["chosen"])
    for scores in whole.rglob("scores/*/*.npy"):
        again = broken / scores.relative_to(whole)
        np.testing.assert_array_equal(np.load(again), np.load(scores), err_msg=scores.name)
    costs, first, second = found.figures, *row.trials
    assert 0 < kept.seconds < first.seconds and 0 < kept.core_s < costs["train_core_s"]
    assert costs["earlier_s"] == kept.seconds < costs["train_s"] < second.seconds
    assert costs["peak_gib"] >= kept.peak_gib > 0 == expected.figures["earlier_s"]
    assert not [path for place in (whole, broken) for path in place.rglob("work/*")]


@pytest.mark.parametrize("kind", [weightings.ByNdcg, weightings.ByConflict])
def test_ours_goes_on_from_its_last_epoch_and_ends_the_same(
    kind: type[Ours], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps an epoch: what is measured at every third is measured at other steps where the count is lost."""
    monkeypatch.setattr(weightings, "CONFLICT_EVERY", 3)

    class Dying(kind):  # type: ignore[misc, valid-type]
        folder: Path

        def on_epoch(self, model: Any, report: Any) -> None:
            tell(self.folder, f"epoch {report.epoch}", "epoch 2")  # trained, and not written yet
            super().on_epoch(model, report)

    def peer(folder: Path) -> Peer:
        found = Dying("row", {**SMALL, "correction": "bounded"}, training={"batch_size": 16})
        found.folder = folder
        return found

    goes_on(tmp_path, peer, 1)


def test_sasrec_goes_on_from_its_last_epoch_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two models the second dies: the first is not trained again."""
    epoch = Run._epoch

    def deadly(self: Run) -> None:
        place = self.checkpoint.parents[4]
        tell(place, f"{self.checkpoint.stem} {len(self.epochs.values) + 1}", "2 2")
        epoch(self)

    monkeypatch.setattr(Run, "_epoch", deadly)
    goes_on(tmp_path, lambda _: SASRec("single", search=[SASREC]), 4)
    assert lines(tmp_path / "whole" / "told") == ["1 1", "1 2", "1 3", "2 1", "2 2", "2 3"]


class Leaving(Planted):
    """Leaves half of its work the first time, and says what it finds."""

    resumes = True

    def __init__(self, folder: Path, ends: str) -> None:
        super().__init__(folder / "calls", "leaving", "trivial")
        self.place, self.ends = folder, ends

    def fit(self, *arguments: Any) -> Fitted:
        folder: Path = arguments[4]
        with (self.place / "found").open("a") as found:
            found.write(" ".join(sorted(file.name for file in folder.iterdir())) + "\n")
        if not (folder / "half").exists():
            (folder / "half").touch()
            Meter(folder).keep()
            if self.ends == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.ends == "stopped":
                time.sleep(60)
            if self.ends == "crashed":
                raise ValueError("no such luck")
            if self.ends == "absent":
                raise PeerAbsent("not installed")
        return super().fit(*arguments)


@pytest.mark.parametrize(
    ("ends", "left"), [("killed", f"{NOTE} half"), ("stopped", f"{NOTE} half"), ("crashed", NOTE), ("absent", NOTE)]
)
def test_a_killed_or_stopped_attempt_is_gone_on_from_and_a_failed_one_is_not(
    ends: str, left: str, tmp_path: Path
) -> None:
    first = runner(tmp_path, Leaving(tmp_path, ends))

    def stop() -> None:
        if list(tmp_path.rglob(NOTE)) and "spent" in next(tmp_path.rglob(NOTE)).read_text():
            raise KeyboardInterrupt

    if ends == "stopped":
        first.progress.tick = stop
        with pytest.raises(KeyboardInterrupt):
            first.run()
    else:
        assert not first.run()["leaving"].results
    assert any(tmp_path.rglob("half")) == (left != NOTE)
    assert run(tmp_path, Leaving(tmp_path, "killed" if left != NOTE else "well")).results
    assert lines(tmp_path / "found") == [NOTE, left]


@pytest.mark.parametrize("changed", ["code", "budget", "system"])
def test_where_anything_has_changed_a_killed_cell_begins_anew(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, Leaving(tmp_path, "killed"))
    assert list(tmp_path.rglob("half"))
    again = Leaving(tmp_path, "well")
    if changed == "code":
        monkeypatch.setattr("benchmarks.quality.cells.code_mark", lambda: "other")
    if changed == "system":
        again.resumes = False
    found = run(tmp_path, again, patience=2 if changed == "budget" else 3).results[0]
    assert lines(tmp_path / "found") == [NOTE, "" if changed == "system" else NOTE]
    assert found.figures["earlier_s"] == 0


def test_half_a_note_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    prepare(folder, {"cell": "a"}, resumes=True)
    (folder / "half").touch()
    (folder / NOTE).write_text('{"of": {"ce')
    assert Meter(folder).earlier == Spent()
    prepare(folder, {"cell": "a"}, resumes=True)
    assert [file.name for file in folder.iterdir()] == [NOTE]


def test_costs_of_all_attempts_add_up(tmp_path: Path) -> None:
    prepare(tmp_path, {"cell": "a"}, resumes=True)
    (tmp_path / NOTE).write_text(json.dumps({"of": {"cell": "a"}, "spent": vars(Spent(100.0, 150.0, 1000.0))}))
    meter = Meter(tmp_path)
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    meter.keep()
    second = Meter(tmp_path).earlier
    assert second.seconds > 100.05 and second.core_s > 150.02 and second.peak_gib == 1000
    prepare(tmp_path, {"cell": "a"}, resumes=True)
    assert Meter(tmp_path).earlier == second, "the note still says whose it is"


def test_the_mark_of_the_code_is_that_of_what_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "ROOT", tmp_path)
    for folder in ("syncrec_model", "benchmarks/peers", "docs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.py").write_text("a = 1\n")
    marks = [code_mark.__wrapped__()]
    for folder in ("docs", "syncrec_model", "benchmarks/peers"):
        (tmp_path / folder / "a.py").write_text("a = 2\n")
        marks.append(code_mark.__wrapped__())
    assert marks[0] == marks[1] and len(set(marks)) == 3
