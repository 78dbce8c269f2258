"""The guard on a trained model: a domain that is planted to be hurt is served by its single view, one helped not.

Films are taken at random. A coupon follows from the film before it, so only the other domains tell it. Routes go
round in a ring, but so seldom that the window of the cross view has mostly lost the last stop: they are only hurt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.evaluate import choice_rows, quality_rows, rank_version, training_rows, transfer_rows
from jobs.lakehouse import Lakehouse
from jobs.loaded_model import LoadedModel, widen
from jobs.report import main
from jobs.settings import load_settings
from jobs.train import served_views
from syncrec_model import ModelConfig, SequenceSet, SyNCRec, TrainingConfig, Vocabulary, fit, load_model, save_model
from tests.jobs.test_report import Page
from tests.sql.planted import CONFIG, D29, put

DOMAINS = ("films", "coupons", "routes")
N_ITEMS = 30
WINDOW = 8
ROW = {"run_id": "run-29", "ds": D29}


def planted_log(n_users: int = 250) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows: list[tuple[int, int, int, int]] = []
    for user in range(n_users):
        stop, length = int(rng.integers(N_ITEMS)), len(rows) + 44
        while len(rows) < length:
            film = int(rng.integers(N_ITEMS))
            rows.append((user, film + 1, 1, len(rows)))
            if rng.random() < 0.25:
                rows.append((user, film + 1, 2, len(rows)))
            if rng.random() < 0.15:
                stop = (stop + 1) % N_ITEMS
                rows.append((user, stop + 1, 3, len(rows)))
    user, item, domain, place = np.array(rows).T
    first = np.searchsorted(user, np.arange(n_users))
    return {"user_ids": user, "item_indexes": item, "domain_codes": domain, "timestamps": place - first[user]}


def sequences(log: dict[str, Any], end: int, start: int | None = None) -> SequenceSet:
    """What happened before `end`; the events from `start` on are to be predicted."""
    own = {name: column[log["timestamps"] < end] for name, column in log.items()}
    window = None if start is None else (start, end)
    return SequenceSet.from_events(**own, domains=DOMAINS, n_items=(N_ITEMS,) * 3, max_length=WINDOW, window=window)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, SequenceSet]:
    """A version as a night trains, judges and saves it, read again; and the test cases."""
    log = planted_log()
    train, valid, test = sequences(log, 32), sequences(log, 38, 32), sequences(log, 44, 38)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(channels=16, max_length=WINDOW, n_experts=2, n_cross_experts=1, dropout=0.0)
    model = SyNCRec(config, DOMAINS, train.n_items)
    training = TrainingConfig(epochs=6, batch_size=32, learning_rate=1e-2, device="cpu", threads=1)
    result = fit(model, train, valid, training, progress=False)
    views, chosen = served_views(model, valid, repeating=())
    metadata = {"validation": chosen, "domains": result.epochs[result.best_epoch - 1].domains}
    metadata |= {"best_epoch": result.best_epoch, "epochs_at_most": training.epochs}
    vocabulary = Vocabulary(DOMAINS, tuple([f"{domain}{i}" for i in range(N_ITEMS)] for domain in DOMAINS))
    folder = tmp_path_factory.mktemp("guard") / "model"
    save_model(folder, model, vocabulary, views, metadata)
    return widen("1", *load_model(folder), vocabulary), test


def choices(loaded: LoadedModel) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = loaded.metadata["validation"]["views"]
    return found


def test_the_version_keeps_the_choice_and_how_sure_it_is(version: tuple[LoadedModel, SequenceSet]) -> None:
    loaded, _ = version
    assert loaded.views == {domain: choice["view"] for domain, choice in choices(loaded).items()}
    for domain in DOMAINS:
        choice = choices(loaded)[domain]
        assert set(choice["gains"]) == {"cross", "blend"} and choice["cases"] >= choice["users"] > 100
        for view, (gain, low, high) in choice["gains"].items():
            assert low < gain < high
            assert gain == pytest.approx(choice["values"][view] - choice["values"]["single"])


def test_no_domain_is_served_below_its_single_view_on_validation(version: tuple[LoadedModel, SequenceSet]) -> None:
    for choice in choices(version[0]).values():
        assert choice["values"][choice["view"]] >= choice["values"]["single"]


def test_the_planted_harm_is_not_served_and_the_planted_help_is(version: tuple[LoadedModel, SequenceSet]) -> None:
    loaded, test = version
    routes, coupons = choices(loaded)["routes"], choices(loaded)["coupons"]
    assert routes["gains"]["cross"][2] < -0.5, "the other domains hurt the cross view of routes: it was planted"
    assert routes["values"]["single"] > 0.9
    assert routes["view"] == "single" or routes["gains"][routes["view"]][1] > 0
    assert coupons["view"] in ("cross", "blend") and coupons["gains"][coupons["view"]][1] > 0.3
    rows = transfer_rows(rank_version(loaded, test, frozenset()), "challenger", "1")
    gaps = {(row["metric"], row["domain"]): row for row in rows}
    assert gaps["ntg_ndcg", "routes"]["high"] < -0.5
    assert gaps["ntg_served", "routes"]["value"] >= 0, "on cases that chose nothing"
    assert gaps["ntg_served", "coupons"]["low"] > 0.3


def test_the_report_of_the_night_shows_view_gain_and_interval(
    version: tuple[LoadedModel, SequenceSet], tmp_path: Path
) -> None:
    loaded, test = version
    ranks = rank_version(loaded, test, frozenset())
    rows = [*quality_rows(ranks, "challenger", "1"), *transfer_rows(ranks, "challenger", "1")]
    rows += [*training_rows(loaded, "challenger"), *choice_rows(loaded, "challenger")]
    file = tmp_path / "syncrec.toml"
    domains = "".join(f"[domains.{name}]\n" for name in DOMAINS)
    text = CONFIG.replace("[domains.books]\n[domains.toys]\n", domains).replace("books", "films")
    file.write_text(text.format(state=tmp_path / "state"))
    lakehouse = Lakehouse(load_settings(file))
    lakehouse.create_tables()
    put(lakehouse, "domain_metrics", D29, [row | ROW for row in rows])
    assert main(["--config", str(file), "--ds", D29.isoformat()]) == 0
    page = Page(tmp_path / "state" / "reports" / f"{D29}.html")

    def shown(value: float) -> str:
        text = f"{value:+.3f}".replace("-", "−")
        return text[1:] if text[1:] == "0.000" else text

    assert f"Training kept epoch {loaded.metadata['best_epoch']} of at most 6" in page.text
    for domain, choice in choices(loaded).items():
        cells = [domain, choice["view"]]
        for view in ("cross", "blend"):
            gain, low, high = map(shown, choice["gains"][view])
            cells += [gain, low, "to", high]
        assert " ".join([*cells, f"{choice['cases']:,}"]) in page.text
