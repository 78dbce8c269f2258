"""How each step of a night ended, how long it took and how much memory it held.

Every step notes it in a small file of its own beside the notes of its run, so that steps that run side by side
never wait for each other; the report step writes them all into the table `steps`. A step that was killed leaves
the note of its beginning: `not ended`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.night_files import notes_file, notes_folder, write_whole

if TYPE_CHECKING:
    from jobs.lakehouse import Lakehouse

DONE, NOTHING, FAILED, NOT_ENDED = "done", "nothing to do", "failed", "not ended"
_FOLDER = ".steps"


@dataclass(frozen=True, kw_only=True)
class StepNote:
    """One step of one run, as the table `steps` has it; times in seconds, memory in bytes."""

    run_id: str
    step: str
    attempt: int
    outcome: str
    message: str
    started_at: str
    seconds: float | None
    peak_memory: int | None


class StepClock:
    """Notes the beginning and the end of one step.

    Parameters
    ----------
    warehouse
        Where the tables are. Without that folder nothing is noted: a slip must not make one.
    ds, run_id, step
        Which step of which run.
    age
        How long the process has been at it already, in seconds.
    """

    def __init__(self, warehouse: Path, ds: date, run_id: str, step: str, age: float = 0.0) -> None:
        self._warehouse, self._ds, self._run_id, self._step = warehouse, ds, run_id, step
        self._began = time.monotonic() - age
        self._started_at = datetime.fromtimestamp(time.time() - age, UTC).isoformat()
        self._attempt: int | None = None
        self._note(NOT_ENDED, "", None)

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    def end(self, outcome: str, message: str, peak_memory: int | None) -> None:
        """Note how it ended; message: why it failed, or why there was nothing to do. It must name no user."""
        self._note(outcome, message, peak_memory)

    def _note(self, outcome: str, message: str, peak_memory: int | None) -> None:
        """Noting must never be what a step fails of."""
        if not self._warehouse.is_dir():
            return
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            run = notes_file(self._warehouse, self._ds, self._run_id)
            file = run.with_suffix(_FOLDER) / f"{self._step}.json"
            if self._attempt is None:
                before = _read(file)
                self._attempt = before.attempt + 1 if before else 1
            run_id = json.loads(run.read_text(encoding="utf-8"))["run_id"] if run.exists() else self._run_id
            note = StepNote(
                run_id=run_id,
                step=self._step,
                attempt=self._attempt,
                outcome=outcome,
                message=message,
                started_at=self._started_at,
                seconds=None if outcome == NOT_ENDED else round(self.seconds, 3),
                peak_memory=peak_memory,
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(asdict(note)))


def _read(file: Path) -> StepNote | None:
    """A note, or None where it is missing or damaged."""
    try:
        return StepNote(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def step_notes(warehouse: Path, ds: date) -> list[StepNote]:
    """What the steps of all runs of one day noted, but for the step that is asking: the report."""
    files = sorted(notes_folder(warehouse, ds).glob(f"*{_FOLDER}/*.json"))
    return [note for file in files if file.stem != "report" and (note := _read(file)) is not None]


def record_steps(lakehouse: Lakehouse, ds: date) -> None:
    """Write the notes of a day into the table `steps`, in place of what it holds of the same runs.

    Raises
    ------
    PublishConflict
        Another report of that day wrote at the same moment.
    """
    import pyarrow as pa
    from pyiceberg.expressions import And, EqualTo, In

    from jobs.schemas import STEPS

    notes = step_notes(lakehouse.warehouse, ds)
    if not notes:
        return
    whole = [{**asdict(note), "started_at": datetime.fromisoformat(note.started_at), "ds": ds} for note in notes]
    rows = pa.Table.from_pylist(whole, schema=STEPS.arrow_schema)
    runs = {note.run_id for note in notes}
    newest = max(notes, key=lambda note: note.started_at).run_id
    files = lakehouse.stage_arrow(STEPS.name, rows, ds, newest)
    where = And(EqualTo("ds", ds.isoformat()), In("run_id", runs))
    lakehouse.replace(STEPS.name, where, files, ds=ds, run_id=newest)


def process_age() -> float:
    """Seconds since this process began, its imports included; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return age if 0 <= age < 3600 else 0.0
