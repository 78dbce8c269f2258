"""Publish the audited recommendations and the night's row in `nights`: from here on analysts see the new day."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
from pyiceberg.expressions import EqualTo

from jobs.command import Run, run_job
from jobs.errors import JobError, PublishConflict
from jobs.lakehouse import Lakehouse, code_version
from jobs.night import Night
from jobs.schemas import EXPERIMENTS, NIGHTS, RECOMMENDATIONS, ROLLED_BACK

log = logging.getLogger("syncrec")
PINNED = ("interactions", "items", "sequences", "recommendations")


def publish(run: Run) -> str:
    """Commit the staged files of score, then the row that pins every snapshot of the night."""
    lakehouse = Lakehouse(run.settings)
    night = Night(run, lakehouse)
    staged = night.noted("recommendations_staged", made_by="score")
    version = str(night.noted("served_version", made_by="gate"))
    trial = night.get("experiment") or []
    nights = lakehouse.read_arrow(NIGHTS.name, lakehouse.current_snapshot(NIGHTS.name)).to_pylist()
    withdrawn = [row for row in nights if row["decision"] == ROLLED_BACK]
    for served in {version, *(row["model_version"] for row in trial if row["model_version"])}:
        _refuse_withdrawn(withdrawn, served)
    day = EqualTo("ds", run.ds.isoformat())
    if night.get("recommendations_published") != staged:
        properties = {"model_version": version, **(night.get("recommendations_properties") or {})}
        snapshot = lakehouse.replace(
            RECOMMENDATIONS.name, day, staged, ds=run.ds, run_id=night.run_id, properties=properties
        )
        night.pin(RECOMMENDATIONS.name, snapshot)
        night.note(recommendations_published=staged)
    writer = lakehouse.last_writer(RECOMMENDATIONS.name, run.ds)
    if writer != night.run_id:  # another run of the same day came in between: its night is the one that counts
        raise PublishConflict(
            f"run '{writer}' published the recommendations of {run.ds} after this one; its result stands"
        )
    _write_experiment(lakehouse, trial, run.ds, night.run_id)
    row = {
        "ds": run.ds,
        "run_id": night.run_id,
        **{f"{table}_snapshot": night.snapshot(table) for table in PINNED},
        "served_version": version,
        "champion_before": night.get("champion_before"),
        "challenger": night.get("challenger"),
        "decision": night.noted("decision", made_by="gate"),
        "reason": night.noted("reason", made_by="gate"),
        "code_version": code_version(),
        "published_at": datetime.now(UTC),
    }
    rows = pa.Table.from_pylist([row], schema=NIGHTS.arrow_schema)
    files = lakehouse.stage_arrow(NIGHTS.name, rows, run.ds, night.run_id)
    lakehouse.replace(
        NIGHTS.name, day, files, ds=run.ds, run_id=night.run_id, properties={"model_version": version}
    )
    again = "; a rollback had withdrawn the lists of this day: it counts again"
    return (
        f"{night.get('recommendations_count')} recommendations of {run.ds} published, scored by version {version}"
        f"{again if run.ds in {row['ds'] for row in withdrawn} else ''}"
    )


def _write_experiment(lakehouse: Lakehouse, trial: list[dict[str, Any]], ds: date, run_id: str) -> None:
    """Keep who served the arms; a day that is run again without its experiment loses the rows."""
    rows = pa.Table.from_pylist([{**row, "ds": ds} for row in trial], schema=EXPERIMENTS.arrow_schema)
    files = lakehouse.stage_arrow(EXPERIMENTS.name, rows, ds, run_id) if trial else []
    lakehouse.replace(EXPERIMENTS.name, EqualTo("ds", ds.isoformat()), files, ds=ds, run_id=run_id)


def _refuse_withdrawn(withdrawn: Sequence[dict[str, Any]], version: str) -> None:
    """What was rolled back after the gate had chosen it must not come back through a night in progress."""
    for night in withdrawn:
        if night["served_version"] == version:
            raise JobError(
                f"version {version} was rolled back while this night worked ({night['reason']}); nothing was "
                "published: run the night again from the gate on"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(publish, argv)


if __name__ == "__main__":
    raise SystemExit(main())
