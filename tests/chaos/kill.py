"""Run a step and kill its whole process tree: after some seconds, or at the n-th thing that it does to a file.

Linux tells what happens to files below a folder (inotify) as it happens, so a kill can be aimed: behind the last
byte of a staged file, at the new metadata of a table that the catalog does not know yet, in the middle of the
catalog's own transaction, inside the writing of a checkpoint.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CLOSED, MOVED, CREATED, DELETED = 0x8, 0x80, 0x100, 0x200  # of <sys/inotify.h>
IS_FOLDER, OVERFLOW, GONE = 0x40000000, 0x4000, 0x8000
WORDS = {CLOSED: "written", MOVED: "swapped in", CREATED: "begun", DELETED: "removed"}
ENDINGS = (
    ".db-journal", ".db", ".duckdb", ".partial", ".crc", ".parquet", ".metadata.json", ".json", ".avro", ".html",
    ".safetensors",
)  # fmt: skip
IGNORED = ("/spark/", "/landing/")  # scratch, input: nothing there is committed
_LOOK = 0.01  # seconds


@dataclass(frozen=True)
class Happening:
    """Something that happened to a file: a kind, e.g. 'warehouse/syncrec/items/metadata/*.json written', when."""

    kind: str
    seconds: float


@dataclass(frozen=True)
class Moment:
    """When to kill. seconds: after the start, or after the `place`-th happening of a kind where one is given."""

    seconds: float
    kind: str = ""
    place: int = 1

    def words(self) -> str:
        """The moment for a person."""
        if not self.kind:
            return f"after {self.seconds:.2f} s"
        return f"{1000 * self.seconds:.0f} ms after '{self.kind}' number {self.place}"


@dataclass(frozen=True)
class End:
    """How a run ended. code: None where it was killed. happenings: all that were seen."""

    code: int | None
    seconds: float
    happenings: tuple[Happening, ...]

    @property
    def killed(self) -> bool:
        """Whether the kill came before the end."""
        return self.code is None


def kind_of(path: str, mask: int) -> str:
    """What happened, without the parts of names that no two runs share: 'items/metadata/*.json written'."""
    folder, _, name = path.rpartition("/")
    folder = re.sub(r"[0-9a-f]{12,}|\d{4}-\d\d-\d\d|\d{2,}", "#", folder)
    folder = re.sub(r"(/data|/code)/.*", r"\1/#", folder)
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    return f"{folder}/*{ending} {WORDS[mask]}"


@dataclass
class Watch:
    """Says what happens below a folder; folders that are made meanwhile are watched, too."""

    root: Path
    _folders: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1: is this Linux?")
        for _ in self._add(str(self.root)):
            pass

    def close(self) -> None:
        """Watch no longer."""
        os.close(self.descriptor)

    def _add(self, folder: str) -> Iterator[str]:
        """Watch a folder and those below it; the files that are there already."""
        relative = folder.removeprefix(str(self.root))
        if any(part in f"{relative}/" for part in IGNORED):
            return
        number = self._libc.inotify_add_watch(self.descriptor, folder.encode(), CLOSED | MOVED | CREATED | DELETED)
        if number < 0:
            return  # it is gone again
        self._folders[number] = relative.lstrip("/")
        with suppress(FileNotFoundError):
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    yield from self._add(entry.path)
                else:
                    yield f"{self._folders[number]}/{entry.name}"

    def read(self, timeout: float) -> Iterator[str]:
        """What has happened, as kinds; waits so long for something to happen."""
        if not select.select([self.descriptor], [], [], timeout)[0]:
            return
        with suppress(BlockingIOError):
            data, place = os.read(self.descriptor, 1 << 20), 0
            while place < len(data):
                number, mask, _, length = struct.unpack_from("iIII", data, place)
                name = data[place + 16 : place + 16 + length].rstrip(b"\0").decode()
                place += 16 + length
                if mask & (OVERFLOW | GONE) or number not in self._folders:
                    continue
                path = f"{self._folders[number]}/{name}".lstrip("/")
                if not mask & IS_FOLDER:
                    yield kind_of(path, mask & ~IS_FOLDER)
                elif mask & CREATED:
                    yield from (kind_of(found, CREATED) for found in self._add(f"{self.root}/{path}"))


def tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and everything below it."""
    with suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return [root]


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process started in a session of its own, and everything below it, at one moment.

    The group is stopped first, in one call, so that nothing goes on while the rest of the tree is looked for.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGSTOP)
    with suppress(psutil.NoSuchProcess):
        root, dead = psutil.Process(process.pid), set[psutil.Process]()
        while fresh := [one for one in tree(root) if one not in dead]:
            for one in fresh:
                with suppress(psutil.NoSuchProcess):
                    one.suspend()
            dead.update(fresh)
        for one in dead:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs([one for one in dead if one.pid != process.pid], timeout=30)
    process.wait()


def watched(
    process: subprocess.Popen[bytes],
    root: Path,
    moment: Moment | None = None,
    act: Callable[[], None] | None = None,
    limit: float = 900,
) -> End:
    """Follow a process that was just started to its end or to the moment at which it is killed.

    Parameters
    ----------
    process
        Started in a session of its own.
    root
        The folder whose files are watched.
    moment
        When to kill; None: never.
    act
        What to do at that moment instead of killing; the process goes on.
    limit
        Seconds after which it is killed anyway.

    Raises
    ------
    TimeoutError
        It took longer than `limit`.
    """
    began, watch = time.monotonic(), Watch(root)
    happenings: list[Happening] = []
    seen = 0
    deadline = began + moment.seconds if moment and not moment.kind else None
    try:
        while True:
            for kind in watch.read(_LOOK):
                happenings.append(Happening(kind, time.monotonic() - began))
                if moment and moment.kind == kind:
                    seen += 1
                    if seen == moment.place:
                        deadline = time.monotonic() + moment.seconds
                        break
            now = time.monotonic()
            if deadline is not None and now >= deadline - _LOOK:
                time.sleep(max(0.0, deadline - now))
                if act is not None:
                    deadline = None
                    act()
                elif process.poll() is None:
                    kill_tree(process)
                    return End(None, time.monotonic() - began, tuple(happenings))
            if (code := process.poll()) is not None:
                return End(code, time.monotonic() - began, tuple(happenings))
            if now - began > limit:
                raise TimeoutError(f"not over after {limit:.0f} s")
    except BaseException:  # whoever ends the tool ends what it has started
        kill_tree(process)
        raise
    finally:
        watch.close()
