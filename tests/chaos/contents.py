"""What a project holds, as hashes of its parts: tables, what nights pin, models, tracking runs, pages.

A part is what one commit changes as a whole: a table, but `audits`, to which a step adds the audits of each table
that it looked at by a commit of its own. All columns count but those named in VOLATILE. Nothing is read through
MLflow or Spark, and connections are made anew each time: the files underneath are put back all the time.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from jobs.analytics import analytics_file
from jobs.lakehouse import NAMESPACE, Lakehouse
from jobs.maintenance_needs import local
from jobs.publish import PINNED
from jobs.schemas import TABLES
from jobs.settings import Settings

UNLIKE = ("steps",)
"""Tables that are about the kills themselves: how long each attempt at a step took, and how it ended."""
VOLATILE = {"nights": ("published_at", *(f"{name}_snapshot" for name in PINNED))}
"""Columns that no two runs share: a moment, and random numbers; what these stand for is a part of its own."""
MEASURED = ("seconds", "users_per_s")
"""Metrics of MLflow that are durations."""
RANDOM_PARAMETERS = "snapshot."
"""Parameters of MLflow that are random numbers of snapshots begin so."""
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
"""When a night was published, in its page."""
TIMES = re.compile(r'<section aria-labelledby="times">.*?</section>|<td class="n">[^<]*</td>\s*</tr>', re.DOTALL)
"""What a page says of the table `steps`: its section, and the last cell of a night in the index."""

STEPWISE = ("aliases", "version ", "tracking run ", "number of ")
"""How the names of parts begin that a step changes one after the other."""

_hashes: dict[tuple[str, int], str] = {}
Parts = dict[str, str]


class Unreadable(Exception):
    """A part cannot be read: the message says which and why."""


def tables(settings: Settings) -> Parts:
    """The parts that readers of tables see: each must be as before a step or as after it, never between.

    Raises
    ------
    Unreadable
        A table, or a snapshot that a published night pins, names a file that is not there.
    """
    lakehouse = Lakehouse(settings)
    found: Parts = {}
    for name in sorted(present(lakehouse) - {*UNLIKE}):
        snapshot = lakehouse.current_snapshot(name)
        if name == "audits":
            found |= _audits(lakehouse, snapshot)
        else:
            found[name] = _table(lakehouse, name, snapshot)
    return found | dict(_pinned(lakehouse)) | dict(_pages(settings))


def whole(settings: Settings) -> Parts:
    """All parts: also models, aliases and tracking runs, which a step changes one after the other."""
    return tables(settings) | dict(_registry(settings))


def of_readers(parts: Parts) -> Parts:
    """Of all parts those that `tables` gives."""
    return {name: value for name, value in parts.items() if not name.startswith(STEPWISE)}


def present(lakehouse: Lakehouse) -> set[str]:
    """The tables that there are."""
    return {name for _, name in lakehouse.catalog.list_tables(NAMESPACE)} & set(TABLES)


def hash_of(rows: Iterable[Any]) -> str:
    """A hash of rows as a bag."""
    lines = sorted(json.dumps(row, sort_keys=True, default=str) for row in rows)
    return f"{len(lines)} rows, {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def rows_of(name: str, table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table without its volatile columns."""
    kept = [column for column in table.column_names if column not in VOLATILE.get(name, ())]
    found: list[dict[str, Any]] = table.select(kept).to_pylist()
    return found


def _read(lakehouse: Lakehouse, name: str, snapshot: int | None) -> pa.Table:
    for address in lakehouse.files(name, snapshot):
        if not local(address).is_file():
            raise Unreadable(f"{name}, snapshot {snapshot}: {local(address)} is not there")
    return lakehouse.read_arrow(name, snapshot)


def _table(lakehouse: Lakehouse, name: str, snapshot: int | None) -> str:
    """The hash of one snapshot. Its files never change: read once, later only looked for."""
    if snapshot is None:
        return "empty"
    if (name, snapshot) not in _hashes:
        _hashes[name, snapshot] = hash_of(rows_of(name, _read(lakehouse, name, snapshot)))
    else:
        for address in lakehouse.files(name, snapshot):
            if not local(address).is_file():
                raise Unreadable(f"{name}, snapshot {snapshot}: {local(address)} is not there")
    return _hashes[name, snapshot]


