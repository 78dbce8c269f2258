"""The registered model ("models from code"): `load_model("models:/syncrec@champion").predict(histories)`.

Input: a table with user_id (text, each once) and history, a list of {item_id, domain, ts}. ts may be numbers of any
one unit, datetimes or ISO 8601 texts; without any ts the list counts as it stands, oldest first. Output: user_id,
domain, rank, item_id, score, ignored_items (how many events of the user named items that this version does not
know); the parameter n gives the rows per user and domain. Nothing of jobs is imported: the file travels alone.
"""

from __future__ import annotations

import logging
from typing import Any

import mlflow
import pandas as pd

log = logging.getLogger("syncrec")


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
        users = _users(model_input)
        histories = [
            _events(history, f"history of user {user!r} (row {row})")
            for row, (user, history) in enumerate(zip(users, model_input["history"], strict=True))
        ]
        n = (params or {}).get("n", 20)
        top, ignored_U = self.recommender.top_n_of_histories(histories, n, users=users, repeats=self.repeats)
        if ignored_U.any():
            log.warning(
                "%d events of %d users name items that this version does not know; they are ignored",
                ignored_U.sum(),
                (ignored_U > 0).sum(),
            )
        vocabulary = self.recommender.vocabulary
        columns = {
            "user_id": [users[user] for user in top.user.tolist()],
            "domain": [vocabulary.domains[code - 1] for code in top.domain.tolist()],
            "rank": top.rank.astype("int32"),
            "item_id": [
                vocabulary.item_ids[code - 1][item - 1]
                for code, item in zip(top.domain.tolist(), top.item.tolist(), strict=True)
            ],
            "score": top.score.astype("float64"),
            "ignored_items": ignored_U[top.user].astype("int32"),
        }
        return pd.DataFrame(columns).astype({"user_id": object, "domain": object, "item_id": object})


def _users(model_input: pd.DataFrame) -> list[str]:
    """Return the user ids; each must be a text and stand once, for the output is keyed by it."""
    for name in ("user_id", "history"):
        if name not in model_input.columns:
            raise ValueError(f"the input has no column {name!r}; give user_id and history")
    users = list(model_input["user_id"])
    first: dict[str, int] = {}
    for row, user in enumerate(users):
        if not isinstance(user, str):
            raise ValueError(f"row {row}: user_id is {user!r}; give a text")
        if first.setdefault(user, row) != row:
            raise ValueError(f"user_id {user!r} stands in rows {first[user]} and {row}; give one row a user")
    return users


def _events(history: Any, who: str) -> list[tuple[str, str, Any]]:
    if isinstance(history, str | dict) or not hasattr(history, "__len__"):
        raise ValueError(f"{who} is {history!r}; give a list of events, an empty one for a user without any")
    events = []
    for number, event in enumerate(history):
        if not isinstance(event, dict) or not {"item_id", "domain"} <= event.keys():
            raise ValueError(f"{who}, event {number}: {event!r}; give {{item_id, domain, ts}}")
        events.append((event["item_id"], event["domain"], event.get("ts")))
    return events


mlflow.models.set_model(SyncrecModel())
