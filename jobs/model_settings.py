"""The model's and the training's configuration, from `[model]`, `[sequences]` and `[training]`.

`check_options` is asked before a night begins: what training would refuse must not cost a night its model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from jobs.command import log
from jobs.errors import JobError
from jobs.settings import Settings

if TYPE_CHECKING:  # importing it takes seconds, which most jobs need not wait
    from syncrec_model import ModelConfig, TrainingConfig


def model_config(settings: Settings) -> ModelConfig:
    """The model's configuration from `[model]` and `[sequences]`.

    Raises
    ------
    JobError
        A value is unknown or contradicts another.
    """
    from syncrec_model import ModelConfig

    own = {"channels": settings.model.channels, "max_length": settings.sequences.max_length}
    places = {"channels": "[model] channels", "max_length": "[sequences] max_length"}
    options = _options("model", settings.model.options, places, ModelConfig)
    try:
        preset = ModelConfig.preset(settings.model.preset)
        return ModelConfig.from_dict({**preset.to_dict(), **own, **options})
    except (TypeError, ValueError) as error:
        raise JobError(f"[model] {error}") from None


def training_config(settings: Settings, warm: bool) -> TrainingConfig:
    """The training configuration from `[training]`; fewer epochs when starting from the champion.

    Raises
    ------
    JobError
        A value is unknown or contradicts another.
    """
    from syncrec_model import TrainingConfig

    training = settings.training
    names = ("epochs", "batch_size", "learning_rate", "seed", "threads", "device")
    places = {name: f"[training] {name}" for name in names}
    options = _options("training", training.options, places, TrainingConfig)
    own = {name: getattr(training, name) for name in names}
    try:
        return TrainingConfig.from_dict(
            {**own, "epochs": training.warm_epochs if warm else training.epochs, **options}
        )
    except (TypeError, ValueError) as error:
        raise JobError(f"[training] {error}") from None


def check_options(settings: Settings) -> None:
    """Refuse what training would refuse, and say it where a project has one domain.

    Without options nothing can be wrong that the settings let through.

    Raises
    ------
    JobError
        A value is unknown or contradicts another.
    """
    if len(settings.domain_names) == 1:
        log.warning("warning: only [domains.%s]: one domain has no other to learn from", settings.domain_names[0])
    if settings.model.options or settings.training.options:
        model_config(settings)
        training_config(settings, warm=False)


def _options(section: str, options: Mapping[str, Any], places: Mapping[str, str], kind: type) -> Mapping[str, Any]:
    """The options of a section; a setting that has a place of its own is refused: two values could differ."""
    known = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name in places:
            raise JobError(f"[{section}.options] {name}: give it as {places[name]} instead")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted({*known} - {*places}))}"
            raise JobError(f"[{section}.options] {name}: there is no such setting: {meant}")
    return options
