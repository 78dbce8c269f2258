"""Sixty nights of small days: do files stay bounded, does a night's time stay flat, is reading still quick?

    make bench-nights                     # some 20 minutes; NIGHTS=15 for a first look; resumable

The sample's landing days go through the real jobs: ingest, build_sequences, gate, score, publish and move_alias
every night, training once, `jobs.maintain` every seventh. All run in one process that shares one Spark session, so
that a night takes seconds. Two months pass in minutes: maintenance is told a clock that is ahead by a day a night
and spares nothing for being young. Writes benchmarks/results/nights.json and docs/img/sixty-nights.svg.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import record
from benchmarks.sixty_nights_figures import draw, figures_of, table_of
from jobs.command import Run, start_logging
from jobs.lakehouse import Lakehouse
from jobs.maintain import tidy_up
from jobs.query import connect
from jobs.sample import SampleSettings, write_days
from jobs.schemas import TABLES
from jobs.settings import Settings, load_settings
from jobs.spark import spark_session

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "var/nights"
FIRST, HISTORY = date(2024, 1, 1), date(2024, 1, 28)
EVERY = 7
READS = 15
CHANGES = (  # of syncrec.toml: small days, one short training, and every rule of maintenance within sixty nights
    (r"^users = .*", "users = {users}"),
    (r"^channels = .*", "channels = 16"),
    (r"^epochs = .*", "epochs = 2"),
    (r"^warm_epochs = .*", "warm_epochs = 1\nevery_days = 10000"),
    (r"^state_dir = .*", 'state_dir = "{state}"'),
    (
        r"^\[spark\]",
        "[maintenance]\nnights = 14\nyoung_hours = 0\nkeep_days = {{ recommendations = 30 }}\n\n[spark]",
    ),
)
INTERPRET = {  # on frames of some hundred rows Spark spends its time on compiling
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}
READ = "select * from recommendations where ds = ? and user_id = ?"


def project(users: int) -> Path:
    """Write the configuration; its path."""
    HOME.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "syncrec.toml").read_text(encoding="utf-8")
    for pattern, line in CHANGES:
        text, found = re.subn(pattern, line.format(users=users, state=HOME / "state"), text, count=1, flags=re.M)
        if not found:
            raise SystemExit(f"syncrec.toml has no line like {pattern}: adapt CHANGES")
    options = "\n".join(f'"{key}" = "{value}"' for key, value in INTERPRET.items())
    file = HOME / "syncrec.toml"
    file.write_text(f"{text}\n[spark.options]\n{options}\n", encoding="utf-8")
    return file


def cpu_seconds() -> float:
    """Processor time of this process, Spark's and its workers'; of those that have ended too."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def step(name: str, ds: date, config: Path, *more: str) -> dict[str, float]:
    """Run one job by its command line; its costs."""

    def job() -> None:
        arguments = [f"--ds={ds}", f"--config={config}", f"--run-id=bench-{ds}", *more]
        code = importlib.import_module(f"jobs.{name}").main(arguments)
        if code not in (0, 99):
            raise SystemExit(f"{name} of {ds} ended with exit code {code}: see the lines above")

    return costs(job)


def costs(job: Callable[[], object]) -> dict[str, float]:
    """Return the seconds that something takes, by the clock and of processor."""
    began, cpu = time.perf_counter(), cpu_seconds()
    job()
    return {"seconds": round(time.perf_counter() - began, 3), "cpu": round(cpu_seconds() - cpu, 3)}


def maintain(settings: Settings, ds: date, days: int) -> str:
    """Run jobs.maintain by a clock that is ahead."""
    run = Run(ds=ds, run_id=f"bench-{ds}", settings=settings, arguments=argparse.Namespace(dry_run=False))
    return tidy_up(run, datetime.now(UTC) + timedelta(days=days))


def look(settings: Settings) -> dict[str, Any]:
    """Files and bytes of every table: those of its newest snapshot, those on disk, its metadata; and its rows."""
    lakehouse, found = Lakehouse(settings), {}
    for name in TABLES:
        table = lakehouse.table(name)
        tasks = [task.file for task in table.scan().plan_files()] if table.current_snapshot() else []
        folder = lakehouse.warehouse / "syncrec" / name
        on_disk = [file for file in (folder / "data").rglob("*.parquet")]
        metadata = list((folder / "metadata").glob("*"))
        found[name] = {
            "files": len(tasks),
            "bytes": sum(file.file_size_in_bytes for file in tasks),
            "rows": sum(file.record_count for file in tasks),
            "disk_files": len(on_disk),
            "disk_bytes": sum(file.stat().st_size for file in on_disk),
            "metadata_files": len(metadata),
            "metadata_bytes": sum(file.stat().st_size for file in metadata),
            "metadata_json": Path(str(table.metadata_location).removeprefix("file://")).stat().st_size,
            "snapshots": len(table.snapshots()),
        }
    return found


