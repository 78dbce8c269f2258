"""Two arms: who gets whose lists, what is copied when an experiment changes, a candidate that cannot be served."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pyspark.sql import SparkSession

from jobs import command
from jobs import score as score_job
from jobs.arms import Split
from jobs.errors import JobError
from jobs.experiment import Trial, experiment_rows, find_trial
from jobs.publish import publish
from jobs.registry import Version
from jobs.schemas import ANYONE
from jobs.score_users import load_once
from jobs.settings import Experiment, Settings
from syncrec_model import load_model, save_model
from tests.jobs.sequence_oracle import random_log
from tests.jobs.small_nights import SmallNights, day
from tests.jobs.test_build_sequences import FIRST, D
from tests.jobs.test_score_reuse import KNOWN, Nights

Lists = dict[str, list[dict[str, Any]]]


class Versions:
    """A registry of four versions, of which the third was rolled back; the alias challenger is the second."""

    def __init__(self, _: Settings | None = None) -> None:
        tags = {"1": {}, "2": {"ds": "2024-01-02"}, "3": {"rolled_back": "bad"}, "4": {"ds": "2024-01-05"}}
        self.versions = {number: Version(number=number, run_id="r", tags=own) for number, own in tags.items()}

    def version(self, number: str) -> Version:
        if number not in self.versions:
            raise JobError(f"model syncrec has no version {number} in the registry")
        return self.versions[number]

    def at_alias(self, alias: str) -> Version | None:
        return self.versions["2"] if alias == "challenger" else None


class Arms(Nights):
    """Nights with an experiment."""

    def try_out(self, candidate: str | None, share: float = 0.5, name: str = "x") -> Split:
        own = Experiment(name=name, share=share, candidate=candidate) if candidate else None
        self.settings = self.settings.model_copy(update={"experiment": own})
        return Split(name=name, share=share)

    def lists(self, *arguments: str) -> Lists:
        """Rows by user, without what only says who made them."""
        found: Lists = {}
        for row in self.score(*arguments):
            apart = {key: value for key, value in row.items() if key not in ("arm", "model_version")}
            found.setdefault(row["user_id"], []).append(apart)
        return found

    def warnings(self) -> list[str]:
        """What the job warned of; libraries warn, too, at their first import."""
        own = (record for record in self.log.records if record.name == "syncrec")
        return [record.getMessage() for record in own if record.levelname == "WARNING"]

    def all_of(self, version: str) -> Lists:
        self.try_out(None)
        self.version = version
        return self.lists()


@pytest.fixture
def arms(
    spark: SparkSession, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, tmp_path: Path,
) -> Iterator[Arms]:  # fmt: skip
    caplog.set_level("INFO", logger="syncrec")
    monkeypatch.setattr(command, "start_logging", lambda: None)
    monkeypatch.setattr(score_job, "Registry", Versions)
    yield Arms(settings, monkeypatch, caplog, tmp_path / "models")


def test_each_arm_is_what_its_version_gives_and_changes_move_whom_they_must(arms: Arms) -> None:
    arms.land(random_log(11, FIRST, n_days=3, n_users=40), *D[:3])
    arms.build(D[2])
    champion, candidate = arms.all_of("1"), arms.all_of("2")
    arms.version = "1"
    split = arms.try_out("challenger", share=0.4)
    mixed = arms.lists()
    chosen = {user for user in mixed if split.is_candidate(user) and user != ANYONE}
    assert 5 < len(chosen) < 30
    assert mixed == {user: candidate[user] if user in chosen else champion[user] for user in champion}
    arm_of = {row["user_id"]: (row["arm"], row["model_version"]) for row in arms.staged}
    assert arm_of == {user: ("candidate", "2") if user in chosen else ("champion", "1") for user in mixed}
    arms.publish()
    kept = arms.lakehouse.read_arrow("experiments", arms.lakehouse.current_snapshot("experiments")).to_pylist()
    users = {row["arm"]: (row["share"], row["model_version"], row["users"], row["outcome"]) for row in kept}
    assert users == {
        "champion": (0.6, "1", len(mixed) - 1 - len(chosen), "served"),
        "candidate": (0.4, "2", len(chosen), "served"),
    }

    arms.build(D[3])  # an empty night: nothing but the experiment changes
    full = arms.full
    more = arms.try_out("2", share=0.6)
    moved = {user for user in full if more.is_candidate(user) != split.is_candidate(user)}
    assert moved and arms.reused() == len(full - moved)
    arms.try_out("4", share=0.4)  # another candidate: its users alone are scored
    assert arms.reused() == len(full - chosen)
    arms.try_out(None)
    arms.version = "2"  # the candidate became the champion: its users' lists stay
    assert arms.reused() == len(full & chosen)


def test_a_candidate_that_cannot_be_read_leaves_all_users_to_the_champion(
    arms: Arms, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms.land(random_log(11, FIRST, n_days=3, n_users=10), *D[:3])
    arms.build(D[2])
    arms.try_out("2")
    monkeypatch.setattr(
        score_job, "_fetch_model",
        lambda registry, folder, version: arms.model("1") if version == "1" else folder / "absent",
    )  # fmt: skip
    rows = arms.score()
    assert {(row["arm"], row["model_version"]) for row in rows} == {("champion", "1")}
    (warning,) = arms.warnings()
    assert warning.startswith("experiment x: the candidate is not served, the champion serves all users: ")
    champion, candidate = arms.night.get("experiment")
    assert (champion["users"], candidate["users"]) == (len({row["user_id"] for row in rows}) - 1, 0)
    assert candidate["outcome"] == "not served" and candidate["reason"] in warning
    assert candidate["model_version"] is None


def test_a_candidate_that_fails_while_it_scores_leaves_all_users_to_the_champion(arms: Arms) -> None:
    arms.land(random_log(11, FIRST, n_days=3, n_users=20), *D[:3])
    arms.build(D[2])
    model, vocabulary, views, metadata = load_model(arms.model("2"))
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1e30)  # numbers all of them, but no product is
    shutil.rmtree(arms.model("2"))
    save_model(arms.model("2"), model, vocabulary, views, metadata)
    champion = arms.all_of("1")
    split = arms.try_out("2")
    assert any(split.is_candidate(user) for user in champion)
    assert arms.lists() == champion
    assert {(row["arm"], row["model_version"]) for row in arms.staged} == {("champion", "1")}
    assert arms.night.get("candidate_version") is None
    _, candidate = arms.night.get("experiment")
    assert (candidate["outcome"], candidate["model_version"], candidate["users"]) == ("not served", None, 0)
    assert candidate["reason"] == "scoring failed in a worker: ValueError; the log says more"
    assert any("not finite" in warning for warning in arms.warnings())


def test_weights_that_are_no_numbers_are_no_candidate(arms: Arms, tmp_path: Path) -> None:
    KNOWN.save(tmp_path / "vocabulary.json")
    loaded = load_once(str(arms.model("1")), str(tmp_path / "vocabulary.json"), "1")
    loaded.require_numbers()
    with torch.no_grad():
        next(loaded.model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(JobError, match=r"model version 1: weights of .* are not finite numbers"):
        loaded.require_numbers()
    load_once.cache_clear()


@pytest.mark.parametrize(
    ("candidate", "version", "reason"),
    [
        ("challenger", "2", ""),
        ("2", "2", ""),
        ("previous_champion", None, "no version has the alias previous_champion"),
        ("9", None, "model syncrec has no version 9 in the registry"),
        ("3", None, "version 3 was rolled back (bad)"),
        ("4", None, "version 4 was trained on 2024-01-05, after this night"),
    ],
)
def test_which_version_is_the_candidate(
    settings: Callable[..., Settings], candidate: str, version: str | None, reason: str
) -> None:
    nights = SmallNights(lambda **own: settings(experiment={"name": "x", "candidate": candidate}, **own))
    trial = find_trial(nights.run(day(2)), nights.lakehouse, Versions())  # type: ignore[arg-type]
    assert trial == Trial(split=Split(name="x", share=0.5), version=version, reason=reason)


def test_a_backfill_serves_the_arms_of_its_night_and_not_todays(settings: Callable[..., Settings]) -> None:
    nights = SmallNights(lambda **own: settings(experiment={"name": "new", "candidate": "challenger"}, **own))
    then = Trial(split=Split(name="old", share=0.2), version="2")
    for n in range(3):
        nights.ingest(day(n))
        nights.build(day(n))
        nights.score(day(n))
        if n == 1:
            run = nights.run(day(1))
            rows = experiment_rows(then, "1", {"champion": 2, "candidate": 1}, run.run_id)
            score_job.Night(run, nights.lakehouse).note(experiment=rows)
        nights.publish(day(n))
    found = [find_trial(nights.run(day(n)), nights.lakehouse, Versions()) for n in range(4)]  # type: ignore[arg-type]
    assert found[0] is None and found[1] == then
    assert [trial.split.name for trial in found[2:] if trial] == ["new", "new"], "the newest night may be run again"
    again = nights.run(day(1), "again")
    nights.ingest(day(1), "again")
    nights.build(day(1), "again")
    nights.score(day(1), "again")
    publish(again)
    assert nights.rows("experiments") == [], "a day that is run again without its experiment loses the rows"
