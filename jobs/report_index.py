"""The page of all nights: one line each, from the tables, and from each night's page what of it to look at."""

from __future__ import annotations

import html
import itertools
import logging
import re
import textwrap
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from jobs.audits import NOTHING_PUBLISHED
from jobs.night_files import write_whole
from jobs.night_log import BESIDE
from jobs.report_problems import name_log
from jobs.schemas import ROLLED_BACK
from jobs.step_times import FAILED, NOT_ENDED

log = logging.getLogger("syncrec")
Row = dict[str, Any]
_LOOK = re.compile(r'<meta name="look" content="(\w+) (\d+) ([^"]*)">')
_BEGINNING = 2000
"""So many characters of a page hold what _LOOK finds."""
_TOP, _MARK = "</h1>", "↩ Rolled back"
_VERDICT = re.compile(r'<div class="verdict \w+" role="status">\n<p>(?=✓ Published)')
_PAST = (
    '<div class="verdict" role="status" style="border-color: var(--line); margin-top: .8rem">\n'
    "<p>What was said then: "
)
"""How a verdict that no longer holds reads: without its colour, and as something of the past."""
_AFTER = re.compile(r'( · <a class="day" href="[\d-]+\.html">the night after, [\d-]+</a>)?</nav>')
_REASON = 240
"""A reason of so many characters still fits two or three lines, and holds the question at an audit's end."""


def index_rows(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[Row]:
    """Every night that was published, audited or reported, newest first.

    Parameters
    ----------
    connection
        Has the tables by their names.
    folder
        The pages of the nights; logs lie beside it.
    """
    result = connection.execute("select ds, served_version, decision, reason, run_id from nights")
    nights = {row[0]: row for row in result.fetchall()}
    took = dict(connection.execute("select (ds, run_id), sum(seconds) from steps group by all").fetchall())
    newest = dict(connection.execute("select ds, arg_max(run_id, started_at) from steps group by ds").fetchall())
    stopped = _stopped(connection)
    audited = {row[0] for row in connection.execute("select distinct ds from audits").fetchall()}
    pages = {file.stem for file in folder.glob("????-??-??.html")}
    first = min(nights, default=date.max)
    audited -= {day for day in audited if day < first and day.isoformat() not in pages}  # the history, no night
    days = sorted({day.isoformat() for day in (*nights, *audited)} | pages, reverse=True)
    table = []
    for day in days:
        ds = date.fromisoformat(day)
        _, version, decision, reason, run_id = nights.get(ds, (None, None, None, None, newest.get(ds)))
        words = name_log(reason or stopped.get((ds, run_id), ""), folder.parent / "logs", ds, run_id or "")
        row = {"day": day, "page": day in pages, "published": ds in nights, "version": version}
        row |= {"decision": decision, "reason": words, "seconds": took.get((ds, run_id))}
        table.append(row | _to_look_at(folder / f"{day}.html", run_id))
    return table


def mark_withdrawn(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Let the pages of nights that were rolled back say so at their top, above what was the verdict until then."""
    rows = connection.execute(
        "select ds, reason from nights where decision = $word", {"word": ROLLED_BACK}
    ).fetchall()
    for ds, reason in rows:
        page = folder / f"{ds}.html"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        if _TOP not in text or _MARK in text:
            continue
        said = html.escape(
            f"This night was {reason}. Its lists are shown no more; what follows was written before."
        )
        mark = f'<div class="verdict look" role="status">\n<p>{_MARK}.</p>\n<p class="sub">{said}</p>\n</div>\n'
        head, below = text.split(_TOP, 1)
        write_whole(page, f"{head}{_TOP}\n{mark}{_VERDICT.sub(_PAST, below, count=1)}")


def link_neighbours(folder: Path, ds: date) -> None:
    """Let the page before that of ds, and that of ds where there is a later one, name the night after it."""
    days = sorted(file.stem for file in folder.glob("????-??-??.html"))
    for day, after in itertools.pairwise(days):
        if ds.isoformat() not in (day, after):
            continue
        page = folder / f"{day}.html"
        try:
            text = page.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:  # of another night: no reason for this one to fail
            log.warning("report: %s cannot be read, so it gets no link: %s", page, error)
            continue
        link = f' · <a class="day" href="{after}.html">the night after, {after}</a></nav>'
        linked = _AFTER.sub(link, text, count=1)
        if linked != text:
            write_whole(page, linked)


def _stopped(connection: duckdb.DuckDBPyConnection) -> Mapping[tuple[date, str], str]:
    """What stopped each run: its last step that did not end well, and that step's own words."""
    rows = connection.execute(
        "select ds, run_id, step, outcome, message from steps"
        " where outcome in ($failed, $not_ended) and step <> $beside order by started_at",
        {"failed": FAILED, "not_ended": NOT_ENDED, "beside": BESIDE},
    ).fetchall()
    found = {}
    for ds, run_id, step, outcome, message in rows:  # train and evaluate stop no night: the last one did
        why = message.removeprefix(NOTHING_PUBLISHED)
        words = f"{step} {'failed' if outcome == FAILED else 'did not end'}" + (f": {why}" if why else "")
        found[ds, run_id] = textwrap.shorten(words, _REASON, placeholder=" ...")
    return found


def _to_look_at(page: Path, run_id: str | None) -> Row:
    """How many things the page of a night asks to look at, and how bad the worst is; none of another run's page."""
    try:
        with page.open(encoding="utf-8") as text:
            found = _LOOK.search(text.read(_BEGINNING))
    except OSError:
        found = None
    if not found or found[3] != (run_id or ""):
        return {"worst": "good", "look": 0}
    return {"worst": found[1], "look": int(found[2])}
