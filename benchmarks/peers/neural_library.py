"""Peers of other people's code: a model a domain or one of all, and for RecTools a worker in its own environment.

The worker reads job.json, log.npz and cases.npz of every model's folder, trains, and writes result.npz and
result.json. Histories and items come back as vectors whose product is the score; two further channels carry what
such a model cannot score: items that it never saw (UNKNOWN), and histories without an event that it knows (the
logarithm of the training count).

Shapes: E events, M cases, R cases of one model, V items of one model, C channels.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from benchmarks.peers.neural_rows import Catalogue, case_rows, training_log
from benchmarks.peers.neural_validation import domain_cases, write_cases
from benchmarks.peers.neural_views import product_view
from benchmarks.quality.data import PARTS, Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, PeerAbsent, View

BENCH_PYTHON = Path(__file__).parents[2] / ".venv" / "bench" / "bin" / "python"
FORMS = ("single", "all", "mixed")
# As sasrec.py: a model of few rows needs small steps, or patience, which counts epochs, ends it unlearned.
BATCH_SIZES = {"single": 32, "all": 128, "mixed": 64}
MIXED_NOTE = "One softmax over the items of all domains: its scores compare items of different domains too."
COLD_NOTE = "Histories without a known item take popularity; items that training never shows come last."


class Trained(NamedTuple):
    """One model. histories: per part the vectors of its cases' histories [R, C]; items_VC: of its items; figures:
    parameters, train_s, and what validation chose.
    """

    histories: dict[str, Array]
    items_VC: Array
    figures: dict[str, Any]


class DomainsPeer(Peer):
    """A sequential model in three forms. single: a model a domain, of the benchmark's users; all: outside users and
    their items too; mixed: one model of all domains. A subclass trains one model of some domains.
    """

    slow = True
    family: ClassVar[str]
    grid: ClassVar[Sequence[Mapping[str, Any]]]

    def __init__(self, form: str) -> None:
        if form not in FORMS:
            raise ValueError(f"{self.family} form {form!r}: choose one of {', '.join(FORMS)}")
        self.name = f"{self.family}.{form}"
        self.form = form
        self.search = [{**settings, "batch_size": BATCH_SIZES[form]} for settings in self.grid]
        self.kind = "multi-domain" if form == "mixed" else "single-domain"

    def train(
        self,
        data: QualityData,
        catalogues: Sequence[Catalogue],
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
    ) -> list[Trained]:
        """Train one model a catalogue."""
        raise NotImplementedError

    def notes(self) -> Sequence[str]:
        """Return what a reader must know, beside what all forms share."""
        return ()

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Train every model and put their vectors together."""
        codes = tuple(range(1, len(data.domains) + 1))
        models = [codes] if self.form == "mixed" else [(code,) for code in codes]
        catalogues = [Catalogue.of(data, own, outside_items=self.form == "all") for own in models]
        trained = self.train(data, catalogues, settings, seed, budget, folder)
        items = _items(catalogues, trained)
        channels = trained[0].items_VC.shape[1]
        vectors = {part: np.zeros((len(data.cases[part]), channels), dtype=np.float32) for part in PARTS}
        for catalogue, model in zip(catalogues, trained, strict=True):
            for part in PARTS:
                index, _ = case_rows(data, part, catalogue, 1)
                vectors[part][index] = model.histories[part]
        names = ["+".join(data.domains[code - 1] for code in own) for own in models]
        chosen = {name: model.figures["chosen"] for name, model in zip(names, trained, strict=True)}
        parameters = sum(model.figures["parameters"] for model in trained)
        train_s = sum(model.figures["train_s"] for model in trained)
        mixed = self.form == "mixed"
        view = product_view(data, vectors, items, comparable=mixed)
        notes = [*self.notes(), COLD_NOTE, *([MIXED_NOTE] if mixed else [])]
        return Fitted({"": view}, parameters, train_s, chosen, notes)


class LibraryPeer(DomainsPeer):
    """A RecTools model, trained by neural_rectools_worker.py in .venv/bench. model: a class of rectools.models."""

    source = "RecTools 0.19"
    model: ClassVar[str]
    python = BENCH_PYTHON

    def train(
        self,
        data: QualityData,
        catalogues: Sequence[Catalogue],
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
    ) -> list[Trained]:
        """Run one worker for all models.

        Raises
        ------
        PeerAbsent : the library's environment is not there.
        RuntimeError : the worker failed; the message ends with its last words.
        """
        if not self.python.is_file():
            raise PeerAbsent(f"{self.python} is absent: `make bench-train` builds the environment of RecTools")
        folders = [folder / f"model{catalogue.codes[0]}" for catalogue in catalogues]
        for catalogue, own in zip(catalogues, folders, strict=True):
            own.mkdir(parents=True, exist_ok=True)
            self._write(data, catalogue, settings, seed, budget, own)
        _work(self.python, folders, budget.threads)
        return [_read(own) for own in folders]

    def _write(
        self,
        data: QualityData,
        catalogue: Catalogue,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
    ) -> None:
        length = int(settings.get("session_max_len", 50))
        log = training_log(data, catalogue, outside=self.form == "all")
        arrays: dict[str, Any] = {"user_E": log.user_E, "item_E": log.stacked_E}
        for part in PARTS:
            _, rows = case_rows(data, part, catalogue, length)
            arrays[f"{part}_items"] = rows.log.stacked_E
            arrays |= {f"{part}_first": rows.first_R, f"{part}_end": rows.end_R}
        np.savez(folder / "log.npz", **arrays)
        write_cases(folder / "cases.npz", _by_row(data, catalogue))
        job = {
            "model": self.model, "settings": {"session_max_len": length, **settings},
            "seed": seed, "sizes": catalogue.sizes, "ranked": catalogue.ranked, "epochs": budget.epochs,
            "patience": budget.patience, "threads": budget.threads, "device": budget.device,
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def _items(catalogues: Sequence[Catalogue], trained: Sequence[Trained]) -> dict[int, Array]:
    """Return the candidates' vectors by domain code, [V_d, C]."""
    found: dict[int, Array] = {}
    for catalogue, model in zip(catalogues, trained, strict=True):
        starts = np.cumsum([0, *catalogue.sizes])
        for code, start, ranked in zip(catalogue.codes, starts, catalogue.ranked, strict=False):
            found[code] = model.items_VC[start : start + ranked]
    return found


def _read(folder: Path) -> Trained:
    with np.load(folder / "result.npz") as found:
        histories = {part: found[part] for part in PARTS}
        return Trained(histories, found["items"], json.loads((folder / "result.json").read_text(encoding="utf-8")))


def _by_row(data: QualityData, catalogue: Catalogue) -> dict[int, Any]:
    """Return the validation cases by the domain's number in the model; index_m: places among the model's cases."""
    index, _ = case_rows(data, "valid", catalogue, 1)
    found = {}
    for number, code in enumerate(catalogue.codes, start=1):
        cases = domain_cases(data, code)
        found[number] = type(cases)(
            np.searchsorted(index, cases.index_m), cases.target_m, cases.case_s, cases.item_s
        )
    return found


def _work(python: Path, folders: Sequence[Path], threads: int) -> None:
    # -P: the folder of the worker, where peers are named after libraries, stays out of its imports.
    worker = Path(__file__).with_name("neural_rectools_worker.py")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
    command = [str(python), "-P", str(worker), *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"the worker of RecTools ended with {done.returncode}: {last}")
