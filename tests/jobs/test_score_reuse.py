"""Lists copied from the night before are those that scoring all users would give, on every kind of night."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.expressions import EqualTo
from pyspark.sql import SparkSession

from jobs import command
from jobs import score as score_job
from jobs.publish import publish
from jobs.schemas import ANYONE
from jobs.settings import Settings
from syncrec_model import ModelConfig, SyNCRec, Vocabulary, save_model
from tests.jobs.registered import fill_by_formula
from tests.jobs.sequence_oracle import DOMAINS, N_ITEMS, Event, random_log
from tests.jobs.test_build_sequences import FIRST, D, Project, T

KNOWN = Vocabulary(
    DOMAINS, tuple([f"{d}{n}" for n in range(1, N_ITEMS)] for d in DOMAINS)
)  # all items but the last


TOP_N = 5


class Nights(Project):
    """Nights of build_sequences, score and publish; the gate's word and the registry are given."""

    def __init__(
        self, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, log: Any, models: Path
    ) -> None:
        self.scoring: dict[str, Any] = {"top_n": TOP_N}
        super().__init__(settings, monkeypatch)
        self.log, self.models, self.version = log, models, "1"
        monkeypatch.setattr(score_job, "_fetch_model", lambda registry, folder, version: self.model(version))
        monkeypatch.setattr(score_job, "run_suite", lambda *_: [])  # the audit has tests of its own

    def change(self, domains: tuple[str, ...] = DOMAINS, **sequences: Any) -> None:
        super().change(domains, **sequences)
        scoring = self.settings.scoring.model_copy(update=self.scoring)
        self.settings = self.settings.model_copy(update={"scoring": scoring})
        self._monkeypatch.setattr(command, "load_settings", lambda path: self.settings)

    def model(self, version: str) -> Path:
        """A version, saved at first use."""
        folder = self.models / f"syncrec-{version}-run{version}"
        if not folder.exists():
            config = ModelConfig(channels=16, max_length=T, n_experts=2, n_cross_experts=1)
            model = SyNCRec(config, DOMAINS, KNOWN.n_items)
            fill_by_formula(model, seed=int(version))
            save_model(folder, model.eval(), KNOWN, dict.fromkeys(DOMAINS, "blend"))
        return folder

    def score(self, *arguments: str) -> list[dict[str, Any]]:
        """The rows that the job stages for the night that was built last."""
        self.night.note(served_version=self.version, decision="promoted", reason="test")
        ds, run_id = self.run.ds.isoformat(), self.run.run_id
        assert score_job.main(["--ds", ds, "--run-id", run_id, *arguments]) == 0
        files = self.night.noted("recommendations_staged", made_by="score")
        table = pa.concat_tables([pq.read_table(file.removeprefix("file://")) for file in files])
        assert self.night.get("recommendations_count") == len(table)
        self.staged = sorted(table.to_pylist(), key=lambda row: (row["user_id"], row["domain"], row["rank"]))
        return self.staged

    def check(self, *arguments: str) -> tuple[int, int, str]:  # type: ignore[override]
        """(users reused, users scored, why all are scored) of the night; reusing changes nothing, to the bit."""
        anew = self.score("--full")
        self.log.clear()
        assert self.score(*arguments) == anew
        said = " ".join(record.getMessage() for record in self.log.records)
        known = len({row["user_id"] for row in anew} - {ANYONE})
        if found := re.search(r"reused (\d+) of (\d+) users' lists of \S+; scored (\d+)", said):
            assert int(found[2]) == int(found[1]) + int(found[3]) == known
            return int(found[1]), int(found[3]), ""
        return 0, known, re.search(r"all users are scored anew: ([^:]+?)(?: audit|$)", said)[1]  # type: ignore[index]

    def publish(self) -> None:
        """Commit what was staged last; `full` are its users whose every list is full and the model's alone."""
        publish(self.run)
        own = Counter(row["user_id"] for row in self.staged if row["source"] == "model")
        self.full = {user for user, n in own.items() if n == TOP_N * len(DOMAINS)}


