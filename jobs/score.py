"""Score: the version that the gate chose ranks every user's next items per domain, in Spark, and stages the table.

    python -m jobs.score --ds 2024-01-29           what changed since the last published night; all where it must
    python -m jobs.score --ds 2024-01-29 --full    all users

Lists that nothing has changed are copied from the last published night (jobs.score_reuse); all other users are
scored (jobs.score_users). The staged files are audited here and published by jobs.publish.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.audit_rules import recommendations_suite
from jobs.audits import record_audits, require, run_suite
from jobs.command import Run, add_full, run_job
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.list_audit import lists_in
from jobs.list_files import MADE, ListWriter, Written
from jobs.night import Night
from jobs.registry import Registry
from jobs.schemas import RECOMMENDATIONS, SEQUENCES
from jobs.score_reuse import Before, basis_of, copied, find_before, properties_of, users_by_fate
from jobs.score_users import ScoringTask, anyone_lists, load_once, popularity, score_batches
from jobs.sequence_nights import SequenceNight
from jobs.sequence_rows import latest_rows
from jobs.sequence_sets import count_events, read_vocabulary, state_of
from jobs.spark import spark_session
from jobs.splits import split_windows
from syncrec_model import Vocabulary

log = logging.getLogger("syncrec")
USER_COLUMNS = ("user_id", "items", "domains", "times", "older_items")


def score(run: Run) -> str:
    """Copy, rank, fill, stage, audit; note the staged files for publish."""
    settings, ds = run.settings, run.ds.isoformat()
    lakehouse = Lakehouse(settings)
    night = Night(run, lakehouse)
    version = str(night.noted("served_version", made_by="gate"))
    vocabulary = read_vocabulary(lakehouse, night, run.ds, settings.domain_names)
    task = _prepare(run, lakehouse, night, version, vocabulary)
    # A version whose vocabulary does not fit fails here, in one line, not in every worker.
    loaded = load_once(task.model_folder, task.vocabulary_file, task.version)
    new_items = sum(vocabulary.n_items) - sum(loaded.known_items)
    log.info("scoring with version %s; %d items are newer than it", version, new_items)
    state = state_of(run, lakehouse, night)
    basis = basis_of(task, vocabulary)
    before, reason = find_before(run, lakehouse, basis)
    folder = lakehouse.stage_folder(RECOMMENDATIONS.name, run.ds, night.run_id)
    written = Written(folder=str(folder), ds=run.ds, version=version)
    with spark_session(settings, f"score {ds}") as spark:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", settings.scoring.batch_users)
        made = _stage(spark, lakehouse, state, task, written, vocabulary, before, reason)
        files = [f"file://{file}" for file, _, _ in made]
        item_files = lakehouse.files("items", night.snapshot("items"))
        lists = lists_in(spark, files, item_files, run.ds)
        rules = recommendations_suite(vocabulary.domains, task.top_n)
        results = run_suite(RECOMMENDATIONS.name, lists, rules)
        record_audits(lakehouse, results, run.ds, night.run_id)
        require(results, staged=folder)
    n_rows, n_users = (sum(counts) for counts in zip(*[(rows, users) for _, rows, users in made], strict=True))
    night.note(
        recommendations_staged=files,
        recommendations_count=n_rows,
        recommendations_properties=properties_of(basis, night.snapshot(SEQUENCES.name)),
    )
    return f"{n_rows} recommendations for {n_users - 1} users staged and audited"


Made = list[tuple[str, int, int]]


def _stage(
    spark: SparkSession,
    lakehouse: Lakehouse,
    state: SequenceNight,
    task: ScoringTask,
    written: Written,
    vocabulary: Vocabulary,
    before: Before | None,
    reason: str,
) -> Made:
    """Write all lists of the night; (file, rows, users) of every file."""
    with ListWriter(written) as files:
        files.write(anyone_lists(vocabulary, task))
    made: Made = [(row["file"], row["rows"], row["users"]) for row in files.made().to_pylist()]
    users = read_users(spark, lakehouse, state)
    if before is None:
        log.info("all users are scored anew: %s", reason)
        return made + _score(spark, users, task, written)
    fates = users_by_fate(spark, lakehouse, state, before, len(vocabulary.domains), task.top_n).persist()
    try:
        known = fates.where("here")
        counts = known.agg(F.count_if("kept"), F.count(F.lit(1))).first()
        n_kept, n_users = (int(count) for count in counts or (0, 0))
        log.info(
            "reused %s of %s users' lists of %s; scored %s",
            *(f"{n:,}" for n in (n_kept, n_users)), before.ds, f"{n_users - n_kept:,}",
        )  # fmt: skip
        if n_kept:
            made += _collected(copied(spark, fates, before, written))
            users = read_users(spark, lakehouse, state, known.where("not kept"))
        return made + _score(spark, users, task, written)
    finally:
        fates.unpersist()


def _score(spark: SparkSession, users: DataFrame, task: ScoringTask, written: Written) -> Made:
    """Score users; those of a file are in order, so that readers of one user skip what they need not."""
    rows = users.sortWithinPartitions("user_id")
    return _collected(rows.mapInArrow(lambda batches: score_batches(batches, task, written), MADE))


def _collected(made: DataFrame) -> Made:
    """One row a file: the files of a night, not its users, pass through the driver."""
    return [(row["file"], row["rows"], row["users"]) for row in made.collect()]


def read_users(
    spark: SparkSession, lakehouse: Lakehouse, state: SequenceNight, wanted: DataFrame | None = None
) -> DataFrame:
    """One row a user (of `wanted`): rows as they lie where the night wrote all users; else each one's latest."""
    rows = lakehouse.read(spark, SEQUENCES.name, state.snapshot, state.rows())
    rows = rows.where(F.col("ds").between(F.lit(state.base_ds), F.lit(state.ds)))
    if wanted is not None:
        rows = rows.join(wanted.select("user_id"), "user_id", "left_semi")
    latest = rows if state.base_ds == state.ds else latest_rows(rows)
    return latest.select(*USER_COLUMNS)


