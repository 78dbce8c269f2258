"""Read the event log of a Spark application: bytes shuffled, spilled and written, time in the collector.

`OPTIONS` makes Spark write the log, as plain JSON lines into one file an application.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OPTIONS = {
    "spark.eventLog.enabled": "true",
    "spark.eventLog.compress": "false",
    "spark.eventLog.rolling.enabled": "false",
}


@dataclass(frozen=True, kw_only=True)
class SparkWork:
    """Sums over all tasks of an application; shuffles: stages that wrote one."""

    shuffle_bytes: int
    shuffles: int
    spilled_bytes: int
    output_bytes: int
    collector_seconds: float
    task_seconds: float
    longest_task: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def options(folder: Path) -> dict[str, str]:
    """The [spark] options that make an application keep its events in a folder, which must exist."""
    return {**OPTIONS, "spark.eventLog.dir": folder.resolve().as_uri()}


def read_events(folder: Path) -> SparkWork:
    """Add up the tasks of all applications in the folder."""
    metrics = list(_tasks(folder))
    shuffled = [(stage, own["Shuffle Write Metrics"]["Shuffle Bytes Written"]) for stage, own in metrics]
    seconds = [own["Executor Run Time"] / 1e3 for _, own in metrics]
    return SparkWork(
        shuffle_bytes=sum(written for _, written in shuffled),
        shuffles=len({stage for stage, written in shuffled if written}),
        spilled_bytes=sum(own["Disk Bytes Spilled"] for _, own in metrics),
        output_bytes=sum(own["Output Metrics"]["Bytes Written"] for _, own in metrics),
        collector_seconds=sum(own["JVM GC Time"] for _, own in metrics) / 1e3,
        task_seconds=sum(seconds),
        longest_task=max(seconds, default=0.0),
    )


def _tasks(folder: Path) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """The stage and the metrics of every task that ended well."""
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith('{"Event":"SparkListenerTaskEnd"'):
                    event = json.loads(line)
                    if event.get("Task Metrics") and event["Task End Reason"]["Reason"] == "Success":
                        yield (file.name, event["Stage ID"]), event["Task Metrics"]
