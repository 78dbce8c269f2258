"""Where the notes of a run lie, and how a small file is written whole: for jobs that need no table to say so."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from datetime import date
from pathlib import Path


def notes_folder(warehouse: Path, ds: date) -> Path:
    """The folder with the notes of all runs of one day."""
    return warehouse / "_nights" / ds.isoformat()


def notes_file(warehouse: Path, ds: date, run_id: str) -> Path:
    """The notes of one run; of a job started by hand without a run id those of the newest run of that day."""
    folder = notes_folder(warehouse, ds)
    file = folder / f"{hashlib.sha256(run_id.encode()).hexdigest()[:16]}.json"
    if run_id == "manual" and not file.exists():
        return max(folder.glob("*.json"), key=_touched, default=file)
    return file


def _touched(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # somebody has just removed it
        return file.stat().st_mtime_ns
    return 0


def write_whole(file: Path, text: str) -> None:
    """Write a file so that readers see the old or the new content, also after a power cut."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
