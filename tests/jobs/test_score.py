"""Scoring a batch of users: seen items, repeats, popularity fill, cold users, items newer than the model."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.loaded_model import widen
from jobs.schemas import SEQUENCES
from jobs.score_users import Scorer, ScoringTask, popularity
from jobs.splits import split_windows
from syncrec_model import ModelConfig, SyNCRec, Vocabulary

T = 6
DOMAINS = ("books", "toys", "groceries")
OLD = Vocabulary(DOMAINS, tuple([f"{d}{i}" for i in range(1, 7)] for d in DOMAINS))
TODAY = Vocabulary(DOMAINS, tuple([*ids, f"{d}-new"] for d, ids in zip(DOMAINS, OLD.item_ids, strict=True)))
COUNTS = tuple(np.array([5, 9, 1, 0, 7, 2, 30]) for _ in DOMAINS)


@pytest.fixture
def loaded() -> Any:
    torch.manual_seed(3)
    model = SyNCRec(ModelConfig(channels=8, max_length=T, n_experts=2, n_cross_experts=1), OLD.domains, OLD.n_items)
    return widen("4", model.eval(), OLD, dict.fromkeys(DOMAINS, "blend"), {}, TODAY)


def task(top_n: int = 4, min_history: int = 1) -> ScoringTask:
    popular, shares = popularity(COUNTS)
    return ScoringTask(
        model_folder="", vocabulary_file="", version="4", domains=DOMAINS, repeats=("groceries",), max_length=T,
        serve=split_windows(datetime(2024, 1, 6, tzinfo=UTC), 1, 1)[-1], top_n=top_n, min_history=min_history,
        popular=popular, shares=shares,
    )  # fmt: skip


def users(
    histories: dict[str, list[tuple[str, int]]], older: dict[str, list[tuple[str, int]]] | None = None
) -> Any:
    """Rows of `sequences` from (domain, item index) histories; `older`: events that are not kept."""
    rows = [
        {
            "user_id": user,
            "items": [item for _, item in history],
            "domains": [DOMAINS.index(domain) + 1 for domain, _ in history],
            "times": list(range(1, len(history) + 1)),
            "older_items": [(DOMAINS.index(d) + 1 << 32) + item for d, item in (older or {}).get(user, [])],
        }
        for user, history in histories.items()
    ]
    names = ["user_id", "items", "domains", "times", "older_items"]
    schema = pa.schema([SEQUENCES.arrow_schema.field(name) for name in names])
    return pa.Table.from_pylist(rows, schema=schema)


def lists(batch: pa.Table) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in batch.to_pylist():
        found[row["user_id"], row["domain"]].append(row)
    return {key: sorted(rows, key=lambda r: r["rank"]) for key, rows in found.items()}


def recommend(
    histories: dict[str, list[tuple[str, int]]], loaded: Any, made: ScoringTask, older: Any = None
) -> Any:
    return lists(Scorer(loaded, made).lists(users(histories, older)))


HISTORIES = {"u": [("books", 1), ("toys", 2), ("books", 3), ("groceries", 5)], "v": [("toys", 4)]}


def test_every_user_gets_a_full_ranked_list_in_every_domain(loaded: Any) -> None:
    found = recommend(HISTORIES, loaded, task())
    assert set(found) == {(u, d) for u in HISTORIES for d in DOMAINS}
    for (_, domain), rows in found.items():
        assert [r["rank"] for r in rows] == [1, 2, 3, 4]
        assert len({r["item_id"] for r in rows}) == 4
        assert all(r["item_id"].startswith(domain) and r["source"] == "model" for r in rows)
        assert [r["score"] for r in rows] == sorted((r["score"] for r in rows), reverse=True)


def test_seen_items_stay_out_unless_the_domain_repeats(loaded: Any) -> None:
    found = recommend(HISTORIES, loaded, task(top_n=7))
    assert not {"books1", "books3"} & {r["item_id"] for r in found["u", "books"]}
    assert "toys2" not in {r["item_id"] for r in found["u", "toys"]}
    assert "groceries5" in {r["item_id"] for r in found["u", "groceries"]}


def test_items_of_events_that_are_no_longer_kept_stay_out_too(loaded: Any) -> None:
    older = {"u": [("books", 5), ("groceries", 2)], "v": [("toys", 6)]}
    found = recommend(HISTORIES, loaded, task(top_n=7), older)
    assert not {"books1", "books3", "books5"} & {r["item_id"] for r in found["u", "books"]}
    assert "groceries2" in {r["item_id"] for r in found["u", "groceries"]}
    assert not {"toys4", "toys6"} & {r["item_id"] for r in found["v", "toys"]}
    assert "toys6" in {r["item_id"] for r in found["u", "toys"]}


def test_short_lists_are_filled_from_popularity_and_marked(loaded: Any) -> None:
    rows = recommend(HISTORIES, loaded, task(top_n=5))["u", "books"]
    assert [r["source"] for r in rows] == ["model"] * 4 + ["popularity"]
    assert rows[-1]["item_id"] == "books-new" and rows[-1]["score"] == pytest.approx(30 / 54)


def test_items_newer_than_the_model_never_come_from_the_model(loaded: Any) -> None:
    for rows in recommend(HISTORIES, loaded, task(top_n=7)).values():
        assert all(r["source"] == "popularity" for r in rows if r["item_id"].endswith("-new"))


def test_users_with_too_little_known_history_are_served_by_popularity(loaded: Any) -> None:
    newest_only = {"w": [("books", 7)]}  # an item that the model does not know
    found = recommend({**HISTORIES, **newest_only}, loaded, task(top_n=3))
    assert {r["source"] for r in found["w", "toys"]} == {"popularity"}
    assert [r["item_id"] for r in found["w", "toys"]] == ["toys-new", "toys2", "toys5"]
    assert {r["source"] for r in found["v", "toys"]} == {"model"}
    cold = recommend(HISTORIES, loaded, task(top_n=3, min_history=2))
    assert {r["source"] for r in cold["v", "books"]} == {"popularity"}


def test_users_of_whom_only_items_without_training_are_known_are_served_by_popularity(loaded: Any) -> None:
    popularity_V = torch.ones_like(loaded.model.blend.neighbours.popularity)
    popularity_V[[1, 1 + 7 + 4 - 1]] = 0  # books1 and toys4: the vocabulary has them, training had not
    loaded.model.blend.neighbours.popularity = popularity_V
    found = recommend({"u": [("books", 1), ("books", 3)], "v": [("toys", 4)]}, loaded, task(top_n=3))
    assert {r["source"] for r in found["v", "toys"]} == {"popularity"}
    assert {r["source"] for r in found["u", "toys"]} == {"model"}
    without = recommend({"u": [("books", 3)]}, loaded, task(top_n=3))
    assert [r["item_id"] for r in found["u", "toys"]] == [r["item_id"] for r in without["u", "toys"]]


def test_one_user_alone_equals_the_same_user_in_a_batch(loaded: Any) -> None:
    together = recommend(HISTORIES, loaded, task())
    alone = recommend({"v": HISTORIES["v"]}, loaded, task())
    for domain in DOMAINS:
        assert [r["item_id"] for r in alone["v", domain]] == [r["item_id"] for r in together["v", domain]]
