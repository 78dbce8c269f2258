"""docs/scale.md: measured unit costs taken to 100 M users. `python -m benchmarks.scale`, `--check` compares.

Every unit cost is read from benchmarks/results/*.json; the formulae are in `costs_of`, the text in scale_page.py. A
unit that no recorded result has is None, and so is whatever needs it: the page says "not measured", never a guess.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import RESULTS, ROOT

PAGE = ROOT / "docs" / "scale.md"
GIB = 2**30
SIZE = "users100000.top20"  # of benchmarks.score_night: lists as long as the target's
Value = float | None
Figures = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The size that costs are taken to; what no benchmark can know is an assumption and stands here.

    events_a_user: kept history. new_share: of the events, a night; changed_share: of the users. top_n: rows of a
    list. keep_days: nights of recommendations kept. window_hours: for the build, and again for scoring.
    efficiency: of many machines against one. executor_cores: of one executor. epochs: of a warm-started training.
    """

    users: float = 100e6
    items: float = 10e6
    domains: int = 10
    events_a_user: float = 15
    new_share: float = 0.01
    changed_share: float = 0.05
    channels: int = 64
    top_n: int = 20
    keep_days: int = 90
    window_hours: float = 2
    efficiency: float = 0.7
    executor_cores: int = 4
    epochs: int = 4

    @property
    def events(self) -> float:
        """Of the whole history."""
        return self.users * self.events_a_user

    @property
    def new_events(self) -> float:
        """Of a night."""
        return self.events * self.new_share

    @property
    def list_rows(self) -> float:
        """Of recommendations, a night: those of users that did not change are written, too."""
        return self.users * self.domains * self.top_n


@dataclass(frozen=True, kw_only=True)
class Prices:
    """List prices in US dollars, assumed: see the page."""

    core_hour: float = 0.05
    gpu_hour: float = 4.0
    shared_gb_month: float = 0.30
    object_gb_month: float = 0.023


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One unit cost: its value (None: not measured), where it is from, and the command that measures it."""

    words: str
    value: Value
    unit: str
    source: str
    command: str


def known(formula: Callable[..., float], *values: Value) -> Value:
    """Apply a formula to values that are all known; None where one is not."""
    given = [value for value in values if value is not None]
    return formula(*given) if len(given) == len(values) else None


def read_figures(folder: Path = RESULTS) -> dict[str, Figures]:
    """Every results file's figures, by its name; a file that is not there has none."""
    files = {name: folder / f"{name}.json" for name in ("data", "score", "train")}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))["figures"] if file.exists() else {}
        for name, file in files.items()
    }


def units_of(found: Mapping[str, Figures]) -> dict[str, Unit]:
    """The unit costs, by key. Those of the data plane are of the largest log that was recorded."""
    data, score, train = (found[name] for name in ("data", "score", "train"))
    sizes = [float(hit[1]) for name in data if (hit := re.fullmatch(r"full\.([0-9.]+)m\.cpu_seconds", name))]
    size = max(sizes, default=50.0)
    full, night = f"full.{size:g}m", f"incremental.{size:g}m"
    million, new_million = size, size / 100  # the benchmark's night brings 1 % more

    def a_million(name: str, millions: float, factor: float = 1.0) -> Value:
        return known(lambda value: value * factor / millions, data.get(name))

    bench = f"make bench-data SIZES={size:g}"
    rank, spark = "make bench-score SIZES=1m", "make bench-score-night USERS=100000 TOP=20"
    rows = {
        "full_cpu": ("full build", a_million(f"{full}.cpu_seconds", million), "core-s a million events",
                     f"data.json {full}.cpu_seconds", bench),
        "full_shuffle": ("full build, shuffled", a_million(f"{full}.shuffle_gib", million * 1e6, GIB),
                         "bytes an event", f"data.json {full}.shuffle_gib", bench),
        "sequence_bytes": ("sequences, written", a_million(f"{full}.output_gib", million * 1e6, GIB),
                           "bytes an event", f"data.json {full}.output_gib", bench),
        "log_bytes": ("interactions, on disk", a_million(f"log.{size:g}m.gib", million * 1e6, GIB),
                      "bytes an event", f"data.json log.{size:g}m.gib", bench),
        "night_cpu": ("night of 1 % more", a_million(f"{night}.cpu_seconds", new_million),
                      "core-s a million new events", f"data.json {night}.cpu_seconds", bench),
        "night_shuffle": ("night of 1 % more, shuffled", a_million(f"{night}.shuffle_gib", new_million * 1e6, GIB),
                          "bytes a new event", f"data.json {night}.shuffle_gib", bench),
        "night_bytes": ("night of 1 % more, written", a_million(f"{night}.output_gib", new_million * 1e6, GIB),
                        "bytes a new event", f"data.json {night}.output_gib", bench),
        "rank_rate": ("ranking, 1 M items, 2 cores", score.get("rank.1m.users_per_s"), "users/s",
                      "score.json rank.1m.users_per_s", rank),
        "spark_overhead": ("the Spark job around it", score.get(f"{SIZE}.spark.overhead"), "of the ranking's time",
                           f"score.json {SIZE}.spark.overhead", spark),
        "list_bytes": ("recommendations, on disk", score.get(f"{SIZE}.spark.bytes_a_row"), "bytes a row",
                       f"score.json {SIZE}.spark.bytes_a_row", spark),
        "train_cpu": ("training, 1 M items, 2 cores", train.get("catalogue_1m.users_per_s"), "users/s",
                      "train.json catalogue_1m.users_per_s", "make bench-catalogue"),
        "train_small": ("training, 20,680 items, 2 cores", train.get("cpu.r64.a5.default.users_per_s"), "users/s",
                        "train.json cpu.r64.a5.default.users_per_s", "make bench-train SHAPES=r64.a5"),
        "train_gpu": ("training, 20,680 items, a GPU", train.get("gpu.r64.a5.default.users_per_s"), "users/s",
                      "train.json gpu.r64.a5.default.users_per_s", "make bench-train SHAPES=r64.a5 DEVICE=cuda"),
        "train_gib": ("training, 1 M items, peak", train.get("catalogue_1m.peak_gib"), "GiB",
                      "train.json catalogue_1m.peak_gib", "make bench-catalogue"),
    }  # fmt: skip
    return {
        key: Unit(words=words, value=value, unit=unit, source=source, command=command)
        for key, (words, value, unit, source, command) in rows.items()
    }


