"""The scoring job around the kernel: what Spark adds, and what a night costs on which few users changed.

    make bench-score-night          (python -m benchmarks.score_night)

A generated project: users with power-law histories, five domains, a model of 64 channels that nobody trained (the
time does not depend on the weights). Rows, each a process of its own with the same threads in all:

    kernel   Recommender.top_n_batches alone: users and seen items in memory, nothing is written
    job      `jobs.score` of a first night, all users: reads, scores, writes Parquet, audits
    all      the night after it, on which a share of the users changed, with --full
    changed  the same night, lists of the others copied; its rows must be those of `all`

The gate's word and the model's folder are given, so that no registry is needed. Times are without the start of the
Spark session unless they say so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, ROOT, record

DOMAINS = ("books", "toys", "food", "music", "tools")
FIRST = date(2024, 1, 30)
SECOND = FIRST + timedelta(days=1)
NIGHTS = {"kernel": FIRST, "job": FIRST, "all": SECOND, "changed": SECOND}
FILES = 4  # of a night's sequences
RUN = "bench"
TOGETHER = 512


def settings_of(a: argparse.Namespace) -> Any:
    """The project's settings."""
    from jobs.settings import Settings

    source = {"name": "books", "files": "*.csv", "format": "csv", "header": True, "domain": "books", "user": "u",
              "item": "i", "time": "t", "time_unit": "s"}  # fmt: skip
    return Settings(
        state_dir=Path(a.folder),
        night={"bootstrap_through": FIRST},
        domains={name: {} for name in DOMAINS},
        sources=(source,),
        sequences={"max_length": 50},
        scoring={"top_n": a.top_n, "batch_users": TOGETHER},
        spark={"master": f"local[{a.threads}]", "shuffle_partitions": 4, "driver_memory": "2g"},
    )


# --- the project ------------------------------------------------------------------------------------------


def make_project(a: argparse.Namespace) -> None:
    """Items, the sequences of two nights, and the model."""
    import torch

    from jobs.lakehouse import Lakehouse
    from jobs.schemas import ITEMS
    from syncrec_model import ModelConfig, SyNCRec, Vocabulary, save_model

    lakehouse = Lakehouse(settings_of(a))
    lakehouse.create_tables()
    ids = [[f"{name}-{n:07d}" for n in range(1, a.items + 1)] for name in DOMAINS]
    for name, own in zip(DOMAINS, ids, strict=True):
        columns = {"domain": [name] * a.items, "item_id": own, "item_index": range(1, a.items + 1)}
        table = pa.table({**columns, "arrival_ds": [FIRST] * a.items}, schema=ITEMS.arrow_schema)
        parent = lakehouse.current_snapshot("items")
        lakehouse.append(
            "items", lakehouse.stage_arrow("items", table, FIRST, RUN), parent=parent, ds=FIRST, run_id=RUN
        )
    rng = np.random.default_rng(0)
    changed = np.sort(rng.choice(a.users, max(1, round(a.users * a.changed)), replace=False))
    _build(lakehouse, a, FIRST, np.arange(a.users), seed=1)
    _build(lakehouse, a, SECOND, changed, seed=2)
    torch.manual_seed(0)
    model = SyNCRec(ModelConfig(channels=64, max_length=50), DOMAINS, (a.items,) * len(DOMAINS))
    save_model(
        Path(a.folder) / "model", model.eval(), Vocabulary(DOMAINS, tuple(ids)), dict.fromkeys(DOMAINS, "blend")
    )


def _build(lakehouse: Any, a: argparse.Namespace, ds: date, users: NDArray[np.int64], seed: int) -> None:
    """What build_sequences leaves for a night on which these users changed."""
    from pyiceberg.expressions import EqualTo

    from jobs.schemas import SEQUENCES
    from jobs.sequence_nights import SequenceNight, shape_of

    folder = lakehouse.stage_folder("sequences", ds, RUN)
    folder.mkdir(parents=True)
    files = []
    for number, part in enumerate(np.array_split(users, FILES if len(users) > 1000 else 1)):
        file = folder / f"part-{number}.parquet"
        with pq.ParquetWriter(file, SEQUENCES.arrow_schema, compression="zstd") as out:
            for start in range(0, len(part), 20_000):
                out.write_table(_rows(part[start : start + 20_000], a.items, ds, seed))
        files.append(f"file://{file}")
    parent = lakehouse.current_snapshot("sequences")
    night = SequenceNight(
        ds=ds, base_ds=FIRST, previous_ds=FIRST if parent else None, previous_snapshot=parent,
        interactions_snapshot=None, shape=shape_of(settings_of(a)), kind="incremental" if parent else "full",
        reason="benchmark", events=1,
    )  # fmt: skip
    where = EqualTo("ds", ds.isoformat())
    lakehouse.replace("sequences", where, files, ds=ds, run_id=RUN, properties=night.properties())


