"""Training learns what is planted, keeps the best epoch, and resumes to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fitting import INTERRUPTED, killed_before_rename, killed_in_epoch_2, trained
from ranks import exit_codes
from small_models import planted_sets, random_set

from syncrec_model import (
    ModelConfig,
    SyNCRec,
    TrainingConfig,
    TrainingRun,
    fit,
    metrics,
    popularity_ranks,
    rank_cases,
)
from syncrec_model.checkpoint import read_checkpoint
from syncrec_model.machine import compiled, deterministic_algorithms

MODEL = ModelConfig(channels=16, max_length=8, n_experts=2, n_cross_experts=1, dropout=0.1)
TRAINING = TrainingConfig(epochs=3, batch_size=32, learning_rate=3e-3, warmup_steps=5, device="cpu")


@pytest.fixture(scope="module")
def planted():
    return planted_sets()


def fresh(train, config=MODEL):
    torch.manual_seed(11)
    return SyNCRec(config, train.domains, train.n_items)


@pytest.mark.parametrize(
    "config",
    [MODEL, dataclasses.replace(MODEL, gate="sequence", loss="bce", correction="bounded", mim=False, n_heads=2)],
)
def test_fit_learns_the_planted_relation(planted, config):
    train, valid, counts = planted
    model = fresh(train, config)
    result = fit(model, train, valid, dataclasses.replace(TRAINING, epochs=12), progress=False)
    ranked = rank_cases(model, valid, repeats=train.domains)
    popular = metrics(popularity_ranks(counts, valid, train.domains).ranks["popularity"])["ndcg@5"]
    assert metrics(ranked.ranks["blend"])["ndcg@5"] > 1.5 * popular
    assert metrics(ranked.ranks["single"])["ndcg@5"] > 1.5 * popular
    assert result.epochs[-1].totals["loss"] < 0.9 * result.epochs[0].totals["loss"]


def test_reports_hold_every_figure_and_the_best_epoch_is_loaded(planted):
    train, valid, _ = planted
    model, seen = fresh(train), []
    result = fit(model, train, valid, TRAINING, on_epoch=seen.append, progress=False)
    assert [report.epoch for report in seen] == [1, 2, 3] == [report.epoch for report in result.epochs]
    figures = seen[0].domains["toys"]
    expected = {"loss_single", "loss_cross", "loss_mim", "ntg_loss", "lambda", "weight", "cases", "ntg_ndcg"}
    expected |= {f"{view}.{m}@{k}" for view in ("cross", "single", "blend") for m in ("hr", "ndcg", "mrr")
                 for k in (5, 10, 20)}  # fmt: skip
    assert expected | {f"{view}.mrr" for view in ("cross", "single", "blend")} == set(figures)
    assert figures["ntg_ndcg"] == pytest.approx(figures["cross.ndcg@10"] - figures["single.ndcg@10"])
    assert sum(f["lambda"] for f in seen[0].domains.values()) == pytest.approx(1, abs=1e-5)
    macro = [report.totals["macro.blend.ndcg@10"] for report in seen]
    for report in seen:
        by_domain = [of_domain["blend.ndcg@10"] for of_domain in report.domains.values()]
        assert report.totals["min.blend.ndcg@10"] == min(by_domain) < max(by_domain)
        assert report.totals["macro.blend.ndcg@10"] == pytest.approx(np.mean(by_domain))
    assert result.best_epoch == 1 + int(np.argmax(macro))
    assert model.blend.weights_DF.tolist() != [[1, 1, 0, 0, 0]] * 2, "fitted at the end"
    model.blend.weights_DF[:] = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])  # as while the epochs were compared
    ranked = rank_cases(model, valid)
    ndcg = [metrics(ranked.ranks["blend"][ranked.domain == d])["ndcg@10"] for d in (1, 2)]
    assert np.mean(ndcg) == pytest.approx(max(macro))
    assert not model.training


class PowerCut(Exception):
    """The machine stops in the middle of a night."""


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(planted, tmp_path):
    train, valid, _ = planted
    whole = fresh(train)
    expected = fit(whole, train, valid, TRAINING, progress=False)

    def cut(report):
        if report.epoch == 2:
            raise PowerCut

    path = tmp_path / "run" / "checkpoint.safetensors"
    with pytest.raises(PowerCut):
        fit(fresh(train), train, valid, TRAINING, on_epoch=cut, checkpoint=path, progress=False)
    torch.manual_seed(99)  # the new process starts anywhere
    again = SyNCRec(MODEL, train.domains, train.n_items)
    result = fit(again, train, valid, TRAINING, checkpoint=path, progress=False)
    assert result.resumed_after == 1 and same_weights(again, whole)
    timeless = [(r.domains, r.totals) for r in result.epochs]
    assert timeless == [(r.domains, r.totals) for r in expected.epochs]
    finished = fit(fresh(train), train, valid, TRAINING, checkpoint=path, progress=False)
    assert finished.resumed_after == 3 and finished.best_epoch == expected.best_epoch
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_item_neighbours_are_counted_again_and_not_kept_in_the_checkpoint(planted, tmp_path):
    train, valid, _ = planted
    model, path = fresh(train), tmp_path / "c.safetensors"
    run = TrainingRun(model, train, valid, TRAINING)
    counted = {name for name in model.state_dict() if ".neighbours." in name}
    run.save(path)
    tensors, _ = read_checkpoint(path, run.fingerprint)
    expected = {f"{part}.{name}" for part in ("model", "best") for name in set(model.state_dict()) - counted}
    assert len(counted) == 4 and {name for name in tensors if name[:5] in ("model", "best.")} == expected
    model.blend.neighbours.weights[0] = 7.0
    run.load(run.best_weights)
    assert model.blend.neighbours.weights[0] == 7.0 and len(model.blend.neighbours.items) > 0
    with pytest.raises(RuntimeError, match="Missing key"):
        run.load({})


def test_a_run_killed_twice_equals_an_uninterrupted_one_to_the_bit(tmp_path):
    """SIGKILL in the middle of an epoch, then between the checkpoint's write and its rename."""
    whole = trained(**INTERRUPTED)
    assert exit_codes(killed_in_epoch_2, [(tmp_path,)]) == [-9]
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
    first = (tmp_path / "checkpoint").read_bytes()
    assert exit_codes(killed_before_rename, [(tmp_path,)]) == [-9]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint", "checkpoint.partial"]
    assert (tmp_path / "checkpoint").read_bytes() == first
    last = trained(**INTERRUPTED, seed=2, checkpoint=tmp_path / "checkpoint")
    assert last["resumed_after"] == 1 and last["told"] == [2, 3]
    for name, value in whole["weights"].items():
        assert torch.equal(value, last["weights"][name]), name
    assert str(last["figures"]) == str(whole["figures"])
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_deterministic_runs_are_equal_to_the_bit_and_leave_torch_as_it_was():
    train, valid = random_set(5, n_users=30), random_set(6, n_users=30, window=(25, 99))
    config = dataclasses.replace(TRAINING, epochs=2, batch_size=8, deterministic=True)
    small = dataclasses.replace(MODEL, max_length=5, dropout=0.3)
    models, inside = [fresh(train, small) for _ in range(2)], []
    for model in models:
        fit(model, train, valid, config, progress=False,
            on_epoch=lambda _: inside.append(torch.are_deterministic_algorithms_enabled()))  # fmt: skip
        torch.rand(3)  # what else the process draws must not matter
    assert same_weights(*models)
    assert inside == [True] * 4 and not torch.are_deterministic_algorithms_enabled()


