"""Measure tonight's challenger, the champion and popularity on the same test cases, domain by domain.

A case ranks its target among all items of the target's domain. Writes domain_metrics: HR, NDCG and MRR of every
view with bootstrap intervals over users, and the negative transfer gap (NTG) in its three forms: ntg_loss (the
training losses' difference), ntg_ndcg (cross - single) and ntg_served (served - single); and what the choice of the
served views stood on (ntg_view, on validation).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
from pyiceberg.expressions import EqualTo

from jobs.backfill import champion_of, past_of
from jobs.command import Run, run_job
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.links import run_link, tell_links
from jobs.loaded_model import LoadedModel, load_version
from jobs.night import Night
from jobs.registry import Registry, Version
from jobs.run_page import log_inputs
from jobs.schemas import DOMAIN_METRICS
from jobs.sequence_sets import count_events, read_sequences, read_vocabulary
from jobs.splits import split_windows
from jobs.train import metric_name
from syncrec_model import (
    CaseRanks,
    SequenceSet,
    paired_difference,
    popularity_ranks,
    rank_cases,
    summarise,
)

log = logging.getLogger("syncrec")
NTG_METRIC = "ndcg@10"
TRAINING_METRICS = ("ntg_loss", "lambda", "weight")


def rank_version(loaded: LoadedModel, test_set: SequenceSet, repeats: frozenset[str]) -> CaseRanks:
    """Rank the test cases in every view of a version, and in the view it would serve."""
    own = [domain for domain in test_set.domains if domain in repeats]
    readable = test_set.last(loaded.model.config.max_length)
    ranks = rank_cases(loaded.model, readable, repeats=own, known_items=loaded.known_items)
    return ranks.with_served(loaded.views)


def quality_rows(ranks: CaseRanks, role: str, version: str, split: str = "test") -> Iterator[dict[str, Any]]:
    """Rows of domain_metrics with the quality of every view; the popularity baseline has no view."""
    for row in summarise(ranks):
        view = "" if role == "popularity" else row["view"]
        yield {**row, "view": view, "role": role, "model_version": version, "split": split}


def transfer_rows(ranks: CaseRanks, role: str, version: str, split: str = "test") -> Iterator[dict[str, Any]]:
    """Rows of domain_metrics with NTG as a paired difference of NDCG@10 on the same cases, with its interval.

    `macro` and `min` sum the domains up, without an interval.
    """
    whole = {"split": split, "view": "", "role": role, "model_version": version}
    for metric, view in (("ntg_ndcg", "cross"), ("ntg_served", "served")):
        gaps = []
        for code, domain in enumerate(ranks.domains, 1):
            own = ranks.domain == code
            if not own.any():
                continue
            value, low, high = paired_difference(
                ranks.ranks[view][own], ranks.ranks["single"][own], ranks.user[own], metric=NTG_METRIC
            )
            gaps.append(value)
            found = {"domain": domain, "value": value, "low": low, "high": high, "cases": int(own.sum())}
            yield {**whole, **found, "metric": metric}
        for domain, value in (("macro", float(np.mean(gaps))), ("min", min(gaps))) if gaps else ():
            found = {"domain": domain, "value": value, "low": None, "high": None, "cases": len(ranks)}
            yield {**whole, **found, "metric": metric}


def gate_rows(
    challenger: CaseRanks, rivals: Mapping[str, CaseRanks], version: str, metric: str
) -> Iterator[dict[str, Any]]:
    """Rows of domain_metrics for the gate: the served view less each rival, paired, on the same cases.

    rivals: champion (its served view), single, popularity, as jobs.gate_rules names them. A rival that was not
    ranked on the same cases (a champion with a shorter window) has no rows: the gate then does without pairs.
    """
    views = {"champion": "served", "single": "single", "popularity": "popularity"}
    whole = {"split": "test", "view": "served", "role": "challenger", "model_version": version}
    for rival, ranks in rivals.items():
        if not _same_cases(challenger, ranks):
            continue
        for code, domain in enumerate(challenger.domains, 1):
            own = challenger.domain == code
            if own.any():
                value, low, high = paired_difference(
                    challenger.ranks["served"][own], ranks.ranks[views[rival]][own], challenger.user[own],
                    metric=metric,
                )  # fmt: skip
                found = {"domain": domain, "value": value, "low": low, "high": high, "cases": int(own.sum())}
                yield {**whole, **found, "metric": f"gate_{rival}"}


def _same_cases(one: CaseRanks, two: CaseRanks) -> bool:
    return np.array_equal(one.user, two.user) and np.array_equal(one.domain, two.domain)


def training_rows(loaded: LoadedModel, role: str) -> Iterator[dict[str, Any]]:
    """Rows of domain_metrics that training left in the version: ntg_loss, lambda and weight of the chosen epoch.

    Of the domain `macro`, which epoch that was and how many were allowed; versions of old code do not say it.
    """
    known = loaded.metadata
    found = {
        (domain, metric): values[metric]
        for domain, values in known.get("domains", {}).items()
        for metric in TRAINING_METRICS
        if metric in values
    }
    if "epochs_at_most" in known:
        found |= {("macro", "epoch"): known["best_epoch"], ("macro", "epochs_at_most"): known["epochs_at_most"]}
    for (domain, metric), value in found.items():
        yield {
            "domain": domain, "split": "train", "view": "", "metric": metric, "value": float(value),
            "low": None, "high": None, "cases": None, "role": role, "model_version": loaded.version,
        }  # fmt: skip


def choice_rows(loaded: LoadedModel, role: str) -> Iterator[dict[str, Any]]:
    """Rows of domain_metrics on how validation chose the served views, as training left it in the version.

    ntg_view: a view less the single view, with its interval; ntg_served: that of the served view.
    """
    for domain, choice in loaded.metadata.get("validation", {}).get("views", {}).items():
        whole = {"domain": domain, "split": "valid", "cases": choice["cases"], "role": role}
        whole["model_version"] = loaded.version
        for view, (gain, low, high) in choice["gains"].items():
            yield {**whole, "view": view, "metric": "ntg_view", "value": gain, "low": low, "high": high}
        gain, low, high = choice["gains"].get(choice["view"], (0.0, 0.0, 0.0))
        yield {**whole, "view": choice["view"], "metric": "ntg_served", "value": gain, "low": low, "high": high}


def evaluate(run: Run) -> str:
    """Rank, summarise, write domain_metrics, log the test figures to the challenger's MLflow run."""
    settings, ds = run.settings, run.ds.isoformat()
    lakehouse = Lakehouse(settings)
    night = Night(run, lakehouse)
    registry = Registry(settings)
    challenger = registry.of_night(ds, night.run_id)
    if challenger is None:
        raise JobError(f"no version was registered for {ds} by run '{night.run_id}': run train first")
    tell_links(run=run_link(settings, registry.experiment_id, challenger.run_id))
    vocabulary = read_vocabulary(lakehouse, night, run.ds, settings.domain_names)
    window = split_windows(run.cutoff, settings.sequences.valid_days, settings.sequences.test_days)[2]
    (test_set,) = read_sequences(run, lakehouse, night, vocabulary, "test")
    repeats = settings.repeating_domains
    rows: list[dict[str, Any]] = []
    ranked: dict[str, CaseRanks] = {}
    night.note(champion_unreadable="", champion_unknown_domains=[])
    for role, version in _versions(champion_of(registry, past_of(lakehouse, run)), challenger):
        try:
            loaded = load_version(registry, version.number, vocabulary)
        except JobError as error:
            if role == "challenger":
                raise
            log.warning("the champion is not measured: %s", error)
            night.note(champion_unreadable=str(error))
            continue
        ranks = ranked[role] = rank_version(loaded, test_set, repeats)
        if role == "champion":
            known = zip(vocabulary.domains, loaded.known_items, strict=True)
            night.note(champion_unknown_domains=[domain for domain, n_items in known if not n_items])
        own = [*quality_rows(ranks, role, version.number), *transfer_rows(ranks, role, version.number)]
        rows += [*own, *training_rows(loaded, role), *choice_rows(loaded, role)]
        night.note(**{f"{role}_ndcg": _macro(own)})
        if role == "challenger":
            _log_test(registry, version, own)
            with mlflow.start_run(run_id=version.run_id):
                log_inputs(lakehouse, night.snapshot("sequences"), {"test": test_set})
    since = window.start - timedelta(days=settings.scoring.popularity_days)
    counts = count_events(lakehouse, night, run.ds, since, window.start, vocabulary)
    by_domain = dict(zip(vocabulary.domains, counts, strict=True))
    popular = popularity_ranks(by_domain, test_set, [d for d in vocabulary.domains if d in repeats])
    rows += quality_rows(popular, "popularity", "popularity")
    rivals = {"single": ranked["challenger"], "popularity": popular}
    if "champion" in ranked:
        rivals["champion"] = ranked["champion"]
    rows += gate_rows(ranked["challenger"], rivals, challenger.number, settings.gate.metric)
    _write(run, lakehouse, night, rows)
    for line in ntg_lines(rows):
        log.info(line)
    return f"{len(popular)} test cases of {test_set.n_users} users; {len(rows)} metrics written"


