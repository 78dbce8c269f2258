"""Peers of RecTools and of GRU4Rec's authors: they learn a planted rule and stop by our validation."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.peers import bert4rec, gru4rec, neural_library, rectools_sasrec, sasrec
from benchmarks.quality.cells import rank
from benchmarks.quality.data import QualityData, cut
from benchmarks.quality.protocol import KINDS, Budget, Fitted, PeerAbsent
from syncrec_model.measures import case_values
from tests.benchmarks.neural_world import BUDGET, DOMAINS, N_ITEMS, fit, planted, scores, share_first, walks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data() -> QualityData:
    return planted()


def checkouts() -> Path:
    """Return the folder of public repositories: CHECKOUTS, or beside this repository."""
    return Path(os.environ.get("CHECKOUTS", ROOT.parent))


needs_library = pytest.mark.skipif(
    not neural_library.BENCH_PYTHON.is_file(), reason="no .venv/bench: `make bench-train` builds it"
)
needs_gru4rec = pytest.mark.skipif(
    not (checkouts() / gru4rec.REPOSITORY).is_dir(), reason=f"no {gru4rec.REPOSITORY} in CHECKOUTS or beside us"
)
RECTOOLS = {"n_factors": 32, "n_heads": 1, "n_blocks": 1, "dropout_rate": 0.0, "lr": 1e-2, "batch_size": 16}
GRU = {"layers": [32], "learning_rate": 0.1, "batch_size": 16, "n_sample": 16}


@needs_library
def test_rectools_sasrec_learns_the_planted_rule_domain_by_domain(data: QualityData, tmp_path: Path) -> None:
    fitted = fit(rectools_sasrec.RecToolsSASRec("all"), data, tmp_path, RECTOOLS)
    assert share_first(fitted, data) > 0.9 and len(fitted.chosen) == 2 and fitted.views[""].sampled is None


@needs_library
def test_bert4rec_learns_the_planted_rule(data: QualityData, tmp_path: Path) -> None:
    settings = {**RECTOOLS, "mask_prob": 0.4}
    fitted = fit(bert4rec.BERT4Rec("mixed"), data, tmp_path, settings, budget=Budget(1, 40, 40))
    assert share_first(fitted, data) > 0.8


@needs_gru4rec
@pytest.mark.parametrize("form", neural_library.FORMS)
def test_gru4rec_learns_the_planted_rule(form: str, data: QualityData, tmp_path: Path) -> None:
    budget = replace(BUDGET, epochs=12, checkouts=checkouts())
    fitted = fit(gru4rec.GRU4Rec(form), data, tmp_path, GRU, budget=budget)
    assert share_first(fitted, data) > 0.9


@needs_gru4rec
def test_gru4rec_stops_when_patience_runs_out_and_keeps_the_best_epoch(data: QualityData, tmp_path: Path) -> None:
    budget = Budget(threads=1, epochs=30, patience=2, checkouts=checkouts())
    first, again = (fit(gru4rec.GRU4Rec("mixed"), data, tmp_path, GRU, budget=budget) for _ in range(2))
    (figures,) = first.chosen.values()
    assert figures["epochs"] == min(figures["epoch"] + 2, 30)
    assert macro_ndcg(first, data) == pytest.approx(figures["valid_ndcg10"], abs=1e-9)
    assert all(np.array_equal(a, b) for a, b in zip(scores(first, data), scores(again, data), strict=True))


@needs_library
def test_rectools_sasrec_mixed_is_the_same_under_one_seed_and_keeps_its_best_epoch(
    data: QualityData, tmp_path: Path
) -> None:
    peer, settings = rectools_sasrec.RecToolsSASRec("mixed"), {**RECTOOLS, "dropout_rate": 0.2}
    first, again = (fit(peer, data, tmp_path, settings, budget=Budget(1, 20, 2)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(scores(first, data), scores(again, data), strict=True))
    (figures,) = first.chosen.values()
    assert figures["epoch"] < figures["epochs"] == figures["epoch"] + 2
    assert macro_ndcg(first, data) == pytest.approx(figures["valid_ndcg10"], abs=1e-6)
    assert share_first(first, data) > 0.9
    index = np.flatnonzero(data.cases["test"].domain_M == 2)
    sampled = first.views[""].sampled
    assert sampled is not None and sampled("test", index).shape == (len(index), 101)


def macro_ndcg(fitted: Fitted, data: QualityData) -> float:
    ranks, domain_M = rank(data, "valid", fitted.views[""])["full"], data.cases["valid"].domain_M
    gains = case_values(ranks)["ndcg@10"]
    return float(np.mean([gains[domain_M == code].mean() for code in (1, 2)]))


@needs_library
def test_cold_histories_take_popularity_and_unknown_items_come_last(tmp_path: Path) -> None:
    log = walks(range(60), N_ITEMS, 0)
    log = log[~((log["user_id"] < "u0030") & (log["domain"] == "A"))]  # half the users have no A before their case
    log = log[log.groupby("user_id")["ts"].transform("size") >= 3]
    cold = pd.DataFrame({"user_id": "u0000", "item_id": "A999", "domain": "A", "ts": [99]})
    data = cut("cold", pd.concat([log, cold]), walks(range(0), N_ITEMS, 0), DOMAINS, split="leave-one-out")
    fitted = fit(rectools_sasrec.RecToolsSASRec("single"), data, tmp_path, RECTOOLS, budget=Budget(1, 1, 1))
    (case,) = np.flatnonzero(data.cases["test"].user_M == 0)
    (score_V,) = fitted.views[""].score("test", np.array([case]))
    count_V = np.bincount(data.train.item_E[data.train.domain_E == 1], minlength=data.n_items[0] + 1)[1:]
    known_V = count_V > 0
    assert not known_V[-1] and score_V[-1] < score_V[known_V].min() - 1000
    assert np.allclose(score_V[known_V], np.log1p(count_V[known_V]), atol=1e-5)


def test_what_is_absent_is_named(data: QualityData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural_library.LibraryPeer, "python", tmp_path / "python")
    with pytest.raises(PeerAbsent, match="bench"):
        fit(bert4rec.BERT4Rec("mixed"), data, tmp_path, {})
    with pytest.raises(PeerAbsent, match="hidasib"):
        fit(gru4rec.GRU4Rec("mixed"), data, tmp_path, {}, budget=replace(BUDGET, checkouts=tmp_path))


def test_every_row_has_its_own_name_and_a_known_kind() -> None:
    peers = [peer for module in (sasrec, rectools_sasrec, bert4rec, gru4rec) for peer in module.PEERS]
    names = [peer.name for peer in peers]
    assert all(sasrec.Settings(**settings) for peer in sasrec.PEERS for settings in peer.search)
    assert len(set(names)) == len(names) == 14 and {peer.kind for peer in peers} <= set(KINDS)
    assert {"sasrec.single", "sasrec.mixed-all", "sasrec-rectools.all", "bert4rec.mixed", "gru4rec.all"} <= set(
        names
    )
