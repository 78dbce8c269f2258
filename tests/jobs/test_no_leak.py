"""Nothing at or after the cutoff, and nothing that arrived later, changes the content hash of what a night makes.

The laws: rows are added, removed and changed beyond the cutoff (by time) or beyond ds (by arrival); sequences and
their splits, vocabulary, popularity, accepted events, metrics, served views, the gate's checks, the limits of a
day's volume, and recommendations keep their hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from pyiceberg.expressions import EqualTo
from pyspark.sql import SparkSession

from jobs import command, ingest
from jobs.account import Account
from jobs.command import Run
from jobs.evaluate import gate_rows, quality_rows, transfer_rows
from jobs.gate_rules import Facts, decide
from jobs.histories import Histories
from jobs.ingest_checks import VOLUME_MIN_DAYS, check_volume
from jobs.landing import find_files
from jobs.night import Night
from jobs.readers import read_landing
from jobs.schemas import INTERACTIONS, ITEMS, SEQUENCES
from jobs.sequence_sets import count_events, read_vocabulary
from jobs.settings import Gate, Settings
from jobs.splits import micros, split_windows
from syncrec_model import ModelConfig, SyNCRec, Vocabulary, judge_views, popularity_ranks, rank_cases
from tests.jobs.registered import fill_by_formula
from tests.jobs.sequence_oracle import DOMAINS, N_ITEMS, Event, random_log
from tests.jobs.test_build_sequences import D, Project
from tests.jobs.test_score_reuse import Nights

FIRST, DS = D[0], D[4]
CUTOFF = datetime(DS.year, DS.month, DS.day, tzinfo=UTC) + timedelta(days=1)
VOCABULARY = Vocabulary(DOMAINS, tuple([f"{d}{n}" for n in range(1, N_ITEMS + 1)] for d in DOMAINS))
FUTURE = st.lists(
    st.tuples(st.integers(0, 14), st.sampled_from(DOMAINS), st.integers(1, N_ITEMS), st.integers(0, 10**12)),
    max_size=12,
)


def digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        plain = np.asarray(part) if hasattr(part, "__array__") else None
        numbers = plain is not None and plain.dtype != object  # of objects the bytes would be addresses
        found.update(plain.tobytes() if numbers else repr(part if plain is None else plain.tolist()).encode())
    return found.hexdigest()


# --- splits: train, valid, test and serve, and so every metric, view and weight that is fitted on them -----


def histories(events: list[Event]) -> Histories:
    """Rows of `sequences` that keep every event, one a user."""
    rows = []
    for user in sorted({event.user for event in events}):
        own = sorted((e for e in events if e.user == user), key=lambda e: (e.ts, e.event_id))
        rows.append({
            "user_id": user, "items": [e.item for e in own], "domains": [DOMAINS.index(e.domain) + 1 for e in own],
            "times": [micros(e.ts) for e in own],
        })  # fmt: skip
    return Histories.of(pa.Table.from_pylist(rows, schema=SEQUENCES.arrow_schema))


def split_digest(events: list[Event], place: int) -> str:
    window = split_windows(CUTOFF, 1, 1)[place]
    made = histories(events).cut(window, VOCABULARY, DOMAINS, 4)
    return digest(*(getattr(made, field.name) for field in fields(made)))


def past_and_changed(
    seed: int, cut: datetime, future: list[tuple[int, str, int, int]], keep: int, n_users: int = 10
) -> tuple[list[Event], list[Event]]:
    """The events before a cut; and the same with events at or after it removed, changed and added."""
    log = random_log(seed, FIRST, n_days=7, n_users=n_users)
    past = [e for e in log if e.ts < cut]
    beyond = [e for n, e in enumerate(log) if e.ts >= cut and n % 4 < keep]  # some are removed
    beyond = [e._replace(item=e.item % N_ITEMS + 1) for e in beyond]  # the others are changed
    added = [
        Event(f"u{user}", domain, item, cut + timedelta(microseconds=after), n, DS)
        for n, (user, domain, item, after) in enumerate(future)
    ]
    return past, [*past, *beyond, *added]


@bounded(max_examples=30, deadline=None)
@given(seed=st.integers(0, 5), place=st.integers(0, 3), future=FUTURE, keep=st.integers(0, 3))
def test_a_split_does_not_see_what_lies_at_or_after_its_cut(
    seed: int, place: int, future: list[tuple[int, str, int, int]], keep: int
) -> None:
    cut = split_windows(CUTOFF, 1, 1)[place].cut
    past, changed = past_and_changed(seed, cut, future, keep)
    assert split_digest(changed, place) == split_digest(past, place)
    before = Event("new", "books", 1, cut - timedelta(microseconds=1), 0, DS)
    assert split_digest([*past, before], place) != split_digest(past, place), "the hash can tell"


# --- metrics of a split, the views that validation chooses, and what the gate makes of them ----------------


@lru_cache(maxsize=1)
def measured_model() -> SyNCRec:
    """A small model that nobody trained: what it says of a history depends on the history alone."""
    sizes = {"channels": 8, "max_length": 4, "n_experts": 3, "n_cross_experts": 2, "n_heads": 2}
    config = replace(ModelConfig.preset("default"), **sizes)
    model = SyNCRec(config, DOMAINS, VOCABULARY.n_items).eval()
    fill_by_formula(model)
    return model


def measures_digest(events: list[Event], place: int) -> str:
    """Quality, NTG, the served views and the gate's checks, all from one split of the events."""
    window = split_windows(CUTOFF, 1, 1)[place]
    cases = histories(events).cut(window, VOCABULARY, DOMAINS, 4)
    ranks = rank_cases(measured_model(), cases)
    views = judge_views(ranks)
    served = ranks.with_served({domain: choice.view for domain, choice in views.items()})
    counts = {domain: np.zeros(N_ITEMS, np.int64) for domain in DOMAINS}
    for event in events:
        counts[event.domain][event.item - 1] += event.ts < window.start
    popular = popularity_ranks(counts, cases)
    quality = [*quality_rows(served, "challenger", "2"), *quality_rows(popular, "popularity", "popularity")]
    gaps = list(gate_rows(served, {"single": served, "popularity": popular}, "2", "ndcg@10"))
    facts = Facts(
        figures={(r["role"], r["view"], r["domain"]): r for r in quality if r["metric"] == "ndcg@10"},
        gaps={(r["metric"].removeprefix("gate_"), r["domain"]): r for r in gaps},
        challenger="2",
        champion=None,
    )
    decision = decide(facts, DOMAINS, Gate(min_cases=1))
    return digest(quality, list(transfer_rows(served, "challenger", "2")), gaps, views, decision)


