"""Remove a user from everything that nights have written: by one command, at their request.

    python -m jobs.forget --user-id A23PWGSVHEAJ2K                  says what would be removed, and removes nothing
    python -m jobs.forget --user-id A23PWGSVHEAJ2K --yes            removes it
    python -m jobs.forget --users-from requests.txt --yes           an id a line; - reads standard input

Landing files, the tables (interactions, refused lines, sequences, recommendations, impressions) with all their old
snapshots and left files, the nightly pages and their copies in MLflow, logs, scratch files. Rows of other users
stay as they are. It may be ended at any moment and run again: what is left is found and removed. At the end it
searches again and fails if anything is left. docs/runbook.md: what it costs, what a trained model still holds.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path

from pyiceberg.expressions import In

from jobs.analytics import refresh
from jobs.command import one_line, start_logging
from jobs.errors import JobError
from jobs.forget_landing import find_lines, forget_lines
from jobs.forget_pages import Copies, find_logs, find_pages, find_scratch, forget_log, forget_page
from jobs.forget_person import SHORTEST_WORD, People
from jobs.forget_tables import Found, TableSearch
from jobs.lakehouse import Lakehouse
from jobs.night_plan import table_days
from jobs.nightly import locked
from jobs.private import private_files
from jobs.query import open_lakehouse
from jobs.schemas import INTERACTIONS
from jobs.settings import Settings, load_settings

log = logging.getLogger("syncrec")
NAMED = 10
"""So many ids that were not found are named."""
IN_PROGRESS = 24 * 3600
"""Seconds after its last sign of life up to which a night that is not published counts as in progress."""
MODELS = (
    "Trained models hold no user id, but their weights were fitted to these users' events, too: to be rid of that, "
    "train the next night cold (SYNCREC_TRAINING__WARM_START=false) and delete older versions in MLflow. Item ids "
    "and sums over all users (metrics, counts of past nights) stay"
)
NOTHING = f"nothing holds them: is the id written as in the landing files? If they were forgotten before: {MODELS}"


@dataclass(frozen=True)
class Work:
    """One thing to do: where, what, and the doing."""

    where: str
    what: str
    do: Callable[[], None]


def find_work(settings: Settings, people: People) -> list[Work]:
    """Everything that holds one of the users, in the order in which it has to go.

    Landing files first: what is ingested again meanwhile must not bring the users back.
    """
    work = []
    found = sorted(find_lines(settings, people), key=lambda file: file.path)
    for folder, files in ((name, list(own)) for name, own in groupby(found, lambda file: file.path.parent)):
        lines = sum(file.lines for file in files)
        what = f"{_count(lines, 'line')} in {', '.join(file.path.name for file in files)}"
        work.append(Work(f"landing {folder.name}", what, _each(forget_lines, files, people)))
    search = TableSearch(settings, open_lakehouse(settings), people)
    for table in search.find():
        work.append(Work(f"table {table.table}", in_words(table), _bind(search.forget, table)))
    work += [
        Work(f"report {page.name}", "their section", _bind(forget_page, page, people))
        for page in find_pages(settings, people)
    ]
    copies = Copies(settings, people)
    work += [Work(f"MLflow run {run}", path, _bind(copies.forget, run, path)) for run, path in copies.find()]
    work += [
        Work(f"log {path.name}", "lines that name them", _bind(forget_log, path, people))
        for path in find_logs(settings, people)
    ]
    return work


def without_events(lakehouse: Lakehouse, people: People) -> list[str]:
    """The ids of whom `interactions` holds no event: never seen, forgotten before, or written in another way."""
    snapshot = lakehouse.current_snapshot(INTERACTIONS.name)
    if snapshot is None:
        return sorted(people.ids)
    rows = lakehouse.read_arrow(INTERACTIONS.name, snapshot, In("user_id", people.ids), ("user_id",))
    return sorted(people.ids - set(rows["user_id"].to_pylist()))


def _strangers(ids: Sequence[str], people: People) -> str:
    """Some of several ids were not found: said, or a request would be taken for fulfilled. "" where all were."""
    if not ids or len(people.ids) == 1:
        return ""
    named = ", ".join(map(repr, ids[:NAMED])) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
    of = "any of the ids" if len(ids) == len(people.ids) else f"{len(ids)} of the ids"
    why = "forgotten before, not ingested yet, or not written as in the landing files (quotation marks, letters)?"
    return f" NO EVENT of {of} in interactions, {named}: {why} What else held them is listed above."


def in_words(table: Found) -> str:
    """What a table holds of them: `20 rows in 1 file, 2 files that only earlier nights read`."""
    parts = []
    if table.rows:
        parts.append(f"{_count(sum(table.rows.values()), 'row')} in {_count(len(table.rows), 'file')}")
    if table.past:
        parts.append(f"{_count(len(table.past), 'file')} that only earlier nights read")
    if not parts:
        parts.append(f"the id in {_count(len(table.manifests), 'manifest')}")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _each(do: Callable[..., None], things: Sequence[object], people: People) -> Callable[[], None]:
    def all_of_them() -> None:
        for thing in things:
            do(thing, people)

    return all_of_them


def _bind(do: Callable[..., None], *arguments: object) -> Callable[[], None]:
    return lambda: do(*arguments)


def forget(settings: Settings, people: People, *, yes: bool, even_so: bool = False) -> str:
    """Find, remove, look again; return in words what was done.

    Raises
    ------
    JobError
        A night is in progress, something cannot be read, or something is left.
    """
    with locked(settings.state):
        lakehouse = open_lakehouse(settings)
        open_notes = nights_in_progress(lakehouse)
        unfinished = f"the night of {open_notes[0].parent.name} is not finished" if open_notes else ""
        if open_notes and yes and not even_so:
            raise JobError(
                f"{unfinished} (it works, or was interrupted) and would write them again: let `make nightly` "
                "end it, or give --even-so, which makes it begin anew"
            )
        work = find_work(settings, people)
        strangers = _strangers(without_events(lakehouse, people), people)
        scratch = find_scratch(settings)
        for one in work:
            log.info("%s: %s%s", one.where, one.what, "" if yes else " would be removed")
        if not yes and not work:
            return NOTHING
        if not yes:
            hold = "1 place holds" if len(work) == 1 else f"{len(work)} places hold"
            how = f"{unfinished}: end it first, or --yes --even-so" if unfinished else "--yes removes it"
            return f"{hold} them; nothing was removed: {how}.{strangers} {MODELS}"
        for notes in open_notes:
            notes.unlink(missing_ok=True)
        for one in work:
            one.do()
        for path in scratch:
            shutil.rmtree(path, ignore_errors=True)
        refresh(settings)
        if left := find_work(settings, people):
            raise JobError(f"still found in {', '.join(one.where for one in left)}: run this again, or look there")
    unsearched = f" Logs were not searched for ids shorter than {SHORTEST_WORD} letters." if people.short else ""
    if not work:
        return f"{NOTHING}.{unsearched}" if unsearched else NOTHING
    done = f"{_count(len(work), 'place')} cleared, nothing is left"
    return f"{done}.{strangers} {MODELS}.{unsearched} The next night builds all sequences and lists anew"


def nights_in_progress(lakehouse: Lakehouse) -> list[Path]:
    """The notes of runs after the newest published night that did something in the last hours."""
    newest = max(table_days(lakehouse, "nights", "ds"), default=date.min)
    found = []
    for notes in sorted((lakehouse.warehouse / "_nights").glob("*/*.json")):
        recent = time.time() - notes.stat().st_mtime < IN_PROGRESS
        if date.fromisoformat(notes.parent.name) > newest and recent:
            found.append(notes)
    return found


def read_people(ids: Sequence[str], source: str | None) -> People:
    """The ids of the command line and of a file."""
    named = set(ids)
    if source:
        try:
            text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise JobError(
                f"--users-from: no such file {source}: give one with an id a line, or - for stdin"
            ) from None
        named |= {line.strip() for line in text.splitlines() if line.strip()}
    return People(frozenset(named))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: 0 done, or said what would be; 1 a clear error."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.forget", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--user-id", action="append", default=[], help="a user, as the tables have them; repeatable"
    )
    parser.add_argument("--users-from", metavar="FILE", help="a file with an id a line; - is standard input")
    parser.add_argument("--yes", action="store_true", help="remove; without it nothing is changed")
    parser.add_argument("--even-so", action="store_true", help="although a night is in progress: it begins anew")
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parsed = parser.parse_args(argv)
    start_logging()
    began = time.monotonic()
    try:
        private_files()
        people = read_people(parsed.user_id, parsed.users_from)
        said = forget(load_settings(parsed.config), people, yes=parsed.yes, even_so=parsed.even_so)
    except JobError as error:
        print(f"error: forget: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    except (OSError, UnicodeDecodeError) as error:
        print(f"error: forget: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    log.info("forget: %s (%.1f s)", said, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