def _rows(users: NDArray[np.int64], n_items: int, ds: date, seed: int) -> pa.Table:
    """Rows of `sequences`: 5 to 100 events, 20 on average, items by a power law, domains by the user's taste."""
    from jobs.schemas import SEQUENCES

    rng = np.random.default_rng([seed, int(users[0])])
    lengths_U = 5 + np.minimum(rng.geometric(1 / 16, len(users)) - 1, 95)
    user_E = np.repeat(np.arange(len(users)), lengths_U)
    liking_UD = rng.dirichlet(np.full(len(DOMAINS), 0.7), len(users)).cumsum(1)
    domain_E = 1 + np.minimum((rng.random((len(user_E), 1)) > liking_UD[user_E]).sum(1), len(DOMAINS) - 1)
    item_E = 1 + np.minimum(np.exp(rng.random(len(user_E)) * np.log(n_items + 1)).astype(np.int64) - 1, n_items - 1)
    ends = np.cumsum(lengths_U)
    end = np.datetime64(ds, "us").astype(np.int64)
    time_E = end - 1_000_000 * (ends[user_E] - np.arange(len(user_E)))
    offsets = pa.array(np.append(0, ends).astype(np.int32))

    def lists(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values, kind))

    columns = {
        "user_id": [f"user-{user:09d}" for user in users],
        "items": lists(item_E, pa.int32()),
        "domains": lists(domain_E, pa.int32()),
        "times": lists(time_E, pa.int64()),
        "event_ids": lists(np.arange(len(user_E)), pa.int64()),
        "older_items": pa.array([[]] * len(users), pa.list_(pa.int64())),
        "n_events": lengths_U,
        "ds": [ds] * len(users),
    }
    return pa.table([pa.array(c) if not isinstance(c, pa.Array) else c for c in columns.values()],
                    names=list(columns)).cast(SEQUENCES.arrow_schema)  # fmt: skip


# --- the rows ---------------------------------------------------------------------------------------------


def run_kernel(a: argparse.Namespace) -> dict[str, float]:
    """Rank all users of the first night in this process."""
    import torch

    from jobs.histories import Histories
    from jobs.loaded_model import widen
    from jobs.splits import split_windows
    from syncrec_model import Recommender, load_model

    torch.set_num_threads(a.threads)
    settings = settings_of(a)
    model, vocabulary, views, metadata = load_model(Path(a.folder) / "model")
    loaded = widen("1", model, vocabulary, views, metadata, vocabulary)
    recommender = Recommender(loaded.model, vocabulary, loaded.views)
    run = _run(settings, FIRST, full=True)
    window = split_windows(run.cutoff, settings.sequences.valid_days, settings.sequences.test_days)[-1]
    seconds, n_users, n_rows = 0.0, 0, 0
    for number, users in enumerate(_batches(settings)):
        histories = Histories.of(users)
        data = histories.cut(window, vocabulary, DOMAINS, 50)
        began = time.perf_counter()
        for top in recommender.top_n_batches(data, a.top_n, batch_size=TOGETHER):
            n_rows += len(top)
        if number:  # the first is to warm up
            seconds += time.perf_counter() - began
            n_users += len(users)
    return {"seconds": seconds / n_users * a.users, "rows": n_rows}


def _batches(settings: Any) -> Iterator[pa.Table]:
    from pyiceberg.expressions import EqualTo

    from jobs.lakehouse import Lakehouse

    lakehouse = Lakehouse(settings)
    where = EqualTo("ds", FIRST.isoformat())
    for file in lakehouse.files("sequences", lakehouse.current_snapshot("sequences"), where):
        for batch in pq.ParquetFile(file.removeprefix("file://")).iter_batches(TOGETHER):
            yield pa.Table.from_batches([batch])


def run_job(a: argparse.Namespace) -> dict[str, float]:
    """Run `jobs.score` of a night; publish it if it is the first."""
    from jobs import audits, command, publish, score, worker_daemon
    from jobs.lakehouse import Lakehouse
    from jobs.night import Night
    from jobs.spark import spark_session

    command.start_logging()
    settings, ds = settings_of(a), NIGHTS[a.row]
    run = _run(settings, ds, full=a.row != "changed")
    night = Night(run, Lakehouse(settings))
    night.note(served_version="1", decision="promoted", reason="benchmark")
    took: dict[str, float] = {}
    score._fetch_model = lambda *_: Path(a.folder) / "model"
    for name in ("read_vocabulary", "_prepare", "_stage", "run_suite", "record_audits"):
        _watch(score, name, took)
    assert audits
    began = time.perf_counter()
    with spark_session(settings, "bench", daemon=worker_daemon.NAME, quick=True):
        session = time.perf_counter() - began
        began = time.perf_counter()
        score.score(run)
        seconds = time.perf_counter() - began
        peak = command.peak_memory() or 0
    if a.row == "job":
        publish.publish(run)
    rows = night.get("recommendations_count")
    parts = {f"part {name.strip('_')}": value for name, value in took.items()}
    return {"seconds": seconds, "session": session, "rows": rows, "peak_gib": peak / 2**30, **parts}


