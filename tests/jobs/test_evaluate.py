"""evaluate's rows: NTG as the paired gap of views on the same cases, in words and in numbers."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.evaluate import ntg_lines, quality_rows, transfer_rows
from syncrec_model import CaseRanks


def case_ranks() -> CaseRanks:
    """Cross beats single in books on every case and loses in toys on every case; groceries has no case."""
    n = 40
    first, fifth = np.ones(n), np.full(n, 5.0)
    return CaseRanks(
        domains=("books", "toys", "groceries"),
        user=np.tile(np.arange(n), 2),
        domain=np.repeat([1, 2], n),
        ranks={
            "cross": np.concatenate([first, fifth]),
            "single": np.concatenate([fifth, first]),
            "blend": np.concatenate([fifth, fifth]),
        },
        n_candidates=np.full(2 * n, 100),
        history_length=np.ones(2 * n),
    ).with_served({"books": "cross", "toys": "single", "groceries": "blend"})


def test_ntg_is_the_gap_of_the_views_and_the_guard_removes_the_harm() -> None:
    rows = {(r["metric"], r["domain"]): r for r in transfer_rows(case_ranks(), "challenger", "3")}
    gap = 1 - 1 / np.log2(6)
    assert rows["ntg_ndcg", "books"]["value"] == pytest.approx(gap)
    assert rows["ntg_ndcg", "toys"]["value"] == pytest.approx(-gap)
    assert rows["ntg_ndcg", "books"]["low"] == pytest.approx(gap)
    assert rows["ntg_served", "toys"]["value"] == 0
    assert rows["ntg_ndcg", "macro"]["value"] == pytest.approx(0)
    assert rows["ntg_ndcg", "min"]["value"] == pytest.approx(-gap)
    assert ("ntg_ndcg", "groceries") not in rows
    assert all(r["model_version"] == "3" and r["split"] == "test" for r in rows.values())


def test_the_lines_say_who_is_helped_and_who_is_hurt() -> None:
    books, toys = ntg_lines(list(transfer_rows(case_ranks(), "challenger", "3")))
    assert books.startswith("NTG books: +0.6131 NDCG@10") and books.endswith("other domains helped")
    assert toys.endswith("other domains hurt") and "on 40 cases" in toys


def test_quality_rows_hold_every_view_and_measure_once() -> None:
    rows = list(quality_rows(case_ranks(), "champion", "2"))
    keys = [(r["domain"], r["view"], r["metric"]) for r in rows]
    assert len(keys) == len(set(keys))
    assert {r["view"] for r in rows} == {"cross", "single", "blend", "served"}
    assert {r["domain"] for r in rows} == {"books", "toys", "macro", "min"}
    served = next(r for r in rows if (r["domain"], r["view"], r["metric"]) == ("macro", "served", "ndcg@10"))
    assert served["value"] == pytest.approx(1.0) and served["role"] == "champion"
