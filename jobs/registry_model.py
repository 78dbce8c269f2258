"""The registered model ("models from code"): `load_model("models:/syncrec@champion").predict(histories)`.

Input: a table with user_id and history, a list of {item_id, domain, ts}. Output: user_id, domain, rank, item_id,
score; the parameter n gives the rows per user and domain.
"""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd


class SyncrecModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Top n of every domain for histories given as columns."""

    def load_context(self, context: Any) -> None:
        """Read safetensors, configuration and vocabulary of the logged folder."""
        from pathlib import Path

        from syncrec_model import Recommender, load_model

        model, vocabulary, views, metadata = load_model(Path(context.artifacts["model"]))
        self.recommender = Recommender(model, vocabulary, views)
        self.repeats = [domain for domain in metadata.get("repeats", []) if domain in vocabulary.domains]

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Rank the items of every domain for each history; unknown items are ignored, unknown domains refused."""
        n = int((params or {}).get("n", 20))
        histories = [
            [(event["item_id"], event["domain"], event.get("ts") or 0) for event in history]
            for history in model_input["history"]
        ]
        found = self.recommender.recommend(histories, n, repeats=self.repeats)
        rows = [
            (user, domain, rank, item_id, score)
            for user, lists in zip(model_input["user_id"], found.items, strict=True)
            for domain, best in lists.items()
            for rank, (item_id, score) in enumerate(best, 1)
        ]
        columns = ["user_id", "domain", "rank", "item_id", "score"]
        return pd.DataFrame(rows, columns=columns).astype({"rank": "int32", "score": "float64"})


mlflow.models.set_model(SyncrecModel())
