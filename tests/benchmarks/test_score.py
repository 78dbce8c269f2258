"""The benchmark of ranking: rows rank what they say, figures have the issue's names, a failed row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import score, score_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    score.make_vectors(tmp_path, items=600, domains=2, channels=8, users=40)
    return tmp_path


@pytest.mark.parametrize("row", ["ours", "fp32", "blend", "topk"])
def test_every_row_of_this_environment_runs(folder: Path, row: str) -> None:
    threads = torch.get_num_threads()
    found = score_rows.measure(row, folder, 10, 1, 90, 60.0)
    torch.set_num_threads(threads)
    assert found["users"] == 90 and found["seconds"] > 0 and 0.05 < found["peak_gib"] < 64


def test_a_reading_ends_in_time_and_counts_what_it_did(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setitem(score_rows.MAKERS, "topk", lambda *words: lambda users: seen.append(len(users)))
    monkeypatch.setitem(score_rows.BATCHES, "topk", 16)
    found = score_rows.measure("topk", folder, 10, 1, 10**9, 0.01)
    assert sum(seen) == 2 * (found["users"] + 16), "two domains, and a batch to warm up"


def test_lists_that_are_wrong_stop_the_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from syncrec_model import ranking

    right = ranking.best_items

    def wrong(*words: Any, **named: Any) -> ranking.Ranked:
        found = right(*words, **named)
        return found._replace(item=found.item[::-1])

    monkeypatch.setattr(ranking, "best_items", wrong)
    with pytest.raises(AssertionError, match="not that of all scores sorted"):
        score_rows.measure("ours", folder, 10, 1, 10, 60.0)


def test_vectors_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        score.make_vectors(tmp_path / name, items=50, domains=5, channels=4, users=7)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [f"items-{d}.npy" for d in range(5)] + ["query.npy"]
    assert all(np.array_equal(np.load(tmp_path / "a" / f), np.load(tmp_path / "b" / f)) for f in files)


def test_figures_and_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rates = {"ours": 8000, "fp32": 4000, "blend": 2000, "topk": 3000, "faiss": 5000}

    def child(python: Path, *words: str, threads: int) -> dict[str, float]:
        row = words[1]
        if row == "peak":
            return {"fp32": 200.0, "bf16": 500.0}
        if row == "rectools":
            raise score.RowFailed("no module named rectools")
        return {"users": 100_000.0, "seconds": 100_000 / rates[row], "peak_gib": 0.5}

    monkeypatch.setattr(score, "child", child)
    monkeypatch.setattr(score, "make_vectors", lambda *words: None)
    assert score.main(["--sizes", "100k", "--rounds", "2", "--results", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "RecTools TorchRanker: failed: no module named rectools" in said.err
    assert "| ours, seen items left out" in said.out and "125 s *" in said.out and "12 s |" in said.out
    figures = json.loads((tmp_path / "score.json").read_text())["figures"]
    assert figures["rank.100k.users_per_s"] == 8000 and figures["rank.100k.vs_faiss"] == 1.6
    assert figures["rank.100k.peak_share"] == pytest.approx(8000 * 2 * 100_000 * 64 / 200e9, rel=1e-3)
    assert figures["rank.100k.faiss.users_per_s"] == 5000 and figures["rank.100k.fp32.vs_faiss"] == 0.8
    assert "rank.100k.vs_rectools" not in figures and figures["rank.100k.1m_users_s"] == 125


def test_a_library_that_is_absent_is_a_failed_row(tmp_path: Path) -> None:
    with pytest.raises(score.RowFailed, match="make bench-score makes"):
        score.child(tmp_path / "python", "--row", "faiss", threads=1)
