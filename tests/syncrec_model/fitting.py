"""Training runs that tests compare: of one process and of several, of killed ones and of whole ones."""

from __future__ import annotations

import dataclasses
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from small_models import random_set, small_model

from syncrec_model import TrainingConfig, TrainingRun, fit
from syncrec_model.distributed import rank

# Nine users in batches of four: in the last batch one user, so the second of two ranks has none.
TRAINING = TrainingConfig(
    epochs=2,
    batch_size=4,
    learning_rate=1e-2,
    weight_decay=0.1,
    warmup_steps=3,
    clip_norm=0.5,
    device="cpu",
    threads=1,
)
SETTINGS = {
    f"{loss}, {correction}": {"loss": loss, "correction": correction, "mim_score": score, "mim_others_only": others}
    for loss, score, others in (
        ("softmax", "sigmoid", False),
        ("pairwise", "sigmoid", True),
        ("bce", "cosine", False),
    )
    for correction in ("uniform", "bounded", "paper")
}
# 7, 5 and 9 items: the first and the last domain are sampled, and the table learns by rows.
SETTINGS["sampled softmax"] = {"loss": "softmax", "full_softmax_items": 6, "sampled_negatives": 4}
INTERRUPTED: dict[str, Any] = {"epochs": 3, "dropout": 0.2, "loss": "bce", "correction": "bounded"}


def trained(seed: int = 0, checkpoint: Path | None = None, valid: Any = None, **changes: Any) -> dict[str, Any]:
    """Train a small model in float64 and return all that can be compared."""
    model = small_model(seed, **{name: value for name, value in changes.items() if name not in TRAINING.to_dict()})
    config = dataclasses.replace(TRAINING, **{k: v for k, v in changes.items() if k in TRAINING.to_dict()})
    told: list[int] = []
    result = fit(
        model, random_set(5, n_users=9), valid, config, progress=False, checkpoint=checkpoint,
        on_epoch=lambda report: told.append(report.epoch),
    )  # fmt: skip
    return {
        "weights": model.state_dict(),
        "figures": [(report.domains, report.totals) for report in result.epochs],
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "resumed_after": result.resumed_after,
        "told": told,
    }


def all_settings() -> dict[str, dict[str, Any]]:
    """Every loss with every correction; each rank starts elsewhere, and rank 0's start must count."""
    return {name: trained(seed=rank(), **changes) for name, changes in SETTINGS.items()}


def validated(epochs: int = 8) -> dict[str, Any]:
    """Stop early on validation."""
    valid = random_set(6, n_users=9, window=(25, 99))
    return trained(valid=valid, epochs=epochs, patience=2, learning_rate=0.05)


def resumed(folder: Path) -> dict[str, Any]:
    """Train one epoch, then go on from its checkpoint in a model that starts elsewhere."""
    trained(checkpoint=folder / "checkpoint", epochs=1)
    return trained(seed=7 + rank(), checkpoint=folder / "checkpoint")


def everything(folder: Path) -> dict[str, Any]:
    """All of the above, in one group."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        shared = folder if rank() == 0 else Path(own)  # the other ranks see no file of rank 0's
        return {"settings": all_settings(), "validated": validated(), "resumed": resumed(shared)}


def killed_in_epoch_2(folder: Path) -> None:
    """SIGKILL this process in the middle of the second epoch."""
    step = TrainingRun.step

    def deadly(run: TrainingRun, users: Any, number: int) -> Any:
        if number == run.steps_per_epoch + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(run, users, number)

    TrainingRun.step = deadly  # type: ignore[method-assign]
    trained(**INTERRUPTED, checkpoint=folder / "checkpoint")


def killed_before_rename(folder: Path) -> None:
    """SIGKILL this process when the next checkpoint is written and not yet in its place."""
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    trained(**INTERRUPTED, seed=1, checkpoint=folder / "checkpoint")
