"""A saved model comes back the same, without pickle; a warm start copies what it should and nothing else."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import DOMAINS, random_set, small_model

from syncrec_model import (
    Recommender,
    SequenceSet,
    SyNCRec,
    TrainingConfig,
    Vocabulary,
    fit,
    load_model,
    save_model,
    warm_start,
)
from syncrec_model.cooccurrence import count_pairs


def vocabulary(counts, domains=DOMAINS):
    return Vocabulary(domains, tuple([f"{d}{i}" for i in range(n)] for d, n in zip(domains, counts, strict=True)))


VIEWS = {"books": "cross", "toys": "single", "food": "blend"}


def test_round_trip_without_pickle(tmp_path):
    words = vocabulary((7, 5, 9))
    model = small_model().float()
    model.correction.lambda_D.copy_(torch.tensor([0.5, 0.2, 0.3]))
    for _ in range(2):  # the second time over an existing folder
        save_model(tmp_path / "m", model, words, VIEWS, {"trained_to": "2024-03-01"})
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    again, known, views, metadata = load_model(tmp_path / "m")
    assert (known, views, metadata) == (words, VIEWS, {"trained_to": "2024-03-01"})
    assert again.config == model.config and not again.training
    data = random_set(1)
    one, two = Recommender(model, words, VIEWS).top_n(data, 3), Recommender(again, known, views).top_n(data, 3)
    assert one.item.tolist() == two.item.tolist() and one.score.tolist() == two.score.tolist()
    assert again.correction.lambda_D.tolist() == model.correction.lambda_D.tolist()
    names = sorted(p.name for p in (tmp_path / "m").iterdir())
    assert names == ["config.json", "model.safetensors", "vocabulary.json"]
    for name in names:
        assert (tmp_path / "m" / name).read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04"), "pickle inside"


def test_broken_folders_are_refused_by_name(tmp_path):
    words, model = vocabulary((7, 5, 9)), small_model()
    with pytest.raises(ValueError, match=r"config.json is missing"):
        load_model(tmp_path)
    save_model(tmp_path / "m", model, words, VIEWS)
    config = tmp_path / "m" / "config.json"
    form = json.loads(config.read_text())
    config.write_text(json.dumps(form | {"format": 99}))
    with pytest.raises(ValueError, match=r"format 99.*use the newer code that saved it, or train again"):
        load_model(tmp_path / "m")
    config.write_text(json.dumps(form | {"n_items": [7, 5, 8]}))
    with pytest.raises(ValueError, match="different domains or item counts"):
        load_model(tmp_path / "m")
    config.write_text(json.dumps(form | {"model": form["model"] | {"channels": 16}}))
    with pytest.raises(ValueError, match=r"model.safetensors does not fit"):
        load_model(tmp_path / "m")
    with pytest.raises(ValueError, match="save_model"):
        save_model(tmp_path / "n", model, vocabulary((7, 5, 8)), VIEWS)
    assert not (tmp_path / "n").exists()


def grown(**changes):
    """Return an older model of three domains, and today's with more items, another order and a new domain."""
    older, older_words = small_model(1, **changes), vocabulary((7, 5, 9))
    domains = ("new", "food", "books", "toys")
    words = Vocabulary(
        domains, tuple([f"{d}{i}" for i in range(n)] for d, n in zip(domains, (3, 11, 7, 6), strict=True))
    )
    torch.manual_seed(5)
    today = SyNCRec(older.config, domains, words.n_items).double()
    return today, words, older, older_words


@pytest.mark.parametrize("gate", ["step", "sequence"])
def test_warm_start_gives_the_older_scores_for_older_items(gate):
    today, words, older, older_words = grown(gate=gate)
    before = today.embedding.items_VC.clone()
    assert warm_start(today, words, older, older_words) == ["new"]
    old_served = Recommender(older, older_words, VIEWS)
    new_served = Recommender(today, words, VIEWS | {"new": "cross"})
    histories = [[("books1", "books", 1), ("food3", "food", 2), ("toys0", "toys", 3)], [("books2", "books", 1)]]
    one, two = old_served.recommend(histories, 50).items, new_served.recommend(histories, 50).items
    for old, new in zip(one, two, strict=True):
        for domain in DOMAINS:
            scores = dict(new[domain])
            assert {item: scores[item] for item, _ in old[domain]} == pytest.approx(dict(old[domain]), abs=1e-5)
    new_rows = [1, 2, 3, 3 + 10, 3 + 11, 3 + 11 + 7 + 6]  # domain "new", food9 and food10, toys5
    changed = (today.embedding.items_VC != before).any(1)
    assert changed.nonzero().squeeze(1).tolist() == [r for r in range(1, 28) if r not in new_rows]


