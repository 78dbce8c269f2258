"""Train tonight's challenger: SyNCRec on the night's sequences, logged to MLflow by epoch and domain.

The night's training stops before the validation window; validation chooses the epoch and the served view of each
domain; the test window is not touched. It starts from the champion where that fits, goes on from its last
checkpoint after a kill, and registers one version a night with the alias `challenger`. Under torchrun all ranks
train together (jobs/ranks.py).
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import mlflow

from jobs.backfill import Past, past_of
from jobs.command import Run, run_job
from jobs.errors import JobError, NothingToDo
from jobs.lakehouse import Lakehouse, code_version
from jobs.links import run_link, tell_links
from jobs.loaded_model import read_version
from jobs.model_settings import model_config, training_config
from jobs.night import Night
from jobs.ranks import Fit, together
from jobs.registry import CHALLENGER, CHAMPION, NOT_JUDGED, Registry, Version
from jobs.run_note import add_facts, version_link
from jobs.run_page import WHAT_TO_LOOK_AT, log_inputs, log_training
from jobs.sequence_sets import read_sequences, read_vocabulary
from jobs.settings import Settings
from jobs.splits import split_windows
from syncrec_model import (
    EpochReport,
    FitResult,
    ModelConfig,
    SequenceSet,
    SyNCRec,
    TrainingConfig,
    Vocabulary,
    build_model,
    cross_fitted_ranks,
    judge_views,
    save_model,
    warm_start,
)

log = logging.getLogger("syncrec")


def metric_name(name: str, domain: str = "") -> str:
    """The name of a metric in MLflow, which knows no '@': ndcg@10 of books is `ndcg_at_10/books`."""
    return name.replace("@", "_at_") + (f"/{domain}" if domain else "")


def _check_device(name: str) -> None:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise JobError(
            '[training] device = "cuda", but torch sees no CUDA GPU: give "auto" or "cpu", or install a CUDA build '
            "of torch (nvidia-smi shows the driver)"
        )


def usable_champion(champion: Version | None, ds: date) -> Version | None:
    """The champion to start from: only one that has seen nothing later than ds."""
    if champion is None or champion.tags.get("ds", "9999") > ds.isoformat():
        return None
    return champion


def train(run: Run) -> str:
    """Fit, choose, save, register; under torchrun on all ranks together."""
    return together(lambda fit: _train(run, fit))


def _train(run: Run, fit: Fit) -> str:
    settings, ds = run.settings, run.ds.isoformat()
    lakehouse = Lakehouse(settings)
    night = Night(run, lakehouse)
    registry = Registry(settings)
    then = past_of(lakehouse, run)
    if done := registry.of_night(ds, night.run_id):
        registry.link(done)  # a kill may have come before
        registry.supersede(done)
        if then is None:
            registry.challenge(done)
        return f"version {done.number} of this night is registered already"
    champion = registry.at_alias(CHAMPION) if then is None else None
    check_due(settings, champion, registry.at_alias(CHALLENGER), run.ds, then)
    vocabulary = read_vocabulary(lakehouse, night, run.ds, settings.domain_names)
    _, valid_window, _, _ = split_windows(run.cutoff, settings.sequences.valid_days, settings.sequences.test_days)
    train_set, valid_set = read_sequences(run, lakehouse, night, vocabulary, "train", "valid")
    n_cases = int(valid_set.cross_targets_UT.sum())
    log.info(
        "training on %d users, %d items in %d domains; %d validation cases",
        train_set.n_users, sum(vocabulary.n_items), len(vocabulary.domains), n_cases,
    )  # fmt: skip
    if n_cases < settings.training.min_cases:
        raise JobError(
            f"only {n_cases} validation cases from {valid_window.start:%Y-%m-%d} to {valid_window.cut:%Y-%m-%d} "
            f"(training.min_cases = {settings.training.min_cases}): "
            "lengthen sequences.valid_days or wait for events"
        )
    model, start = _initial_model(registry, usable_champion(champion, run.ds), model_config(settings), vocabulary)
    config = training_config(settings, warm=start != "cold")
    _check_device(config.device)
    if len(vocabulary.domains) == 1:
        log.warning(
            "one domain only (%s): no other one can help or hurt it, NTG says nothing", vocabulary.domains[0]
        )
    prepared = Prepared(
        run=run, lakehouse=lakehouse, night=night, registry=registry, model=model, start=start, config=config,
        vocabulary=vocabulary, train_set=train_set, valid_set=valid_set, then=then, champion=champion,
    )  # fmt: skip
    return _fit_and_register(prepared, fit)


def check_due(
    settings: Settings, champion: Version | None, newest: Version | None, ds: date, then: Past | None = None
) -> None:
    """Raise NothingToDo where the champion of a past night scores, or the challenger is younger than `every_days`.

    then: what the night's day lies before, in a backfill; without a champion on that day it is trained on.
    """
    if then is not None and then.champion is not None:
        raise NothingToDo(f"backfill: version {then.champion} was champion on {ds} and scores")
    if champion is None:
        return
    serving_since = date.fromisoformat(champion.tags.get("ds", "1970-01-01"))
    if serving_since > ds:
        raise NothingToDo(
            f"backfill: the champion is of {serving_since}; the version that was champion at {ds} scores"
        )
    every = settings.training.every_days
    trained = date.fromisoformat(newest.tags.get("ds", "1970-01-01")) if newest else serving_since
    if ds > trained and (ds - trained).days < every:
        raise NothingToDo(f"training.every_days = {every} and the newest version is of {trained}")


def _initial_model(
    registry: Registry, champion: Version | None, config: ModelConfig, vocabulary: Vocabulary
) -> tuple[SyNCRec, str]:
    """A fresh model, with the champion's weights where they fit; says which in words."""
    import torch

    torch.manual_seed(registry.settings.training.seed)
    model = build_model(config, vocabulary.domains, vocabulary.n_items)
    if champion is None or not registry.settings.training.warm_start:
        return model, "cold"
    try:
        older, older_vocabulary, _, _ = read_version(registry, champion.number)
        warm_start(model, vocabulary, older, older_vocabulary)  # new items keep the start that they were drawn
    except (JobError, ValueError) as error:
        log.info("cold start: the champion's weights do not fit: %s", error)
        return model, "cold"
    log.info("warm start from champion version %s", champion.number)
    return model, f"version {champion.number}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """All that a training needs. start: "cold", or the version whose weights it begins with; then: the past that
    the night lies in, None tonight; champion: who serves when training begins.
    """

    run: Run
    lakehouse: Lakehouse
    night: Night
    registry: Registry
    model: SyNCRec
    start: str
    config: TrainingConfig
    vocabulary: Vocabulary
    train_set: SequenceSet
    valid_set: SequenceSet
    then: Past | None
    champion: Version | None

    @property
    def trained_to(self) -> datetime:
        """The first moment that training does not see."""
        own = self.run.settings.sequences
        return split_windows(self.run.cutoff, own.valid_days, own.test_days)[0].cut


def _fit_and_register(prepared: Prepared, fit: Fit) -> str:
    run, night, registry, champion = prepared.run, prepared.night, prepared.registry, prepared.champion
    model, vocabulary, start, trained_to = prepared.model, prepared.vocabulary, prepared.start, prepared.trained_to
    settings, ds = run.settings, run.ds.isoformat()
    checkpoint = settings.state / "checkpoints" / f"{ds}-from-{start.replace(' ', '-')}"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    tags = {"ds": ds, "syncrec.run_id": night.run_id, "syncrec.code_version": code_version(), "start": start}
    parameters = _parameters(night, model, prepared.config, vocabulary, prepared.train_set)
    mlflow_run = registry.run_of_night(ds, night.run_id, parameters)
    registry.end_left(ds, mlflow_run)
    with mlflow.start_run(
        run_id=mlflow_run,
        experiment_id=registry.experiment_id,
        run_name=f"night {ds}",
        tags={**tags, "champion": champion.number if champion else "none"},
    ) as active:
        tell_links(run=run_link(settings, registry.experiment_id, active.info.run_id))
        mlflow.log_params(parameters)
        parts = {"training": prepared.train_set, "validation": prepared.valid_set}
        log_inputs(prepared.lakehouse, night.snapshot("sequences"), parts)
        add_facts(registry.client, active.info.run_id, _facts(prepared))
        log.info(
            "%s, %d epochs at most; an epoch's line ends in its seconds; whether a domain is hurt, "
            "evaluate says: the ntg of the loss may have another sign",
            began(start),
            prepared.config.epochs,
        )
        result = fit(
            model=model,
            train=prepared.train_set,
            valid=prepared.valid_set,
            config=prepared.config,
            on_epoch=_log_epoch,
            checkpoint=checkpoint,
            progress=sys.stderr.isatty(),
            repeats=[domain for domain in vocabulary.domains if domain in settings.repeating_domains],
        )
        for note in result.notes:
            log.warning("%s", note)
        log.info("%s", ending(result, prepared.config))
        for earlier in result.epochs[: result.resumed_after]:  # trained before a kill, perhaps in another run
            _log_metrics(earlier)
        log_training(model, result, prepared.valid_set)
        views, chosen = served_views(model, prepared.valid_set, settings.repeating_domains)
        metadata = _metadata(run, start, result, chosen, prepared.config.epochs)
        for domain, view in views.items():
            mlflow.set_tag(f"view.{domain}", view)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", model, vocabulary, views, metadata)
        version = registry.log_version(
            active.info.run_id,
            Path(folder) / "model",
            {**tags, "trained_to": trained_to.isoformat()},
            f"Trained on the night of {ds}: events before {trained_to:%Y-%m-%d}, {began(start)}, epoch "
            f"{result.best_epoch}.{NOT_JUDGED}",
            [{"item_id": vocabulary.item_ids[0][0], "domain": vocabulary.domains[0], "ts": 0}],
        )
    if prepared.then is None:  # a backfill moves no alias
        registry.challenge(version)
    checkpoint.unlink(missing_ok=True)
    role = "as challenger" if prepared.then is None else "for this past night alone"
    return f"version {version.number} registered {role} (epoch {result.best_epoch}, {began(start)})"


def began(start: str) -> str:
    """What training began from, in words; start: "cold", or "version 3"."""
    return "a cold start" if start == "cold" else f"started from {start}"


def ending(result: FitResult, config: TrainingConfig) -> str:
    """Why training ended, and which epoch is kept: a person who saw "epoch 9 of 30" asks."""
    last = len(result.epochs)
    early = result.stopped_early and last < config.epochs
    why = f"no better validation for {config.patience} epochs" if early else "all epochs are done"
    more = "; it is the last one allowed: more might be better, and say otherwise who is hurt"
    return (
        f"training ended after epoch {last} of at most {config.epochs}: {why}; epoch {result.best_epoch} is kept"
        f"{more if result.best_epoch == config.epochs else ''}"
    )


def _facts(prepared: Prepared) -> dict[str, str]:
    """What the note of the run says when training begins."""
    vocabulary, champion = prepared.vocabulary, prepared.champion
    begun = "new weights" if prepared.start == "cold" else f"the weights of {prepared.start}"
    data = (
        f"{prepared.train_set.n_users:,} users, {sum(vocabulary.n_items):,} items in {len(vocabulary.domains)} "
        f"domains ({', '.join(vocabulary.domains)}), events before {prepared.trained_to:%Y-%m-%d}; began with "
        f"{begun}"
    )
    serving = version_link(prepared.registry.name, champion.number) if champion else "none yet"
    return {"Champion then": serving, "Trained on": data, "Look at": WHAT_TO_LOOK_AT}


def served_views(
    model: SyNCRec, valid_set: SequenceSet, repeating: Collection[str]
) -> tuple[dict[str, str], dict[str, Any]]:
    """The view of each domain, and for the version's metadata what validation said of every view."""
    repeats = [domain for domain in valid_set.domains if domain in repeating]
    ranks = cross_fitted_ranks(model, valid_set, ("cross", "single", "blend"), repeats)
    judged = judge_views(ranks)
    views = {domain: choice.view for domain, choice in judged.items()}
    gains = {domain: "{:+.4f} [{:+.4f}, {:+.4f}]".format(*choice.gain) for domain, choice in judged.items()}
    told = ", ".join(f"{domain} {view} {gains[domain]}" for domain, view in views.items())
    log.info("served views, and what they gain over the single view in ndcg@10 on validation: %s", told)
    return views, {"cases": len(ranks), "views": {domain: choice.to_dict() for domain, choice in judged.items()}}