@bounded(max_examples=10, deadline=None)
@given(seed=st.integers(0, 3), place=st.integers(1, 2), future=FUTURE, keep=st.integers(0, 3))
def test_metrics_views_and_the_gate_do_not_see_what_lies_at_or_after_the_cut(
    seed: int, place: int, future: list[tuple[int, str, int, int]], keep: int
) -> None:
    cut = split_windows(CUTOFF, 1, 1)[place].cut
    past, changed = past_and_changed(seed, cut, future, keep, n_users=25)
    assert measures_digest(changed, place) == measures_digest(past, place)
    inside = Event("u3", "books", 1, cut - timedelta(microseconds=1), 0, DS)
    assert measures_digest([*past, inside], place) != measures_digest(past, place), "the hash can tell"


# --- vocabulary and popularity -----------------------------------------------------------------------------


class Tables(Project):
    """A project whose items and interactions a test changes beyond a night."""

    def at(self, ds: date) -> Night:
        self.run = Run(ds=ds, run_id=f"run{next(self._runs)}", settings=self.settings, arguments=None)  # type: ignore[arg-type]
        return Night(self.run, self.lakehouse)

    def later_items(self, n: int) -> None:
        rows = [
            {"domain": "toys", "item_id": f"later{n}", "item_index": N_ITEMS + 1 + n,
             "arrival_ds": DS + timedelta(days=n + 1)}
        ]  # fmt: skip
        files = self.lakehouse.stage_arrow(
            "items", pa.Table.from_pylist(rows, schema=ITEMS.arrow_schema), DS, "test"
        )
        parent = self.lakehouse.current_snapshot("items")
        self.lakehouse.append("items", files, parent=parent, ds=DS, run_id="test")

    def replaced(self, day: date, rows: list[dict[str, Any]]) -> None:
        table = pa.Table.from_pylist(rows, schema=INTERACTIONS.arrow_schema)
        files = self.lakehouse.stage_arrow("interactions", table, day, "test") if rows else []
        where = EqualTo("arrival_ds", day.isoformat())
        self.lakehouse.replace("interactions", where, files, ds=day, run_id="test")

    def known(self) -> str:
        night = self.at(DS)
        vocabulary = read_vocabulary(self.lakehouse, night, DS, self.settings.domain_names)
        since = CUTOFF - timedelta(days=4)
        until = CUTOFF - timedelta(days=1)  # what evaluate ranks popularity by: events before the test window
        spans = [(since, CUTOFF), (since, until)]
        counts = [count_events(self.lakehouse, night, DS, a, b, vocabulary) for a, b in spans]
        return digest(vocabulary.domains, vocabulary.item_ids, *(np.concatenate(count) for count in counts))


