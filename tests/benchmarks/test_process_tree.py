"""Measuring a tree of processes: children and orphans count, limits end it, a failure says why."""

import sys
import time
from pathlib import Path

import psutil

from benchmarks.process_tree import Cost, run_measured

BURN = "import time; t = time.process_time()\nwhile time.process_time() - t < {seconds}: pass\n"
HOLD = "import time; kept = b'1' * ({mib} * 2**20); time.sleep({seconds})"


def run(code: str, folder: Path, *, limit_gib: float = 4, limit_seconds: float = 60) -> Cost:
    return run_measured(
        [sys.executable, "-c", code], log=folder / "log.txt", limit_gib=limit_gib, limit_seconds=limit_seconds
    )


def test_descendants_count_in_processor_time_and_memory(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN.format(seconds=1)!r}])"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert run(parent, tmp_path).cpu_seconds > 0.8
    held = HOLD.format(mib=200, seconds=3)
    both = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {held!r}])\n{held}\np.wait()"
    cost = run(both, tmp_path)
    assert 0.39 < cost.peak_gib < 0.6 and cost.python_gib == cost.peak_gib and cost.jvm_gib == 0
    assert cost.failed == "" and cost.seconds > 3


def test_a_child_that_has_not_begun_does_not_show_its_parents_memory(tmp_path: Path) -> None:
    start = "subprocess.run(['sleep', '.2'], preexec_fn=lambda: time.sleep(.3))"
    code = f"import subprocess, time\nkept = b'1' * (300 * 2**20)\nfor _ in range(5): {start}"
    # On a busy machine a child may need longer than YOUNG to its program: one of three goes quickly enough.
    assert any(0.29 < run(code, tmp_path).peak_gib < 0.4 for _ in range(3))


def test_an_orphan_is_followed_to_its_end(tmp_path: Path) -> None:
    code = (
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {BURN.format(seconds=1.5)!r}])\n"
        "time.sleep(.8)"
    )
    began = time.monotonic()
    cost = run(code, tmp_path)
    assert cost.seconds < time.monotonic() - began - 0.2, "the time is the command's own"
    assert cost.cpu_seconds > 1.3


def test_a_tree_beyond_its_limits_is_ended_as_a_whole(tmp_path: Path) -> None:
    held = HOLD.format(mib=300, seconds=600) + f"  # {tmp_path}"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}])"
    assert run(child, tmp_path, limit_gib=0.2).failed == "needs more than 0.2 GiB"
    assert run(child, tmp_path, limit_seconds=1).failed == "takes longer than 1 s"
    # of the whole machine: an orphan is no longer among our children; a zombie's command line reads as None
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(tmp_path) in " ".join(command)]


def test_a_failure_is_the_last_line_of_the_output(tmp_path: Path) -> None:
    assert run("print('first'); raise SystemExit('error: no such day')", tmp_path).failed == "error: no such day"
    assert run("import os; os._exit(3)", tmp_path).failed.startswith("exit code 3")
    assert (tmp_path / "log.txt").read_text() == ""
