"""train's choices: what is due, what to start from, which settings are refused."""

from __future__ import annotations

from argparse import Namespace
from datetime import date
from typing import Any

import pytest

from jobs.command import Run
from jobs.errors import JobError, NothingToDo
from jobs.evaluate import training_rows
from jobs.model_settings import check_options, model_config, training_config
from jobs.registry import Version
from jobs.train import _metadata, began, check_due, ending, metric_name, usable_champion
from syncrec_model import EpochReport, FitResult, ModelConfig, TrainingConfig

DAY = date(2024, 1, 10)


def champion(ds: str) -> Version:
    return Version(number="3", run_id="r", tags={"ds": ds})


def test_what_training_began_from_is_said_in_words() -> None:
    assert [began("cold"), began("version 3")] == ["a cold start", "started from version 3"]


def test_the_first_night_and_the_next_one_are_due(settings: Any) -> None:
    check_due(settings(), None, None, DAY)
    check_due(settings(), champion("2024-01-09"), champion("2024-01-09"), DAY)
    check_due(settings(), champion("2024-01-10"), champion("2024-01-10"), DAY)  # the same night once more


def test_a_backfill_does_not_train(settings: Any) -> None:
    with pytest.raises(NothingToDo, match="backfill: the champion is of 2024-01-11"):
        check_due(settings(), champion("2024-01-11"), champion("2024-01-11"), DAY)


def test_every_third_night_trains_when_so_configured_also_after_a_refusal(settings: Any) -> None:
    thirdly = settings(training={"every_days": 3})
    with pytest.raises(NothingToDo, match="every_days = 3"):
        check_due(thirdly, champion("2024-01-01"), champion("2024-01-08"), DAY)
    check_due(thirdly, champion("2024-01-01"), champion("2024-01-07"), DAY)


def test_only_a_champion_that_has_seen_nothing_later_is_a_start() -> None:
    assert usable_champion(champion("2024-01-10"), DAY) is not None
    assert usable_champion(champion("2024-01-11"), DAY) is None
    assert usable_champion(Version(number="1", run_id="r", tags={}), DAY) is None
    assert usable_champion(None, DAY) is None


