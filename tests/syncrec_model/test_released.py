"""The preset `released` works like any model, and shows the defects that it is there to show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import DOMAINS, planted_sets, random_set

from syncrec_model import (
    ModelConfig,
    Recommender,
    SequenceSet,
    SyNCRec,
    TrainingConfig,
    Vocabulary,
    build_model,
    fit,
    load_model,
    rank_cases,
    save_model,
    warm_start,
)
from syncrec_model.batches import SequenceReader
from syncrec_model.released import ReleasedSyNCRec
from syncrec_model.released_parts import negatives_of_all_domains

VIEWS = {"books": "cross", "toys": "single", "food": "blend"}


def released(n_items=(7, 5, 9), domains=DOMAINS, seed=0, **changes):
    torch.manual_seed(seed)
    config = dataclasses.replace(ModelConfig.preset("released"), channels=8, max_length=5, **changes)
    model = build_model(config, domains[: len(n_items)], n_items).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def vocabulary(counts, domains=DOMAINS):
    return Vocabulary(domains, tuple([f"{d}{i}" for i in range(n)] for d, n in zip(domains, counts, strict=True)))


def batch_of(data: SequenceSet):
    return SequenceReader(data).training(np.arange(data.n_users))


def test_the_configuration_picks_the_class():
    assert type(build_model(ModelConfig.preset("released"), DOMAINS, (7, 5, 9))) is ReleasedSyNCRec
    assert type(build_model(ModelConfig(), DOMAINS, (7, 5, 9))) is SyNCRec
    with pytest.raises(ValueError, match="asks for 'released'; use build_model"):
        SyNCRec(ModelConfig.preset("released"), DOMAINS, (7, 5, 9))


def test_trains_ranks_resumes_and_comes_back_from_disk(tmp_path):
    train, valid, _ = planted_sets(n_users=60, max_length=5)
    settings = TrainingConfig(epochs=2, batch_size=30, learning_rate=5e-3, warmup_steps=0, threads=1)

    def run(checkpoint=None, epochs=2):
        model = released((12, 10)).float()
        config = dataclasses.replace(settings, epochs=epochs)
        return model, fit(model, train, valid, config, checkpoint=checkpoint, progress=False)

    model, result = run()
    assert result.epochs[1].totals["loss"] < result.epochs[0].totals["loss"]
    assert sum(figures["lambda"] for figures in result.epochs[1].domains.values()) == pytest.approx(1)
    run(tmp_path / "c", epochs=1)
    again, resumed = run(tmp_path / "c")
    assert resumed.resumed_after == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name

    words = vocabulary((12, 10), ("books", "toys"))
    save_model(tmp_path / "m", model, words, {"books": "cross", "toys": "blend"})
    loaded, known, views, _ = load_model(tmp_path / "m")
    assert type(loaded) is ReleasedSyNCRec and loaded.config == model.config
    torch.manual_seed(1)  # the gate's noise stays on and moves nothing
    one = rank_cases(model, valid)
    torch.manual_seed(2)
    two = rank_cases(loaded, valid)
    assert len(one) > 50
    for view in one.ranks:
        assert np.array_equal(one.ranks[view], two.ranks[view])
    top = Recommender(loaded, known, views).recommend([[("books3", "books", 1.0)], []], 3)
    assert [len(found["toys"]) for found in top.items] == [3, 3]


def test_only_copies_under_dropout_let_the_gate_matter():
    data, model = random_set(1), released()
    packed = SequenceReader(data).serving_cross(np.arange(data.n_users))
    for dropping, moves in ((False, False), (True, True)):
        model.train(dropping)
        outputs = []
        for noise in (0.0, 9.0):
            with torch.no_grad():
                model.gate.cross_noise.bias.fill_(noise)
            torch.manual_seed(3)
            outputs.append(model.encode(packed))
        assert torch.allclose(*outputs) != moves


def test_every_parameter_learns_and_alpha_and_beta_are_none():
    model = released().train()
    model(batch_of(random_set(2))).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.embedding.items_VC.grad[0].any()
    assert not {"correction.alpha", "correction.beta"} & dict(model.named_parameters()).keys()


def test_lambda_comes_from_the_raw_state_of_all_steps_before():
    model, batch = released(mim=False).train(), batch_of(random_set(3))
    raw_D = np.full(3, 1 / 3)
    for _ in range(3):
        losses = model(batch)
        gap_D = (losses.gap_sum_D / losses.gap_count_D).numpy()
        raw_D = float(model.correction.alpha) * raw_D + float(model.correction.beta) * gap_D
        expected_D = np.exp(raw_D) / np.exp(raw_D).sum()
        assert np.allclose(losses.weight_D.numpy(), expected_D)
    before = model.correction.raw_D.clone()
    model.eval()(batch)
    assert torch.equal(model.correction.raw_D, before)


def events_of_two(middle):
    """Two users; `middle` is (item, domain) of the first one's third event."""
    items, codes = [1, 2, middle[0], 3, 4, 5, 1], [1, 1, middle[1], 1, 1, 3, 3]
    return SequenceSet.from_events(
        user_ids=np.array([0] * 5 + [1] * 2), item_indexes=np.array(items), domain_codes=np.array(codes),
        timestamps=np.arange(7), domains=DOMAINS, n_items=(7, 5, 9), max_length=5,
    )  # fmt: skip


