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


def make_store(uri: str) -> None:
    """Make the database of a tracking address where that is an SQLite file which is not there yet.

    Two at once make it once. Whatever ends this, the next call begins anew.
    """
    if not uri.startswith(SQLITE) or "?" in uri:
        return
    file = Path(uri.removeprefix(SQLITE))
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
