"""Keep the tables small and quick: drop what is past its days, merge small files, remove what nobody needs.

    python -m jobs.maintain --ds 2024-03-31              once a week or so; it may run beside a night
    python -m jobs.maintain --ds 2024-03-31 --dry-run    say what it would do

It keeps every file that a kept snapshot of any table refers to, everything that a night in progress has pinned,
staged or builds on, the champion and the one before it, and whatever was written in the last hours (section
[maintenance] of the settings). A table that somebody else commits to at that moment is left to the next time.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pyiceberg.exceptions import NoSuchNamespaceError

from jobs import expiry, leftovers
from jobs.analytics import refresh
from jobs.command import Run, run_job
from jobs.compaction import compact, merge_manifests
from jobs.errors import NothingToDo
from jobs.lakehouse import NAMESPACE, Lakehouse
from jobs.maintenance_commit import Busy
from jobs.maintenance_needs import Needs, find_needs
from jobs.schemas import NIGHTS, SEQUENCES, TABLES

log = logging.getLogger("syncrec")


@dataclass
class Total:
    """What was done, summed up."""

    merged: int = 0
    manifests: int = 0
    snapshots: int = 0
    removed: int = 0
    bytes: int = 0
    busy: list[str] = field(default_factory=list)

    def line(self, dry: bool) -> str:
        """The closing line."""
        would = "would be " if dry else ""
        left = f"; left to the next time: {', '.join(self.busy)}" if self.busy else ""
        manifests = f" and {self.manifests} manifests" if self.manifests else ""
        return (
            f"{self.merged} small files{manifests} {would}merged, {self.snapshots} snapshots {would}expired, "
            f"{self.removed} files ({_size(self.bytes)}) {would}removed{left}"
        )


def maintain(run: Run) -> str:
    """Rows, files, snapshots, then whatever nothing refers to."""
    return tidy_up(run, datetime.now(UTC))


def tidy_up(run: Run, now: datetime) -> str:
    """`maintain` at a given time by the clock."""
    own, dry = run.settings.maintenance, bool(run.arguments.dry_run)
    lakehouse = Lakehouse(run.settings)
    names = _present(lakehouse)
    needs = find_needs(lakehouse, own, run.ds, now)
    log.info("counted from the night of %s; nights from %s on stay readable", needs.newest, needs.oldest)
    open_days = ", ".join(sorted(map(str, needs.days))) or "none"
    log.info("days with runs other than the published one, kept as in progress: %s", open_days)
    total, gone = Total(), {}
    for name in names:
        gone[name] = _expire(lakehouse, name, run, needs, now, total)
        for tidy in (_drop, _compact, _merge_manifests):
            try:
                tidy(lakehouse, name, run, needs, gone[name], total)
            except Busy:
                _say_busy(name, total)
    orphans = expiry.orphans(lakehouse, own, needs, now, gone if dry else {})
    _sweep(orphans, total, dry)
    _leftovers(lakehouse, run, needs, now, total)
    if not dry:
        refresh(run.settings)  # it names files, and some have been merged
    return total.line(dry)


def _present(lakehouse: Lakehouse) -> list[str]:
    """The tables that there are.

    Raises
    ------
    NothingToDo
        No night is published in this catalog: whatever lies in the warehouse may belong to another one.
    """
    try:
        names = {name for _, name in lakehouse.catalog.list_tables(NAMESPACE)}
    except NoSuchNamespaceError:
        names = set()
    if NIGHTS.name not in names or lakehouse.current_snapshot(NIGHTS.name) is None:
        raise NothingToDo("no night is published yet")
    return [name for name in TABLES if name in names]


def _say_busy(name: str, total: Total) -> None:
    log.info("%s: somebody committed meanwhile: left to the next time", name)
    if name not in total.busy:
        total.busy.append(name)


def _expire(lakehouse: Lakehouse, name: str, run: Run, needs: Needs, now: datetime, total: Total) -> Sequence[int]:
    table, dry = lakehouse.table(name), run.arguments.dry_run
    old = expiry.old_snapshots(table, run.settings.maintenance, needs, now)
    if not old:
        return old
    try:
        if not dry:
            expiry.expire(table, old)
    except Busy:
        _say_busy(name, total)
        return []
    total.snapshots += len(old)
    log.info("%s: %d of %d snapshots %s", name, len(old), len(table.snapshots()), _did("expired", dry))
    return old


def _drop(lakehouse: Lakehouse, name: str, run: Run, needs: Needs, gone: Sequence[int], total: Total) -> None:
    table, dry = lakehouse.table(name), run.arguments.dry_run
    before = expiry.first_day(table, run.settings.maintenance, needs, gone)
    files, rows = expiry.drop_rows(table, before, run_id=run.run_id, dry=dry)
    if files:
        log.info(
            "%s: %s rows of days before %s %s (%d files)", name, f"{rows:,}", before, _did("dropped", dry), files
        )


def _compact(lakehouse: Lakehouse, name: str, run: Run, needs: Needs, gone: Sequence[int], total: Total) -> None:
    if name == SEQUENCES.name:  # a new base does it; and small ones are its very nights
        return
    own, dry = run.settings.maintenance, run.arguments.dry_run
    merges = compact(lakehouse, name, own, needs.days, ds=run.ds, run_id=run.run_id, dry=dry)
    if merges:
        files = sum(len(merge.files) for merge in merges)
        total.merged += files
        size = _size(sum(merge.bytes for merge in merges))
        log.info("%s: %d small files (%s) %s into %d", name, files, size, _did("merged", dry), len(merges))


def _merge_manifests(
    lakehouse: Lakehouse, name: str, run: Run, needs: Needs, gone: Sequence[int], total: Total
) -> None:
    if count := merge_manifests(lakehouse, name, run_id=run.run_id, dry=run.arguments.dry_run):
        total.manifests += count
        log.info("%s: %d manifests %s", name, count, _did("merged", run.arguments.dry_run))


def _sweep(orphans: Sequence[expiry.Orphan], total: Total, dry: bool) -> None:
    for name in TABLES:
        own = [orphan for orphan in orphans if orphan.table == name]
        if own:
            size = sum(orphan.bytes for orphan in own)
            log.info(
                "%s: %d files (%s) that nothing refers to %s", name, len(own), _size(size), _did("removed", dry)
            )
            total.removed += len(own)
            total.bytes += size
    if not dry:
        expiry.remove(orphans)


def _leftovers(lakehouse: Lakehouse, run: Run, needs: Needs, now: datetime, total: Total) -> None:
    settings, dry = run.settings, run.arguments.dry_run
    kinds: dict[str, Callable[[], Iterable[Path]]] = {
        "checkpoint": lambda: leftovers.old_checkpoints(settings, needs, now),
        "vocabulary for workers": lambda: leftovers.old_vocabularies(lakehouse, settings, needs, now),
        "notes of": lambda: leftovers.old_notes(lakehouse, settings, needs, now),
        "copy of a model": lambda: leftovers.old_models(lakehouse, settings, needs, now),
        "scratch of Spark": lambda: leftovers.old_scratch(settings, now),
    }
    for kind, find in kinds.items():
        for path in list(find()):
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
            size = sum(file.stat().st_size for file in files)
            if not dry:
                leftovers.remove(path)
            total.removed += len(files)
            total.bytes += size
            log.info("%s %s %s (%s)", kind, path.name, _did("removed", dry), _size(size))


def _did(word: str, dry: bool) -> str:
    return f"would be {word}" if dry else word


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(maintain, argv, arguments=_add_arguments)


if __name__ == "__main__":
    raise SystemExit(main())
