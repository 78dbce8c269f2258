"""The training benchmark counts what is computed, prints a table, keeps its figures and names what is not there."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks import train, train_row
from benchmarks.measure import flop_of, measure
from benchmarks.workload import Shape, make_users


def test_the_products_of_a_step_are_counted_forward_and_backward() -> None:
    x, w = torch.randn(2, 3, 4), torch.randn(2, 4, 5, requires_grad=True)
    bias = torch.zeros(2, 1, 5)
    assert flop_of(lambda: torch.baddbmm(bias, x, w.detach())) == 2 * 2 * 3 * 4 * 5
    assert flop_of(lambda: torch.baddbmm(bias, x, w).sum().backward()) == 2 * (
        2 * 2 * 3 * 4 * 5
    )  # no gradient of x
    total = torch.zeros(4, 5)
    assert flop_of(lambda: total.addmm_(torch.randn(4, 3), torch.randn(3, 5))) == 2 * 4 * 3 * 5
    q, k, v = (torch.randn(2, 1, 6, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 6 * 6 * 8
    assert flop_of(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)) == 2 * product
    # Backward: scores again, then the gradients of values, probabilities, queries and keys.
    assert flop_of(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()) == (2 + 5) * product


def test_each_pass_runs_the_same_batches_after_the_warm_ones() -> None:
    seen: list[int] = []
    found = measure(seen.append, warm=2, timed=2, seconds=0, device=torch.device("cpu"))
    assert seen == [0, 1, 2, 3, 2]  # warm, warm, timed, timed, and one step to count its products
    assert found.seconds > 0 and found.peak_gib > 0.01


@pytest.fixture
def users(tmp_path: Path) -> Path:
    make_users(Shape.parse("r8.a5", 4), 2).save(tmp_path / "users.npz")
    return tmp_path / "users.npz"


def child(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = train_row.main(
        [*words, "--channels", "8", "--batch", "4", "--warm", "1", "--timed", "1", "--seconds", "0"]
    )
    return code, *capsys.readouterr()


@pytest.mark.parametrize("row", ["ours-bf16", "default-fp32", "whole"])
def test_the_rows_of_ours_run(row: str, users: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = child(capsys, row, "--users", str(users))
    assert code == 0
    assert json.loads(out)["seconds"] > 0


def test_a_machine_without_cuda_says_so_in_a_sentence(users: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    code, _, error = child(capsys, "ours-fp32", "--users", str(users), "--device", "cuda")
    assert code == 2
    assert "torch sees no CUDA device" in error and error.count("\n") == 1


def test_the_table_from_end_to_end_without_rivals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--shapes", "r8.a5", "--batch", "4", "--timed", "1", "--warm", "1", "--seconds", "0", "--rounds", "1"]
    rows = ["--rows", "ours-fp32", "released", "sasrec", "--kept-python", str(tmp_path / "none")]
    assert train.main([*words, *rows, "--results", str(tmp_path), "--released", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| ours, paper preset, fp32" in out
    assert "check out cpark88/SyNCRec beside and give --released PATH" in out
    assert "make bench-train makes .venv/bench" in out
    figures = json.loads((tmp_path / "train.json").read_text())["figures"]
    assert figures["cpu.r8.a5.users_per_s"] > 0 and 0 < figures["cpu.r8.a5.peak_share"] < 2
    assert "cpu.r8.a5.vs_released" not in figures
    assert figures["cpu.r8.a5.matrix_fp32_gflop_per_s"] > 0 and "GFLOP/s fp32\n" in out
    assert "cpu.r8.a5.matrix_bf16_gflop_per_s" not in figures, (
        "no row computes in it, and some processors take minutes"
    )


def test_the_figures_have_the_names_that_the_issue_gives() -> None:
    def row(name: str, seconds: float, gflop: float) -> train.Row:
        return train.Row(
            name, [{"seconds": s, "peak_gib": 1.0, "gflop": gflop} for s in (seconds, 9 * seconds, seconds)]
        )

    for device, shape, wanted in (
        (
            "cpu",
            "r64.a5",
            {"cpu.r64.a5.vs_released": 8.0, "cpu.r64.a5.peak_share": 0.1, "cpu.r64.a5.users_per_s": 512.0},
        ),
        ("cuda", "r64.a5", {"gpu.r64.vs_released": 8.0, "gpu.r64.a5.vs_released": 8.0}),
        ("cuda", "r512.full", {"gpu.r512.mfu": 0.5, "gpu.r512.full.bf16.peak_share": 0.25}),
    ):
        rows = [row("ours-fp32", 0.25, 5.0), row("ours-bf16", 0.2, 10.0), row("ours-bf16-compiled", 0.1, 0.0)]
        named = {found.name: found for found in [*rows, row("released", 2.0, 70.0)]}
        peaks = [{"fp32": 200.0, "bf16": 200.0}]
        figures = train.figures_of(device, train.Result(Shape.parse(shape), named, peaks))
        assert wanted.items() <= figures.items()


def test_a_wrong_shape_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--shapes", "r64"]) == 2
    error = capsys.readouterr().err
    assert "write rCHANNELS.LENGTHS" in error and error.count("\n") == 1


def test_the_paper_row_has_the_settings_of_the_released_training_script() -> None:
    config = train_row.model_config("paper", 64, 50)
    assert (config.channels, config.max_length, config.n_experts, config.n_cross_experts) == (64, 50, 5, 4)
    assert (config.n_layers, config.n_heads, config.ffn_multiplier, config.dropout) == (2, 1, 4, 0.5)
    assert isinstance(train.parse([]), argparse.Namespace) and "ours-fp32-compiled" not in train.parse([]).rows
