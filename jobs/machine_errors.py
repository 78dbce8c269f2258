"""Errors of the machine that a person can mend: a full disk, a service that does not answer, said in one line.

The same cause comes in many forms: Python's OSError, Spark's Java trace, SQLite's and PostgreSQL's words. All
become one answer.
"""

from __future__ import annotations

import re
from pathlib import Path
from traceback import walk_tb

_PATH = re.compile(r"(?<![\w.:/])(/[^\s'\":,;()\[\]]{2,})")
_MKDIRS = re.compile(r"Mkdirs failed to create (?:file:)?(/[^\s;,)]+)")
_FULL = ("No space left on device", "disk is full", "Disk quota exceeded")
_MEMORY = ("java.lang.OutOfMemoryError", "Cannot allocate memory", "not enough memory")
_READ_ONLY = ("Read-only file system", "readonly database")
_LOCKED = ("database is locked",)
_JAVA = ("Py4JNetworkError", "connect to the Java server", "Answer from Java side is empty")
_SILENT = (
    "Connection refused",
    "Connection reset by peer",
    "Connection aborted",
    "Max retries exceeded with url",
    "Remote end closed connection",
    "server closed the connection unexpectedly",
    "the database system is shutting down",
    "the database system is starting up",
    "terminating connection due to administrator command",
    "could not translate host name",
)
_ADDRESS = re.compile(
    r"host='(?P<host>[^']+)', port=(?P<port>\d+)"
    r"|server (?:at|on) \"(?P<name>[^\"]+)\"[^,]*, port (?P<number>\d+)"
    r"|(?P<url>https?://[^/\s'\"]+)"
)


def machine_trouble(error: BaseException) -> str | None:
    """What is wrong with the machine and what to do, in one line; None where it is something else."""
    said = _chain(error)
    if any(words in said for words in _FULL):
        return (
            f"the disk is full{_at(said)}: make room (docs/runbook.md, 'The disk is full'), then run this again; "
            "nothing was damaged"
        )
    if any(words in said for words in _READ_ONLY):
        return f"the disk is mounted read only{_at(said)}: mount it for writing, then run this again"
    if found := _MKDIRS.search(said):
        return f"cannot write to {found[1]}: look at its owner and permissions, then run this again"
    if "Permission denied" in said or "Operation not permitted" in said:
        return f"no permission{_at(said)}: run this as the user who owns it, or change its owner (chown)"
    is_silent = any(words in said for words in _SILENT)
    if any(words in said for words in _JAVA) or (is_silent and _through_py4j(error)):
        return (
            "Spark's Java process ended (killed, or out of memory? see dmesg): lower [spark] driver_memory if the "
            "machine has less, then run this again; nothing was damaged"
        )
    if any(words in said for words in _LOCKED):
        return (
            "another process keeps the SQLite database locked: run this again when it has ended; several at once "
            "need PostgreSQL (docs/deploy.md)"
        )
    if is_silent:
        return (
            f"a service does not answer{_service(said)}: start it, or wait until it is up, then run this again; "
            "nothing was damaged"
        )
    if isinstance(error, MemoryError) or any(words in said for words in _MEMORY):
        return (
            "memory ran out: close other programs, raise [spark] driver_memory if Java says so, or give the "
            "machine more; then run this again"
        )
    return None


def cause_of(error: BaseException) -> str:
    """What a person reads of an error of a library: the machine's trouble where it is one, else its own words."""
    return machine_trouble(error) or str(error)


def _chain(error: BaseException) -> str:
    """The texts of an error and of those that it came from."""
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(texts) < 10:
        texts.append(f"{type(seen).__name__}: {seen}")
        if isinstance(seen, OSError) and seen.filename:
            texts[-1] = f"{seen.strerror}: '{seen.filename}'"
        seen = seen.__cause__ or seen.__context__
    return "\n".join(texts)


def _through_py4j(error: BaseException) -> bool:
    """Whether an error came out of the connection to Spark's Java: it speaks of sockets like any other."""
    frames = walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).startswith("py4j.") for frame, _ in frames)


def _service(said: str) -> str:
    """The first address in the text, without user and password."""
    if not (found := _ADDRESS.search(said)):
        return ""
    if found["url"]:
        return f" at {found['url'].rpartition('@')[2]}"
    return f" at {found['host'] or found['name']}:{found['port'] or found['number']}"


def _at(said: str) -> str:
    """The first path in the text that is one, and no source file: traces are full of those and of what looks so."""
    for found in _PATH.finditer(said):
        if found[1].endswith((".py", ".pyx")):
            continue
        if Path(found[1]).parent.is_dir() and Path(found[1]).parent != Path("/"):
            return f" at {found[1]}"
    return ""
