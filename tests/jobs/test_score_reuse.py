"""Lists copied from the night before are those that scoring all users would give, on every kind of night."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.expressions import EqualTo
from pyspark.sql import SparkSession

from jobs import command
from jobs import score as score_job
from jobs.command import Run
from jobs.lakehouse import Lakehouse
from jobs.publish import publish
from jobs.schemas import ANYONE, TABLES
from jobs.score_reuse import Before, basis_of, find_before, properties_of
from jobs.score_users import ScoringTask
from jobs.sequence_nights import SequenceNight, shape_of
from jobs.settings import Scoring, Settings
from jobs.splits import split_windows
from syncrec_model import ModelConfig, SyNCRec, Vocabulary, save_model
from tests.jobs.opened_sessions import opened_sessions
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
        self.sessions = opened_sessions(monkeypatch, score_job)
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

    def reused(self) -> int:
        """How many users' lists the night reuses; reusing changes nothing, to the bit."""
        anew = self.score("--full")
        found = self.said(r"reused (\d+) of (\d+) users' lists of \S+; scored (\d+)")
        assert self.staged == anew
        assert int(found[2]) == int(found[1]) + int(found[3]) == len({row["user_id"] for row in anew} - {ANYONE})
        return int(found[1])

    def why_all_anew(self) -> str:
        return self.said("all users are scored anew: (.+)")[1]

    def said(self, pattern: str) -> re.Match[str]:
        """The one line of the job's log, while it stages the rows, that is like this."""
        self.log.clear()
        self.score()
        (found,) = filter(None, (re.fullmatch(pattern, record.getMessage()) for record in self.log.records))
        return found

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
    assert nights.why_all_anew() == "no published night before it"
    assert nights.sessions == [{"daemon": "jobs.worker_daemon", "quick": True}]
    nights.publish()
    assert 10 < len(nights.full) < len(arrived(log, *D[:3])) - 5, "some lists are short or cold"

    nights.build(D[3])  # an empty night
    assert nights.reused() == len(nights.full)
    nights.publish()

    few = [e for e in log if e.arrival != D[4] or e.user in ("u3", "u5")]
    few.append(Event("new", "books", 2, FIRST_MOMENT, 7, D[4]))
    nights.land(few, D[4])
    nights.build(D[4])
    moved = arrived(few, D[4])
    assert moved & nights.full and nights.reused() == len(nights.full - moved)
    before = nights.full
    nights.publish()
    nights.build(D[4])
    assert nights.reused() == len(before - moved), "a day run again reads the night before it, not itself"

    nights.land(log, *D[5:7])
    nights.build(D[5])  # nobody scores it: a gap between nights
    nights.build(D[6])
    assert 0 < nights.reused() == len(nights.full - arrived(log, *D[5:7]))
    nights.publish()

    nights.change(compact_share=0.01)
    nights.land(log, D[7])
    assert nights.build(D[7]).kind == "compacted"
    assert 0 < nights.reused() == len(nights.full - arrived(log, D[7])), "rows written again are the same rows"
    nights.publish()

    nights.land([e for e in log if e.user != "u3"], D[0])  # a user may vanish; all is built anew
    assert nights.build(D[8]).kind == "full"
    assert nights.reused() > 0
    assert len(nights.night.noted("recommendations_staged", made_by="score")) <= 7, "copying merges files"
    nights.version = "2"
    assert nights.why_all_anew() == "the model changed from syncrec-1-run1 to syncrec-2-run2"


FIRST_MOMENT = random_log(11, FIRST, n_days=1)[0].ts
BASIS = {"model": "syncrec-1", "domains": ["books", "toys"], "repeats": [], "top_n": 5, "code": "abc"}


