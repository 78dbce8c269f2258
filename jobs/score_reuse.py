"""Which lists of the night before stay as they are, because nothing that decides them has changed.

A list depends on its user's row in `sequences`, the model version, a few settings and, where popularity filled it
up, on the night itself. So of a user whose row is the same since the last published night, and whose lists the
model filled alone, the lists are copied, if version and settings are the same; all other users are scored. While an
experiment runs, the version is that of the user's arm. What a night scored with lies in the summary of its snapshot
of `recommendations`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyiceberg.expressions import EqualTo
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.arms import Split
from jobs.command import Run
from jobs.lakehouse import Lakehouse, code_version
from jobs.list_files import MADE, USERS_OF_FILES, Written, copy_lists, users_of_files
from jobs.schemas import CANDIDATE_ARM, CHAMPION_ARM, NIGHTS, RECOMMENDATIONS, SEQUENCES
from jobs.score_users import ScoringTask, Serving
from jobs.sequence_nights import SequenceNight, night_of
from jobs.sequence_rows import latest_rows
from jobs.spark import frame_of
from syncrec_model import Vocabulary

ROWS_A_FILE = 20_000_000
_MODELS = ("model", "candidate")
"""What a basis says about the arms; one model that is the same is enough to copy lists."""
_WORDS = {
    "model": "the model",
    "known_domains": "the list of domains with items",
    "domains": "the list of domains",
    "repeats": "the domains that repeat",
    "max_length": "T",
    "code": "the code of the jobs",
}


def basis_of(task: ScoringTask, vocabulary: Vocabulary, candidate: ScoringTask | None = None) -> dict[str, Any]:
    """What decides a list that the model fills alone, besides the user's row and arm; popularity does not.

    task, candidate: what scores the arms; they differ in their models alone.
    """
    return {
        "model": _model(task),
        "candidate": _model(candidate) if candidate else None,
        "known_domains": list(vocabulary.domains),
        "domains": list(task.domains),
        "repeats": list(task.repeats),
        "max_length": task.max_length,
        "top_n": task.top_n,
        "min_history": task.min_history,
        "code": code_version(),
    }


def _model(task: ScoringTask) -> str:
    """The name of a version with that of its training run: another registry may have the same numbers."""
    return task.model_folder.rsplit("/", 1)[-1]


def properties_of(basis: Mapping[str, Any], sequences: int | None) -> dict[str, str]:
    """For the summary of the snapshot: the basis, and the snapshot of `sequences` that was scored."""
    return {"basis": json.dumps(dict(basis)), "sequences_snapshot": str(sequences)}


@dataclass(frozen=True, kw_only=True)
class Before:
    """A published night whose lists may be copied: its day, its files with their rows, the rows it scored.

    models: of those it scored with, the ones that score tonight, too.
    """

    ds: date
    files: Mapping[str, int]
    sequences: SequenceNight
    models: frozenset[str]


def find_before(run: Run, lakehouse: Lakehouse, basis: Mapping[str, Any]) -> tuple[Before | None, str]:
    """The last published night before this one, or None and why all users are scored anew."""
    if getattr(run.arguments, "full", False):
        return None, "--full asked for it"
    if not run.settings.scoring.reuse:
        return None, "scoring.reuse is off"
    columns = ("ds", "run_id", "recommendations_snapshot")
    nights = lakehouse.read_arrow(NIGHTS.name, lakehouse.current_snapshot(NIGHTS.name), columns=columns).to_pylist()
    last = max((row for row in nights if row["ds"] < run.ds), key=lambda row: row["ds"], default=None)
    if last is None:
        return None, "no published night before it"
    ds, current = last["ds"], lakehouse.current_snapshot(RECOMMENDATIONS.name)
    day = ds.isoformat()
    written = [own for own in lakehouse.history(RECOMMENDATIONS.name, current) if own[1].get("ds") == day]
    if not written:
        return None, f"the snapshots of the night of {ds} are no longer kept"
    snapshot, summary = written[0]
    if snapshot != last["recommendations_snapshot"] or summary.get("run_id") != last["run_id"]:
        why = "a user was removed, or the day was run again"
        return None, f"the recommendations of {ds} were replaced after their night was published ({why})"
    if "basis" not in summary:
        return None, f"the night of {ds} did not note what it scored with"
    then = json.loads(summary["basis"])
    models = frozenset(_models(then) & _models(basis))
    apart = _MODELS if models else ("candidate",)
    if changes := _differences(*({k: v for k, v in own.items() if k not in apart} for own in (then, basis))):
        return None, changes
    scored = int(summary["sequences_snapshot"])
    if not lakehouse.has_snapshot(SEQUENCES.name, scored):
        return None, f"the sequences of {ds} are no longer kept"
    files = lakehouse.partitions(RECOMMENDATIONS.name, current, EqualTo("ds", day))
    rows = {file: n for own in files.values() for file, n in own.items()}
    return Before(ds=ds, files=rows, sequences=night_of(lakehouse, scored, ds), models=models), ""


def _models(basis: Mapping[str, Any]) -> set[str]:
    return {basis[name] for name in _MODELS if basis.get(name)}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(
        f"{_WORDS.get(name, name)} changed from {_said(before.get(name))} to {_said(now.get(name))}"
        for name in changed
    )


def _said(value: Any) -> str:
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def users_by_fate(
    spark: SparkSession,
    lakehouse: Lakehouse,
    state: SequenceNight,
    before: Before,
    n_domains: int,
    serving: Serving,
) -> DataFrame:
    """Every user of tonight or of the night before.

    Returns
    -------
    DataFrame
        user_id, here (tonight's sequences know the user), kept (the lists are copied), files (that hold them).
    """
    files = frame_of(spark, [(file,) for file in before.files], "file string").repartition(len(before.files))
    top_n = serving.tasks[CHAMPION_ARM].top_n
    listed = files.mapInArrow(lambda batches: users_of_files(batches, top_n), USERS_OF_FILES)
    now = _rows_and_changes(spark, lakehouse, state, before.sequences)
    absent: dict[str, Any] = {"here": F.lit(False), "changed": F.lit(False)}
    nowhere: dict[str, Any] = {"file": F.lit(None).cast("string"), "full": F.lit(0)}
    nowhere["version"] = F.lit(None).cast("string")
    both = listed.withColumns(absent).unionByName(now.withColumns(nowhere))
    gathered = both.groupBy("user_id").agg(
        F.max("here").alias("here"),
        F.max("changed").alias("changed"),
        F.sum("full").alias("full"),
        F.max("version").alias("version"),
        F.collect_set("file").alias("files"),
    )
    kept = F.col("here") & ~F.col("changed") & (F.col("full") == n_domains) & (F.size("files") == 1)
    kept &= F.coalesce(F.col("version") == _same_version(serving, before), F.lit(False))
    return gathered.select("user_id", "here", kept.alias("kept"), "files")


def _same_version(serving: Serving, before: Before) -> Column:
    """The version of a user's arm tonight; null where no night before scored with it."""
    by_arm = {
        arm: F.lit(task.version if _model(task) in before.models else None).cast("string")
        for arm, task in serving.tasks.items()
    }
    if serving.split is None:
        return by_arm[CHAMPION_ARM]
    is_candidate = serving.split.arm(F.col("user_id")) == CANDIDATE_ARM
    return F.when(is_candidate, by_arm[CANDIDATE_ARM]).otherwise(by_arm[CHAMPION_ARM])


def _rows_and_changes(
    spark: SparkSession, lakehouse: Lakehouse, now: SequenceNight, then: SequenceNight
) -> DataFrame:
    """user_id, here, changed: whether the user's row is another one than then.

    A state that only grew is told by its files: users with rows in new files have changed. Else (all users were
    written anew) by what the rows hold. A user may come several times.
    """
    files_now, files_then = (set(lakehouse.files(SEQUENCES.name, n.snapshot, n.rows())) for n in (now, then))

    def read(files: set[str]) -> DataFrame:
        rows = spark.read.schema(SEQUENCES.spark_ddl)
        return rows.parquet(*sorted(files)) if files else frame_of(spark, [], SEQUENCES.spark_ddl)

    here = F.lit(True).alias("here")
    if files_then <= files_now:
        parts = [
            read(files).select("user_id", here, F.lit(changed).alias("changed"))
            for files, changed in ((files_then, False), (files_now - files_then, True))
        ]
        return parts[0].unionByName(parts[1])
    content = F.xxhash64("items", "domains", "times", "older_items").alias("content")
    mine, earlier = (
        latest_rows(read(files).select("user_id", "ds", content)).drop("ds") for files in (files_now, files_then)
    )
    changed = ~F.col("content").eqNullSafe(F.col("earlier"))
    both = mine.join(earlier.withColumnRenamed("content", "earlier"), "user_id", "left")
    return both.select("user_id", here, changed.alias("changed"))


def copied(
    spark: SparkSession, fates: DataFrame, before: Before, written: Mapping[str, Written], split: Split | None
) -> DataFrame:
    """Copy the lists that stay, files together to as many as their rows fill; one row (MADE) a file made.

    A task holds what it reads of a file at once, and the names of the users that leave its files.
    """
    parallel = spark.sparkContext.defaultParallelism
    n_tasks = min(len(before.files), max(parallel, sum(before.files.values()) // ROWS_A_FILE))
    loads = [0] * n_tasks
    placed = []
    for file, rows in sorted(before.files.items(), key=lambda own: -own[1]):
        task = loads.index(min(loads))
        loads[task] += rows
        placed.append((file, task))
    gone = fates.where(~F.col("kept")).select(F.explode("files").alias("file"), "user_id")
    dropped = gone.groupBy("file").agg(F.collect_list("user_id").alias("dropped"))
    files = frame_of(spark, placed, "file string, task int").join(dropped, "file", "left")
    tasks = files.repartitionById(n_tasks, F.col("task")).select("file", "dropped")
    return tasks.mapInArrow(lambda batches: copy_lists(batches, written, split), MADE)
