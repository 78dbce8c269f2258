"""Spark's Python daemon for scoring: it imports what the workers need once, and forks them with it.

Spark's own daemon forks empty workers, each of which imports torch by itself: seconds of processor each, and its
memory as often. The session of `jobs.score` names this module (`spark.python.daemon.module`); on a cluster it must
be importable on every executor, as the rest of `jobs` must.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading

from pyspark.sql import SparkSession

NAME = __name__


def start_daemon(spark: SparkSession) -> None:
    """Let this machine's daemon start while the driver plans; nothing where the session has Spark's own."""
    if spark.conf.get("spark.python.daemon.module", None) != NAME:
        return

    def start() -> None:
        with contextlib.suppress(Exception):  # whoever needs workers meets the same error again
            spark.range(1, numPartitions=1).mapInArrow(lambda batches: batches, "id bigint").collect()

    threading.Thread(target=start, name="start of Spark's Python daemon", daemon=True).start()


def main() -> None:
    """Import, then serve: standard output carries the daemon's port and nothing else."""
    from pyspark import daemon

    with contextlib.redirect_stdout(sys.stderr):
        import jobs.list_audit
        import jobs.score_users  # noqa: F401
    gc.freeze()  # what all workers share stays shared
    daemon.manager()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