def costs_of(units: Mapping[str, Unit], target: Target, prices: Prices) -> dict[str, Value]:
    """What the target costs, by key; hours are core-hours or GPU-hours, bytes are GB (1e9), money is dollars."""
    u = {key: unit.value for key, unit in units.items()}
    t, p = target, prices
    found: dict[str, Value] = {}

    def put(key: str, formula: Callable[..., float], *values: Value) -> None:
        found[key] = known(formula, *values)

    put("full.hours", lambda cpu: cpu * t.events / 1e6 / 3600 / t.efficiency, u["full_cpu"])
    put("full.shuffle_gb", lambda own: own * t.events / 1e9, u["full_shuffle"])
    put("night.hours", lambda cpu: cpu * t.new_events / 1e6 / 3600 / t.efficiency, u["night_cpu"])
    put("night.shuffle_gb", lambda own: own * t.new_events / 1e9, u["night_shuffle"])
    # Users/s were measured on 2 cores with 1 M items: the product's work grows with the items.
    put("rank.core_s_a_user", lambda rate, more: 2 / rate * t.items / 1e6 * (1 + more), u["rank_rate"],
        u["spark_overhead"])  # fmt: skip
    each = found["rank.core_s_a_user"]
    put("score.hours_all", lambda s: s * t.users / 3600 / t.efficiency, each)
    put("score.hours", lambda s: s * t.users * t.changed_share / 3600 / t.efficiency, each)
    for key in ("full", "night", "score"):
        put(f"{key}.executors", lambda hours: max(1.0, -(-hours // (t.window_hours * t.executor_cores))),
            found[f"{key}.hours"])  # fmt: skip
    # Sampled softmax: a large catalogue slows a GPU as it slows a CPU. Twice the domains, twice the work.
    put("train.rate", lambda gpu, large, small: gpu * large / small * 5 / t.domains, u["train_gpu"], u["train_cpu"],
        u["train_small"])  # fmt: skip
    put("train.gpu_hours", lambda rate: t.users * t.epochs / rate / 3600, found["train.rate"])
    put("train.core_hours", lambda rate: 2 * t.users * t.epochs / (rate * 5 / t.domains) / 3600, u["train_cpu"])
    put("train.gib", lambda gib: gib * t.items / 1e6, u["train_gib"])
    put("vectors.gb", lambda items: items * t.channels * 4 / 1e9, t.items)
    put("model.gb", lambda gb: gb * 1.5, found["vectors.gb"])  # in bfloat16 again, for the first pass
    put("store.interactions_gb", lambda own: own * t.events / 1e9, u["log_bytes"])
    put("store.sequences_gb", lambda own, more: (own * t.events + more * t.new_events * 30) / 1e9,
        u["sequence_bytes"], u["night_bytes"])  # fmt: skip
    put("list.gb", lambda own: own * t.list_rows / 1e9, u["list_bytes"])
    put("store.lists_gb", lambda gb: gb * t.keep_days, found["list.gb"])
    parts = [found[f"store.{name}_gb"] for name in ("interactions", "sequences", "lists")]
    put("store.gb", lambda *own: sum(own), *parts)
    put("money.night", lambda *hours: sum(hours) * p.core_hour, found["night.hours"], found["score.hours"])
    put("money.full", lambda *hours: sum(hours) * p.core_hour, found["full.hours"], found["score.hours_all"])
    put("money.train", lambda hours: hours * p.gpu_hour, found["train.gpu_hours"])
    put("money.shared_month", lambda gb: gb * p.shared_gb_month, found["store.gb"])
    put("money.object_month", lambda gb: gb * p.object_gb_month, found["store.gb"])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; with --check say whether the one that is there is current."""
    from benchmarks.scale_page import page

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; end with 1 where the page is not current"
    )
    text = page(units_of(read_figures()), Target(), Prices())
    if not parser.parse_args(argv).check:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE}")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("error: docs/scale.md is not current: python -m benchmarks.scale", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