def test_deterministic_on_a_gpu_asks_for_the_environment_it_needs(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"), deterministic_algorithms(True, gpu):
        pass
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with deterministic_algorithms(True, gpu):
        assert torch.are_deterministic_algorithms_enabled()


def test_compiling_without_a_compiler_is_refused_in_a_sentence(planted, monkeypatch):
    monkeypatch.setattr("syncrec_model.machine.shutil.which", lambda _: None)
    monkeypatch.setattr("syncrec_model.machine.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"g\+\+ or clang\+\+, and neither is there"):
        fit(fresh(planted[0]), planted[0], None, dataclasses.replace(TRAINING, compile=True), progress=False)
    with pytest.raises(ValueError, match="triton, which is not installed"):
        compiled(fresh(planted[0]), torch.device("cuda"))


def test_a_checkpoint_of_other_data_or_settings_is_left_aside_and_said(planted, tmp_path):
    train, valid, _ = planted
    path, one = tmp_path / "c.safetensors", dataclasses.replace(TRAINING, epochs=1)
    fit(fresh(train), train, valid, one, checkpoint=path, progress=False)
    other = dataclasses.replace(one, learning_rate=1e-4)
    result = fit(fresh(train), train, valid, other, checkpoint=path, progress=False)
    assert result.resumed_after == 0 and "started afresh" in result.notes[0]
    path.write_bytes(b"\x80\x04 not a checkpoint")
    with pytest.raises(ValueError, match="remove it to start afresh"):
        read_checkpoint(path, "any")


def test_patience_stops_and_no_cases_means_last_epoch(planted):
    train, valid, _ = planted
    still = dataclasses.replace(TRAINING, epochs=9, patience=2, learning_rate=1e-12)
    result = fit(fresh(train), train, valid, still, progress=False)
    assert result.stopped_early and len(result.epochs) == result.best_epoch + 2
    result = fit(fresh(train), train, None, dataclasses.replace(TRAINING, epochs=2), progress=False)
    assert result.best_epoch == 2 and not result.stopped_early and "no cases" in result.notes[0]


def test_global_random_state_is_left_alone(planted):
    train = planted[0]
    model = fresh(train)
    before = torch.get_rng_state()
    fit(model, train, None, dataclasses.replace(TRAINING, epochs=1), progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_bf16_trains(planted):
    train, valid, _ = planted
    config = dataclasses.replace(TRAINING, epochs=2, precision="bf16")
    result = fit(fresh(train), train, valid, config, progress=False)
    assert result.epochs[1].totals["loss"] < result.epochs[0].totals["loss"]


def test_unusable_data_is_refused(planted):
    train, valid, _ = planted
    with pytest.raises(ValueError, match="different domains"):
        fit(fresh(train), random_set(1), None, TRAINING, progress=False)
    short = SyNCRec(dataclasses.replace(MODEL, max_length=4), train.domains, train.n_items)
    with pytest.raises(ValueError, match="the model reads 4"):
        fit(short, train, valid, TRAINING, progress=False)
    broken = fresh(train)
    with torch.no_grad():
        broken.towers.towers[0].norm.weight[3] = torch.inf
    with pytest.raises(FloatingPointError, match=r"lower TrainingConfig\.learning_rate"):
        fit(broken, train, None, TRAINING, progress=False)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            fit(fresh(train), train, None, dataclasses.replace(TRAINING, device="cuda"), progress=False)
