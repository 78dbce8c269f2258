"""The prepared night that the tests of this folder hurt; `make chaos` and they share it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.nights import Chaos
from tests.chaos.project import STEPS


@pytest.fixture(scope="session")
def chaos() -> Chaos:
    """A night whose every step was run undisturbed; minutes, unless a call before has left it."""
    from tests.chaos.__main__ import HOME

    found = Chaos(Path(os.environ.get("SYNCREC_CHAOS_HOME") or HOME), seed=0)
    found.prepare(STEPS, lambda line: print(line, flush=True))
    return found
