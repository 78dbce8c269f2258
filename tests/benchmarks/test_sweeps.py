"""`python -m benchmarks.quality.sweeps`: real trainings of a tiny set A5, read again, drawn, recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.peers.ours import Ours, train_sequences
from benchmarks.prepare_amazon2014 import A5
from benchmarks.quality import sweeps
from benchmarks.quality.data import load_a5
from syncrec_model import ModelConfig
from tests.benchmarks.neural_world import planted

ROOT = Path(sweeps.__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
# As `python -m benchmarks.quality.sweeps`. torch's optimisers import _dynamo, which takes seconds: once here, so
# that no cell does it again. (Where it sees a GPU it may start CUDA, which survives no fork: none is shown to it.)
COMMAND = "import runpy, torch._dynamo; runpy.run_module('benchmarks.quality.sweeps', run_name='__main__')"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of 50 users and 8 items a domain, and a page."""
    folder = tmp_path_factory.mktemp("sweeps")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:03}", f"{rng.integers(8):02}", A5[(user + step) % 5], 86_400 * step)
        for user in range(50)
        for step in range(10)
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "ts"])
    log.to_parquet(folder / "interactions.parquet")
    marks = [
        f"<!-- make bench-sweep writes {name} from here -->\nold\n<!-- {name} to here -->\n"
        for name in sweeps.SWEEPS
    ]
    (folder / "page.md").write_text("".join(marks))
    return folder


def options(place: Path) -> list[str]:
    pairs = {"data": "", "cache": "cache", "results": "results", "images": "img", "page": "page.md"}
    own = [word for name, value in pairs.items() for word in (f"--{name}", str(place / value))]
    return [*own, "--device", "cpu", "--threads", "1", "--epochs", "1"]


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """Run the command in a process that nothing has happened in: it forks, and then trains."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", COMMAND, *options(place), *arguments]
        done = subprocess.run(
            words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}, text=True,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    return command


@pytest.fixture(scope="module")
def first(run: Run) -> subprocess.CompletedProcess[str]:
    return run("--sweeps", "n_cross_experts")


def trained(place: Path) -> list[str]:
    """Return the row and seed of every training so far."""
    (file,) = (place / "cache").glob("*/trials.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [f"{trial['row']} {trial['seed']}" for trial in found]


def cells(text: str) -> list[list[str]]:
    """Return the cells of all tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]


def test_a_sweep_trains_its_values_under_every_seed_and_prints_them(
    first: subprocess.CompletedProcess[str], place: Path
) -> None:
    chosen = sweeps.rows_of()
    names = [chosen["n_cross_experts", value].name for value in (1, 2, 3)]
    expected = [f"{name} {seed}" for name in names for seed in (0, 1)]
    assert sorted(trained(place)[: len(expected)]) == sorted(expected)
    table = cells(first.stdout)
    assert table[0] == ["value", "seeds", "macro [95 %]", "Beauty", "Sports", "Toys", "Grocery", "Home",
                        "NTG macro [95 %]", "train s", "parameters"]  # fmt: skip
    assert [row[0].split()[0] for row in table[1:4]] == ["1", "2", "3"] and {row[1] for row in table[1:4]} == {"2"}
    for row in table[1:4]:
        macro, by_domain = float(row[2].split()[0]), [float(cell) for cell in row[3:8]]
        assert macro == pytest.approx(np.mean(by_domain), abs=1e-4) and "[" in row[2] and "[" in row[8]
        assert int(row[-1].replace(",", "")) > 1_000
    assert table[4] == ["value", "Beauty", "Sports", "Toys", "Grocery", "Home"] and len(table) == 8
    for row, gaps in zip(table[1:4], table[5:8], strict=True):
        ntg = np.mean([float(cell.split()[0]) for cell in gaps[1:]])
        assert float(row[8].split()[0]) == pytest.approx(ntg, abs=1e-4)
    assert "not recorded: with EPOCHS" in first.stderr and not (place / "results").exists()
    (plot,) = (place / "cache").glob("*/img/quality-sweep-n_cross_experts.png")
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_finished_cells_are_read_and_a_missing_one_alone_is_trained_again(
    first: subprocess.CompletedProcess[str], run: Run, place: Path
) -> None:
    before = trained(place)
    (gone,) = (place / "cache").glob("*/sweep.n_cross_experts=1-*-1.npz")
    gone.unlink()
    again = run("--sweeps", "n_cross_experts")
    assert trained(place) == [*before, "sweep.n_cross_experts=1 1"]
    without_times = [[[*row[:9], *row[10:]] for row in cells(text)] for text in (first.stdout, again.stdout)]
    assert without_times[0] == without_times[1], "the same seed, the same model"


