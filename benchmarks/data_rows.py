"""Run one row of `make bench-data`: a command on a generated log, measured as a tree of processes.

Every row gets the same threads and the same memory. What is prepared for a row (a fresh lakehouse whose tables
point to the log's files; arrays and text for two peers) and what checks it afterwards is not in its time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from pyiceberg.expressions import EqualTo

from benchmarks import spark_events
from benchmarks.data_peers import LENGTH
from benchmarks.generated_files import LogFiles, commit
from benchmarks.generated_logs import DOMAINS, HISTORY_DAYS, landing_day
from benchmarks.process_tree import Cost, run_measured
from benchmarks.record import ROOT
from benchmarks.released_code import ReleasedCodeAbsent, find_released
from jobs.lakehouse import Lakehouse
from jobs.settings import load_settings

ROWS = {
    "full": "ours, full build",
    "incremental": "ours, one night of 1 % more",
    "duckdb.separate": "DuckDB, two aggregates",
    "duckdb.derived": "DuckDB, cross from single",
    "rectools": "RecTools, items alone",
    "released": "released code, after grouping",
    "lighter": "ours, full build, no heavy user",
}
BENCH_PYTHON = ROOT / ".venv" / "bench" / "bin" / "python"
_RELEASED_FILES = ("make_dataset.py", "preprocessing.py", "dataset/vocab.py")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What every row gets. threads, memory_gib: of DuckDB, and threads of Spark.

    full_memory, night_memory: Spark's driver memory in a full build and in a night; java_options: of its JVM.
    end_gib, end_seconds: a row that needs more is ended. released: a checkout of the released code, or None.
    """

    threads: int = 2
    memory_gib: float = 8
    full_memory: str = "5g"
    night_memory: str = "1g"
    java_options: str = ""
    end_gib: float = 14
    end_seconds: float = 3600
    released: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One row of one size, measured once. digest: of its sequences; same: are they those of DuckDB."""

    cost: Cost
    output_bytes: int | None = None
    work: dict[str, Any] = field(default_factory=dict)
    digest: dict[str, list[str]] | None = None
    same: bool | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        kept = {"output_bytes": self.output_bytes, "same": self.same, "note": self.note}
        return self.cost.to_dict() | {**kept, **self.work}


class Rows:
    """Runs rows on one log, in one folder of which nothing needs to be kept."""

    def __init__(self, log: LogFiles, folder: Path, limits: Limits) -> None:
        self.log, self.folder, self.limits = log, folder, limits
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def run(self, name: str) -> Reading:
        """Run a row; `incremental` goes on from the last `full`."""
        if name in ("full", "lighter"):
            return self._full()
        if name == "incremental":
            return self._incremental()
        if name.startswith("duckdb."):
            return self._duckdb(name.removeprefix("duckdb."))
        try:
            return {"rectools": self._rectools, "released": self._released}[name]()
        except RuntimeError as error:
            return Reading(cost=_not_run(f"its input could not be made: {error}"))

    # --- ours -------------------------------------------------------------------------------------------

    def _full(self) -> Reading:
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        lakehouse = self._lakehouse(self._settings("full", self.limits.full_memory))
        commit(self.log, lakehouse, night=False)
        return self._build("full", landing_day(HISTORY_DAYS - 1), self.limits.full_memory)

    def _incremental(self) -> Reading:
        config = self.folder / "full.toml"
        if not config.exists():
            raise ValueError("the row 'incremental' goes on from the row 'full': run that first")
        commit(self.log, self._lakehouse(config), night=True)
        reading = self._build("night", landing_day(HISTORY_DAYS), self.limits.night_memory)
        if reading.digest is None:
            return reading
        out = self.folder / "all"
        try:
            self._peer("duckdb", "--out", str(out), "--form", "derived", "--night", *self._duckdb_limits())
        except RuntimeError as error:
            return replace(reading, note=f"{reading.note}, not compared: {error}")
        expected = self._with_digest(replace(reading, digest=None), "--out", str(out))
        shutil.rmtree(out)
        return expected if expected.digest is None else replace(reading, same=reading.digest == expected.digest)

    def _build(self, name: str, ds: date, memory: str) -> Reading:
        config = self._settings(name, memory)
        command = [sys.executable, "-m", "jobs.build_sequences", "--ds", str(ds), "--config", str(config)]
        cost = self._measured(name, [*command, "--run-id", f"bench-{name}"])
        if cost.failed:
            return Reading(cost=cost)
        work = spark_events.read_events(self.folder / f"{name}-events").to_dict()
        lakehouse = self._lakehouse(config)
        snapshot = lakehouse.table("sequences").current_snapshot()
        said = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
        number = lakehouse.current_snapshot("sequences")
        fresh = lakehouse.files("sequences", number, EqualTo("ds", ds.isoformat()))
        written = sum(Path(file.removeprefix("file://")).stat().st_size for file in fresh)
        files = self.folder / f"{name}-files.json"
        files.write_text(json.dumps(lakehouse.files("sequences", number)), encoding="utf-8")
        kind = f"{said.get('syncrec.kind', '')} build" if name == "night" else ""
        reading = Reading(cost=cost, output_bytes=written, work=work, note=kind)
        return self._with_digest(reading, "--out", str(self.folder), "--files", str(files))

    def _settings(self, name: str, memory: str) -> Path:
        """A settings file of the benchmark's own project."""
        events = self.folder / f"{name}-events"
        shutil.rmtree(events, ignore_errors=True)
        events.mkdir()
        partitions = max(4, -(-self.log.events // 2_500_000))
        options = "\n".join(f'"{key}" = "{value}"' for key, value in spark_events.options(events).items())
        sources = "\n".join(
            f'[[sources]]\nname = "{domain}_log"\ndomain = "{domain}"\nfiles = "{domain}.parquet"\n'
            'format = "parquet"\nuser = "user"\nitem = "item"\ntime = "time"\ntime_unit = "timestamp"\n'
            for domain in DOMAINS
        )
        file = self.folder / f"{name}.toml"
        file.write_text(
            f'state_dir = "{(self.folder / "state").resolve()}"\n'
            f"[night]\nbootstrap_through = {landing_day(HISTORY_DAYS - 1)}\n"
            + "".join(f"[domains.{domain}]\n" for domain in DOMAINS)
            + sources
            + f"[sequences]\nmax_length = {LENGTH}\n"
            + f'[spark]\nmaster = "local[{self.limits.threads}]"\nshuffle_partitions = {partitions}\n'
            + f'driver_memory = "{memory}"\njava_options = "{self.limits.java_options}"\n'
            + f"[spark.options]\n{options}\n",
            encoding="utf-8",
        )
        return file

    def _lakehouse(self, config: Path) -> Lakehouse:
        lakehouse = Lakehouse(load_settings(config))
        lakehouse.create_tables()
        return lakehouse

    # --- peers ------------------------------------------------------------------------------------------

    def _duckdb(self, form: str) -> Reading:
        out = self.folder / form
        shutil.rmtree(out, ignore_errors=True)
        arguments = ["duckdb", "--log", str(self.log.folder), "--out", str(out), "--form", form]
        cost = self._measured(f"duckdb-{form}", [*_peers(), *arguments, *self._duckdb_limits()])
        if cost.failed:
            return Reading(cost=cost)
        reading = Reading(cost=cost, output_bytes=_bytes(out, "*.parquet"))
        return self._with_digest(reading, "--out", str(out))

    def _rectools(self) -> Reading:
        if not BENCH_PYTHON.exists():
            return Reading(cost=_not_run("not at hand: its environment .venv/bench is missing"))
        arrays = self.folder / "arrays"
        self._peer("arrays", "--out", str(arrays), *self._duckdb_limits())
        command = [str(BENCH_PYTHON), "-W", "ignore", "-m", "benchmarks.data_rectools", str(arrays)]
        cost = self._measured("rectools", [*command, "--length", str(LENGTH)])
        shutil.rmtree(arrays)
        return Reading(cost=cost)

    def _released(self) -> Reading:
        """The released make_dataset.py unchanged, in a folder of its own, as it reads and writes below it."""
        try:
            source = find_released(self.limits.released)
        except ReleasedCodeAbsent as absent:
            return Reading(cost=_not_run(str(absent)))
        if missing := [name for name in _RELEASED_FILES if not (source / name).is_file()]:
            return Reading(cost=_not_run(f"this checkout holds no {', '.join(missing)}"))
        folder = self.folder / "released"
        shutil.rmtree(folder, ignore_errors=True)
        for name in _RELEASED_FILES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        self._peer("text", "--out", str(folder / "dataset" / "raw"), *self._duckdb_limits())
        command = [sys.executable, "make_dataset.py", "--data_name=amazon", "--strd_ym=202312"]
        cost = self._measured("released", command, cwd=folder)
        written = _bytes(folder / "data", "*_list_dataset_*.pkl") if not cost.failed else None
        shutil.rmtree(folder)
        return Reading(cost=cost, output_bytes=written)

    # --- running ----------------------------------------------------------------------------------------

    def _duckdb_limits(self) -> list[str]:
        return ["--threads", str(self.limits.threads), "--memory-gib", str(self.limits.memory_gib)]

    def _measured(self, name: str, command: Sequence[str], cwd: Path = ROOT) -> Cost:
        return run_measured(
            command,
            log=self.folder / f"{name}.log",
            cwd=cwd,
            env=_environment(),
            limit_gib=self.limits.end_gib,
            limit_seconds=self.limits.end_seconds,
        )

    def _peer(self, *arguments: str) -> str:
        """Run a step that is not measured.

        Raises
        ------
        RuntimeError : it failed; the message is its last line.
        """
        log = ["--log", str(self.log.folder)] if arguments[0] != "digest" else []
        done = subprocess.run(
            [*_peers(), *arguments, *log], cwd=ROOT, env=_environment(), capture_output=True, text=True
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, no message (memory?)"]
            raise RuntimeError(f"benchmarks.data_peers {arguments[0]}: {said[-1]}")
        return done.stdout

    def _with_digest(self, reading: Reading, *arguments: str) -> Reading:
        """Add the digest of sequences, or the reason why there is none."""
        try:
            return replace(reading, digest=json.loads(self._peer("digest", *arguments)))
        except RuntimeError as error:
            return replace(reading, note=", ".join(filter(None, [reading.note, f"not compared: {error}"])))


def _peers() -> list[str]:
    return [sys.executable, "-m", "benchmarks.data_peers"]


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("SYNCREC_")}
    return own | {"PYTHONPATH": str(ROOT)}


def _not_run(why: str) -> Cost:
    return Cost(seconds=0, cpu_seconds=0, peak_gib=0, jvm_gib=0, python_gib=0, failed=why)


def _bytes(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern))
