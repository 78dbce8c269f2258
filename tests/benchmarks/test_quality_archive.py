"""Archived cells: the same ranks and figures come back, nothing that is there is replaced, no pickle is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.archive import archive, restore
from benchmarks.quality.cells import Cell
from benchmarks.quality.data import TEST
from benchmarks.quality.plan import Scale
from benchmarks.quality.runner import NOT_TRAINED, Runner
from tests.benchmarks.quality_peers import BUDGET, Planted, Silent, lines, tiny

WHOLE = tiny()
DATA = replace(  # nobody had some of its items in training: their cases have no rank among those that were there
    WHOLE, part_E=np.where((WHOLE.events.domain_E == 1) & (WHOLE.events.item_E <= 5), TEST, WHOLE.part_E)
)


def run(folder: Path, *peers: Planted, **options: bool) -> Runner:
    runner = Runner(DATA, BUDGET, folder / "cache", peers, Scale(2, 2), Silent(folder), **options)
    runner.run()
    return runner


def test_what_was_archived_is_read_elsewhere_and_never_trained(tmp_path: Path) -> None:
    calls = tmp_path / "calls.txt"
    peer = Planted(calls, "default", "ours", {"valid": 0.2}, {"valid": 0.9})
    first = run(tmp_path, peer)
    assert archive(first.cache.folder, tmp_path / "kept", first.rows.values()) == 3
    assert (
        archive(first.cache.folder, tmp_path / "kept", first.rows.values()) == 0
    )  # the same again changes no file
    trained = len(lines(calls))
    again = Runner(DATA, BUDGET, tmp_path / "elsewhere", [peer], Scale(2, 2), Silent(tmp_path), train=False)
    assert again.restore(tmp_path / "kept") == 3
    assert again.restore(tmp_path / "kept") == 0
    again.run()
    assert len(lines(calls)) == trained and again.rows["default"].trials == first.rows["default"].trials
    for seed, result in first.rows["default"].results.items():
        other = again.rows["default"].results[seed]
        assert other.figures == result.figures and other.ranks.keys() == result.ranks.keys()
        for name, ranks_M in result.ranks.items():
            assert np.array_equal(other.ranks[name], ranks_M, equal_nan=True)
        without_M = np.isnan(result.ranks["/test/known"])
        assert without_M.any() and not without_M.all()


def test_of_what_lost_the_archive_keeps_why_and_it_is_trained_where_it_is_wanted(tmp_path: Path) -> None:
    calls = tmp_path / "calls.txt"
    peer = Planted(calls, "default", "ours", {"valid": 0.2}, {"valid": 0.9})
    first = run(tmp_path, peer)
    archive(first.cache.folder, tmp_path / "kept", first.rows.values())
    lost = first.cache.file(Cell("default", {"valid": 0.2}, 0)).name
    with np.load(tmp_path / "kept" / lost) as found:
        assert set(found) == {"/valid/full", "figures"}
    trained = len(lines(calls))

    def elsewhere(*, train: bool, trials: int | None) -> Runner:
        folder = tmp_path / f"elsewhere-{train}"
        runner = Runner(DATA, BUDGET, folder, [peer], Scale(1, 1, trials), Silent(tmp_path), train=train)
        runner.restore(tmp_path / "kept")
        runner.run()
        return runner

    assert elsewhere(train=False, trials=None).rows["default"].results[0].cell.settings == {"valid": 0.9}
    unwanted = elsewhere(train=False, trials=1).rows["default"]  # the loser alone: there is nothing to show of it
    assert not unwanted.results and unwanted.absent == NOT_TRAINED
    assert len(lines(calls)) == trained
    whole = elsewhere(train=True, trials=1).rows["default"].results[0]
    assert len(lines(calls)) == trained + 1 and whole.whole and whole.cell.settings == {"valid": 0.2}


def test_some_rows_alone_are_archived(tmp_path: Path) -> None:
    calls = tmp_path / "calls.txt"
    found = run(tmp_path, Planted(calls, "default", "ours"), Planted(calls, "other", "multi-domain"))
    assert archive(found.cache.folder, tmp_path / "kept", [found.rows["other"]]) == 2
    assert {file.name.split("-")[0] for file in (tmp_path / "kept").glob("*.npz")} == {"other"}
    assert "default" not in (tmp_path / "kept" / "trials.jsonl").read_text()


def test_a_cell_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    runner = run(tmp_path, Planted(tmp_path / "calls.txt", "default", "ours"))
    archive(runner.cache.folder, tmp_path / "kept", runner.rows.values())
    file = runner.cache.file(Cell("default", {}, 0))
    before = file.read_bytes()
    assert restore(tmp_path / "kept", runner.cache.folder) == 0 and file.read_bytes() == before


def test_an_archive_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    objects = np.array([{"a": 1}], dtype=object)
    np.savez_compressed(tmp_path / "kept" / "row-0-0.npz", allow_pickle=True, figures=objects)
    with pytest.raises(ValueError, match="pickle"):
        restore(tmp_path / "kept", tmp_path / "cells")
    assert not list((tmp_path / "cells").glob("*.npz"))


def test_ranks_that_are_no_halves_are_refused(tmp_path: Path) -> None:
    runner = run(tmp_path, Planted(tmp_path / "calls.txt", "default", "ours"))
    file = runner.cache.file(Cell("default", {}, 0))
    np.savez_compressed(file, ranks=np.array([1.25]))
    with pytest.raises(ValueError, match="half"):
        archive(runner.cache.folder, tmp_path / "kept", runner.rows.values())