def test_reports_train_nothing_and_only_whole_sweeps_are_recorded(
    first: subprocess.CompletedProcess[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = trained(place)
    assert sweeps.main([*options(place), "--report", "--sweeps", "n_cross_experts", "channels"]) == 0
    printed = capsys.readouterr()
    assert "sweep 2 of 2: channels" in printed.err and "not trained yet" in printed.out
    assert sweeps.main([*options(place), "--report", "--sweeps", "n_cross_experts", "--record"]) == 0
    assert trained(place) == before
    kept = json.loads((place / "results" / "quality-sweep.json").read_text())
    assert list(kept["parts"]) == ["sweep.n_cross_experts"]
    details = kept["parts"]["sweep.n_cross_experts"]["details"]
    assert details["users"] == 50 and details["seeds"] == 2 and len(details["trials"]) >= 6
    figures, names = kept["figures"], {f"sweep.n_cross_experts.{value}.ndcg10.macro" for value in (1, 2, 3)}
    assert names <= set(figures)
    one = "sweep.n_cross_experts.1"
    assert figures[f"{one}.ndcg10.macro_low"] <= figures[f"{one}.ndcg10.macro"]
    assert {f"{one}.ndcg10.{domain}" for domain in A5} | {f"{one}.ntg.{domain}" for domain in A5} <= set(figures)
    gap = figures[f"{one}.ndcg10.macro_cross"] - figures[f"{one}.ndcg10.macro_single"]
    assert figures[f"{one}.ntg.macro"] == pytest.approx(gap, abs=2e-3)
    assert (place / "img" / "quality-sweep-n_cross_experts.png").stat().st_size > 10_000
    page = (place / "page.md").read_text(encoding="utf-8")
    assert "../img/quality-sweep-n_cross_experts.png" in page and page.count("\nold\n") == 6


def test_recorded_values_come_back_where_nothing_was_trained(
    first: subprocess.CompletedProcess[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = [*options(place), "--report", "--sweeps", "n_cross_experts"]
    assert sweeps.main([*there, "--record"]) == 0
    here = capsys.readouterr().out
    elsewhere = [*there, "--cache", str(tmp_path / "cache")]
    assert sweeps.main(elsewhere) == 0 and "not trained yet" in capsys.readouterr().out
    assert sweeps.main([*elsewhere, "--restore"]) == 0
    shown = capsys.readouterr()
    assert shown.out == here and "6 finished cells taken from" in shown.err
    (folder,) = (place / "results" / "quality").iterdir()
    assert len(list(folder.glob("*.npz"))) == 6


def test_every_sweep_changes_one_setting_and_reads_the_rows_that_are_there() -> None:
    chosen = sweeps.rows_of()
    default = Ours("default")
    for (name, value), row in chosen.items():
        changed = {key for key, item in vars(row.config).items() if item != getattr(default.config, key)}
        allowed = {"n_experts", "n_cross_experts", "stop_gradient"} if name.startswith("n_") else {name}
        allowed |= {"correction"} if name == "temperature" else {"mim"} if name == "eta" else set()
        assert changed <= allowed and row.users == (value / 100 if name == "users" else 1), row.name
        if not changed and row.users == 1:
            assert row.name == sweeps.WHOLE, (name, value)
    assert not any(row.outside for row in chosen.values()), "as the paper: the users of the benchmark alone"
    assert chosen["users", 100].name == sweeps.WHOLE and chosen["eta", 1].config.mim is False
    assert chosen["n_experts", 4] is chosen["n_cross_experts", 2], "one model, one row"
    assert len({id(row) for row in chosen.values()}) == len({row.name for row in chosen.values()})
    for n_experts in (2, 3, 4, 5, 6):
        config = chosen["n_experts", n_experts].config
        assert (config.n_experts, config.n_cross_experts, config.stop_gradient) == (n_experts, n_experts // 2, True)


def test_a_default_without_acmoe_changes_no_expert_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = ModelConfig(n_experts=1, n_cross_experts=0, stop_gradient=False)
    monkeypatch.setattr(ModelConfig, "preset", lambda name: shared)
    chosen = sweeps.rows_of([Ours(sweeps.WHOLE, outside=False)])
    assert chosen["channels", 64].name == sweeps.WHOLE and chosen["channels", 8].config.n_experts == 1
    assert chosen["n_experts", 4].name == chosen["n_cross_experts", 2].name == "sweep.n_experts=4"
    assert chosen["n_cross_experts", 1].config.stop_gradient


def test_a_share_of_the_users_is_a_part_of_a_greater_share() -> None:
    data = planted(100)

    def users(share: float) -> set[int]:
        return set(train_sequences(data, 8, outside=True, users=share).user_ids.tolist())

    everybody, quarter, tenth = users(1), users(0.25), users(0.1)
    assert tenth < quarter < everybody
    for low, high, part, whole in ((0, 100, quarter, 100), (100, 1_000, quarter, len(everybody) - 100)):
        assert len([user for user in part if low <= user < high]) == pytest.approx(whole / 4, abs=1)
    own = train_sequences(data, 8, outside=False, users=0.1)
    assert set(own.user_ids.tolist()) == {user for user in tenth if user < 100}


def test_the_tiny_log_is_a_whole_benchmark_set(place: Path) -> None:
    data = load_a5(place)
    assert data.n_users == 50 and data.n_items == (8,) * 5


def test_the_page_of_the_repository_has_a_place_for_each_sweep() -> None:
    text = sweeps.PAGE.read_text(encoding="utf-8")
    for name in sweeps.SWEEPS:
        text = sweeps.into_page(text, name, f"tables of {name}", "bench-sweep")
        assert f"`{name}`" in text
    assert all(f"\ntables of {name}\n" in text for name in sweeps.SWEEPS)


def test_the_make_target_passes_every_option() -> None:
    words = "SWEEP='channels eta' FULL=1 SEEDS=3 DATA=d EPOCHS=4 DEVICE=cpu REPORT=1 RECORD=1 RESTORE=1"
    shown = subprocess.run(
        f"make --no-print-directory -n bench-sweep {words}", shell=True, cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "MAKEFLAGS": ""}, check=True,
    ).stdout  # fmt: skip
    line = shown.replace("\\\n", " ").strip().splitlines()[-1]
    found = sweeps._arguments(line.replace('"', "").split()[3:])
    assert found.sweeps == ["channels", "eta"] and found.full and found.report and found.record and found.restore
    assert (found.seeds, str(found.data), found.epochs, found.device) == (3, "d", 4, "cpu")


def test_an_unknown_sweep_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sweeps.main(["--sweeps", "chanels"])
    assert "'max_length'" in capsys.readouterr().err
    assert sweeps.main(["--data", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
