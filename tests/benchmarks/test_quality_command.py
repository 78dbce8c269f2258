"""`python -m benchmarks.quality`: options, exit codes, and what is recorded when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.quality import __main__ as command
from benchmarks.quality.data import QUICK_USERS, DataAbsent, QualityData
from benchmarks.quality.protocol import Peer
from benchmarks.quality.tables import FOLDED
from tests.benchmarks.quality_peers import Planted, lines, tiny

PAGE = "head\n<!-- make bench-quality writes a5 from here -->\nold\n<!-- a5 to here -->\ntail\n"
Run = Callable[..., int]


@pytest.fixture
def peers(tmp_path: Path) -> dict[str, Peer]:
    calls = tmp_path / "calls"
    found = [
        Planted(calls, "default", "ours", test=0.8),
        Planted(calls, "sasrec", "single-domain"),
        Planted(calls, "large", "multi-domain", slow=True),
    ]
    return {peer.name: peer for peer in found}


@pytest.fixture
def asked() -> list[dict[str, object]]:
    return []


@pytest.fixture
def drawn() -> list[str]:
    return []


@pytest.fixture
def run(
    tmp_path: Path, peers: dict[str, Peer], asked: list[dict[str, object]], drawn: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:  # fmt: skip
    def load(folder: Path, **values: object) -> QualityData:
        asked.append(values)
        return tiny(split=str(values["split"]))

    monkeypatch.setattr(command, "all_peers", lambda: peers)
    monkeypatch.setattr(command, "load_a5", load)
    (tmp_path / "page.md").write_text(PAGE)

    monkeypatch.setattr(command, "draw", lambda figures, rows, folder, name: drawn.append(f"{folder.name}/{name}"))

    def main(*arguments: str) -> int:
        places = ["--cache", "cache", "--results", "results", "--images", "img", "--page", "page.md"]
        places[1::2] = [str(tmp_path / place) for place in places[1::2]]
        return command.main([*places, "--device", "cpu", "--threads", "1", *arguments])

    return main


def recorded(tmp_path: Path) -> dict:
    file = tmp_path / "results" / "quality.json"
    return json.loads(file.read_text()) if file.exists() else {"parts": {}, "figures": {}}


def test_the_whole_benchmark_is_recorded_with_its_trials_its_page_and_its_plots(
    run: Run, tmp_path: Path, drawn: list[str]
) -> None:
    assert run() == 0
    found = recorded(tmp_path)
    assert list(found["parts"]) == ["a5"] and found["figures"]["a5.gain_macro_vs_best_single"] > 0
    details = found["parts"]["a5"]["details"]
    assert details["headline_seeds"] == 5 and len(details["trials"]) == 5 + 5 + 3
    assert details["systems"]["default"]["seeds"] == [0, 1, 2, 3, 4]
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("head\n") and page.endswith("tail\n") and "| default" in page and "old" not in page
    assert page.count("<details>") == len(FOLDED)
    assert drawn == ["img/quality-a5"]


def test_quick_takes_one_seed_no_slow_rows_and_leaves_the_page_alone(
    run: Run, tmp_path: Path, asked: list[dict[str, object]], drawn: list[str]
) -> None:
    assert run("--quick") == 0
    assert asked == [{"split": "leave-one-out", "users": QUICK_USERS}]
    assert lines(tmp_path / "calls") == ["default {} 0", "sasrec {} 0"]
    found = recorded(tmp_path)
    assert list(found["parts"]) == ["a5quick"] and all(name.startswith("a5quick.") for name in found["figures"])
    assert (tmp_path / "page.md").read_text() == PAGE
    run("--report")
    assert drawn[0] == "img/quality-a5quick" and (tmp_path / "cache").exists()


def test_one_row_can_be_reproduced_and_replaces_no_recorded_figures(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--rows", "large", "--quick", "--seeds", "2") == 0  # a slow row that is asked for by name
    assert lines(tmp_path / "calls") == ["large {} 0", "large {} 1"]
    printed = capsys.readouterr()
    assert "| large" in printed.out and "not recorded: with ROWS and SEEDS" in printed.err
    assert not recorded(tmp_path)["figures"]
    assert run("--rows", "large", "--quick", "--seeds", "2", "--record") == 0
    assert list(recorded(tmp_path)["parts"]) == ["a5quick"] and len(lines(tmp_path / "calls")) == 2


def test_a_report_without_all_rows_replaces_no_recorded_figures(
    run: Run, tmp_path: Path, peers: dict[str, Peer], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--quick") == 0
    before = recorded(tmp_path)
    peers["new"] = Planted(tmp_path / "calls", "new", "multi-domain")
    assert run("--quick", "--report") == 0
    assert "not recorded: without all of new it is not the whole benchmark" in capsys.readouterr().err
    assert recorded(tmp_path) == before
    assert run("--quick", "--report", "--record") == 0 and recorded(tmp_path) != before


def test_a_report_without_all_seeds_replaces_no_recorded_figures(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = ["--cache", str(tmp_path / "elsewhere")]
    assert run() == 0
    before = recorded(tmp_path)
    assert run("--seeds", "1", *elsewhere) == 0 and recorded(tmp_path) == before
    capsys.readouterr()
    assert run("--report", *elsewhere) == 0
    assert "not recorded: without all of default, sasrec, large it is not" in capsys.readouterr().err
    assert recorded(tmp_path) == before
    assert run("--report", "--restore", *elsewhere) == 0  # the archive has the rest
    assert recorded(tmp_path)["figures"] == before["figures"]


def test_a_smaller_recorded_run_leaves_the_archive_whole(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    archived = {file: file.stat().st_size for file in (tmp_path / "results" / "quality").glob("*/*.npz")}
    assert len(archived) == 5 + 5 + 3
    assert run("--rows", "default", "--seeds", "1", "--report", "--record") == 0
    assert {file: file.stat().st_size for file in archived} == archived


def test_the_time_split_is_a_part_of_its_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE.replace("a5", "a5time"))
    assert run("--split", "time", "--seeds", "1", "--record") == 0
    assert list(recorded(tmp_path)["parts"]) == ["a5time"] and "| default" in (tmp_path / "page.md").read_text()


def test_a_crash_ends_the_command_with_1_and_the_rest_is_recorded(
    run: Run, tmp_path: Path, peers: dict[str, Peer], capsys: pytest.CaptureFixture[str]
) -> None:
    peers["broken"] = Planted(tmp_path / "calls", "broken", "multi-domain", crash="always")
    peers["gone"] = Planted(tmp_path / "calls", "gone", "multi-domain", absent=True)
    assert run("--quick") == 1
    assert "the loss is not finite" in capsys.readouterr().out
    details = recorded(tmp_path)["parts"]["a5quick"]["details"]
    assert list(details["failed"]) == ["broken"] and details["absent"] == {"gone": "its library is not installed"}
    del peers["broken"]
    assert run("--quick") == 0  # a row that is not there is no failure


def test_mistakes_are_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--rows", "defualt") == 2
    assert "error: no row defualt; there are default, sasrec, large" in capsys.readouterr().err

    def absent(*_: object, **__: object) -> QualityData:
        raise DataAbsent("the logs are absent: give their folder with DATA=")

    monkeypatch.setattr(command, "load_a5", absent)
    assert run() == 2
    assert capsys.readouterr().err.startswith("error: the logs are absent")
    with pytest.raises(ValueError, match="put them back"):
        command.into_page("no marks", "a5", "tables")


def test_the_page_of_the_repository_has_a_place_for_each_split() -> None:
    text = command.PAGE.read_text()
    for part in ("a5", "a5time"):
        text = command.into_page(text, part, f"tables of {part}")
    assert "tables of a5\n" in text and "tables of a5time\n" in text


def test_the_make_target_passes_every_option(tmp_path: Path) -> None:
    words = "QUICK=1 ROWS=a\\ b SEEDS=2 SPLIT=time DATA=d PEERS=p EPOCHS=3 DEVICE=cpu TRIALS=1 JOBS_AT_ONCE=3"
    words += " REPORT=1 RECORD=1 LOG=log.csv CORE=4 DOMAINS=books\\ toys LOG_COLUMNS='--user uid --ts at'"
    root = Path(command.__file__).parents[2]
    shown = subprocess.run(
        f"make --no-print-directory -n bench-quality {words}", shell=True, cwd=root, capture_output=True, text=True,
        env={**os.environ, "MAKEFLAGS": ""}, check=True,
    ).stdout  # fmt: skip
    line = shown.replace("\\\n", " ").strip().splitlines()[-1]
    arguments = command._arguments(line.replace('"', "").split()[3:])
    assert arguments.rows == ["a", "b"] and arguments.split == "time" and arguments.epochs == 3
    assert (arguments.quick, arguments.report, arguments.record) == (True, True, True)
    assert (str(arguments.data), str(arguments.peers), arguments.device) == ("d", "p", "cpu")
    assert (arguments.seeds, arguments.trials, arguments.jobs) == (2, 1, 3)
    assert (str(arguments.log), arguments.core, arguments.domains) == ("log.csv", 4, ["books", "toys"])
    assert (arguments.user, arguments.item, arguments.ts) == ("uid", None, "at")


def test_ctrl_c_gives_130_and_says_how_to_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.Runner, "run", stopped)
    assert run() == 130
    assert "goes on where it was" in capsys.readouterr().err
    assert sys.exc_info()[0] is None
