"""Return to the previous champion and to the recommendations that it made, in seconds.

    python -m jobs.rollback --reason "readers complain about toys"
    python -m jobs.rollback --dry-run                 what it would do
    python -m jobs.rollback --to 12 --reason "..."    another version than the previous champion

The nights that the withdrawn version served get the decision `rolled_back`: `latest_recommendations` shows the
newest night before them, whose lists are still there, so nothing is scored and nothing is copied. Their rows stay
for the record. Nights that tried the version out on a part of the users (jobs.experiment) are passed over, too. The
alias `champion` moves, the version is tagged, and a night in progress that has chosen it publishes nothing. The
order of these steps is such that a killed rollback can be run again. One that is complete is not repeated: to
withdraw the next version as well, name the one to return to.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyiceberg.expressions import In

from jobs.analytics import analytics_file, refresh
from jobs.command import one_line, start_logging
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.machine_errors import machine_trouble
from jobs.private import hide, private_files
from jobs.query import open_lakehouse
from jobs.registry import CHAMPION, PREVIOUS, Registry
from jobs.schemas import CANDIDATE_ARM, EXPERIMENTS, NIGHTS, ROLLED_BACK
from jobs.settings import Settings, load_settings
from jobs.table_form import Table

RETURN_TO = "rolled_back_to"
"""Tag of a version: which one its rollback returns to."""
_WITHDRAWN = "Rolled back on "
log = logging.getLogger("syncrec")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a rollback does. bad: the version to withdraw; to: the champion from now on; before: what becomes
    previous_champion, None for nothing. nights: whose lists are shown no more; tried: nor are these, which
    had the version as candidate of an experiment; shown: the night whose lists are shown from now on, None where no
    other night has any: then the lists stay as they are.
    """

    bad: str
    to: str
    before: str | None
    nights: tuple[date, ...]
    shown: date | None
    tried: tuple[date, ...] = ()


def make_plan(
    nights: Sequence[dict[str, Any]], registry: Registry, to: str | None, arms: Sequence[Mapping[str, Any]] = ()
) -> Plan:
    """Find out which version to withdraw, which nights it served, and where to return to.

    nights, arms: the rows of `nights` and `experiments`.

    Raises
    ------
    JobError
        There is no champion, no version to return to, or that version is the champion, was withdrawn or is unknown;
        or the newest night was rolled back already, and `to` is None.
    """
    champion, previous = registry.at_alias(CHAMPION), registry.at_alias(PREVIOUS)
    if champion is None:
        raise JobError("there is no champion to roll back: no night has promoted a version yet")
    bad, to = champion.number, to or champion.tags.get(RETURN_TO)  # tagged: an earlier call was ended in the middle
    trials = {row["ds"]: row for row in arms if row["arm"] == CANDIDATE_ARM}
    shown = sorted((row for row in nights if row["decision"] != ROLLED_BACK), key=lambda row: row["ds"])
    newest = str(shown[-1]["served_version"]) if shown else bad
    if newest != bad and ROLLED_BACK in registry.version(newest).tags:  # an earlier call was ended in the middle
        bad, to = newest, to or champion.number
    behind = previous.number if previous and previous.number != champion.number else None
    target = to or behind
    if target is None:
        done = " (the last rollback is complete)" if any(r["decision"] == ROLLED_BACK for r in nights) else ""
        raise JobError(
            f"version {bad} is champion, and there is no previous one{done}: name the version to return to with "
            "--to; the query promotions lists those that served"
        )
    last = max(nights, key=lambda row: row["ds"], default={"decision": ""})
    if to is None and last["decision"] == ROLLED_BACK:
        raise JobError(
            f"the last rollback is complete: version {bad} is champion, and no night was published since (that of "
            f"{last['ds']} was {last['reason']}); to withdraw version {bad}, too: --to {target}"
        )
    if target == bad:
        raise JobError(f"version {bad} is the champion already: nothing to roll back to")
    if why := registry.version(target).tags.get(ROLLED_BACK):
        raise JobError(f"version {target} was itself rolled back ({why}); name another one with --to")
    served, tried = [], []
    while shown:
        trial = trials.get(shown[-1]["ds"], {})
        if str(shown[-1]["served_version"]) == bad:
            served.append(shown.pop()["ds"])
        elif trial.get("outcome") == ROLLED_BACK or trial.get("model_version") == bad:
            tried.append(shown.pop()["ds"])
        else:
            break
    promoted = [row for row in nights if str(row["served_version"]) == target and row["champion_before"]]
    before = next((str(row["champion_before"]) for row in promoted if row["champion_before"] != target), None)
    if before is not None and (before == bad or ROLLED_BACK in registry.version(before).tags):
        before = None
    return Plan(
        bad=bad, to=target, before=before, nights=tuple(sorted(served)) if shown else (),
        shown=shown[-1]["ds"] if shown else None, tried=tuple(sorted(tried)) if shown else (),
    )  # fmt: skip


