"""One consistent night: which snapshot of every table the jobs of one run read, and what they decided.

The pins of a run are one small JSON file in the warehouse, chosen at the first attempt and kept over retries: a
job reads the snapshot that is pinned, or pins the newest. A job that publishes a table pins its new snapshot.
"""

from __future__ import annotations

import json
from typing import Any

from jobs.command import Run
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.night_files import notes_file, write_whole

BOOTSTRAP = "bootstrap"
"""The run id under which `make nightly` reads the history that a project begins with."""


class Night:
    """The pins and notes of one run of one day.

    Parameters
    ----------
    run
        Gives ds and run id. A job started by hand without a run id goes on with the newest run of that day.
    lakehouse
        Gives the newest snapshots.
    """

    def __init__(self, run: Run, lakehouse: Lakehouse) -> None:
        self._lakehouse = lakehouse
        self._file = notes_file(lakehouse.warehouse, run.ds, run.run_id)
        self.run_id = run.run_id
        if run.run_id == "manual":
            self.run_id = str(self._read()["run_id"])

    def _read(self) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"run_id": self.run_id, "snapshots": {}}
        return values

    def _write(self, values: dict[str, Any]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps(values, indent=1, sort_keys=True))

    def snapshot(self, table: str) -> int | None:
        """The pinned snapshot of a table; pins the newest at the first call. None: the table has no rows yet."""
        values = self._read()
        if table not in values["snapshots"]:
            values["snapshots"][table] = self._lakehouse.current_snapshot(table)
            self._write(values)
        pinned: int | None = values["snapshots"][table]
        return pinned

    def pin(self, table: str, snapshot: int) -> None:
        """Remember the snapshot that this run has just published."""
        values = self._read()
        values["snapshots"][table] = snapshot
        self._write(values)

    def note(self, **values: Any) -> None:
        """Keep JSON values for the later steps of this run (staged files, the gate's decision)."""
        self._write(self._read() | values)

    def noted(self, key: str, made_by: str) -> Any:
        """Read a value that an earlier step noted.

        Raises
        ------
        JobError
            The earlier step has not run; the message names it.
        """
        values = self._read()
        if key not in values:
            raise JobError(f"run {made_by} first: this night has no {key.replace('_', ' ')} yet")
        return values[key]

    def get(self, key: str) -> Any:
        """Like `noted`, None where the value is absent."""
        return self._read().get(key)
