"""A study: honest cases, the same candidates for everybody, a table, and going on after a kill to the bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_logs import FAST, START, columns, write

import syncrec_model.training as training
from syncrec_model import (
    Recommender,
    StudyCases,
    StudyData,
    StudyError,
    StudyResult,
    load_model,
    metrics,
    rank_cases,
    rank_scores,
    read_study,
    study,
)
from syncrec_model.study_data import TEST, TRAIN, VALID
from syncrec_model.study_ranks import popularity_scores, rank_views
from syncrec_model.study_run import configurations

QUICK = FAST | {"epochs": 2}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("log") / "log.parquet", columns())


@pytest.fixture(scope="module")
def data(log: Path) -> StudyData:
    return read_study(log)


@pytest.fixture(scope="module")
def result(data: StudyData) -> StudyResult:
    return study(data, settings=QUICK, progress=False)


def test_leave_one_out_takes_the_last_event_of_every_user(data: StudyData) -> None:
    for user in range(len(data.users)):
        own = np.flatnonzero(data.user_E == user)
        assert data.part_E[own].tolist() == [TRAIN] * (len(own) - 2) + [VALID, TEST]
        assert (np.diff(data.ts_E[own]) >= 0).all()
    assert len(data.cases("test")) == len(data.cases("valid")) == len(data.users) == 60
    event = data.cases("test")[0]
    assert len(data.history(event)) == 13, "what was to be predicted in validation is history in the test"


def test_the_time_split_learns_from_nothing_later_than_a_case(log: Path) -> None:
    data = read_study(log, split="time")
    first = {part: data.ts_E[data.part_E == part].min() for part in (VALID, TEST)}
    assert data.ts_E[data.part_E == TRAIN].max() < first[VALID] < first[TEST]
    assert data.ts_E[data.part_E == VALID].max() < first[TEST]
    shares = np.bincount(data.part_E) / len(data.part_E)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
    assert len(data.cases("test")) == (data.part_E == TEST).sum(), "everybody here has a history"


def test_a_case_without_a_history_is_none(tmp_path: Path) -> None:
    log = columns()
    late = {
        "user": ["new"] * 4,
        "item": ["i1"] * 4,
        "domain": ["books"] * 4,
        "ts": [START + 10**6 + n for n in range(4)],
    }
    data = read_study(write(tmp_path / "log.parquet", {k: log[k] + late[k] for k in log}), split="time")
    newcomer = data.user_E[data.cases("test")] == data.users.index("new")
    assert newcomer.sum() == 3


def test_the_notes_say_when_training_was_cut_off_and_why_single_serves(result: StudyResult) -> None:
    def notes(best_epoch: int, view: str) -> str:
        run = dataclasses.replace(result.runs[0], best_epoch=best_epoch, served={"books": view})
        return " ".join(dataclasses.replace(result, runs=[run]).notes())

    assert "last one allowed" in notes(2, "blend") and "last one allowed" not in notes(1, "blend")
    assert "Served by single" in notes(1, "single") and "Served by single" not in notes(1, "blend")


def test_a_sample_of_users_is_part_of_the_log_and_always_the_same(log: Path) -> None:
    some, again = read_study(log, users=20), read_study(log, users=20)
    assert len(some.users) == 20 and some.fingerprint() == again.fingerprint()
    assert "A sample of 20 of 60 users" in " ".join(some.notes)


def test_the_core_leaves_nobody_with_fewer_events(tmp_path: Path) -> None:
    log = columns()
    rare = {
        "user": ["u1", "lone", "lone"],
        "item": ["rare", "i1", "i2"],
        "domain": ["books"] * 3,
        "ts": [START] * 3,
    }
    path = write(tmp_path / "log.parquet", {name: log[name] + rare[name] for name in log})
    assert "rare" in read_study(path).vocabulary.item_ids[0]
    data = read_study(path, core=3)
    assert "rare" not in data.vocabulary.item_ids[0] and "lone" not in data.users


@pytest.mark.parametrize("repeats", [(), ("books",)])
def test_ranks_of_the_views_are_those_of_rank_cases_where_all_is_in_the_window(
    log: Path, repeats: tuple[str, ...]
) -> None:
    data = read_study(log, repeats=repeats)
    found = study(data, settings=QUICK | {"max_length": 20, "epochs": 1}, progress=False)
    model = found.recommender.model
    expected = rank_cases(model, data.case_sequences("test", 20), repeats=repeats)
    ours = rank_views(model, data)
    for view, ranks in expected.ranks.items():
        np.testing.assert_array_equal(ours.ranks[view], ranks)
    np.testing.assert_array_equal(ours.n_candidates, expected.n_candidates)


def test_what_was_seen_before_the_window_is_no_candidate_either(data: StudyData) -> None:
    scored = rank_scores(data, lambda cases: np.zeros((len(cases), len(cases.items))))
    for row, event in enumerate(data.cases("test")):
        own = data.domains[data.domain_E[event] - 1]
        target = data.vocabulary.item_ids[data.domain_E[event] - 1][data.item_E[event] - 1]
        seen = {item for item, domain, _ in data.history(event) if domain == own} - {target}
        assert scored.n_candidates[row] == 12 - len(seen)
        assert scored.ranks["own"][row] == (1 + scored.n_candidates[row]) / 2, "equal scores share their mean rank"


def test_popularity_counts_training_alone(data: StudyData) -> None:
    events = data.train_events()
    assert len(events["user"]) == 60 * 12
    counts = dict(zip(data.domains, data.popularity(), strict=True))
    for domain in data.domains:
        items = [item for item, d in zip(events["item"], events["domain"], strict=True) if d == domain]
        known = data.vocabulary.item_ids[data.domains.index(domain)]
        assert counts[domain].tolist() == [items.count(item) for item in known]


def test_the_table_holds_what_the_ranks_say(data: StudyData, result: StudyResult) -> None:
    code_M = data.domain_E[data.cases("test")]
    rows = result.rows()
    assert [row["domain"] for row in rows] == ["books", "toys"]
    for code, row in enumerate(rows, start=1):
        for system in ("blend", "cross", "single"):
            expected = metrics(result.runs[0].ranks[system][code_M == code])
            for measure in ("ndcg@10", "hr@10", "mrr"):
                assert row[system][measure] == pytest.approx(expected[measure])
        view = result.runs[0].served[row["domain"]]
        assert row["served"] == row[view] and row["served_by"] == [view]
        assert row["ntg"]["value"] == pytest.approx(row["cross"]["ndcg@10"] - row["single"]["ndcg@10"])
        assert row["ntg"]["low"] <= row["ntg"]["value"] <= row["ntg"]["high"]
        assert row["cross"]["ndcg@10 low"] <= row["cross"]["ndcg@10"] <= row["cross"]["ndcg@10 high"]
    text, page = str(result), result.markdown()
    for part in ("NDCG@10", "HR@10", "MRR", "popularity", "NTG", "books", "toys", "mean of domains"):
        assert part in text and part in page
    assert max(map(len, text.splitlines())) < 160
    assert f"{rows[0]['served']['ndcg@10']:.4f}" in text


def test_the_model_of_a_study_recommends(result: StudyResult) -> None:
    lists = result.recommender.recommend([[("i1", "books", 1)]], n=3)
    assert len(lists.items[0]["toys"]) == 3


def test_your_own_scores_stand_beside_ours(data: StudyData, result: StudyResult) -> None:
    def perfect(cases: StudyCases) -> np.ndarray:
        scores = np.zeros((len(cases), len(cases.items)))
        scores[np.arange(len(cases)), data.item_E[cases.events] - 1] = 1
        assert len(cases.users) == len(cases.histories) == len(cases)
        return scores

    compared = result.with_ranks("mine", rank_scores(data, perfect))
    row = compared.rows()[0]
    assert row["mine"]["ndcg@10"] == 1
    assert row["served - mine"]["value"] == pytest.approx(row["served"]["ndcg@10"] - 1)
    assert "served - mine [95 %]" in str(compared) and "mine" not in str(result)
    same = result.with_ranks("again", rank_scores(data, popularity_scores(data)))
    assert same.rows()[0]["again"] == same.rows()[0]["popularity"]


def test_ranks_of_other_cases_and_wrong_scores_are_refused(log: Path, data: StudyData, result: StudyResult) -> None:
    other = rank_scores(data, popularity_scores(data), part="valid")
    with pytest.raises(StudyError, match="are of other cases"):
        result.with_ranks("mine", other)
    with pytest.raises(StudyError, match="is in the table already"):
        result.with_ranks("cross", rank_scores(data, popularity_scores(data)))
    with pytest.raises(StudyError, match=r"scores of shape \(3,\) for"):
        rank_scores(data, lambda cases: np.zeros(3))
    with pytest.raises(StudyError, match="not all finite"):
        rank_scores(data, lambda cases: np.full((len(cases), len(cases.items)), np.nan))


def without_seconds(result: StudyResult) -> dict[str, Any]:
    form = result.to_dict()
    for run in form["runs"]:
        del run["seconds"]
    return form


def test_a_killed_study_goes_on_and_ends_with_the_same_bits(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = QUICK | {"seed": 3}
    expected = study(log, settings=settings, seeds=2, progress=False)
    written = []

    def killed(*arguments: Any) -> None:
        original(*arguments)
        written.append(1)
        if len(written) == 3:  # seed 4, epoch 1
            raise KeyboardInterrupt

    original = training.write_checkpoint
    monkeypatch.setattr(training, "write_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        study(log, settings=settings, seeds=2, out=tmp_path / "out", progress=False)
    monkeypatch.undo()
    assert (tmp_path / "out/seed-4/checkpoint.safetensors").exists()
    found = study(log, settings=settings, seeds=2, out=tmp_path / "out")
    assert without_seconds(found) == without_seconds(expected)
    said = capsys.readouterr().err
    assert "seed 3, 1 of 2: kept from before" in said
    assert "seed 4, 2 of 2: goes on after its last whole epoch" in said and "earlier calls" not in said
    assert [run.epochs for run in found.runs] == [2, 2]
    files = sorted(
        str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()
    )
    seeds = [
        f"seed-{seed}/{name}"
        for seed in (3, 4)
        for name in ("model/config.json", "model/model.safetensors", "model/vocabulary.json", "ranks.safetensors")
    ]
    assert files == ["result.json", *seeds, "study.json", "table.md"]
    form = json.loads((tmp_path / "out/result.json").read_text())
    assert form["domains"][0]["cases"] == found.rows()[0]["cases"]
    assert (tmp_path / "out/table.md").read_text() == found.markdown()
    model, vocabulary, views, metadata = load_model(tmp_path / "out/seed-3/model")
    assert Recommender(model, vocabulary, views) and metadata["study"]["seed"] == 3
    fewer = study(log, settings=settings, seeds=1, out=tmp_path / "out")
    assert (tmp_path / "out/table.md").read_text() == fewer.markdown() != found.markdown()
    assert (
        "keeps seed 4 of earlier calls, too: not in this table. The same call with more" in capsys.readouterr().err
    )


def test_a_finished_study_is_read_not_trained(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = study(log, settings=QUICK, out=tmp_path, progress=False)
    monkeypatch.setattr("syncrec_model.study_run.fit", None)
    assert study(log, settings=QUICK, out=tmp_path, progress=False).to_dict() == first.to_dict()


def test_a_folder_holds_one_study(log: Path, tmp_path: Path) -> None:
    study(log, settings=QUICK, out=tmp_path, progress=False)
    with pytest.raises(StudyError, match=r"holds a study with mim = True: give another --out"):
        study(log, settings=QUICK | {"mim": False}, out=tmp_path, progress=False)
    with pytest.raises(StudyError, match=r"holds a study of another log or cut"):
        study(log, settings=QUICK, out=tmp_path, progress=False, users=30)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file is a file: give --out a folder"):
        study(log, settings=QUICK, out=tmp_path / "file", progress=False)


def test_settings_of_both_records_by_name() -> None:
    texts = {"correction": "bounded", "mim": "false", "dropout": "0.2", "epochs": "3", "average_epochs": "0"}
    model, trained = configurations("default", texts)
    assert (model.correction, model.mim, model.dropout) == ("bounded", False, 0.2)
    assert (trained.epochs, trained.average_epochs) == (3, 0.0)
    assert configurations("paper", {})[0].loss == "pairwise"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"chanels": 8},
            r"unknown setting 'chanels': did you mean 'channels'\? settings are .*compile",
        ),
        ({"xyzzy": 8}, r"unknown setting 'xyzzy': settings are architecture"),
        ({"epochs": "two"}, r"epochs=two: give a whole number"),
        ({"mim": "off"}, r"mim=off: give true or false"),
        ({"dropout": "much"}, r"dropout=much: give a number"),
        ({"loss": "hinge"}, r"ModelConfig.loss = 'hinge': choose one of softmax"),
        ({"epochs": 0}, r"TrainingConfig.epochs = 0"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configurations("default", settings)


def test_a_wrong_call_is_refused(data: StudyData) -> None:
    with pytest.raises(StudyError, match="seeds = 0"):
        study(data, seeds=0)
    with pytest.raises(StudyError, match="split belong to read_study"):
        study(data, split="time")
    with pytest.raises(ValueError, match="unknown preset 'best'"):
        study(data, preset="best")


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_other_presets_run(data: StudyData, preset: str) -> None:
    settings = {"channels": 8, "max_length": 10, "epochs": 1, "threads": 1}
    said = str(study(data, preset=preset, settings=settings, progress=False))
    assert f"preset {preset}, 1 seed" in said
    assert ("judged by its cross column" in said) == (preset == "paper")
    assert "\nchanged from the preset: channels=8, max_length=10, epochs=1, threads=1\n\n" in said