HISTORIES = [[("books1", "books", 1), ("food3", "food", 2), ("toys0", "toys", 3)], [("books2", "books", 1)]]


@pytest.mark.parametrize("gate", ["step", "sequence"])
@pytest.mark.parametrize("max_length", [4, 8])
def test_another_window_gives_the_older_scores_where_the_history_fits_both(gate, max_length):
    """Positions and the paper's gate align at the newest step."""
    _, words, older, older_words = grown(gate=gate)
    torch.manual_seed(3)
    config = dataclasses.replace(older.config, max_length=max_length)
    today = SyNCRec(config, words.domains, words.n_items).double()
    far_before = today.embedding.positions_TC[5:].clone()
    warm_start(today, words, older, older_words)
    assert torch.equal(today.embedding.positions_TC[5:], far_before)
    one = Recommender(older, older_words, VIEWS).recommend(HISTORIES, 50).items
    two = Recommender(today, words, VIEWS | {"new": "cross"}).recommend(HISTORIES, 50).items
    for old, new in zip(one, two, strict=True):
        for domain in DOMAINS:
            scores = dict(new[domain])
            assert {item: scores[item] for item, _ in old[domain]} == pytest.approx(dict(old[domain]), abs=1e-5)


def test_a_model_of_format_1_is_read_with_its_share(tmp_path):
    """Champions registered before the blend had neighbours go on scoring."""
    model, words = small_model(1, neighbours=0, start="random", fit_blend=False).float(), vocabulary((7, 5, 9))
    save_model(tmp_path / "m", model, words, VIEWS)
    form = json.loads((tmp_path / "m" / "config.json").read_text())
    assert form.pop("format") == 2
    older = {
        name: value for name, value in form["model"].items() if name not in ("start", "neighbours", "fit_blend")
    }
    (tmp_path / "m" / "config.json").write_text(json.dumps(form | {"format": 1, "model": older}))
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["blend.weights_DF"]
    save_file(weights | {"blend_D": torch.tensor([0.5, 0.25, 1.0])}, tmp_path / "m" / "model.safetensors")
    again = load_model(tmp_path / "m")[0]
    assert again.blend.weights_DF[:, :2].tolist() == [[1, 1], [0.5, 1.5], [2, 0]]
    assert again.blend.neighbours is None and not again.config.fit_blend


def test_the_neighbours_and_weights_of_the_blend_move_to_the_grown_vocabulary():
    """A champion scores tonight's items without training: its item neighbours must say what they said."""
    today, words, older, older_words = grown()
    train = random_set(5, n_users=30)
    older.blend.learn(train, count_pairs(train))
    with torch.no_grad():
        older.blend.weights_DF.copy_(torch.tensor([[0.1, 0.2, 9.0, -3.0, 0.7]]) * torch.tensor([[1], [2], [3]]))
    warm_start(today, words, older, older_words)
    assert len(today.blend.neighbours.items) == len(older.blend.neighbours.items) > 20
    blended = dict.fromkeys(DOMAINS, "blend")
    one = Recommender(older, older_words, blended).recommend(HISTORIES, 50).items
    two = Recommender(today, words, blended | {"new": "cross"}).recommend(HISTORIES, 50).items
    for old, new in zip(one, two, strict=True):
        for domain in DOMAINS:
            scores = dict(new[domain])
            assert {item: scores[item] for item, _ in old[domain]} == pytest.approx(dict(old[domain]), rel=1e-5)
    assert today.blend.weights_DF[0].tolist() == [1, 1, 0, 0, 0], "a new domain: the sum of both views"


