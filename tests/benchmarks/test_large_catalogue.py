"""The benchmark of a large catalogue: its log is planted as it says, its rows run, its table names them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import large_catalogue

SMALL = [
    "--items", "2000", "--users", "80", "--valid", "20", "--batch", "16", "--steps", "2", "--other-steps", "1",
    "--warm", "1", "--model", '{"channels": 8, "full_softmax_items": 300, "sampled_negatives": 50}',
]  # fmt: skip


def test_users_keep_their_taste_and_popularity_is_a_power_law() -> None:
    train, valid = large_catalogue.make_sets(20_000, 400, 50)
    items, domains = train.cross_items_UT, train.cross_domains_UT
    tastes = [(items[u][items[u] > 0] - 1) % large_catalogue.TASTES for u in range(train.n_users)]
    own = np.concatenate([taste == np.bincount(taste).argmax() for taste in tastes])
    assert 0.65 < own.mean() < 0.9
    counts = np.sort(np.bincount(items[domains == 1]))[::-1]
    assert counts[:200].sum() > 0.3 * counts.sum()
    assert not train.cross_targets_UT.any() and valid.cross_targets_UT.sum() == 50
    assert (valid.cross_targets_UT[:, -1]).all(), "the last event of every user is the case"


@pytest.mark.parametrize("row", large_catalogue.ROWS)
def test_every_row_runs(capsys: pytest.CaptureFixture[str], row: str) -> None:
    assert large_catalogue.main([*SMALL, "--threads", "1", "--row", row]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["parts"]) == {"batch", "forward", "optimizer", "backward, clipping"}
    assert found["step_s"] > 0 and np.isfinite(found["loss"])
    assert ("cases" in found) is (row == "sampled")


def test_the_table_names_a_row_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parts = {"batch": 0.1, "forward": 0.2, "optimizer": 0.3, "backward, clipping": 0.4}
    good = {"step_s": 1.0, "parts": parts, "peak_gib": 2.5, "validation_s": 3.0, "checkpoint_s": 1.5, "cases": 9,
            "ndcg": 0.1, "parameters": 64e6}  # fmt: skip
    rows = {"sampled": good, "dense": good | {"step_s": 2.0}, "full": {"failed": "out of memory"}}
    monkeypatch.setattr(large_catalogue, "child", lambda name, argv: rows[name])
    assert large_catalogue.main(["--results", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "out of memory" in said.err and "| full softmax, dense AdamW" in said.out
    figures = json.loads((tmp_path / "train.json").read_text())["figures"]
    assert figures["catalogue_1m.users_per_s"] == 128 and figures["catalogue_1m.peak_gib"] == 2.5
    assert figures["catalogue_1m.dense.users_per_s"] == 64 and "catalogue_1m.full.peak_gib" not in figures