def _versions(champion: Version | None, challenger: Version) -> Iterator[tuple[str, Version]]:
    yield "challenger", challenger
    if champion is not None and champion.number != challenger.number:
        yield "champion", champion


def _macro(rows: Sequence[dict[str, Any]]) -> float | None:
    for row in rows:
        if (row["domain"], row["view"], row["metric"]) == ("macro", "served", NTG_METRIC):
            return float(row["value"])
    return None


def _log_test(registry: Registry, version: Version, rows: Sequence[dict[str, Any]]) -> None:
    with mlflow.start_run(run_id=version.run_id):
        mlflow.log_metrics(
            {
                metric_name("test." + (f"{r['view']}." if r["view"] else "") + r["metric"], r["domain"]): r["value"]
                for r in rows
                if np.isfinite(r["value"])
            }
        )


def _write(run: Run, lakehouse: Lakehouse, night: Night, rows: Sequence[dict[str, Any]]) -> None:
    filled = [{**row, "run_id": night.run_id, "ds": run.ds} for row in rows]
    table = pa.Table.from_pylist(filled, schema=DOMAIN_METRICS.arrow_schema)
    staged = lakehouse.stage_arrow(DOMAIN_METRICS.name, table, run.ds, night.run_id)
    snapshot = lakehouse.replace(
        DOMAIN_METRICS.name, EqualTo("ds", run.ds.isoformat()), staged, ds=run.ds, run_id=night.run_id
    )
    night.pin(DOMAIN_METRICS.name, snapshot)


def ntg_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The challenger's NTG per domain in words, one line a domain."""
    for row in rows:
        if row["role"] == "challenger" and row["metric"] == "ntg_ndcg" and row["low"] is not None:
            word = "helped" if row["low"] > 0 else "hurt" if row["high"] < 0 else "no clear difference"
            yield (
                f"NTG {row['domain']}: {row['value']:+.4f} NDCG@10 [{row['low']:+.4f}, {row['high']:+.4f}] "
                f"on {row['cases']} cases: other domains {word}"
            ).replace("other domains no", "no")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from the command line."""
    return run_job(evaluate, argv)


if __name__ == "__main__":
    raise SystemExit(main())
