"""The record of figures: merging keeps what others wrote, a new run replaces its own, nonsense is refused."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.record import ROOT, command, record


def read(folder: Path) -> dict:
    return json.loads((folder / "train.json").read_text())


def test_parts_merge_and_a_part_replaces_only_itself(tmp_path: Path) -> None:
    record("train", {"a.speed": 2.0, "a.old": 1.0}, part="a", details={"rows": [1]}, folder=tmp_path)
    record("train", {"b.speed": 5}, part="b", folder=tmp_path)
    before = read(tmp_path)["parts"]["b"]
    record("train", {"a.speed": 3.0}, part="a", folder=tmp_path)
    kept = read(tmp_path)
    assert kept["figures"] == {"a.speed": 3.0, "b.speed": 5}
    assert kept["parts"]["b"] == before
    assert {"commit", "machine", "date", "command"} <= set(before)
    assert "details" not in kept["parts"]["a"]


def test_figures_that_mean_nothing_are_refused_and_change_nothing(tmp_path: Path) -> None:
    record("train", {"a.speed": 2.0}, part="a", folder=tmp_path)
    before = (tmp_path / "train.json").read_bytes()
    for wrong in (math.nan, math.inf, True, "fast"):
        with pytest.raises(ValueError, match=r"'a\.speed'.*give a finite number"):
            record("train", {"a.speed": wrong}, part="a", folder=tmp_path)
    with pytest.raises(ValueError, match=r"part 'b' gives a\.speed, which part 'a' recorded"):
        record("train", {"a.speed": 2.0}, part="b", folder=tmp_path)
    assert (tmp_path / "train.json").read_bytes() == before


def test_the_command_shows_no_folder_of_this_machine() -> None:
    typed = ["/somewhere/python", "-m", "benchmarks.train", "--released=/else/src", "--out", f"{ROOT}/var/x", "a b"]
    assert command(typed) == "python -m benchmarks.train --released=src --out var/x 'a b'"
