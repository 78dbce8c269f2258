"""What nights leave beside the tables: notes, checkpoints, and what scoring put where its workers read it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from jobs.lakehouse import Lakehouse
from jobs.maintenance_needs import Needs
from jobs.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from jobs.settings import Settings

_DAY = re.compile(r"(\d{4}-\d\d-\d\d)")


def old_notes(lakehouse: Lakehouse, settings: Settings, needs: Needs, now: datetime) -> Iterator[Path]:
    """The notes of nights older than the oldest kept one, but of those in progress."""
    for folder in sorted((lakehouse.warehouse / "_nights").glob("*-*-*")):
        day = _day(folder.name)
        if day and day < needs.oldest and day not in needs.days and _old(folder, settings, now):
            yield folder


def old_checkpoints(settings: Settings, needs: Needs, now: datetime) -> Iterator[Path]:
    """Checkpoints of nights that are over; a training that ends removes its own, one that is given up does not."""
    for file in sorted((settings.state / "checkpoints").glob("*")):
        cut_short = file.name.startswith(".")  # its writing was killed: it never got its name
        if (cut_short or _over(file, needs)) and _old(file, settings, now):
            yield file


def old_vocabularies(lakehouse: Lakehouse, settings: Settings, needs: Needs, now: datetime) -> Iterator[Path]:
    """The vocabularies that scoring wrote for its workers, but of nights in progress; it writes a missing one."""
    for file in sorted((lakehouse.warehouse / "_models").glob("vocabulary-*")):
        if _over(file, needs) and _old(file, settings, now):
            yield file


def old_models(lakehouse: Lakehouse, settings: Settings, needs: Needs, now: datetime) -> Iterator[Path]:
    """The copies of registered models that no alias and no night in progress names; scoring fetches a missing one.

    Raises
    ------
    JobError
        The registry cannot be read.
    """
    name = settings.mlflow.model_name
    staged = [path for path in sorted((lakehouse.warehouse / "_models").glob("*")) if path.is_dir()]
    copies = [
        path for path in staged if path.name.removeprefix(".").startswith(f"{name}-") and _old(path, settings, now)
    ]
    if not copies:
        return
    registry = Registry(settings)
    named = (registry.at_alias(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER))
    kept = needs.versions | {version.number for version in named if version}
    for path in copies:
        version = path.name.removeprefix(".").removeprefix(f"{name}-").split("-")[0]
        if path.name.startswith(".") or version not in kept:  # with a dot: a copy that a kill cut short
            yield path


def old_scratch(settings: Settings, now: datetime) -> Iterator[Path]:
    """The scratch of Spark jobs that were killed: whoever ends well removes his own."""
    for folder in sorted((settings.state / "spark" / "local").glob("*")):
        inside = [Path(parent, name) for parent, _, names in os.walk(folder) for name in (".", *names)]
        if all(_old(path, settings, now) for path in inside):
            yield folder


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _over(path: Path, needs: Needs) -> bool:
    """Whether the night that a file is named after is published or before the newest one, and not in progress."""
    day = _day(path.name)
    return bool(day and day <= needs.newest and day not in needs.days)


def _day(name: str) -> date | None:
    found = _DAY.search(name)
    return date.fromisoformat(found[1]) if found else None


def _old(path: Path, settings: Settings, now: datetime) -> bool:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC) < now - timedelta(
            hours=settings.maintenance.young_hours
        )
    except FileNotFoundError:
        return False
