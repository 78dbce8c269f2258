"""Keep the figures of benchmarks in benchmarks/results/NAME.json, one file a topic, one part a command.

{"figures": {"cpu.r64.a5.vs_released": 12.3, ...},
 "parts": {"cpu.r64.a5": {"figures": [...], "commit": ..., "machine": ..., "date": ..., "command": ...,
                          "details": ...}}}
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def record(
    name: str, figures: Mapping[str, float], *, part: str, details: Any = None, folder: Path = RESULTS
) -> Path:
    """Write one part's figures into NAME.json; figures of other parts stay as they are.

    What this part wrote earlier is replaced as a whole, so that no figure outlives the run that gave it.

    Parameters
    ----------
    figures : flat names -> finite numbers.
    part : which run these figures come from, e.g. "cpu.r64.a5"; kept with commit, machine, date and command.
    details : anything JSON holds, e.g. the rows of the printed table.

    Raises
    ------
    ValueError : a figure is no finite number, or another part already owns its name.
    """
    for key, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"record {name!r}, part {part!r}: figure {key!r} is {value!r}; give a finite number")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two benchmarks may end at the same moment
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"figures": {}, "parts": {}}
        _merge(kept, dict(figures), part, details, path)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    return path


def _merge(kept: dict[str, Any], figures: dict[str, float], part: str, details: Any, path: Path) -> None:
    for other, entry in kept["parts"].items():
        taken = sorted(set(entry["figures"]) & set(figures)) if other != part else []
        if taken:
            raise ValueError(
                f"{path}: part {part!r} gives {', '.join(taken)}, which part {other!r} recorded; use other names, "
                f"or remove that part from the file first"
            )
    for stale in kept["parts"].get(part, {"figures": []})["figures"]:
        kept["figures"].pop(stale, None)
    kept["figures"] = dict(sorted({**kept["figures"], **figures}.items()))
    entry = {"figures": sorted(figures), **provenance()}
    kept["parts"] = dict(sorted({**kept["parts"], part: entry | ({"details": details} if details else {})}.items()))


def provenance() -> dict[str, str]:
    """Say where a figure comes from: commit (marked when files differed from it), machine, date, command."""
    return {
        "commit": commit(),
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command(sys.orig_argv),
    }


def commit() -> str:
    """Return the checked out commit, "-dirty" when tracked files other than results differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"
    return head + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def machine() -> str:
    """Name the processor, the cores this process may use, the memory, torch and a GPU where torch sees one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    words = [f"{_processor()}, {cores} cores, {gib:.0f} GiB, Python {platform.python_version()}"]
    with suppress(PackageNotFoundError):
        words.append(f"torch {version('torch')}")
    torch = sys.modules.get("torch")  # never worth loading it for this line
    if torch is not None and torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def _processor() -> str:
    """Return the model, with the instruction sets that matrix products depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    flags = found.get("flags", "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([found.get("model name", platform.machine()), *([f"({', '.join(wide)})"] if wide else [])])


def command(arguments: list[str]) -> str:
    """Return the command as one would type it: folders of this machine outside the repository by name alone."""
    shown = []
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        path = Path(value)
        if number == 0:
            value = "python"
        elif path.is_absolute():
            value = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        shown.append(flag + equals + value)
    return shlex.join(shown)
