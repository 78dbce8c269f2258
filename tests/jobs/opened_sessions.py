"""What a job asks of the Spark session that it opens; it gets the one that all tests share."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest


def opened_sessions(monkeypatch: pytest.MonkeyPatch, job: ModuleType) -> list[dict[str, Any]]:
    """The named arguments of each session that the job will open from now on, in order."""
    asked: list[dict[str, Any]] = []
    real = job.spark_session

    def watched(*arguments: Any, **named: Any) -> Any:
        asked.append(named)
        return real(*arguments, **named)

    monkeypatch.setattr(job, "spark_session", watched)
    return asked
