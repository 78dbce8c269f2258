"""The commits of maintenance: never on top of what somebody else committed meanwhile, and recognisable."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction

from jobs.lakehouse import MAINTENANCE, never_retry


class Busy(Exception):
    """Somebody committed to the table meanwhile; the next maintenance does what this one left."""


@contextmanager
def tidying(
    table: IcebergTable, what: str, run_id: str, staged: Path | None = None
) -> Iterator[tuple[Transaction, dict[str, str]]]:
    """A transaction on the loaded table, and the summary for its snapshots.

    The summary says what the newest snapshot says (so that who asks which run wrote a day, or which nights there
    are, gets the same answer as before), and besides that maintenance made it.

    Parameters
    ----------
    table
        As it was loaded before the work began.
    what, run_id
        What was done, in words, and by which run.
    staged
        The folder of the files that the transaction adds; removed where nothing was committed.

    Raises
    ------
    Busy
        The table has got another snapshot since it was loaded; nothing of ours was committed.
    """
    newest = table.current_snapshot()
    said = newest.summary.additional_properties if newest and newest.summary else {}
    summary = {key: value for key, value in said.items() if key.startswith("syncrec.")}
    summary |= {MAINTENANCE: what, f"{MAINTENANCE}_run": run_id}
    never_retry(table)
    try:
        with table.transaction() as transaction:
            yield transaction, summary
    except (CommitFailedException, ValidationException) as error:
        if staged:
            shutil.rmtree(staged, ignore_errors=True)
        raise Busy(str(error)) from error
