"""study: from a log to a table. Trains SyNCRec with any settings and seeds, chooses on validation, tests once.

Shapes: E events of the log, M cases.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .architectures import build_model
from .blend_fit import cross_fitted_ranks
from .config import ModelConfig, TrainingConfig
from .evaluation import VIEWS
from .recommend import Recommender
from .saving import load_model, save_model
from .study_columns import StudyError
from .study_cut import read_study
from .study_data import StudyData
from .study_ranks import popularity_scores, rank_scores, rank_views
from .study_result import StudyResult, StudyRun
from .training import fit
from .views import choose_views

_FREE = ("seed", "threads", "device")  # may differ between the calls that fill one folder


class Cut(TypedDict, total=False):
    """How a log is read and cut: the arguments of `read_study`."""

    columns: Mapping[str, str] | None
    unit: str | None
    split: str
    domains: Sequence[str] | None
    core: int
    users: int | None
    repeats: Collection[str]


def study(
    log: str | Path | StudyData,
    *,
    preset: str = "default",
    settings: Mapping[str, Any] | None = None,
    seeds: int = 1,
    out: str | Path | None = None,
    progress: bool = True,
    **cut: Unpack[Cut],
) -> StudyResult:
    """Train SyNCRec on a log and measure it per domain beside popularity; `print` the result.

    log: a Parquet or CSV file, or what `read_study` made of one. preset: see `ModelConfig.preset`. settings: fields
    of ModelConfig and TrainingConfig that differ from it, {"correction": "bounded", "epochs": 5}. seeds: so many
    runs, from `seed` on; figures are their means. out: a folder for weights, table and JSON; a call that was killed
    goes on there after its last whole epoch. progress: say on stderr what is done. cut: as for `read_study`.

    Raises
    ------
    StudyError : the log cannot be studied, or the folder holds another study.
    ValueError : a setting is unknown or contradicts another.
    """
    if seeds < 1:
        raise StudyError(f"seeds = {seeds}: give a whole number, at least 1")
    model, training = configurations(preset, settings or {})
    if isinstance(log, StudyData):
        if cut:
            raise StudyError(f"study: {', '.join(cut)} belong to read_study, which made this data")
        data = log
    else:
        data = read_study(log, **cut)
    say = _teller(progress)
    cases = ", ".join(f"{count:,} {part} cases" for part, count in data.facts["cases"].items())
    say(f"{data.title()}; {cases}")
    items = zip(data.domains, data.vocabulary.n_items, strict=True)
    say(", ".join(f"{domain} {n_items:,} items" for domain, n_items in items))
    folder = None if out is None else Path(out)
    if folder is not None:
        _claim(folder, data, model, training)
    runs, recommender = [], None
    for number in range(seeds):
        config = dataclasses.replace(training, seed=training.seed + number)
        say(f"seed {config.seed}, {number + 1} of {seeds}{_left(folder, config.seed)}")
        run, made = _run(data, model, config, folder, progress)
        runs.append(run)
        recommender = recommender or made
    assert recommender is not None
    popularity = rank_scores(data, popularity_scores(data), name="popularity")
    result = StudyResult(data, preset, model, training, runs, popularity.ranks, recommender)
    if folder is not None:
        result.write(folder)
        say(f"wrote {folder}: table.md, result.json, and per seed the model")
        if others := _other_seeds(folder, runs):
            say(
                f"{folder} keeps seed {', '.join(map(str, others))} of earlier calls, too: not in this table. The "
                "same call with more --seeds takes them in, and trains none of them again"
            )
    return result


def configurations(preset: str, settings: Mapping[str, Any]) -> tuple[ModelConfig, TrainingConfig]:
    """Return the preset with settings of either record changed; texts are read as the field's type.

    Raises
    ------
    ValueError : an unknown preset or setting, or a value that does not fit.
    """
    known = {
        field.name: (kind, field.default)
        for kind in (ModelConfig, TrainingConfig)
        for field in dataclasses.fields(kind)
    }
    changed: dict[type, dict[str, Any]] = {ModelConfig: {}, TrainingConfig: {}}
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise StudyError(f"unknown setting {name!r}: {meant}settings are {', '.join(known)}")
        kind, default = known[name]
        changed[kind][name] = _typed(name, value, type(default)) if isinstance(value, str) else value
    model = dataclasses.replace(ModelConfig.preset(preset), **changed[ModelConfig])
    return model, TrainingConfig(**changed[TrainingConfig])


def _typed(name: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise StudyError(f"{name}={text}: give true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise StudyError(f"{name}={text}: give a {'whole ' * (kind is int)}number") from None


def _left(folder: Path | None, seed: int) -> str:
    """What an earlier call left of a seed, in words."""
    if folder is None:
        return ""
    own = folder / f"seed-{seed}"
    if (own / "ranks.safetensors").exists():
        return ": kept from before"
    return ": goes on after its last whole epoch" if (own / "checkpoint.safetensors").exists() else ""


def _other_seeds(folder: Path, runs: Sequence[StudyRun]) -> list[int]:
    """The later seeds that earlier calls finished and these runs leave out; more seeds would take them in."""
    names = [path.parent.name.removeprefix("seed-") for path in folder.glob("seed-*/ranks.safetensors")]
    return sorted(seed for seed in map(int, filter(str.isdecimal, names)) if seed > runs[-1].seed)


def _run(
    data: StudyData, model_config: ModelConfig, config: TrainingConfig, folder: Path | None, progress: bool
) -> tuple[StudyRun, Recommender]:
    """Train and rank one seed, or read what an earlier call found."""
    own = None if folder is None else folder / f"seed-{config.seed}"
    if own is not None and (own / "ranks.safetensors").exists():
        model, vocabulary, views, _ = load_model(own / "model")
        return _read_run(own / "ranks.safetensors"), Recommender(model, vocabulary, views)
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(model_config, data.domains, data.vocabulary.n_items)
    valid = data.case_sequences("valid", model_config.max_length)
    checkpoint = None if own is None else own / "checkpoint.safetensors"
    train = data.train_sequences(model_config.max_length)
    found = fit(model, train, valid, config, progress=progress, repeats=data.repeats, checkpoint=checkpoint)
    judged = cross_fitted_ranks(model, valid, VIEWS, data.repeats)
    user_M = data.user_E[data.cases("valid")][judged.user]  # the sequences have a row a case, not a user
    served = choose_views(dataclasses.replace(judged, user=user_M))
    ranks = rank_views(model, data).with_served(served).ranks
    seconds = time.perf_counter() - began
    run = StudyRun(config.seed, ranks, served, found.best_epoch, len(found.epochs), seconds, found.notes)
    if own is not None:
        metadata = {"study": run.facts(), "repeats": list(data.repeats)}
        save_model(own / "model", model, data.vocabulary, served, metadata)
        _write_run(own / "ranks.safetensors", run)
        (own / "checkpoint.safetensors").unlink(missing_ok=True)
    return run, Recommender(model, data.vocabulary, served)


def _write_run(path: Path, run: StudyRun) -> None:
    """Write at once: where the file is, the seed is done."""
    partial = path.with_name(path.name + ".partial")
    save_file(run.ranks, partial, metadata={"run": json.dumps(run.facts())})
    os.replace(partial, path)


def _read_run(path: Path) -> StudyRun:
    try:
        with safe_open(path, framework="np") as file:
            ranks = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return StudyRun(ranks=ranks, **json.loads(file.metadata()["run"]))
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise StudyError(f"{path} cannot be read ({error}): remove {path.parent} and call again") from None


def _claim(folder: Path, data: StudyData, model: ModelConfig, training: TrainingConfig) -> None:
    """Let a folder hold one study; raise StudyError where it holds another."""
    settings = model.to_dict() | {k: v for k, v in training.to_dict().items() if k not in _FREE}
    form = {"format": 1, "data": data.fingerprint(), "settings": settings}
    path = folder / "study.json"
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{folder} is a file: give --out a folder")
    if path.exists():
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            differing = [f"{name} = {held['settings'].get(name)!r}" for name in settings
                         if held["settings"].get(name) != settings[name]]  # fmt: skip
            other_data = held["data"] != form["data"]
        except (json.JSONDecodeError, KeyError, AttributeError):
            raise StudyError(f"{path} is not what a study writes: give another --out") from None
        if other_data or differing:
            what = (
                "of another log or cut (--domains, --repeats, --split, ...)"
                if other_data
                else f"with {', '.join(differing)}"
            )
            raise StudyError(f"{folder} holds a study {what}: give another --out, or the same settings to go on")
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(form, indent=2) + "\n", encoding="utf-8")


def _teller(shown: bool) -> Any:
    return (lambda line: print(line, file=sys.stderr, flush=True)) if shown else (lambda line: None)
