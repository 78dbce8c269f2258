"""make bench-data: its figures, its table, its event log, rows that cannot run; and a small whole run."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import data
from benchmarks.data_rows import Limits, Reading, Rows
from benchmarks.generated_files import write_log
from benchmarks.generated_logs import LogSize
from benchmarks.process_tree import Cost
from benchmarks.spark_events import options, read_events
from jobs.settings import load_settings

WORK = {"shuffle_bytes": 2**30, "shuffles": 1, "spilled_bytes": 0, "output_bytes": 5, "longest_task": 2.5}


def reading(seconds: float, *, failed: str = "", **own: Any) -> Reading:
    cost = Cost(seconds=seconds, cpu_seconds=2 * seconds, peak_gib=3, jvm_gib=2.5, python_gib=0.5, failed=failed)
    return Reading(cost=cost, **own)


def ours(seconds: float, **own: Any) -> Reading:
    return reading(seconds, work=WORK, output_bytes=2**29, **own)


SIZES = {
    1.0: {"full": [ours(10)]},
    5.0: {"full": [ours(20, same=True)], "duckdb.separate": [reading(16)], "duckdb.derived": [reading(10)]},
    20.0: {
        "full": [ours(90), ours(80), ours(70)],
        "incremental": [ours(8, note="incremental build")],
        "duckdb.separate": [reading(40), reading(100), reading(64)],
        "duckdb.derived": [reading(1, failed="OutOfMemoryException")],
        "rectools": [reading(0, failed="needs more than 14 GiB")],
        "lighter": [ours(78)],
    },
}


def test_figures_are_ratios_of_medians_and_failures_give_none() -> None:
    figures = {name: value for size, found in SIZES.items() for name, value in data.figures_of(size, found).items()}
    assert figures["full.20m.seconds"] == 80 and figures["full.20m.vs_duckdb"] == 80 / 64
    assert figures["full.5m.vs_duckdb"] == 2, "the faster form is the rival"
    assert figures["incremental.20m.share_of_full"] == 0.1 and figures["incremental.20m.peak_gib"] == 3
    assert figures["full.20m.vs_no_heavy_user"] == pytest.approx(80 / 78, rel=1e-3)
    assert figures["duckdb.20m.separate.seconds"] == 64 and figures["full.5m.same_as_duckdb"] == 1
    assert figures["full.20m.shuffle_gib"] == 1 and figures["full.20m.output_gib"] == 0.5
    assert not [name for name in figures if name.startswith(("rectools", "duckdb.20m.derived"))]
    assert not [name for name in figures if ".50m." in name] and "full.1m.vs_duckdb" not in figures
    assert all(math.isfinite(value) for value in figures.values())


def test_sizes_run_one_by_one_are_merged_and_one_run_again_replaces_itself_alone(tmp_path: Path) -> None:
    def figures() -> dict[str, float]:
        kept: dict[str, dict[str, float]] = json.loads((tmp_path / "data.json").read_text())
        return kept["figures"]

    log = tmp_path / "log"
    log.mkdir()
    (log / "part.parquet").write_bytes(bytes(2**20))
    data.keep(1.0, SIZES[1.0], tmp_path, log)
    data.keep(20.0, SIZES[20.0], tmp_path, log)
    assert "full.exponent" not in figures(), "one size from 5 million on has no slope"
    data.keep(5.0, SIZES[5.0], tmp_path, log)
    assert figures()["full.exponent"] == 1, "from 5 million on: 20 s to 80 s"
    assert figures()["full.20m.vs_duckdb"] == 80 / 64 and figures()["full.5m.vs_duckdb"] == 2
    data.keep(20.0, {"full": [ours(40)]}, tmp_path, log)
    assert figures()["full.exponent"] == 0.5 and "incremental.20m.share_of_full" not in figures()
    assert figures()["full.5m.vs_duckdb"] == 2 and figures()["full.1m.seconds"] == 10
    assert figures()["log.20m.gib"] == pytest.approx(2**-10, rel=1e-3)
    parts = json.loads((tmp_path / "data.json").read_text())["parts"]
    assert set(parts) == {"data.1m", "data.5m", "data.20m", "exponent"}
    assert parts["exponent"]["details"] == {"1m": 10, "5m": 20, "20m": 40}


def test_a_failed_reading_fails_the_row() -> None:
    assert data.typical([reading(3), reading(1, failed="killed"), reading(2)]).cost.failed == "killed"
    assert data.typical([reading(3), reading(1)]).cost.seconds == 1


def test_the_table_says_what_failed_and_what_is_not_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    data.Console(width=200).print(data.table_of({**SIZES, 30.0: {"full": [ours(1, same=False)]}}))
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    row = next(cells for cells in lines if cells[:2] == ["20 M", "ours, full build"])
    assert row[2:] == ["80.0", "160.0", "3.00", "2.50", "0.50", "1.00", "0.50", "1.25", ""]
    assert next(cells for cells in lines if cells[1:2] == ["RecTools, items alone"])[-1] == "needs more than 14 GiB"
    assert "NOT THE SAME" in printed and "incremental build" in printed


def test_readings_are_compared_with_the_first_form_that_ran() -> None:
    one, other = {"cross": ["1", "2"]}, {"cross": ["1", "3"]}
    found = data.compared(
        {
            "full": [ours(1, digest=one), ours(1, digest=other)],
            "duckdb.separate": [reading(1, failed="no memory")],
            "duckdb.derived": [reading(1, digest=one)],
            "lighter": [ours(1, digest=other)],
        }
    )
    assert [r.same for r in found["full"]] == [True, False] and found["duckdb.derived"][0].same
    assert found["lighter"][0].same is None, "another log"
    assert data.compared({"full": [ours(1, digest=one)]})["full"][0].same is None


def test_the_event_log_is_added_up(tmp_path: Path) -> None:
    def task(stage: int, shuffled: int, milliseconds: int, reason: str = "Success") -> str:
        metrics = {
            "Shuffle Write Metrics": {"Shuffle Bytes Written": shuffled}, "Executor Run Time": milliseconds,
            "Disk Bytes Spilled": 3, "Output Metrics": {"Bytes Written": 7}, "JVM GC Time": 100,
        }  # fmt: skip
        event = {"Event": "SparkListenerTaskEnd", "Stage ID": stage, "Task End Reason": {"Reason": reason}}
        return json.dumps({**event, "Task Metrics": metrics}, separators=(",", ":"))

    lines = [task(0, 10, 1000), task(0, 5, 4000), task(1, 0, 500), task(2, 1, 1, "TaskKilled"), '{"Event":"Other"}']
    (tmp_path / "local-1").write_text("\n".join(lines))
    work = read_events(tmp_path)
    assert (work.shuffle_bytes, work.shuffles, work.spilled_bytes, work.output_bytes) == (15, 1, 9, 21)
    assert (work.task_seconds, work.longest_task, work.collector_seconds) == (5.5, 4.0, pytest.approx(0.3))


def test_settings_are_a_project_with_the_rows_memory(tmp_path: Path) -> None:
    log = write_log(LogSize(events=1_000), tmp_path / "log", processes=1)
    rows = Rows(log, tmp_path / "scratch", Limits(threads=3))
    settings = load_settings(rows._settings("night", "1g"))
    assert (settings.spark.master, settings.spark.driver_memory) == ("local[3]", "1g")
    assert settings.spark.options == options(tmp_path / "scratch" / "night-events")
    assert settings.state.is_relative_to(tmp_path) and settings.sequences.max_length == 50
    assert len(settings.domain_names) == 5


def test_a_peer_that_is_not_at_hand_is_a_row_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(LogSize(events=1_000), tmp_path / "log", processes=1)
    rows = Rows(log, tmp_path / "scratch", Limits())
    assert "cpark88/SyNCRec" in rows.run("released").cost.failed
    for name in ("models.py", "modules.py", "preprocessing.py"):
        (tmp_path / name).touch()
    rows = Rows(log, tmp_path / "scratch", Limits(released=tmp_path))
    assert rows.run("released").cost.failed == "this checkout holds no make_dataset.py, dataset/vocab.py"
    monkeypatch.setattr("benchmarks.data_rows.BENCH_PYTHON", tmp_path / "none")
    assert "not at hand" in rows.run("rectools").cost.failed


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--rows", "incremental"], "give both to --rows"),
        (["--sizes", "0"], "greater than 0"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        data.parse(words)
    assert complaint in capsys.readouterr().err


def test_a_full_disk_is_seen_before_the_first_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["--sizes", "100000000", "--folder", str(tmp_path)]) == 1
    assert "on a larger disk" in capsys.readouterr().err


@pytest.mark.skipif(not os.environ.get("SYNCREC_TEST_BENCH"), reason="a minute or more: set SYNCREC_TEST_BENCH=1")
def test_a_small_run_builds_compares_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["full", "incremental", "duckdb.derived"]
    words = ["--sizes", "0.02", "--folder", str(tmp_path), "--results", str(tmp_path), "--full-memory", "1g"]
    quick = "--java-options=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # a JVM of seconds
    assert data.main([*words, quick, "--rows", *rows]) == 0, capsys.readouterr().err
    kept = json.loads((tmp_path / "data.json").read_text())
    assert kept["figures"]["full.0.02m.same_as_duckdb"] == kept["figures"]["incremental.0.02m.same_as_duckdb"] == 1
    assert kept["figures"]["full.0.02m.shuffle_gib"] > 0 and kept["figures"]["full.0.02m.output_gib"] > 0
    details = kept["parts"]["data.0.02m"]["details"]
    assert details["incremental"][0]["note"] == "incremental build" and set(details) == set(rows)
    assert "incremental.0.02m.share_of_full" in capsys.readouterr().out
    assert not (tmp_path / "scratch").exists()
