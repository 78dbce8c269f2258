"""Which version of the code runs: every snapshot, model version and night says it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_code_version: str | None = None


def code_version() -> str:
    """The git commit of the code ('+dirty' with local changes), or SYNCREC_CODE_VERSION, or 'unknown'."""
    global _code_version
    if _code_version is None:
        _code_version = _read_code_version()
    return _code_version


def _read_code_version() -> str:
    if version := os.environ.get("SYNCREC_CODE_VERSION"):
        return version
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+dirty" if changed else "")
