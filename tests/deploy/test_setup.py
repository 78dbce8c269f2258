"""The set-up of the Makefile: two at once do not destroy each other's environments."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("flock")), reason="needs make and flock")
def test_a_second_set_up_of_a_folder_waits_for_the_first(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    with (tmp_path / ".venv" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        second = subprocess.Popen(["make", "setup"], cwd=tmp_path, env=own, stdout=subprocess.PIPE, text=True)
        try:
            assert second.stdout is not None and "waiting for it" in second.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(1)
            assert [file.name for file in (tmp_path / ".venv").iterdir()] == [".lock"], "nothing was begun"
        finally:
            subprocess.run(["pkill", "-P", str(second.pid)], check=False)
            second.kill()
            second.wait()
