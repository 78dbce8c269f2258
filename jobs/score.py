"""Score: the version that the gate chose ranks every user's next items per domain, in Spark, and stages the table.

    python -m jobs.score --ds 2024-01-29           what changed since the last published night; all where it must
    python -m jobs.score --ds 2024-01-29 --full    all users

Lists that nothing has changed are copied from the last published night (jobs.score_reuse); all other users are
scored (jobs.score_users), while an experiment runs each by the version of the user's arm (jobs.experiment). The
staged files are audited here and published by jobs.publish.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import worker_daemon
from jobs.audit_rules import recommendations_suite
from jobs.audits import import_ahead, record_audits, require, run_suite
from jobs.command import Run, add_full, one_line, run_job
from jobs.errors import AuditFailed, JobError
from jobs.experiment import Trial, experiment_rows, find_trial
from jobs.lakehouse import Lakehouse
from jobs.list_audit import lists_in
from jobs.list_files import MADE, ListWriter, Written
from jobs.night import Night
from jobs.registry import Registry
from jobs.schemas import CANDIDATE_ARM, CHAMPION_ARM, RECOMMENDATIONS, SEQUENCES
from jobs.score_reuse import Before, basis_of, copied, find_before, properties_of, users_by_fate
from jobs.score_users import ScoringTask, Serving, anyone_lists, load_once, popularity, score_batches
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
    trial, serving = _serving(run, lakehouse, night, task)
    import_ahead()
    with spark_session(settings, f"score {ds}", daemon=worker_daemon.NAME, quick=True) as spark:
        worker_daemon.start_daemon(spark)
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", settings.scoring.batch_users)
        try:
            made, basis = _stage_audited(spark, run, lakehouse, night, serving, vocabulary)
        except (PythonException, AuditFailed) as error:  # in a worker, or in what it wrote
            if trial is None or trial.version is None:
                raise
            trial, serving = trial.refused(_in_workers(error)), Serving(tasks={CHAMPION_ARM: task})
            night.note(candidate_version=None)
            made, basis = _stage_audited(spark, run, lakehouse, night, serving, vocabulary)
    rows, users = _counted(made)
    night.note(
        recommendations_staged=[f"file://{file}" for file, *_ in made],
        recommendations_count=rows,
        recommendations_properties=properties_of(basis, night.snapshot(SEQUENCES.name)),
        experiment=experiment_rows(trial, version, users, night.run_id),
    )
    closing = f"{rows} recommendations for {users.total()} users staged and audited"
    return closing + (f"; {users[CANDIDATE_ARM]} of them have the candidate's" if trial else "")


def _in_workers(error: JobError | PythonException) -> JobError:
    """What tables and pages say of it: what a library says may hold a user's row, which is for the log alone."""
    said = one_line(error)
    if isinstance(error, JobError):
        return JobError(said)
    log.warning("scoring failed in a worker: %s", said)
    return JobError(f"scoring failed in a worker: {said.partition(':')[0]}; the log says more")


Made = list[tuple[str, int, int, str]]


def _stage_audited(
    spark: SparkSession, run: Run, lakehouse: Lakehouse, night: Night, serving: Serving, vocabulary: Vocabulary
) -> tuple[Made, dict[str, Any]]:
    """Write all lists of the night and audit them; what was written, and what it was made from."""
    task = serving.tasks[CHAMPION_ARM]
    state = state_of(run, lakehouse, night)
    basis = basis_of(task, vocabulary, serving.tasks.get(CANDIDATE_ARM))
    before, reason = find_before(run, lakehouse, basis)
    folder = lakehouse.stage_folder(RECOMMENDATIONS.name, run.ds, night.run_id)
    versions = {arm: own.version for arm, own in serving.tasks.items()}
    written = {arm: Written(folder=str(folder), ds=run.ds, version=v, arm=arm) for arm, v in versions.items()}
    made = _stage(spark, lakehouse, state, serving, written, vocabulary, before, reason)
    item_files = lakehouse.files("items", night.snapshot("items"))
    lists = lists_in(spark, [f"file://{file}" for file, *_ in made], item_files, run.ds)
    rules = recommendations_suite(vocabulary.domains, task.top_n, versions, serving.split)
    results = run_suite(RECOMMENDATIONS.name, lists, rules)
    record_audits(lakehouse, results, run.ds, night.run_id)
    require(results, staged=[folder])
    return made, basis