def _audits(lakehouse: Lakehouse, snapshot: int | None) -> Parts:
    by_table: dict[str, list[Any]] = {}
    for row in _read(lakehouse, "audits", snapshot).to_pylist():
        by_table.setdefault(f"audits of {row['table_name']}", []).append(row)
    return {name: hash_of(rows) for name, rows in by_table.items()}


def _pinned(lakehouse: Lakehouse) -> Iterator[tuple[str, str]]:
    """What each published night pins."""
    nights = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights"))
    for row in nights.to_pylist():
        read = [_pin(lakehouse, name, row[f"{name}_snapshot"], row["ds"]) for name in PINNED]
        yield f"snapshots of {row['ds']}", hash_of(read)


def _pin(lakehouse: Lakehouse, name: str, snapshot: int, ds: date) -> str:
    if not lakehouse.has_snapshot(name, snapshot):
        raise Unreadable(f"{name}: snapshot {snapshot}, which the night of {ds} pins, is not there")
    return _table(lakehouse, name, snapshot)


def _pages(settings: Settings) -> Iterator[tuple[str, str]]:
    """Reports, whole or absent, and the file that BI tools open."""
    for page in sorted((settings.state / "reports").glob("[!.]*.html")):
        text = page.read_text(encoding="utf-8")
        if not text.rstrip().endswith("</html>"):
            raise Unreadable(f"{page.name} is cut off")
        yield f"page {page.name}", hashlib.sha256(MOMENT.sub("", TIMES.sub("", text)).encode()).hexdigest()[:16]
    file = analytics_file(settings)
    if file.exists():
        try:
            with duckdb.connect(str(file), read_only=True) as connection:
                rows = connection.execute("select * from latest_recommendations").fetchall()
        except duckdb.Error as error:
            raise Unreadable(f"{file.name}: {error}") from error
        yield file.name, hash_of(rows)


def _registry(settings: Settings) -> Iterator[tuple[str, str]]:
    """Model versions with the bytes of their files, aliases, and tracking runs with what was logged."""
    database = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        ask = connection.execute
        yield "aliases", hash_of(ask("select alias, version from registered_model_aliases"))
        for version, words, folder in ask("select version, description, storage_location from model_versions"):
            tags = ask("select key, value from model_version_tags where version = ?", (version,)).fetchall()
            words = re.sub(r"/runs/[0-9a-f]{32}", "/runs/#", words or "")  # a night that trains anew has another
            yield f"version {version}", hash_of([words, *tags, *_files(local(folder) / "artifacts" / "model")])
        for run, name, status in ask("select run_uuid, name, status from runs").fetchall():
            metrics = [
                row
                for row in set(ask("select key, step, value from metrics where run_uuid = ?", (run,)))
                if row[0] not in MEASURED
            ]
            parameters = [
                row
                for row in ask("select key, value from params where run_uuid = ?", (run,))
                if not row[0].startswith(RANDOM_PARAMETERS)
            ]
            tags = [
                row
                for row in ask("select key, value from tags where run_uuid = ?", (run,))
                if not row[0].startswith("mlflow.")  # the checkout's commit, the user
            ]
            yield f"tracking run {name} {status}", hash_of([*metrics, *parameters, *tags])
        counted = ask("select name, count(*) from runs group by name").fetchall()
        yield "number of tracking runs", hash_of(counted)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(folder)), hashlib.sha256(file.read_bytes()).hexdigest()


def between(found: Parts, before: Parts, after: Parts, but: Collection[str] = ()) -> list[str]:
    """The parts, but for some, that are neither as before nor as after, in words."""
    return [
        f"{name} is neither the old nor the new one: {found.get(name, 'absent')} "
        f"(old {before.get(name, 'absent')}, new {after.get(name, 'absent')})"
        for name in sorted({*found, *before, *after} - {*but})
        if found.get(name) not in (before.get(name), after.get(name))
    ]


def differences(found: Parts, wanted: Parts, but: Collection[str] = ()) -> list[str]:
    """The parts, but for some, that differ, in words."""
    return [
        f"{name}: {found.get(name, 'absent')} instead of {wanted.get(name, 'absent')}"
        for name in sorted({*found, *wanted} - {*but})
        if found.get(name) != wanted.get(name)
    ]