def _metadata(
    run: Run, start: str, result: FitResult, chosen: Mapping[str, Any], epochs_at_most: int
) -> dict[str, Any]:
    best = result.epochs[-1]
    for report in result.epochs:
        if report.epoch == result.best_epoch:
            best = report
    return {
        "ds": run.ds.isoformat(),
        "run_id": run.run_id,
        "code_version": code_version(),
        "start": start,
        "best_epoch": result.best_epoch,
        "epochs_at_most": epochs_at_most,
        "domains": {name: dict(values) for name, values in best.domains.items()},
        "repeats": sorted(run.settings.repeating_domains),
        "validation": dict(chosen),
    }


def _parameters(
    night: Night, model: SyNCRec, config: TrainingConfig, vocabulary: Vocabulary, train_set: SequenceSet
) -> dict[str, Any]:
    """What the run depends on: configuration, sizes, snapshots."""
    values: dict[str, Any] = {f"model.{k}": v for k, v in model.config.to_dict().items()}
    values |= {f"training.{k}": v for k, v in config.to_dict().items()}
    values |= {f"items.{d}": n for d, n in zip(vocabulary.domains, vocabulary.n_items, strict=True)}
    values |= {"users": train_set.n_users}
    for table in ("interactions", "items", "sequences"):
        values[f"snapshot.{table}"] = night.snapshot(table)
    return values


def _log_epoch(report: EpochReport) -> None:
    """One line for the person who watches, one step of every per-domain curve."""
    log.info("%s (%.1f s)", report.line(), report.seconds)
    _log_metrics(report)


def _log_metrics(report: EpochReport) -> None:
    values = {metric_name(name): value for name, value in report.totals.items()}
    values |= {"seconds": report.seconds, "users_per_s": report.users_per_s}
    for domain, metrics in report.domains.items():
        values |= {metric_name(name, domain): value for name, value in metrics.items()}
    mlflow.log_metrics({k: float(v) for k, v in values.items() if v == v}, step=report.epoch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(train, argv)


if __name__ == "__main__":
    raise SystemExit(main())