def _prepare(run: Run, lakehouse: Lakehouse, night: Night, version: str, vocabulary: Vocabulary) -> ScoringTask:
    """Put model and vocabulary where every worker reads them: files in the warehouse, written whole."""
    settings = run.settings
    folder = lakehouse.warehouse / "_models"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary_file = folder / f"vocabulary-{run.ds}-{night.snapshot('items')}.json"
    if not vocabulary_file.exists():
        partial = vocabulary_file.with_suffix(f".{os.getpid()}")
        vocabulary.save(partial)
        os.replace(partial, vocabulary_file)
    since = run.cutoff - timedelta(days=settings.scoring.popularity_days)
    counts = count_events(lakehouse, night, run.ds, since, run.cutoff, vocabulary)
    popular, shares = popularity(counts)
    return ScoringTask(
        model_folder=str(_fetch_model(Registry(settings), folder, version)),
        vocabulary_file=str(vocabulary_file),
        version=version,
        domains=settings.domain_names,
        repeats=tuple(sorted(settings.repeating_domains)),
        max_length=settings.sequences.max_length,
        serve=split_windows(run.cutoff, settings.sequences.valid_days, settings.sequences.test_days)[-1],
        top_n=settings.scoring.top_n,
        min_history=settings.scoring.min_history,
        popular=popular,
        shares=shares,
    )


def _fetch_model(registry: Registry, folder: Path, version: str) -> Path:
    """A registered version never changes: fetch it once into the warehouse, named also by its training run."""
    target = folder / f"{registry.name}-{version}-{registry.version(version).run_id}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{target.name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        fetched = registry.download(version, partial)
        try:
            os.rename(fetched, target)
        except OSError as error:
            if not target.exists():
                raise JobError(f"cannot keep model version {version} in {target}: {error}") from error
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_full(parser, "score all users, whatever the night before has")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(score, argv, arguments=_add_arguments)


if __name__ == "__main__":
    raise SystemExit(main())
