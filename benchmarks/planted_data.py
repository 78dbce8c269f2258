"""The sample's log in memory, cut by time as the night cuts it: no landing files, no Spark.

The events are those of `jobs.sample_world` before any dirt. The night sees the same ones but for the few that
arrive up to three days late. Ties in time fall by chance, as they do by the night's event ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.sample_laws import DOMAINS, SampleSettings
from jobs.sample_world import simulate
from jobs.settings import Settings
from jobs.splits import split_windows
from syncrec_model import SequenceSet

Array = NDArray[Any]


@dataclass(frozen=True)
class PlantedLog:
    """A log of E events. user_E: number of the user; domain_E: 1-based code; item_E: 1-based index in its domain;
    ts_E: unix seconds. n_items: per domain the items that occur in the log, which the indexes count."""

    domains: tuple[str, ...]
    n_items: tuple[int, ...]
    user_E: Array
    domain_E: Array
    item_E: Array
    ts_E: Array

    def alone(self, domain: str) -> PlantedLog:
        """Return the log of one domain: what a model that knows no other domain is given."""
        code = self.domains.index(domain) + 1
        own_E = self.domain_E == code
        return replace(
            self,
            domains=(domain,),
            n_items=(self.n_items[code - 1],),
            user_E=self.user_E[own_E],
            domain_E=np.ones(int(own_E.sum()), np.int64),
            item_E=self.item_E[own_E],
            ts_E=self.ts_E[own_E],
        )


@dataclass(frozen=True)
class Splits:
    """The sequences of one night. valid and test hold only users with an event to predict."""

    train: SequenceSet
    valid: SequenceSet
    test: SequenceSet


def sample_settings(settings: Settings, seed: int, users: int | None = None) -> SampleSettings:
    """Return the sample of the project's settings under another seed."""
    sample = settings.sample
    if sample is None:
        raise SystemExit(
            "planted transfer is measured on the generated sample: give a project with a [sample] section"
        )
    return SampleSettings(seed=seed, n_users=users or sample.users, start=sample.start)


def planted_log(sample: SampleSettings, last: date) -> PlantedLog:
    """Simulate the days from the sample's start to `last`, both included."""
    days = list(islice(simulate(sample), (last - sample.start).days + 1))
    domain_E, user_E, item_E, ts_E = (
        np.concatenate([getattr(day, name) for day in days]) for name in ("domain", "user", "item", "ts")
    )
    order = np.random.default_rng(sample.seed).permutation(len(ts_E))  # ties in time in no order
    domain_E, user_E, item_E, ts_E = (column[order] for column in (domain_E, user_E, item_E, ts_E))
    index_E = np.zeros(len(item_E), np.int64)
    n_items = []
    for code in range(len(DOMAINS)):  # as in the night, the vocabulary holds the items that have occurred
        own = domain_E == code
        known, place = np.unique(item_E[own], return_inverse=True)
        index_E[own] = place + 1
        n_items.append(len(known))
    return PlantedLog(DOMAINS, tuple(n_items), user_E, domain_E + 1, index_E, ts_E)


def first_night(settings: Settings) -> date:
    """Return the first day that `make nightly` publishes."""
    return settings.night.bootstrap_through + timedelta(days=1)


def cut(log: PlantedLog, settings: Settings, last: date) -> Splits:
    """Cut the log as `jobs.build_sequences` cuts the night of `last`: last days test, those before valid."""
    cutoff = datetime.combine(last + timedelta(days=1), time(), UTC)
    train, valid, test, _ = split_windows(cutoff, settings.sequences.valid_days, settings.sequences.test_days)
    length = settings.sequences.max_length
    return Splits(
        _sequences(log, (np.inf, train.cut.timestamp()), length),  # everything before, nothing to predict
        _with_targets(_sequences(log, (valid.start.timestamp(), valid.cut.timestamp()), length)),
        _with_targets(_sequences(log, (test.start.timestamp(), test.cut.timestamp()), length)),
    )


def _sequences(log: PlantedLog, window: tuple[float, float], max_length: int) -> SequenceSet:
    return SequenceSet.from_events(
        user_ids=log.user_E,
        item_indexes=log.item_E,
        domain_codes=log.domain_E,
        timestamps=log.ts_E,
        domains=log.domains,
        n_items=log.n_items,
        max_length=max_length,
        window=window,
    )


def _with_targets(data: SequenceSet) -> SequenceSet:
    return data.select(np.flatnonzero(data.cross_targets_UT.any(1)))
