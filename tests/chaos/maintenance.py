"""Maintenance beside nights that are killed: it removes what kills left, and nothing that anybody needs.

Maintenance spares whatever is young. So that hours need not pass, files are made to look old: as if a step were run
again a day after its kill.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from jobs.analytics import FILE as ANALYTICS
from jobs.lakehouse import NAMESPACE, Lakehouse
from jobs.maintenance_needs import local
from jobs.settings import Settings
from tests.chaos import contents
from tests.chaos.contents import Parts, Unreadable
from tests.chaos.kill import kill_tree
from tests.chaos.project import SECOND, Project

YOUNG_HOURS = 0.5
"""More than any step takes here, as the 48 hours of the default are more than any step takes."""
STRICT = {
    "SYNCREC_MAINTENANCE__YOUNG_HOURS": str(YOUNG_HOURS),
    "SYNCREC_MAINTENANCE__NIGHTS": "2",
    "SYNCREC_MAINTENANCE__SNAPSHOT_DAYS": "1",
}
"""As little as keeps what the two nights pin, so that it can be looked at."""
REWRITTEN = (ANALYTICS,)
"""Maintenance writes it anew, as the tables are at that moment; the report step would have done so later."""
DAY_SECONDS = 86_400
PAUSE = 2.0


@dataclass
class Maintained:
    """What maintenance did. removed: files that nothing referred to; left: those that it should have removed."""

    removed: int = 0
    left: int = 0
    faults: list[str] = field(default_factory=list)


class Maintenance:
    """jobs.maintain of a project."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self.project, self.settings = project, settings
        self.runs = self.kills = 0
        self.found = Maintained()
        self._turn, self._over = threading.Lock(), threading.Event()

    def age(self) -> None:
        """Let every file of the state look a day older."""
        for parent, _, names in os.walk(self.project.state):
            for name in names:
                with suppress(FileNotFoundError):
                    path = Path(parent, name)
                    seconds = path.stat().st_mtime - DAY_SECONDS
                    os.utime(path, (seconds, seconds))

    def strays(self) -> set[Path]:
        """The files below the tables' folders that no snapshot and no notes of a night refer to."""
        lakehouse = Lakehouse(self.settings)
        known: set[str] = set()
        for name in contents.present(lakehouse):
            table = lakehouse.table(name)
            known |= {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
            for snapshot in table.snapshots():
                known |= {snapshot.manifest_list, *lakehouse.files(name, snapshot.snapshot_id)}
                known |= {manifest.manifest_path for manifest in snapshot.manifests(table.io)}
        for notes in (lakehouse.warehouse / "_nights").glob("*/*.json"):
            known |= set(json.loads(notes.read_text()).get("recommendations_staged", ()))
        needed = {local(address) for address in known}
        there = {path for path in (lakehouse.warehouse / NAMESPACE).rglob("*") if path.is_file()}
        return {path for path in there - needed if not _beside(path, needed)}

    def once(self, wanted: Parts) -> Maintained:
        """Age everything, run maintenance, and see what went. wanted: the parts as they must still be."""
        self.age()
        before = self.strays()
        code, said, _ = self.project.run(self._command(), SECOND, "maintenance", STRICT)
        done = Maintained(len(before), len(self.strays()))
        if code != 0:
            done.faults.append(f"ended with {code}: {said.splitlines()[-1] if said else ''}")
        if done.left:
            done.faults.append(f"{done.left} files that nothing refers to were left")
        try:
            done.faults += contents.differences(contents.whole(self.settings), wanted, REWRITTEN)
        except Unreadable as error:
            done.faults.append(f"cannot be read: {error}")
        done.removed -= done.left
        return done

    @staticmethod
    def _command() -> list[str]:
        return [sys.executable, "-m", "jobs.maintain", f"--ds={SECOND}", "--run-id=maintenance"]

    # --- beside a night -----------------------------------------------------------------------------------

    @contextmanager
    def again_and_again(self, rng: random.Random) -> Iterator[Maintenance]:
        """Run maintenance in a loop beside what the block does; every third run is killed."""
        thread = threading.Thread(target=self._loop, args=(random.Random(rng.random()),))
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wait until no maintenance runs, and let none begin: a reader here has no day to read as real ones do."""
        with self._turn:
            yield

    def _loop(self, rng: random.Random) -> None:
        log, usual = self.project.home / "maintain.log", 5.0
        while not self._over.is_set():
            with self._turn:
                began, until = time.monotonic(), rng.uniform(0.3, 1.0) * usual if rng.random() < 1 / 3 else None
                process = self.project.start(self._command(), SECOND, log, "maintenance", STRICT)
                self.runs += 1
                while (code := process.poll()) is None:
                    if until is not None and time.monotonic() - began > until:
                        kill_tree(process)
                        self.kills += 1
                        break
                    time.sleep(0.05)
                if code == 0:
                    usual = time.monotonic() - began
                elif code is not None:
                    self.found.faults.append(f"ended with {code}: {log.read_text().splitlines()[-1]}")
            self._over.wait(PAUSE)


def _beside(path: Path, needed: set[Path]) -> bool:
    """What Spark writes beside files: their checksums stay with them; its marks of success are left by no kill."""
    checked = path.name[1:-4] if path.name.startswith(".") and path.suffix == ".crc" else path.name
    return checked == "_SUCCESS" or (checked != path.name and path.with_name(checked) in needed)
