"""A saved model comes back the same, without pickle; a warm start copies what it should and nothing else."""

from __future__ import annotations

import json

import pytest
import torch
from small_models import DOMAINS, random_set, small_model

from syncrec_model import ModelConfig, Recommender, SyNCRec, Vocabulary, load_model, save_model, warm_start


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
    with pytest.raises(ValueError, match="format 99"):
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


def test_warm_start_aligns_positions_at_the_newest_step():
    today, words, older, older_words = grown()
    today = SyNCRec(ModelConfig.from_dict(older.config.to_dict() | {"max_length": 8}), words.domains, words.n_items)
    warm_start(today.double(), words, older, older_words)
    assert torch.equal(today.embedding.positions_TC[:5], older.embedding.positions_TC)


def test_warm_start_refuses_another_past():
    today, words, older, older_words = grown()
    other = Vocabulary(words.domains, (*words.item_ids[:2], ["x", *words.item_ids[2][1:]], words.item_ids[3]))
    with pytest.raises(ValueError, match="domain 'books' is not a prefix"):
        warm_start(today, other, older, older_words)
    wider = SyNCRec(ModelConfig.from_dict(older.config.to_dict() | {"channels": 16}), words.domains, words.n_items)
    with pytest.raises(ValueError, match="another channels"):
        warm_start(wider, words, older, older_words)
