"""MLflow's SQLite database, made whole or not at all.

MLflow makes its forty tables one by one, for some seconds; ended in between it leaves a file that it can neither
use nor complete. So they are made in a file of another name, which gets its own when it is done.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

SQLITE = "sqlite:///"


def store_file(uri: str) -> Path | None:
    """The file behind a tracking address; None where it is no plain SQLite file."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) and "?" not in uri else None


def no_store(uri: str) -> bool:
    """Whether the file is not there yet. Whoever only looks asks first: MLflow's client would make it."""
    file = store_file(uri)
    return file is not None and not file.exists()


def make_store(uri: str) -> None:
    """Make the database of a tracking address where that is an SQLite file which is not there yet.

    Two at once make it once. Whatever ends this, the next call begins anew.
    """
    file = store_file(uri)
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        return
    from mlflow import MlflowClient  # seconds, and seldom needed

    new = file.with_name(f"{file.name}.new")
    with file.with_name(f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return
        for left in file.parent.glob(f"{new.name}*"):  # its journal, too
            left.unlink()
        MlflowClient(tracking_uri=f"{SQLITE}{new}", registry_uri=f"{SQLITE}{new}").search_experiments()
        with suppress(FileExistsError):  # a server of MLflow was quicker
            os.link(new, file)
        new.unlink()