def read_ms(settings: Settings, ds: date) -> dict[str, float]:
    """Milliseconds to read one user's recommendations from DuckDB: opening and first read, then the median."""
    began = time.perf_counter()
    with connect(settings) as connection:
        users = connection.execute(
            "select distinct user_id from recommendations where ds = ? order by all", [ds]
        ).fetchall()
        opened = time.perf_counter() - began
        times = []
        for n in range(READS):
            user = users[n * len(users) // READS][0]
            began = time.perf_counter()
            rows = connection.execute(READ, [ds, user]).fetchall()
            times.append(1000 * (time.perf_counter() - began))
            assert rows, f"no recommendations of {user} on {ds}"
    return {"open": 1000 * opened, "warm": statistics.median(times[1:]), "worst": max(times[1:])}


def run_nights(count: int, users: int) -> list[dict[str, Any]]:
    """Run what is missing of so many nights; a record of each."""
    config = project(users)
    settings = load_settings(config)
    kept = HOME / "nights.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    if len(done) >= count:
        return done[:count]
    start_logging()
    last = HISTORY + timedelta(days=count)
    write_days(settings.landing_path, FIRST, last, settings=SampleSettings(seed=7, n_users=users, start=FIRST))
    with spark_session(settings, "sixty nights"):
        if not done:
            step("ingest", HISTORY, config, f"--since={FIRST}")
        for n in range(len(done), count):
            done.append(_night(n, settings, config))
            with kept.open("a", encoding="utf-8") as out:
                out.write(json.dumps(done[-1]) + "\n")
    return done


def _night(n: int, settings: Settings, config: Path) -> dict[str, Any]:
    ds = HISTORY + timedelta(days=n + 1)
    training = ("train", "evaluate") if n == 0 else ()
    names = ("ingest", "build_sequences", *training, "gate", "score", "publish", "move_alias")
    steps = {name: step(name, ds, config) for name in names}
    own: dict[str, Any] = {"night": n + 1, "ds": str(ds), "steps": steps, "before": None}
    if (n + 1) % EVERY == 0:
        own["before"] = look(settings)
        own["maintain"] = costs(lambda: maintain(settings, ds, n))
    return own | {"tables": look(settings), "read": read_ms(settings, ds)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the table, draw, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--users", type=int, default=300, help="of the sample")
    parser.add_argument(
        "--record", action="store_true", help="write results and picture also of fewer than 60 nights"
    )
    a = parser.parse_args(argv)
    os.environ["SYNCREC_HOME"] = str(ROOT)
    # Maintenance's clock is ahead: the scratch of this process's own session would be nothing young to it either.
    scratch = tempfile.TemporaryDirectory(prefix="sixty-nights-")
    os.environ["SPARK_LOCAL_DIRS"] = scratch.name
    nights = run_nights(a.nights, a.users)
    print(table_of(nights))
    figures = figures_of(nights)
    for name, value in figures.items():
        print(f"{name:34} {value:,.3f}")
    if len(nights) >= 60 or a.record:
        record("nights", figures, part="nights", details=[_short(night) for night in nights])
        draw(nights, ROOT / "docs/img/sixty-nights.svg")
    else:
        draw(nights, HOME / "sixty-nights.svg")
    return 0


def _short(night: dict[str, Any]) -> dict[str, Any]:
    """What the results keep of a night."""
    tables = {
        name: [own["files"], own["rows"], own["disk_bytes"], own["metadata_bytes"]]
        for name, own in night["tables"].items()
    }
    seconds = {name: own["seconds"] for name, own in night["steps"].items()}
    cpu = round(sum(own["cpu"] for own in night["steps"].values()), 2)
    return {"ds": night["ds"], "seconds": seconds, "cpu": cpu, "tables": tables, "read_ms": night["read"]["warm"]}


if __name__ == "__main__":
    sys.exit(main())
