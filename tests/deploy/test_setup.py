"""The Makefile: two set-ups at once do not destroy each other's environments, clean removes nothing delivered."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def own() -> dict[str, str]:
    """The environment without that of the `make` that runs the tests: another make would take it for its parent."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("flock")), reason="needs make and flock")
def test_a_second_set_up_of_a_folder_waits_for_the_first(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    with (tmp_path / ".venv" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.Popen(["make", "setup"], cwd=tmp_path, env=own(), stdout=subprocess.PIPE, text=True)
        try:
            assert second.stdout is not None and "waiting for it" in second.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(1)
            assert [file.name for file in (tmp_path / ".venv").iterdir()] == [".lock"], "nothing was begun"
        finally:
            subprocess.run(["pkill", "-P", str(second.pid)], check=False)
            second.kill()
            second.wait()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_clean_keeps_landing_days_of_ones_own(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    delivered = [
        "landing/2024-01-01/a.csv",
        "shop 1/landing/2024-01-01/a.csv",
        "shops/toys/landing/2024-01-01/a.csv",
    ]
    for name in (*delivered, "sample/landing/2024-01-01/a.csv", "sample/warehouse/x", "warehouse/a/landing_x",
                 "shop 1/warehouse/x", "shop 1/analytics.duckdb", "shops/toys/logs/x", "q/x.json"):  # fmt: skip
        file = tmp_path / "var" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    delivered.insert(2, "shop 1/landing/2024-01-02")
    (tmp_path / "var" / delivered[2]).mkdir()
    for _ in range(2):
        clean = subprocess.run(
            ["make", "clean"], cwd=tmp_path, env=own(), check=True, capture_output=True, text=True
        )
        left = (path for path in (tmp_path / "var").rglob("*") if not path.is_dir() or not any(path.iterdir()))
        assert sorted(str(path.relative_to(tmp_path / "var")) for path in left) == delivered
        assert sorted(clean.stdout.splitlines()) == [
            f"kept var/{folder}landing: days that were delivered" for folder in ("", "shop 1/", "shops/toys/")
        ]
    for name in ("landing", "shop 1", "shops"):
        shutil.rmtree(tmp_path / "var" / name)
    subprocess.run(["make", "clean"], cwd=tmp_path, env=own(), check=True, capture_output=True)
    assert not (tmp_path / "var").exists()