class Published:
    """Tables as publish and build_sequences leave them for the night of D[2]; the rows do not matter here."""

    def __init__(self, settings: Callable[..., Settings]) -> None:
        self.settings = settings()
        self.lakehouse = Lakehouse(self.settings)
        self.lakehouse.create_tables()
        shape = shape_of(self.settings)
        night = SequenceNight(
            ds=D[2], base_ds=D[2], previous_ds=None, previous_snapshot=None, interactions_snapshot=None,
            shape=shape, kind="full", reason="test", events=1,
        )  # fmt: skip
        sequences = self.put("sequences", D[2], night.properties())
        recommendations = self.put("recommendations", D[2], properties_of(BASIS, sequences))
        self.put("nights", D[2], {}, run_id="test", recommendations_snapshot=recommendations)

    def put(self, name: str, ds: date, properties: dict[str, str], **values: Any) -> int:
        schema = TABLES[name].arrow_schema
        rows = pa.Table.from_pylist([{"ds": ds, **values}], schema=schema)
        files = self.lakehouse.stage_arrow(name, rows, ds, "test")
        where = EqualTo("ds", ds.isoformat())
        return self.lakehouse.replace(name, where, files, ds=ds, run_id="test", properties=properties)

    def find(self, ds: date, basis: dict[str, Any], full: bool = False) -> tuple[Before | None, str]:
        run = Run(ds=ds, run_id="next", settings=self.settings, arguments=Namespace(full=full))
        return find_before(run, self.lakehouse, basis)


def test_the_last_published_night_is_found_also_past_a_gap(settings: Callable[..., Settings]) -> None:
    published = Published(settings)
    for ds in (D[3], D[7]):
        before, reason = published.find(ds, BASIS)
        assert before is not None and reason == ""
        assert (before.ds, before.sequences.ds, list(before.files.values())) == (D[2], D[2], [1])
    assert published.find(D[2], BASIS) == (None, "no published night before it")
    assert published.find(D[3], BASIS, full=True) == (None, "--full asked for it")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "syncrec-2"}, "the model changed from syncrec-1 to syncrec-2"),
        ({"top_n": 3}, "top_n changed from 5 to 3"),
        ({"domains": ["books"]}, "the list of domains changed from books toys to books"),
        ({"repeats": ["toys"]}, "the domains that repeat changed from none to toys"),
        ({"min_history": 2}, "min_history changed from None to 2"),
        ({"code": "abd"}, "the code of the jobs changed from abc to abd"),
    ],
)
def test_what_decides_lists_must_not_have_changed(
    settings: Callable[..., Settings], changes: dict[str, Any], reason: str
) -> None:
    assert Published(settings).find(D[3], BASIS | changes) == (None, reason)


def switched_off(published: Published) -> None:
    scoring = published.settings.scoring.model_copy(update={"reuse": False})
    published.settings = published.settings.model_copy(update={"scoring": scoring})


def replaced(published: Published) -> None:
    """A later run commits the recommendations of that day, and is killed before it publishes the night."""
    published.put("recommendations", D[2], properties_of(BASIS, 1))


def unpublished(published: Published) -> None:
    published.lakehouse.replace("nights", EqualTo("ds", D[2].isoformat()), [], ds=D[2], run_id="test")


def without_basis(published: Published) -> None:
    snapshot = published.put("recommendations", D[2], {})
    published.put("nights", D[2], {}, run_id="test", recommendations_snapshot=snapshot)


def expired(published: Published) -> None:
    snapshot = published.put("recommendations", D[2], properties_of(BASIS, 12345))
    published.put("nights", D[2], {}, run_id="test", recommendations_snapshot=snapshot)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (switched_off, "scoring.reuse is off"),
        (
            replaced,
            "the recommendations of 2024-01-03 were replaced after their night was published"
            " (a user was removed, or the day was run again)",
        ),
        (unpublished, "no published night before it"),
        (without_basis, "the night of 2024-01-03 did not note what it scored with"),
        (expired, "the sequences of 2024-01-03 are no longer kept"),
    ],
)
def test_a_night_that_is_not_there_as_published_is_not_copied(
    settings: Callable[..., Settings], change: Callable[[Published], None], reason: str
) -> None:
    published = Published(settings)
    change(published)
    assert published.find(D[3], BASIS) == (None, reason)


def test_the_basis_names_all_that_decides_a_list() -> None:
    """A new setting of [scoring] must be put into the basis, or be known to decide nothing that is copied."""
    vocabulary = Vocabulary(("books",), (["b1"],))
    window = split_windows(datetime(2024, 1, 6, tzinfo=UTC), 1, 1)[-1]
    task = ScoringTask(
        model_folder="/models/syncrec-4-run", vocabulary_file="", version="4", domains=("books",), repeats=(),
        max_length=3, serve=window, top_n=7, min_history=1, popular=(), shares=(),
    )  # fmt: skip
    basis = basis_of(task, vocabulary)
    assert basis["model"] == "syncrec-4-run" and basis["top_n"] == 7 and basis["known_domains"] == ["books"]
    assert set(Scoring.model_fields) - set(basis) == {"batch_users", "popularity_days", "reuse"}