def test_vocabulary_and_popularity_do_not_see_what_arrives_later(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = random_log(4, FIRST, n_days=9, n_users=25)
    own = Tables(settings, monkeypatch)
    own.land(log, *D[:5])
    before = own.known()
    own.land(log, *D[5:9])  # added, late events among them
    assert any(e.arrival > DS and e.ts < CUTOFF for e in log), "late ones arrive after ds"
    own.later_items(0)
    assert own.known() == before
    own.land([e._replace(item=1) for e in log], D[5], D[6])  # changed
    own.replaced(D[7], [])  # removed
    own.later_items(1)
    assert own.known() == before
    own.land([e for e in log if e.user != "u0"], D[3])
    assert own.known() != before, "what the night does know changes it: the hash can tell"


def test_a_days_volume_is_not_held_against_later_days(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Tables(settings, monkeypatch)
    log = random_log(4, FIRST, n_days=9, n_users=25)
    own.land(log, *D[: VOLUME_MIN_DAYS + 1])
    day, account = D[VOLUME_MIN_DAYS], Account(lines=50, events=50, rejected=0, duplicates=0)

    def limits() -> str:
        found = check_volume(own.lakehouse, account, day, day)
        assert len(found) == 1
        return digest(found)

    before = limits()
    own.land([e for e in log if e.user == "u0"], *D[VOLUME_MIN_DAYS : VOLUME_MIN_DAYS + 2])  # the day itself, too
    assert limits() == before
    own.replaced(D[1], [])
    assert not check_volume(own.lakehouse, account, day, day), "an earlier day counts: the hash can tell"


# --- whole nights: sequences and recommendations -----------------------------------------------------------


@pytest.fixture
def nights(
    spark: SparkSession,
    settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> Nights:
    monkeypatch.setattr(command, "start_logging", lambda: None)
    return Nights(settings, monkeypatch, caplog, tmp_path / "models")


def sequences_digest(nights: Nights) -> str:
    nights.build(DS, "--full")
    snapshot = nights.night.snapshot("sequences")
    rows = nights.lakehouse.read_arrow("sequences", snapshot, EqualTo("ds", DS.isoformat())).to_pylist()
    return digest(sorted(map(str, rows)))


def test_sequences_and_recommendations_do_not_see_beyond_the_night(nights: Nights) -> None:
    log = random_log(6, FIRST, n_days=8, n_users=20)
    nights.land(log, *D[:5])
    before = sequences_digest(nights), digest(nights.score("--full"))
    strange = [
        Event("u1", "books", 3, CUTOFF, 11, DS),  # at the cutoff, in a file of the day itself
        Event("u2", "toys", 4, CUTOFF + timedelta(days=400), 12, DS),
        Event("only-later", "toys", 4, CUTOFF, 13, DS),
        Event("u3", "books", 5, CUTOFF - timedelta(days=2), 14, D[5]),  # late: arrives after ds
    ]
    nights.land([*log, *strange], *D[4:8])
    assert (sequences_digest(nights), digest(nights.score("--full"))) == before
    nights.land([e for e in log if e.user != "u1"], DS)
    assert sequences_digest(nights) != before[0], "what the night does know changes it: the hash can tell"


def test_lines_of_the_future_change_no_accepted_event(
    spark: SparkSession, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    def accepted(name: str, *future: str) -> tuple[str, int]:
        own = settings(state_dir=tmp_path / name)
        folder = own.landing_path / DS.isoformat()
        folder.mkdir(parents=True)
        (folder / "_SUCCESS").touch()
        now = int(CUTOFF.timestamp())
        sound = [f"u{n % 7},i{n % 5},5,{now - 1 - n * 3_000}" for n in range(40)]
        (folder / "books.csv").write_text("\n".join([*sound[:20], *future, *sound[20:], ""]))
        files, _ = find_files(own.landing_path, [DS], own.sources, own.landing.marker)
        raw = read_landing(spark, own.landing_path, files)
        judged = raw.withColumn("reason", ingest.reject_reason(own.domain_names))
        parts = ingest.transform(judged, spark.createDataFrame([], INTERACTIONS.spark_ddl))
        rows = sorted(str(row) for row in parts.events.collect())
        return digest(rows), parts.rejected.count()

    clean, none = accepted("clean")
    at = int(CUTOFF.timestamp())
    spoilt, refused = accepted("spoilt", f"u1,i1,5,{at}", f"u1,new,5,{at + 1}", f"new,i1,5,{at + 10**8}")
    assert (spoilt, none, refused) == (clean, 0, 3)
