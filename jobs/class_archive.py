"""Spark's classes, read and checked once and kept for the JVM to map: every Spark job starts some seconds sooner.

    python -m jobs.class_archive          `make setup` and the images do it; nothing is done where it is there

A rehearsal runs two small nights of `ingest` and `build_sequences`; at its end the JVM writes the classes that it
has loaded into an archive (class data sharing, JEP 350). It lies beside the environment that holds Spark, under a
name made of the JVM's and Spark's version. Jobs only read it, and none depends on it: what is missing, damaged or
of other jars is passed over. Executors of a cluster do without.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyspark

from jobs.errors import JobError

FOLDER = Path(sys.prefix) / "spark-classes"
FIRST = date(2024, 1, 1)
USERS, EVENTS = 20, 10
LIMIT_SECONDS = 900
"""Of a rehearsal; a quiet machine needs half a minute."""
QUIET = ("-Xlog:disable", "-Xlog:all=error:stderr")
"""The JVM warns on stdout where it passes an archive over; that is no news to whoever runs a job."""


def key_of(java: str, version: str) -> str:
    """Name a JVM and the Spark of this environment.

    Parameters
    ----------
    java : the program.
    version : what `java -version` says.
    """
    said = [line for line in version.splitlines() if "JDK_JAVA_OPTIONS" not in line and "Picked up" not in line]
    parts = [str(Path(java).resolve()), *said, pyspark.__version__, str(Path(pyspark.__file__).resolve().parent)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def find_archive(key: str) -> Path | None:
    """Return the archive under this name whose content is the one that was written, None where there is none."""
    for archive in sorted(FOLDER.glob(f"{key}-*.jsa")):
        with suppress(OSError):
            if archive == _place(key, archive):
                return archive
    return None


def archive_options(java: str, version: str) -> list[str]:
    """Return the options with which the JVM maps the archive; none where there is none, or one that is damaged.

    `-Xshare:auto`: the JVM passes over what is not of its own version and of the same jars. A file that is cut off
    or damaged would end it, so its checksum is looked at here (0.07 s for 176 MB).
    """
    archive = find_archive(key_of(java, version))
    return [] if archive is None else ["-Xshare:auto", f"-XX:SharedArchiveFile={archive}", *QUIET]


def put_in_place(partial: Path, key: str) -> Path:
    """Move a whole archive to where jobs look for it, and remove those of a JVM or a Spark that was here before.

    Its checksum is in its name, so that there is no moment at which the two differ, whoever else does the same.
    """
    archive = _place(key, partial)
    os.replace(partial, archive)
    for other in FOLDER.glob("*.jsa"):  # who has mapped one keeps it
        if other != archive:
            other.unlink(missing_ok=True)
    return archive


def _place(key: str, archive: Path) -> Path:
    checksum = 0
    with archive.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return FOLDER / f"{key}-{checksum:08x}.jsa"


def make(key: str) -> Path:
    """Rehearse in a process of its own and put its archive in place; several at once are fine, the last one stays.

    Raises
    ------
    JobError
        The folder cannot be written, or the rehearsal failed.
    """
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(dir=FOLDER, prefix="making-", ignore_cleanup_errors=True)
    except OSError as error:
        raise JobError(f"{FOLDER} cannot be written ({error.strerror}): Spark jobs start slower") from error
    with holder as folder:
        partial = Path(folder) / "classes.jsa"
        command = [sys.executable, "-m", "jobs.class_archive", "--rehearse", folder]
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SYNCREC_", "JDK_JAVA"))}
        try:  # the JVM outlives the rehearsal while it writes; it holds the pipe, so this waits for both
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                env=own,
                cwd=Path(__file__).parents[1],
            )
        except subprocess.TimeoutExpired as error:
            raise JobError(f"the rehearsal took more than {LIMIT_SECONDS} s: Spark jobs start slower") from error
        if done.returncode or not partial.is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
            raise JobError(f"no archive was made: {said}: Spark jobs start slower")
        return put_in_place(partial, key)


def rehearse(folder: Path) -> None:
    """Run two small nights in one Spark session whose JVM archives its classes when it ends."""
    from jobs.build_sequences import build
    from jobs.command import Run
    from jobs.ingest import ingest
    from jobs.settings import Settings
    from jobs.spark import spark_session

    columns = {"user": "user", "item": "item", "time": "time", "time_unit": "s"}
    kinds = {"books": "csv", "toys": "jsonl"}
    dump = f"-XX:ArchiveClassesAtExit={folder / 'classes.jsa'}"
    settings = Settings(
        state_dir=folder / "state",
        night={"bootstrap_through": FIRST},
        landing={"marker": ""},
        domains={name: {} for name in kinds},
        sources=tuple(
            {"name": name, "domain": name, "files": f"{name}.{kind}", "format": kind, "header": kind == "csv"}
            | columns
            for name, kind in kinds.items()
        ),
        sequences={"max_length": 8, "valid_days": 1, "test_days": 1},
        spark={"driver_memory": "1g", "java_options": f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC {dump}"},
    )
    nights = [FIRST, FIRST + timedelta(days=1)]
    with spark_session(settings, "rehearsal"):
        for ds in nights:
            _write_landing(settings.landing_path / ds.isoformat(), ds)
            for job in (ingest, build):
                own = argparse.Namespace(since=None, full=False)
                job(Run(ds=ds, run_id="rehearsal", settings=settings, arguments=own))


def _write_landing(folder: Path, ds: date) -> None:
    folder.mkdir(parents=True)
    noon = datetime(ds.year, ds.month, ds.day, 12, tzinfo=UTC)
    events = [
        {"user": f"u{user}", "item": f"i{(user * 7 + n) % 23}", "time": int(noon.timestamp()) + n}
        for user in range(USERS)
        for n in range(EVENTS)
    ]
    lines = ["user,item,time", *(",".join(map(str, event.values())) for event in events)]
    (folder / "books.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "toys.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Make the archive of this JVM and Spark unless it is there."""
    from jobs.spark import find_java

    parser = argparse.ArgumentParser(
        prog="python -m jobs.class_archive", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--anew", action="store_true", help="make it also where it is there")
    parser.add_argument("--rehearse", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    try:
        if a.rehearse:
            rehearse(a.rehearse)
            return 0
        key = key_of(*find_java())
        if find_archive(key) and not a.anew:
            return 0
        began = time.monotonic()
        archive = make(key)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {archive} ({archive.stat().st_size / 1e6:.0f} MB, {time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