def test_a_new_domain_starts_fresh_and_the_others_keep_their_state():
    today, words, older, older_words = grown(correction="paper")
    older.correction.lambda_D.copy_(torch.tensor([0.5, 0.2, 0.3]))
    older.correction.phi_D.copy_(torch.tensor([0.1, -0.2, 0.4]))
    older.blend.weights_DF[:, 0] = torch.tensor([0.1, 0.2, 0.3])
    fresh = {name: value.clone() for name, value in today.state_dict().items()}
    warm_start(today, words, older, older_words)
    weights = today.state_dict()
    own = [name for name in fresh if name.startswith("towers.towers.1.")]  # tower 0 is the cross task's
    assert own and all(torch.equal(weights[name], fresh[name]) for name in own)
    assert torch.equal(weights["embedding.sos_DC"][1], fresh["embedding.sos_DC"][1])
    assert torch.equal(weights["gates.weight_DKC"][1], fresh["gates.weight_DKC"][1])
    total = 0.25 + 1
    assert today.correction.lambda_D.tolist() == pytest.approx(
        [0.25 / total, 0.3 / total, 0.5 / total, 0.2 / total]
    )
    assert today.correction.phi_D.tolist() == pytest.approx([0, 0.4, 0.1, -0.2])
    assert today.blend.weights_DF[:, 0].tolist() == pytest.approx([1, 0.3, 0.1, 0.2])
    assert today.correction.alpha == older.correction.alpha and today.correction.beta == older.correction.beta


def test_a_widened_model_trains_on():
    today, words, older, older_words = grown()
    warm_start(today, words, older, older_words)
    rng = np.random.default_rng(0)
    domain = rng.integers(1, 5, 80)
    log = SequenceSet.from_events(
        user_ids=rng.integers(0, 10, 80), item_indexes=1 + rng.integers(0, np.array(words.n_items)[domain - 1]),
        domain_codes=domain, domains=words.domains, n_items=words.n_items, max_length=5,
    )  # fmt: skip
    before = today.embedding.items_VC[1:4].clone()
    training = TrainingConfig(epochs=3, batch_size=5, learning_rate=0.01, device="cpu")
    result = fit(today, log, None, training, progress=False)
    assert result.epochs[-1].totals["loss"] < result.epochs[0].totals["loss"]
    assert (today.embedding.items_VC[1:4] != before).any(1).all()  # the new domain's items learn


def test_warm_start_refuses_another_past_and_leaves_the_model_alone():
    today, words, older, older_words = grown()
    fresh = {name: value.clone() for name, value in today.state_dict().items()}
    food, books = words.item_ids[1:3]
    pasts = {
        "another item": ["x", *books[1:]],
        "another order": [books[1], books[0], *books[2:]],
        "an item less": books[:-1],
        "a new item before the old ones": ["x", *books],
    }
    for past, ids in pasts.items():
        other = Vocabulary(words.domains, (words.item_ids[0], food, ids, words.item_ids[3]))
        with pytest.raises(ValueError, match="domain 'books' is not a prefix"):
            warm_start(today, other, older, older_words)
            pytest.fail(past)
    shapes = {
        "channels": 16, "gate": "sequence", "n_layers": 2, "n_heads": 2, "ffn_multiplier": 3, "n_experts": 4,
        "n_cross_experts": 2,
    }  # fmt: skip
    for name, value in shapes.items():
        config = dataclasses.replace(older.config, **{name: value})
        with pytest.raises(ValueError, match=f"another {name}; train from the start"):
            warm_start(SyNCRec(config, words.domains, words.n_items), words, older, older_words)
    assert all(torch.equal(value, fresh[name]) for name, value in today.state_dict().items())


def test_a_domain_that_is_gone_is_left_behind():
    older, older_words = small_model(1), vocabulary((7, 5, 9))
    words = vocabulary((7, 9), ("books", "food"))
    today = SyNCRec(older.config, words.domains, words.n_items).double()
    assert warm_start(today, words, older, older_words) == []
    assert torch.equal(today.embedding.tables()[1], older.embedding.tables()[2])
    assert today.correction.lambda_D.sum().item() == pytest.approx(1)