def test_single_tasks_see_blanks_but_not_what_stood_there():
    model = released(dropout=0.0).eval()
    windows = [batch_of(events_of_two(middle)) for middle in ((1, 2), (4, 2), (9, 3))]
    outputs = []
    for batch in windows:
        window = model.window(batch.cross, batch)
        reads_BT = window.domains_BT == 1
        outputs.append(model.window_mixture(window, reads_BT, "single")[0, -1])
    assert torch.allclose(outputs[0], outputs[1]) and torch.allclose(outputs[0], outputs[2])
    packed = SequenceReader(events_of_two((1, 2))).serving_single(np.array([0]))
    assert not torch.allclose(outputs[0], model.mixture(packed, learning="single")[packed.last_R][0])
    cross = [model.encode(batch.cross)[0] for batch in windows]
    assert not torch.allclose(cross[0], cross[1]) and not torch.allclose(cross[0], cross[2])


@pytest.mark.parametrize("n_domains", [1, 2, 10])
def test_any_number_of_domains_and_empty_ones(n_domains):
    names = tuple(f"d{i}" for i in range(n_domains))
    data = SequenceSet.from_events(
        user_ids=np.array([0, 0, 0, 1]), item_indexes=np.array([1, 2, 1, 2]), domain_codes=np.ones(4, dtype=int),
        timestamps=np.arange(4), domains=names, n_items=(3,) * n_domains, max_length=5,
    )  # fmt: skip
    model = released((3,) * n_domains, names).train()
    losses = model(batch_of(data))
    losses.total.backward()
    assert torch.isfinite(losses.total) and losses.single_count_D.tolist() == [2] + [0] * (n_domains - 1)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_rank_without_users_computes_its_empty_share():
    losses = released().train()(SequenceReader(random_set(2)).training(np.zeros(0, dtype=np.int64)))
    losses.total.backward()
    assert losses.total == 0 and not losses.mim_defined_D.any()


@given(st.integers(1, 12), st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(0, 99))
def test_negatives_are_the_items_that_the_row_does_not_hold(n_items, row, seed):
    torch.manual_seed(seed)
    row = [min(item, n_items) for item in row]
    drawn = set(negatives_of_all_domains(torch.tensor([row] * 300), n_items).flatten().tolist())
    free = set(range(1, n_items + 1)) - set(row)
    assert drawn <= (free or {n_items})
    if len(row) * 300 >= 600:  # 600 draws of at most 12 items miss none
        assert drawn == (free or {n_items})


def test_warm_start_gives_the_older_scores_for_older_items():
    older, older_words = released(), vocabulary((7, 5, 9))
    domains, counts = ("new", "food", "books", "toys"), (3, 11, 7, 6)
    today, words = released(counts, domains, seed=5), vocabulary(counts, domains)
    assert warm_start(today, words, older, older_words) == ["new"]
    histories = [[("books1", "books", 1.0), ("food3", "food", 2.0), ("toys0", "toys", 3.0)]]
    (old,) = Recommender(older, older_words, VIEWS).recommend(histories, 50).items
    (new,) = Recommender(today, words, VIEWS | {"new": "cross"}).recommend(histories, 50).items
    for domain in DOMAINS:
        scores = dict(new[domain])
        assert {item: scores[item] for item, _ in old[domain]} == pytest.approx(dict(old[domain]), abs=1e-5)


def test_warm_start_refuses_another_architecture_and_another_window():
    older, words = released(), vocabulary((7, 5, 9))
    plain = build_model(ModelConfig(channels=8, max_length=5), DOMAINS, (7, 5, 9))
    with pytest.raises(ValueError, match=r"older model is of architecture 'released'.*train from the start"):
        warm_start(plain, words, older, words)
    config = dataclasses.replace(older.config, max_length=7)
    with pytest.raises(ValueError, match="another max_length"):
        warm_start(build_model(config, DOMAINS, (7, 5, 9)), words, older, words)
