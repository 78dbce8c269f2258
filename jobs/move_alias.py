"""Move the registry aliases after the night is published: `champion`, and `previous_champion` behind it.

A backfill never moves an alias, and a night older than the newest published one changes nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.backfill import past_of
from jobs.command import Run, run_job
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.night import Night
from jobs.registry import CHAMPION, PREVIOUS, Registry
from jobs.schemas import ROLLED_BACK


def move_alias(run: Run) -> str:
    """Point `champion` to the version that was promoted and published tonight."""
    lakehouse = Lakehouse(run.settings)
    night = Night(run, lakehouse)
    decision = night.noted("decision", made_by="gate")
    version = str(night.noted("served_version", made_by="gate"))
    nights = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights"), columns=("ds", "run_id"))
    published = dict(zip(nights["ds"].to_pylist(), nights["run_id"].to_pylist(), strict=True))
    if published.get(run.ds) != night.run_id:
        raise JobError(f"run publish first: the night of {run.ds} is not published by run '{night.run_id}'")
    if then := past_of(lakehouse, run):
        later = f" ({then.newest} is published already)" if then.newest > run.ds else ""
        return f"backfill: aliases stay{later}"
    registry = Registry(run.settings)
    champion = registry.at_alias(CHAMPION)
    if why := registry.version(version).tags.get(ROLLED_BACK):
        return (
            f"champion stays version {champion.number if champion else 'none'}: {version} was rolled back ({why})"
        )
    if decision != "promoted":
        return f"champion stays version {champion.number if champion else 'none'} ({decision})"
    if champion is not None and champion.number == version:
        night.note(aliases_moved=True)
        return f"champion is version {version} already"
    if champion is not None:
        registry.move_alias(PREVIOUS, champion.number)
    registry.move_alias(CHAMPION, version)
    night.note(aliases_moved=True)
    return f"champion: version {version}" + (f", previous: version {champion.number}" if champion else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(move_alias, argv)


if __name__ == "__main__":
    raise SystemExit(main())
