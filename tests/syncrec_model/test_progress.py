"""The bar: every domain's losses and gap in lines that fit the screen; quiet in a log file."""

from __future__ import annotations

import pytest
from fitting import trained
from small_models import planted_sets

from syncrec_model import EpochReport, ModelConfig, SyNCRec, TrainingConfig, fit
from syncrec_model.progress import ProgressBar, domain_lines, short_names

NINE = (
    "books",
    "toys",
    "groceries",
    "coupons",
    "navigation",
    "amazon_music",
    "beauty",
    "sports",
    "office_products",
)


def figures(gap: float = -0.012):
    return {"loss_cross": 11.234, "loss_single": 10.221, "ntg_loss": gap}


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("domains", [("shop",), NINE[:5], NINE])
def test_every_domain_is_shown_within_the_columns(columns, domains):
    lines = domain_lines({domain: figures() for domain in domains}, columns)
    assert max(map(len, lines)) <= columns and len(lines) <= 5
    text = "\n".join(lines)
    assert text.count("11.23/10.22 -0.012") == len(domains)
    assert all(domain[:10] in text for domain in domains)
    assert "cross/single loss, ntg" in lines[0]


def test_short_names_stay_different():
    assert short_names(["amazon_books", "amazon_toys"]) == ["books", "toys"]
    assert short_names(["supplements_men", "supplements_women"], 8) == ["men", "women"]
    assert short_names(["groceries-north", "groceries-south"]) == ["1:grocerie", "2:grocerie"]
    assert short_names(["books"]) == ["books"]


def test_a_finished_epoch_says_macro_and_minimum_and_the_gap_of_every_domain():
    totals = {"loss": 4.0, "macro.blend.ndcg@10": 0.0312, "min.blend.ndcg@10": 0.0101}
    report = EpochReport(3, 1.0, 10.0, {"books": figures(0.1), "toys": figures(-0.25)}, totals)
    gaps = "ntg of the loss books +0.100 toys -0.250"
    assert report.line() == f"epoch 3, loss 4.000, ndcg@10 0.0312 (worst domain 0.0101), {gaps}"
    assert EpochReport(1, 1.0, 1.0, {}, {"loss": 4.0}).line() == "epoch 1, loss 4.000, ntg of the loss "


def test_in_a_terminal_the_lines_stand_below_the_bar_and_stay(monkeypatch, capsys):
    train, valid, _ = planted_sets(n_users=40)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    model = SyNCRec(
        ModelConfig(channels=8, max_length=8, n_experts=2, n_cross_experts=1), ("books", "toys"), (12, 10)
    )
    result = fit(model, train, valid, TrainingConfig(epochs=2, batch_size=20, device="cpu"))
    said = capsys.readouterr().err
    assert "epoch 1/2" in said and "epoch 2/2" in said and "100%" in said
    last = said.rstrip("\n").splitlines()[-1]
    for name, of_domain in result.epochs[-1].domains.items():
        assert f"{name} {of_domain['loss_cross']:.2f}/{of_domain['loss_single']:.2f}" in " ".join(last.split())
    assert f"(worst domain {result.epochs[-1].totals['min.blend.ndcg@10']:.4f})" in said


def test_in_a_log_file_only_the_bar_is_written(capsys):
    with ProgressBar(epochs=1, steps_per_epoch=2, done=0, shown=True) as bar:
        bar.bar.update()
        bar.epoch(EpochReport(1, 1.0, 10.0, dict.fromkeys(NINE, figures()), {"loss": 4.0}))
    said = capsys.readouterr().err
    assert "office_products -0.012\n" in said and "cross/single" not in said and "\r" not in said
    trained(epochs=1)
    assert capsys.readouterr().err == ""
