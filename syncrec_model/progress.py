"""The progress bar: where the run is, and per domain the losses and the negative transfer gap."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from .reports import EpochReport, EpochSums

_LEGEND = "cross/single loss, ntg"
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"
_IN_A_LOG = "{desc} {percentage:3.0f}% {n_fmt}/{total_fmt} {elapsed}<{remaining}"


def short_names(domains: Sequence[str], length: int = 10) -> list[str]:
    """Return the names cut to the length and still all different; a first word that all share ("amazon_") goes."""
    beginnings = {domain[: domain.find("_") + 1] for domain in domains}
    shared = len(beginnings.pop()) if len(beginnings) == 1 and len(domains) > 1 else 0
    names = [domain[shared:][:length] for domain in domains]
    if len(set(names)) < len(names):
        names = [f"{code}:{name}"[:length] for code, name in enumerate(names, start=1)]
    return names


def domain_lines(domains: Mapping[str, Mapping[str, float]], columns: int = 100) -> list[str]:
    """Return the losses and NTG of all domains as lines no longer than `columns`.

    domains: as in EpochReport. Fields are equally wide, so that figures stand below each other.
    """
    fields = [
        f"{name} {figures['loss_cross']:.2f}/{figures['loss_single']:.2f} {figures['ntg_loss']:+.3f}"
        for name, figures in zip(short_names(list(domains)), domains.values(), strict=True)
    ]
    width = max(map(len, fields))
    fields = [_LEGEND.ljust(width), *(field.ljust(width) for field in fields)]
    per_line = max(1, (columns + 2) // (max(map(len, fields)) + 2))
    return ["  ".join(fields[at : at + per_line]).rstrip() for at in range(0, len(fields), per_line)]


class _Lines:
    """Makes lines of a bar that would write over itself: a log file keeps everything, at any width."""

    def __init__(self) -> None:
        self.last = ""

    def write(self, text: str) -> None:
        text = text.strip()
        if text and text != self.last:
            self.last = text
            print(text, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


class ProgressBar:
    """A bar over all batches; in a terminal the lines below it show the epoch in work.

    In a log file it writes a line now and then, not ten a second, and a line of figures after each epoch.
    """

    def __init__(self, *, epochs: int, steps_per_epoch: int, done: int, shown: bool) -> None:
        self.epochs, self.done = epochs, done
        self.shown, self.in_terminal = shown, shown and sys.stderr.isatty()
        self.columns = min(shutil.get_terminal_size((100, 24)).columns, 160) if self.in_terminal else 1000
        self.bar: Any = tqdm(
            total=epochs * steps_per_epoch,
            initial=done * steps_per_epoch,
            desc=self._place(),
            bar_format=_BAR if self.in_terminal else _IN_A_LOG,
            ncols=self.columns,
            file=sys.stderr if self.in_terminal else _Lines(),
            disable=not shown,
            mininterval=0.5 if self.in_terminal else 15,
        )
        self.lines: list[Any] = []
        self.next_look = time.monotonic()
        self.last = ""

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for line in reversed(self.lines):
            line.close()
        self.bar.close()
        for line in self.lines:  # closing wiped them; what the run ended with stays to be read
            print(line.desc, file=sys.stderr)

    def step(self, sums: EpochSums) -> None:
        """Count one batch; once a second show the epoch's figures so far (of this rank)."""
        if self.in_terminal and time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + 1
            domains, totals = sums.figures(all_ranks=False)
            self._show(domains, f"loss {totals['loss']:.3f}")
        self.bar.update()

    def epoch(self, report: EpochReport) -> None:
        """Show a finished epoch."""
        self.done = report.epoch
        self.last = report.quality()
        if self.in_terminal:
            self._show(report.domains, f"loss {report.totals['loss']:.3f}")
        elif self.shown:
            print(report.line(), file=sys.stderr, flush=True)
        self.bar.set_description_str(self._place(), refresh=False)

    def _place(self) -> str:
        return f"epoch {min(self.done + 1, self.epochs)}/{self.epochs}"

    def _show(self, domains: Mapping[str, Mapping[str, float]], loss: str) -> None:
        self.bar.set_postfix_str(", ".join(filter(None, [loss, self.last])), refresh=False)
        lines = domain_lines(domains, self.columns)
        while len(self.lines) < len(lines):
            place = len(self.lines) + 1
            self.lines.append(tqdm(total=0, bar_format="{desc}", position=place, leave=False, ncols=self.columns))
        for line, text in zip(self.lines, lines, strict=False):
            line.set_description_str(text)
