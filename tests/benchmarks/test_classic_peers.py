"""Popularity, item-kNN and EASE as systems of the quality benchmark: what they learn from, what they score."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.peers import ease, item_knn, item_matrix, popularity
from benchmarks.peers.classic_logs import domain_log, histories, known_outside, mixed_log
from benchmarks.quality.cells import rank
from benchmarks.quality.data import TRAIN, VALID, QualityData, cut
from benchmarks.quality.protocol import Budget, Fitted, Peer, PeerAbsent, View

DOMAINS = ("Books", "Games")
PEERS: dict[str, Peer] = {peer.name: peer for file in (popularity, item_knn, ease) for peer in file.PEERS}
FIRST = {"item-knn": {"weighting": "cosine", "neighbours": 3}, "ease": {"l2": 2.0}, "popularity": {}}
needs_bench = pytest.mark.skipif(
    not item_matrix.BENCH_PYTHON.exists(), reason="needs .venv/bench: make bench-quality makes it"
)


def log_of(rng: np.random.Generator, users: str, n_users: int, n_items: int, n_events: int) -> pd.DataFrame:
    """Return users with n_events different items each, one a day from a day of their own on."""
    rows = []
    for user in range(n_users):
        start = int(rng.integers(0, 40))
        for step, item in enumerate(rng.permutation(2 * n_items)[:n_events]):
            rows.append((f"{users}{user}", f"i{item // 2}", DOMAINS[item % 2], 86_400 * (start + step)))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "ts"])


def tiny(split: str = "leave-one-out") -> QualityData:
    rng = np.random.default_rng(0)
    return cut("tiny", log_of(rng, "u", 40, 14, 9), log_of(rng, "x", 30, 20, 4), DOMAINS, split=split)


@pytest.fixture(scope="module")
def data() -> QualityData:
    return tiny()


def settings_of(peer: Peer) -> Mapping[str, Any]:
    return FIRST[peer.name.split(".")[0]]


def fitted(peer: Peer, data: QualityData, folder: Path, settings: Mapping[str, Any] | None = None) -> Fitted:
    def kept(row: str) -> View:
        raise AssertionError(f"{peer.name} reads {row}")

    folder.mkdir(parents=True, exist_ok=True)
    return peer.fit(data, settings_of(peer) if settings is None else settings, 0, Budget(threads=1), folder, kept)


class Base:
    """The systems fitted on the tiny set, each once: starting the library takes seconds."""

    def __init__(self, data: QualityData, folder: Path) -> None:
        self.data, self.folder = data, folder
        self.found: dict[str, Fitted] = {}

    def __call__(self, name: str) -> Fitted:
        if name not in self.found:
            self.found[name] = fitted(PEERS[name], self.data, self.folder / name)
        return self.found[name]


@pytest.fixture(scope="module")
def base(data: QualityData, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(data, tmp_path_factory.mktemp("classic"))


def of_domain(data: QualityData, code: int, part: str = "test") -> np.ndarray:
    return np.flatnonzero(data.cases[part].domain_M == code)


def train_matrix(data: QualityData, code: int | None) -> np.ndarray:
    """Return who had what in training, dense [U, V], counted here by plain loops."""
    first = {1: 0, 2: data.n_items[0]} if code is None else {code: 0}
    held = np.zeros((data.n_users, sum(data.n_items) if code is None else data.n_items[code - 1]))
    log = data.events
    for event in np.flatnonzero(data.part_E == TRAIN):
        if log.domain_E[event] in first:
            held[log.user_E[event], first[log.domain_E[event]] + log.item_E[event] - 1] = 1
    return held


def test_the_rows_their_kinds_and_their_grids() -> None:
    assert list(PEERS) == [
        "popularity", "popularity.all", "item-knn.single", "item-knn.all", "item-knn.mixed",
        "item-knn.mixed-all", "ease.single", "ease.all", "ease.mixed",
    ]  # fmt: skip
    kinds = {name: peer.kind for name, peer in PEERS.items()}
    assert kinds["popularity"] == kinds["popularity.all"] == "trivial"
    assert all(kinds[name] == "multi-domain" for name in kinds if ".mixed" in name)
    assert all(
        kinds[f"{row}.{scope}"] == "single-domain" for row in ("ease", "item-knn") for scope in ("single", "all")
    )
    assert not any(peer.seeded for peer in PEERS.values())
    assert [len(peer.search) for peer in PEERS.values()] == [1, 1, 12, 12, 12, 12, 4, 4, 4]


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_bench if "." in name else ()) for name in PEERS])
def test_scores_are_ranked_by_the_harness(name: str, base: Base) -> None:
    peer, data = PEERS[name], base.data
    view = base(name).views[""]
    for code in (1, 2):
        index = of_domain(data, code)
        assert view.score("test", index).shape == (len(index), data.n_items[code - 1])
    found = rank(data, "test", view)
    assert np.isfinite(found["full"]).all() and np.isfinite(found["own100"]).all()
    assert np.isfinite(found["all100"]).all() == (peer.kind != "single-domain")
    if view.sampled is not None:
        sampled, scores = view.sampled("test", index), view.score("test", index)
        target = data.cases["test"].target_M[index] - 1
        assert sampled.shape == (len(index), 101)
        assert np.allclose(sampled[:, 0], scores[np.arange(len(index)), target])
        for row, negatives in enumerate(data.cases["test"].negatives_MS[index] - 1):
            own = negatives >= data.n_items[0]
            assert np.allclose(sampled[row, 1:][own], scores[row][negatives[own] - data.n_items[0]])


def test_popularity_counts_training_events_and_outside_ones_in_its_second_row(
    data: QualityData, tmp_path: Path
) -> None:
    index = of_domain(data, 2)
    counts = train_matrix(data, 2).sum(0)
    assert (fitted(PEERS["popularity"], data, tmp_path).views[""].score("test", index) == counts).all()
    of_others = data.outside.item_E[data.outside.domain_E == 2]
    counts = counts + np.bincount(of_others, minlength=data.n_outside_items[1] + 1)[1 : data.n_items[1] + 1]
    assert (fitted(PEERS["popularity.all"], data, tmp_path).views[""].score("test", index) == counts).all()


def test_a_history_weighs_later_events_more_and_a_domains_own_alone(data: QualityData) -> None:
    index = of_domain(data, 2)[:3]
    own = histories(data, "test", index, code=2, decay=0.5).toarray()
    mixed = histories(data, "test", index, code=None, decay=0.5).toarray()
    places = [place for place, _ in enumerate(data.histories("test"))]
    before = dict(zip(places, data.histories("test"), strict=True))
    for row, case in enumerate(index):
        items, domains, _ = before[case]
        expected = np.zeros(data.n_items[1])
        for age, item in enumerate(items[domains == 2][::-1]):
            expected[item - 1] = 0.5**age
        assert np.allclose(own[row], expected)
        expected = np.zeros(sum(data.n_items))
        for age, (item, code) in enumerate(zip(items[::-1], domains[::-1], strict=True)):
            expected[item - 1 + (data.n_items[0] if code == 2 else 0)] = 0.5**age
        assert np.allclose(mixed[row], expected)


def test_by_time_nothing_of_the_others_comes_from_after_training() -> None:
    data = tiny("time")
    valid_from = data.events.ts_E[data.part_E == VALID].min()
    known = known_outside(data)
    assert 0 < len(known) == len(data.outside) and known.ts_E.max() < valid_from
    assert (
        len(domain_log(data, 1, outside=True).item_E)
        == (data.train.domain_E == 1).sum() + (known.domain_E == 1).sum()
    )
    assert len(known_outside(tiny())) == len(tiny().outside)


def test_items_outside_are_learnt_from_and_never_ranked(data: QualityData) -> None:
    log = domain_log(data, 1, outside=True)
    assert log.item_E.max() > log.n_ranked == data.n_items[0] and log.n_items == data.n_outside_items[0]
    assert not set(log.user_E[-5:]) & set(range(data.n_users))
    frequent = log.without_rare(4)
    counts = np.bincount(log.item_E, minlength=log.n_items + 1)
    assert set(frequent.item_E) == {
        item for item in range(1, log.n_items + 1) if counts[item] >= (1 if item <= log.n_ranked else 4)
    }
    mixed, of_all = mixed_log(data), mixed_log(data, outside=True)
    assert max(mixed.item_E.max(), of_all.item_E.max()) <= sum(data.n_items)
    known = data.outside.item_E <= np.array(data.n_items)[data.outside.domain_E - 1]
    assert 0 < known.sum() == len(of_all.item_E) - len(mixed.item_E)
    assert not set(of_all.user_E[-known.sum() :]) & set(range(data.n_users))


def by_hand() -> QualityData:
    """One domain, three items in training: a and b had by two users together, a and c by one, c by one alone."""
    rows = [
        ("u1", "a", 1), ("u1", "b", 2), ("u1", "p", 8), ("u1", "q", 9),
        ("u2", "a", 1), ("u2", "b", 2), ("u2", "q", 8), ("u2", "p", 9),
        ("u3", "a", 1), ("u3", "c", 2), ("u3", "p", 8), ("u3", "q", 9),
        ("u4", "c", 1), ("u4", "q", 8), ("u4", "p", 9),
    ]  # fmt: skip
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "ts"]).assign(domain="Books")
    log["ts"] *= 86_400
    return cut("hand", log, log.iloc[:0], ("Books",), split="leave-one-out")


@needs_bench
def test_item_knn_scores_an_example_by_hand(tmp_path: Path) -> None:
    data = by_hand()
    found = fitted(PEERS["item-knn.single"], data, tmp_path)
    scores = found.views[""].score("valid", np.array([0, 2, 3]))  # histories: a b; a c; c
    decay = found.chosen["decay"]
    ab, ac = 2 / np.sqrt(3 * 2), 1 / np.sqrt(3 * 2)  # 3 users had a, 2 had b, 2 had c; b and c never met
    assert np.allclose(scores[0, :3], [ab, decay * ab, decay * ac], atol=1e-5)
    assert np.allclose(scores[1, :3], [ac, decay * ab, decay * ac], atol=1e-5)
    assert np.allclose(scores[2, :3], [ac, 0, 0], atol=1e-5)
    assert scores[2, 1] == scores[2, 2] < 0  # no neighbour of c: both had two events
    assert scores[0, 3] < scores[2, 1] < scores[0, :3].min()  # p: no training event at all
    nearest = fitted(PEERS["item-knn.single"], data, tmp_path / "1", {"weighting": "cosine", "neighbours": 1})
    assert nearest.parameters == 3  # a -> b, b -> a, c -> a
    assert nearest.views[""].score("valid", np.array([0]))[0, 2] < 0


@needs_bench
@pytest.mark.parametrize("scope", ["single", "mixed"])
def test_ease_is_its_closed_form(scope: str, base: Base) -> None:
    data, found = base.data, base(f"ease.{scope}")
    for code in (1, 2):
        held = train_matrix(data, code if scope == "single" else None)
        inverse = np.linalg.inv(held.T @ held + 2.0 * np.eye(held.shape[1]))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        index = of_domain(data, code)
        history = histories(
            data, "test", index, code=code if scope == "single" else None, decay=found.chosen["decay"]
        )
        expected = history.toarray() @ weights
        start = data.n_items[0] if scope == "mixed" and code == 2 else 0
        scores = found.views[""].score("test", index)
        some = history.sum(axis=1).A1 > 0
        assert some.any()
        assert np.allclose(scores[some], expected[some, start : start + data.n_items[code - 1]], atol=1e-4)


def with_other_targets(data: QualityData) -> QualityData:
    """Return the same cases and histories with every test target another item of its domain."""
    events = data.events.take(np.arange(len(data.events)))
    at = data.cases["test"].event_M
    events.item_E[at] = 1 + events.item_E[at] % np.array(data.n_items)[events.domain_E[at] - 1]
    return replace(data, events=events)


def with_fewer_outside(data: QualityData) -> QualityData:
    return replace(data, outside=data.outside.take(np.arange(0, len(data.outside), 2)))


@needs_bench
@pytest.mark.parametrize(
    "name", [f"{row}.{scope}" for row in ("item-knn", "ease") for scope in ("single", "mixed")]
)
def test_scores_know_neither_the_target_nor_events_outside(name: str, base: Base, tmp_path: Path) -> None:
    other = with_fewer_outside(with_other_targets(base.data))
    index = of_domain(base.data, 2)
    changed = fitted(PEERS[name], other, tmp_path).views[""].score("test", index)
    assert np.array_equal(base(name).views[""].score("test", index), changed)


@needs_bench
@pytest.mark.parametrize("name", ["item-knn.all", "item-knn.mixed-all", "ease.all"])
def test_the_all_rows_see_events_outside_and_no_target(name: str, base: Base, tmp_path: Path) -> None:
    index = of_domain(base.data, 2)
    first = base(name).views[""].score("test", index)
    targets = fitted(PEERS[name], with_other_targets(base.data), tmp_path / "0").views[""].score("test", index)
    outside = fitted(PEERS[name], with_fewer_outside(base.data), tmp_path / "1").views[""].score("test", index)
    assert np.array_equal(first, targets) and not np.allclose(first, outside)


@needs_bench
def test_without_a_history_popularity_decides(data: QualityData, tmp_path: Path) -> None:
    empty = data.cases["test"]
    first = np.append(data.starts_U, 0)[empty.user_M]  # as if every case were its user's first event
    begun = replace(data, cases=data.cases | {"test": replace(empty, event_M=first)})
    index = of_domain(data, 1)
    expected = train_matrix(data, 1).sum(0)
    for name in ("item-knn.single", "item-knn.mixed"):
        scores = fitted(PEERS[name], begun, tmp_path / name).views[""].score("test", index)
        assert (np.argsort(-scores, kind="stable") == np.argsort(-expected, kind="stable")).all(), name


@needs_bench
def test_the_decay_is_the_best_on_validation(base: Base) -> None:
    found = base("item-knn.mixed")
    tried = found.chosen["valid_macro_ndcg10"]
    assert set(tried) == {str(decay) for decay in item_matrix.DECAYS}
    assert tried[str(found.chosen["decay"])] == max(tried.values())


@pytest.mark.parametrize("name", ["item-knn.single", "ease.mixed"])
def test_without_its_environment_a_system_says_what_makes_it(
    name: str, data: QualityData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_matrix, "BENCH_PYTHON", tmp_path / "python")
    with pytest.raises(PeerAbsent, match="make bench-quality"):
        fitted(PEERS[name], data, tmp_path / "cell")


@needs_bench
def test_what_the_library_refuses_is_one_line(data: QualityData, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"item-knn\.single: bench_worker: .*median") as error:
        fitted(PEERS["item-knn.single"], data, tmp_path, {"weighting": "median", "neighbours": 3})
    assert "\n" not in str(error.value)