def _watch(owner: Any, name: str, took: dict[str, float]) -> None:
    work: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return work(*arguments, **named)
        finally:
            took[name] = took.get(name, 0.0) + time.perf_counter() - began

    setattr(owner, name, timed)


def _run(settings: Any, ds: date, full: bool) -> Any:
    from jobs.command import Run

    return Run(ds=ds, run_id=RUN, settings=settings, arguments=argparse.Namespace(full=full))


def content_of(a: argparse.Namespace, ds: date) -> tuple[tuple[int, int], int]:
    """Rows and a hash of what is staged for a night, whatever the order of the rows; and the bytes of its files."""
    import duckdb

    from jobs.lakehouse import Lakehouse
    from jobs.night import Night

    settings = settings_of(a)
    files = Night(_run(settings, ds, full=False), Lakehouse(settings)).get("recommendations_staged")
    found = duckdb.execute("select count(*), bit_xor(hash(r)) from read_parquet(?) r", [files]).fetchone()
    assert found is not None
    return (found[0], found[1]), sum(Path(file.removeprefix("file://")).stat().st_size for file in files)


# --- the command ------------------------------------------------------------------------------------------


def measure(a: argparse.Namespace, row: str) -> dict[str, float]:
    """One reading in a process of its own."""
    arguments = [f"--{name}={getattr(a, name)}" for name in ("users", "items", "top_n", "changed", "threads")]
    command = [sys.executable, "-m", "benchmarks.score_night", "--row", row, "--folder", a.folder, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(a.threads if row == "kernel" else 1)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"row {row} failed:\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}")
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=20_000, help="of each of the five domains")
    parser.add_argument("--top_n", type=int, default=100)
    parser.add_argument("--changed", type=float, default=0.01, help="share of users changed on the second night")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", choices=NIGHTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    if a.row:
        print(json.dumps(run_kernel(a) if a.row == "kernel" else run_job(a)))
        return
    readings: dict[str, list[dict[str, float]]] = {row: [] for row in NIGHTS}
    with tempfile.TemporaryDirectory(prefix="score_night") as a.folder:
        make_project(a)
        for number in range(a.rounds):
            hashes = {}
            for row, ds in NIGHTS.items():
                readings[row].append(measure(a, row))
                if row != "kernel":
                    hashes[row], size = content_of(a, ds)
                    readings[row][-1]["bytes"] = size
                print(f"round {number + 1}: {row} {readings[row][-1]['seconds']:.1f} s", flush=True)
            if hashes["all"] != hashes["changed"]:
                raise SystemExit(f"the copied lists are not those scored anew: {hashes}")
    medians = {
        row: {name: statistics.median(own[name] for own in found) for name in found[0]}
        for row, found in readings.items()
    }
    show(a, medians)
    details = {
        "readings": readings,
        **{name: getattr(a, name) for name in ("users", "items", "top_n", "changed", "threads")},
    }
    size = size_of(parser, a)
    figures = {f"{size}.{name}" if size else name: value for name, value in figures_of(a.changed, medians).items()}
    part = f"spark.{size}" if size else "spark"
    record("score", figures, part=part, details=details, folder=a.results)


def size_of(parser: argparse.ArgumentParser, a: argparse.Namespace) -> str:
    """What a run's figures are told apart by, "" for the size that is measured where nothing is said."""
    named = ((a.users, "users"), (a.items, "items"), (a.top_n, "top_n"))
    own = [(value, name) for value, name in named if value != parser.get_default(name)]
    return ".".join(f"{name.removesuffix('_n')}{value}" for value, name in own)


def figures_of(changed: float, medians: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the figures to keep, from medians by row; `changed`: the share of the users that changed."""
    kernel, job = medians["kernel"]["seconds"], medians["job"]
    return {
        "spark.overhead": job["seconds"] / kernel - 1,
        "spark.overhead.with_session": (job["seconds"] + job["session"]) / kernel - 1,
        "spark.peak_gib": job["peak_gib"],
        "spark.bytes_a_row": job["bytes"] / job["rows"],
        f"reuse.{100 * changed:g}pct.share": medians["changed"]["seconds"] / medians["all"]["seconds"],
    }


def show(a: argparse.Namespace, medians: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    table = Table(
        box=box.SIMPLE, title=f"{a.users:,} users, 5 x {a.items:,} items, best {a.top_n}, {a.threads} threads"
    )
    for name in ("row", "s", "users/s", "session s", "peak GiB", "where"):
        table.add_column(name, justify="left" if name in ("row", "where") else "right")
    for row, own in medians.items():
        parts = ", ".join(f"{name[5:]} {value:.1f}" for name, value in own.items() if name.startswith("part "))
        more = [f"{own[name]:.1f}" if name in own else "" for name in ("session", "peak_gib")]
        table.add_row(row, f"{own['seconds']:.1f}", f"{a.users / own['seconds']:,.0f}", *more, parts)
    Console().print(table)


if __name__ == "__main__":
    main()
