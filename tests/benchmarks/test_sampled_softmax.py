"""Full and sampled softmax: A5 is cut by user, and every variant keeps its gap to the full one with an interval."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import sampled_softmax
from benchmarks.prepare_amazon2014 import A5


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    user, step = (values.ravel() for values in np.meshgrid(range(40), range(14), indexing="ij"))
    domain = rng.integers(0, 5, len(user))
    columns = {
        "user_id": [f"u{u}" for u in user],
        "item_id": [f"{d}-{i}" for d, i in zip(domain, rng.integers(0, 8, len(user)), strict=True)],
        "domain": [A5[d] for d in domain],
        "ts": step * 86_400,
    }
    pq.write_table(pa.table(columns), tmp_path / "interactions.parquet")
    return tmp_path


def test_every_users_last_event_is_the_case_and_not_in_training(data: Path) -> None:
    train, valid = sampled_softmax.a5_sets(data, 30, max_length=20)
    assert train.n_users == valid.n_users == 30 == valid.cross_targets_UT.sum()
    assert valid.cross_targets_UT[:, -1].all() and not train.cross_targets_UT.any()
    assert np.array_equal(valid.cross_items_UT[:, -2], train.cross_items_UT[:, -1])
    assert (valid.cross_lengths_U == train.cross_lengths_U + 1).all()


def test_variants_are_compared_on_the_same_cases(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sampled_softmax.VARIANTS, "64.rows", (4, True))
    arguments = [
        "--data",
        str(data),
        "--users",
        "40",
        "--epochs",
        "1",
        "--threads",
        "1",
        "--results",
        str(tmp_path),
    ]
    assert sampled_softmax.main([*arguments, "--variants", "full", "64.rows"]) == 0
    figures = json.loads((tmp_path / "train.json").read_text())["figures"]
    assert (
        figures["sampled.64.rows.gap_low"] <= figures["sampled.64.rows.gap"] <= figures["sampled.64.rows.gap_high"]
    )
    assert 0 <= figures["sampled.full.macro_ndcg10"] <= 1 and "| 64.rows" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="absent"):
        sampled_softmax.a5_sets(tmp_path / "nowhere", 1)