def _counted(made: Made) -> tuple[int, Counter[str]]:
    """Rows, and users by arm; the lists for strangers are the champion's, and no user."""
    users: Counter[str] = Counter({CHAMPION_ARM: -1})
    for _, _, n_users, arm in made:
        users[arm] += n_users
    return sum(rows for _, rows, _, _ in made), users


def _serving(run: Run, lakehouse: Lakehouse, night: Night, task: ScoringTask) -> tuple[Trial | None, Serving]:
    """Who is served by what tonight; the champion serves all users where the candidate cannot be read."""
    registry = Registry(run.settings)
    trial = find_trial(run, lakehouse, registry)
    night.note(candidate_version=trial.version if trial else None)
    if trial is not None and trial.version is not None:
        try:
            folder = _fetch_model(registry, lakehouse.warehouse / "_models", trial.version)
            candidate = replace(task, model_folder=str(folder), version=trial.version)
            load_once(candidate.model_folder, candidate.vocabulary_file, candidate.version).require_numbers()
        except Exception as error:  # whatever it is, a candidate stops no night
            trial = trial.refused(error)
        else:
            log.info(
                "experiment %s: version %s serves %.4g of the users", trial.split.name, trial.version,
                trial.split.share,
            )  # fmt: skip
            return trial, Serving(tasks={CHAMPION_ARM: task, CANDIDATE_ARM: candidate}, split=trial.split)
    return trial, Serving(tasks={CHAMPION_ARM: task})


def _stage(
    spark: SparkSession,
    lakehouse: Lakehouse,
    state: SequenceNight,
    serving: Serving,
    written: Mapping[str, Written],
    vocabulary: Vocabulary,
    before: Before | None,
    reason: str,
) -> Made:
    """Write all lists of the night; (file, rows, users, arm) of every file."""
    with ListWriter(written[CHAMPION_ARM]) as files:
        files.write(anyone_lists(vocabulary, serving.tasks[CHAMPION_ARM]))
    made: Made = [tuple(row.values()) for row in files.made().to_pylist()]
    users = read_users(spark, lakehouse, state)
    if before is None:
        log.info("all users are scored anew: %s", reason)
        return made + _score(spark, users, serving, written)
    fates = users_by_fate(spark, lakehouse, state, before, len(vocabulary.domains), serving).persist()
    try:
        known = fates.where("here")
        counts = known.agg(F.count_if("kept"), F.count(F.lit(1))).first()
        n_kept, n_users = (int(count) for count in counts or (0, 0))
        log.info(
            "reused %s of %s users' lists of %s; scored %s",
            *(f"{n:,}" for n in (n_kept, n_users)), before.ds, f"{n_users - n_kept:,}",
        )  # fmt: skip
        if n_kept:
            made += _collected(copied(spark, fates, before, written, serving.split))
            users = read_users(spark, lakehouse, state, known.where("not kept"))
        return made + _score(spark, users, serving, written)
    finally:
        fates.unpersist()


def _score(spark: SparkSession, users: DataFrame, serving: Serving, written: Mapping[str, Written]) -> Made:
    """Score users; those of a file are in order, so that readers of one user skip what they need not."""
    rows = users.sortWithinPartitions("user_id")
    return _collected(rows.mapInArrow(lambda batches: score_batches(batches, serving, written), MADE))


def _collected(made: DataFrame) -> Made:
    """One row a file: the files of a night, not its users, pass through the driver."""
    return [(row["file"], row["rows"], row["users"], row["arm"]) for row in made.collect()]


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