def roll_back(settings: Settings, *, to: str | None = None, reason: str, dry_run: bool = False) -> str:
    """Withdraw the champion; return in words what was done.

    Raises
    ------
    JobError
        No night is published yet; see make_plan; or MLflow or the catalog cannot be reached.
    PublishConflict
        A night was published at the same moment; run it again.
    """
    lakehouse = open_lakehouse(settings)
    registry = Registry(settings)
    rows = lakehouse.read_arrow(NIGHTS.name, lakehouse.current_snapshot(NIGHTS.name)).to_pylist()
    arms = lakehouse.read_arrow(EXPERIMENTS.name, lakehouse.current_snapshot(EXPERIMENTS.name)).to_pylist()
    try:
        plan = make_plan(rows, registry, to, arms)
    except JobError:
        if not dry_run:
            _show(settings)  # an earlier call may have been ended just before it
        raise
    if not dry_run:
        registry.tag(plan.bad, **{RETURN_TO: plan.to})
        registry.tag(plan.bad, **{ROLLED_BACK: reason})  # from here on no gate and no alias takes it
        _withdraw(lakehouse, rows, plan, reason)
        _withdraw_trials(lakehouse, arms, plan, reason)
        _describe(registry, plan, reason)
        if plan.before is not None:
            registry.move_alias(PREVIOUS, plan.before)
        else:
            registry.drop_alias(PREVIOUS)
        registry.move_alias(CHAMPION, plan.to)  # the last: until then another call knows what is left to do
        _show(settings)
    return _words(plan, dry_run)


def _show(settings: Settings) -> None:
    """Let analytics.duckdb, the list of nights and the pages of withdrawn ones say what holds now."""
    from jobs.report import write_index  # draws with matplotlib, which nothing else here needs
    from jobs.report_index import mark_withdrawn

    refresh(settings)
    reports, file = settings.state / "reports", analytics_file(settings)
    if reports.exists() and file.exists():
        with duckdb.connect(str(file), read_only=True) as connection:
            write_index(connection, reports)
            mark_withdrawn(connection, reports)


def _withdraw(lakehouse: Lakehouse, rows: Sequence[dict[str, Any]], plan: Plan, reason: str) -> None:
    words = f"rolled back on {datetime.now(UTC):%Y-%m-%d} to version {plan.to}: {reason}"
    changed = [
        {**row, "decision": ROLLED_BACK, "reason": f"{words} (before: {row['decision']}: {row['reason']})"}
        for row in rows
        if row["ds"] in plan.nights
    ]
    _rewrite(lakehouse, NIGHTS, changed, plan)


def _withdraw_trials(lakehouse: Lakehouse, arms: Sequence[dict[str, Any]], plan: Plan, reason: str) -> None:
    """The night and its champion stay; its lists are shown no more."""
    words = f"version {plan.bad} was rolled back to version {plan.to}: {reason}"
    own = [row for row in arms if row["ds"] in plan.tried]
    changed = [
        {**row, "outcome": ROLLED_BACK, "reason": words} if row["model_version"] == plan.bad else row for row in own
    ]
    _rewrite(lakehouse, EXPERIMENTS, changed, plan)


def _rewrite(lakehouse: Lakehouse, table: Table, rows: Sequence[dict[str, Any]], plan: Plan) -> None:
    """Put rows in the place of those of their days."""
    days = sorted({row["ds"] for row in rows})
    if not days:
        return
    files = []
    for day in days:  # a file a day: no file holds two partitions
        own = pa.Table.from_pylist([row for row in rows if row["ds"] == day], schema=table.arrow_schema)
        files += lakehouse.stage_arrow(table.name, own, day, "rollback")
    lakehouse.replace(
        table.name, In("ds", {day.isoformat() for day in days}), files, ds=days[-1], run_id="rollback",
        properties={"model_version": plan.bad},
    )  # fmt: skip


def _describe(registry: Registry, plan: Plan, reason: str) -> None:
    old = registry.client.get_model_version(registry.name, plan.bad).description or ""
    registry.tag(plan.bad, decision=ROLLED_BACK, decision_reason=f"to version {plan.to}: {reason}")
    if old.startswith(_WITHDRAWN):  # by a call that was ended, perhaps for another reason
        old = old.partition("\n\n")[2]
    line = f"{_WITHDRAWN}{datetime.now(UTC):%Y-%m-%d} to version {plan.to}: {reason.rstrip('.')}."
    registry.describe(plan.bad, f"{line}\n\n{old}".strip())


def _words(plan: Plan, dry_run: bool) -> str:
    said = f"champion: version {plan.to}; withdrawn: version {plan.bad}; shown: the lists "
    withdrawn = sorted((*plan.nights, *plan.tried))
    if withdrawn:
        nights = " to ".join(str(day) for day in sorted({withdrawn[0], withdrawn[-1]}))
        said += f"of {plan.shown} instead of those of {nights}"
    elif plan.shown is None:
        said += "that were shown before, as no earlier night has any"
    else:
        said += f"of {plan.shown} as before, for another version made them"
    if dry_run:
        return f"would do: {said}"
    return f'{said}. The next night may promote again: mode = "hold" in [gate] keeps the champion'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: 0 done, 1 a clear error."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.rollback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", help="registry version to return to (default: the previous champion)")
    parser.add_argument("--reason", default="", help="why; kept with the version and the nights, so asked for")
    parser.add_argument("--dry-run", action="store_true", help="say what it would do")
    parser.add_argument("--config", type=Path, help="settings file; default $SYNCREC_CONFIG, else syncrec.toml")
    parsed = parser.parse_args(argv)
    start_logging()
    began = time.monotonic()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a person waits; nights try for minutes
    try:
        private_files()
        untold = not parsed.reason.strip()
        dry_run = parsed.dry_run or untold
        said = roll_back(load_settings(parsed.config), to=parsed.to, reason=parsed.reason, dry_run=dry_run)
        if untold and not parsed.dry_run:
            raise JobError(f'say why: --reason "...", which is kept with the version and its nights; {said}')
    except JobError as error:
        print(f"error: rollback: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    except Exception as error:
        if not (trouble := machine_trouble(error)):
            raise
        print(f"error: rollback: {hide(trouble)}", file=sys.stderr, flush=True)
        return 1
    log.info("rollback: %s (%.1f s)", said, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
