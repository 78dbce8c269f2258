"""What the MLflow page of a night's training shows besides its curves: figures, and the data it read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from jobs.lakehouse import Lakehouse
from jobs.schemas import SEQUENCES
from jobs.training_figures import epochs_figure, gates_figure
from syncrec_model import FitResult, SequenceSet, SyNCRec, gate_use

FIGURES = "figures"
_TYPES = {
    "string": DataType.string,
    "bigint": DataType.long,
    "date": DataType.datetime,
    "array<int>": Array(DataType.integer),
    "array<bigint>": Array(DataType.long),
}
WHAT_TO_LOOK_AT = (
    f"`{FIGURES}/` among the artifacts: NTG and lambda over epochs, the use of experts by task. Curves: "
    "`ntg_ndcg/DOMAIN` (above 0 the other domains help), `ntg_loss/DOMAIN` (of the loss: its sign may be another, "
    "believe ndcg), `lambda/DOMAIN`, "
    "`loss_cross/DOMAIN`, `loss_single/DOMAIN`, `VIEW.ndcg_at_10/DOMAIN`; `macro.blend.ndcg_at_10` chooses the "
    "epoch. `test.…` is measured once, after training, on cases that training never saw"
)


class TableInput(MetaDataset):  # type: ignore[misc]
    """A snapshot of a table, or a part of it, as MLflow's list of a run's inputs shows it."""

    def __init__(self, source: Any, name: str, digest: str, schema: Any, counts: Mapping[str, int]) -> None:
        self._counts = dict(counts)
        super().__init__(source=source, name=name, digest=digest, schema=schema)

    @property
    def profile(self) -> dict[str, int]:
        """How much of it there was."""
        return self._counts

    def to_dict(self) -> dict[str, str]:
        """Return MLflow's form."""
        return {**super().to_dict(), "profile": json.dumps(self._counts)}


def log_inputs(lakehouse: Lakehouse, snapshot: int | None, parts: Mapping[str, SequenceSet]) -> None:
    """Name the snapshot of `sequences` that the active run reads, and how much of it each part (context) is."""
    schema = Schema([ColSpec(_TYPES[column.type], column.name) for column in SEQUENCES.columns])
    source = LocalArtifactDatasetSource(lakehouse.table(SEQUENCES.name).location())
    for context, part in parts.items():
        counts = {"users": part.n_users, "cases": int(part.cross_targets_UT.sum())}
        mlflow.log_input(
            TableInput(source, f"{SEQUENCES.name}-{context}", str(snapshot), schema, counts), context=context
        )


def log_training(model: SyNCRec, result: FitResult, cases: SequenceSet) -> None:
    """Log the figures of a training to the active run."""
    mlflow.log_figure(epochs_figure(result.epochs, result.best_epoch), f"{FIGURES}/ntg_and_lambda.png")
    use = gate_use(model, cases)
    if (figure := gates_figure(use, model.config.n_cross_experts)) is not None:
        mlflow.log_figure(figure, f"{FIGURES}/gate_use.png")
        mlflow.log_dict(use, f"{FIGURES}/gate_use.json")
