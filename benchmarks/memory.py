"""The highest memory use of a process; imports nothing but the standard library, for any environment."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def resident_peak_gib() -> float:
    """Return the highest resident memory of this process so far."""
    try:  # getrusage of a child starts at its parent's peak; this line of /proc is the process's own
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) / 2**20
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