@pytest.fixture
def nights(
    spark: SparkSession,
    settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> Nights:
    caplog.set_level("INFO", logger="syncrec")
    monkeypatch.setattr(command, "start_logging", lambda: None)  # it would take the log away from pytest
    return Nights(settings, monkeypatch, caplog, tmp_path / "models")


def arrived(log: list[Event], *days: date) -> set[str]:
    return {event.user for event in log if event.arrival in days}


def test_nights_of_all_kinds_copy_what_nothing_has_changed_and_nothing_else(nights: Nights) -> None:
    log = [e for e in random_log(11, FIRST, n_days=9, n_users=60) if e.arrival != D[3]]
    nights.land(log, *D[:3])
    nights.build(D[2])
    assert nights.check()[2] == "no published night before it"
    nights.publish()
    assert 10 < len(nights.full) < len(arrived(log, *D[:3])) - 5, "some lists are short or cold"

    nights.build(D[3])  # an empty night
    assert nights.check()[0] == len(nights.full)
    nights.publish()

    few = [e for e in log if e.arrival != D[4] or e.user in ("u3", "u5")]
    few.append(Event("new", "books", 2, FIRST_MOMENT, 7, D[4]))
    nights.land(few, D[4])
    nights.build(D[4])
    moved = arrived(few, D[4])
    assert moved & nights.full and nights.check()[0] == len(nights.full - moved)
    before = nights.full
    nights.publish()
    nights.build(D[4])
    assert nights.check()[0] == len(before - moved), "a day run again reads the night before it, not itself"

    nights.land(log, *D[5:7])
    nights.build(D[5])  # nobody scores it: a gap between nights
    nights.build(D[6])
    assert 0 < nights.check()[0] == len(nights.full - arrived(log, *D[5:7]))
    nights.publish()

    nights.change(compact_share=0.01)
    nights.land(log, D[7])
    assert nights.build(D[7]).kind == "compacted"
    assert 0 < nights.check()[0] == len(nights.full - arrived(log, D[7])), "rows written again are the same rows"
    nights.publish()

    nights.land([e for e in log if e.user != "u3"], D[0])  # a user may vanish; all is built anew
    assert nights.build(D[8]).kind == "full"
    assert nights.check()[0] > 0


FIRST_MOMENT = random_log(11, FIRST, n_days=1)[0].ts


def new_version(nights: Nights) -> None:
    nights.version = "2"


def scoring(**changes: Any) -> Callable[[Nights], None]:
    def change(nights: Nights) -> None:
        nights.scoring |= changes
        nights.change()

    return change


def grocers(nights: Nights) -> None:
    domains = {
        name: domain.model_copy(update={"repeats": False}) for name, domain in nights.settings.domains.items()
    }
    nights.settings = nights.settings.model_copy(update={"domains": domains})


def other_code(nights: Nights) -> None:
    nights._monkeypatch.setattr("jobs.score_reuse.code_version", lambda: "abc")


def replaced(nights: Nights) -> None:
    """The recommendations of the night before are committed once more, and that run is killed."""
    lakehouse, day = nights.lakehouse, D[2].isoformat()
    files = lakehouse.files("recommendations", lakehouse.current_snapshot("recommendations"))
    lakehouse.replace("recommendations", EqualTo("ds", day), files, ds=D[2], run_id="other")


def unpublished(nights: Nights) -> None:
    nights.lakehouse.replace("nights", EqualTo("ds", D[2].isoformat()), [], ds=D[2], run_id="test")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (new_version, "the model changed from syncrec-1-run1 to syncrec-2-run2"),
        (scoring(top_n=3), "top_n changed from 5 to 3"),
        (scoring(min_history=2), "min_history changed from 1 to 2"),
        (scoring(reuse=False), "scoring.reuse is off"),
        (grocers, "the domains that repeat changed from groceries to none"),
        (other_code, r"the code of the jobs changed from \S+ to abc"),
        (replaced, "the recommendations of 2024-01-03 were replaced after their night was published"),
        (unpublished, "no published night before it"),
    ],
)
def test_what_makes_a_night_score_all_users_anew(
    nights: Nights, change: Callable[[Nights], None], reason: str
) -> None:
    nights.land(random_log(11, FIRST, n_days=4, n_users=20), *D[:4])
    nights.build(D[2])
    nights.score()
    nights.publish()
    nights.build(D[3])
    change(nights)
    reused, _, said = nights.check()
    assert reused == 0 and re.fullmatch(reason, said), said


def test_a_change_of_popularity_alone_reaches_the_lists_that_it_fills(nights: Nights) -> None:
    log = random_log(11, FIRST, n_days=4, n_users=20)
    nights.land(log, *D[:4])
    nights.build(D[2])
    nights.score()
    nights.publish()
    nights.build(D[3])
    scoring(popularity_days=1)(nights)
    assert 0 < nights.check()[0] == len(nights.full - arrived(log, D[3]))


def test_a_domain_that_vanished_from_the_settings_makes_all_anew(nights: Nights) -> None:
    nights.land(random_log(11, FIRST, n_days=4, n_users=20), *D[:4])
    nights.build(D[2])
    nights.score()
    nights.publish()
    nights.change(domains=DOMAINS[:2])
    assert nights.build(D[3]).kind == "full"
    nights.score()
    said = " ".join(record.getMessage() for record in nights.log.records)
    assert "the list of domains with items changed from books toys groceries to books toys" in said


def test_the_copy_merges_small_files(nights: Nights) -> None:
    nights.land(random_log(11, FIRST, n_days=9, n_users=20), *D)
    for ds in D[2:8]:
        nights.build(ds)
        nights.score()
        nights.publish()
        assert len(nights.night.noted("recommendations_staged", made_by="score")) <= 7