def test_settings_reach_the_model_and_warm_nights_are_shorter(settings: Any) -> None:
    made = settings(
        model={"channels": 16, "options": {"n_experts": 3}}, training={"epochs": 9, "warm_epochs": 2, "seed": 5}
    )
    config = model_config(made)
    assert (config.channels, config.n_experts, config.max_length) == (16, 3, 8)
    assert training_config(made, warm=False).epochs == 9
    assert training_config(made, warm=True).epochs == 2 and training_config(made, warm=True).seed == 5


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"options": {"n_expert": 3}}, r"\[model.options\] n_expert: .* did you mean n_experts\?"),
        ({"options": {"gate": "none"}}, r"\[model\].*gate"),
        ({"channels": 10, "options": {"n_heads": 3}}, r"\[model\].*n_heads"),
        ({"options": {"xyzzy": 3}}, r"xyzzy: there is no such setting: known are architecture, "),
        ({"options": {"max_length": 9}}, r"\[model.options\] max_length: give it as \[sequences\] max_length"),
        ({"preset": "released", "options": {"loss": "softmax"}}, r"\[model\].*loss.*give 'bce'"),
    ],
)
def test_a_wrong_model_is_refused_in_one_sentence(settings: Any, section: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        model_config(settings(model=section))


def test_a_wrong_training_option_is_refused(settings: Any) -> None:
    with pytest.raises(JobError, match=r"\[training.options\] patiens: .* did you mean patience\?"):
        training_config(settings(training={"options": {"patiens": 3}}), warm=False)


def test_options_are_checked_before_a_night_where_there_are_any(settings: Any) -> None:
    check_options(settings())
    check_options(settings(training={"options": {"patience": 3}}))
    for section in ("model", "training"):
        with pytest.raises(JobError, match="dropot"):
            check_options(settings(**{section: {"options": {"dropot": 0.2}}}))


def test_a_setting_of_the_section_is_no_option(settings: Any) -> None:
    with pytest.raises(JobError, match=r"\[training.options\] epochs: give it as \[training\] epochs"):
        training_config(settings(training={"options": {"epochs": 3}}), warm=False)


def test_every_field_of_model_and_training_can_be_set(settings: Any) -> None:
    model = ModelConfig(
        channels=12, max_length=8, n_experts=5, n_cross_experts=3, n_layers=2, n_heads=3, ffn_multiplier=3,
        dropout=0.1, gate="sequence", loss="bce", correction="bounded", correction_floor=0.4,
        correction_momentum=0.8, temperature=0.7, mim_score="cosine", mim_others_only=True, stop_gradient=False,
        mim=False, eta=0.6, start="random", neighbours=0, fit_blend=False,
    )  # fmt: skip
    training = TrainingConfig(
        epochs=3, batch_size=32, learning_rate=1e-3, weight_decay=0.1, warmup_steps=5, clip_norm=2.0, patience=7,
        seed=4, threads=1, device="cpu", precision="bf16", deterministic=True, compile=True, average_epochs=0.2,
    )  # fmt: skip
    for made, standard in ((model, ModelConfig()), (training, TrainingConfig())):
        same = [name for name, value in made.to_dict().items() if value == standard.to_dict()[name]]
        assert set(same) <= {
            "architecture",
            "full_softmax_items",
            "sampled_negatives",
        }  # loss = "bce" reads no such
    options = model.to_dict()
    own = {"channels": options.pop("channels")}
    assert options.pop("max_length") == 8  # that of the settings of these tests
    section = training.to_dict()
    free = ("epochs", "batch_size", "learning_rate", "seed", "threads", "device")
    names = [name for name in section if name not in free]
    section["options"] = {name: section.pop(name) for name in names}
    given = settings(model={**own, "options": options}, training=section)
    assert model_config(given) == model
    assert training_config(given, warm=False) == training
    large = {"full_softmax_items": 900, "sampled_negatives": 30}
    assert model_config(settings(model={"options": large})).to_dict().items() >= large.items()
    released = model_config(settings(model={"preset": "released", "channels": 16}))
    assert released.architecture == "released"


def test_metric_names_are_allowed_in_mlflow() -> None:
    assert metric_name("cross.ndcg@10", "books") == "cross.ndcg_at_10/books"
    assert metric_name("loss") == "loss"


@pytest.mark.parametrize(
    ("epochs", "early", "words"),
    [
        (9, True, "after epoch 9 of at most 30: no better validation for 3 epochs; epoch 6 is kept"),
        (30, True, "after epoch 30 of at most 30: all epochs are done; epoch 6 is kept"),
        (30, False, "after epoch 30 of at most 30: all epochs are done; epoch 6 is kept"),
    ],
)
def test_the_log_says_why_training_ended(epochs: int, early: bool, words: str) -> None:
    result = FitResult(best_epoch=6, epochs=[None] * epochs, stopped_early=early)  # type: ignore[list-item]
    assert ending(result, TrainingConfig(epochs=30, patience=3)) == f"training ended {words}"


def test_a_training_whose_last_epoch_was_the_best_says_that_more_may_change_the_answer() -> None:
    result = FitResult(best_epoch=3, epochs=[None] * 3, stopped_early=False)  # type: ignore[list-item]
    said = ending(result, TrainingConfig(epochs=3))
    assert said.endswith("epoch 3 is kept; it is the last one allowed: more might be better, and say "
                         "otherwise who is hurt")  # fmt: skip


def test_a_version_keeps_which_epoch_it_is_of_and_of_how_many(settings: Any) -> None:
    reports = [EpochReport(n, 1.0, 1.0, {"books": {"ntg_loss": 0.1 * n}}, {}) for n in (1, 2, 3)]
    result = FitResult(best_epoch=2, epochs=reports, stopped_early=True)
    run = Run(ds=DAY, run_id="r", settings=settings(), arguments=Namespace())
    kept = _metadata(run, "cold", result, {"cases": 1}, 12)
    assert (kept["best_epoch"], kept["epochs_at_most"], kept["domains"]) == (2, 12, {"books": {"ntg_loss": 0.2}})
    loaded = Namespace(metadata=kept, version="7")
    rows = {(row["domain"], row["metric"]): row["value"] for row in training_rows(loaded, "challenger")}  # type: ignore[arg-type]
    assert rows == {("books", "ntg_loss"): 0.2, ("macro", "epoch"): 2.0, ("macro", "epochs_at_most"): 12.0}
