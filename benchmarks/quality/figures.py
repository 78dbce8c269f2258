"""The figures of the quality benchmark: every system's measures on test, our gains over each rival, what it costs.

Shapes: D domains, M cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from benchmarks.quality.ablations import Ablation, ablations_of, followed
from benchmarks.quality.bootstrap import Bootstrap, Gain, Interval, gains, macro_interval, mean_over_domains
from benchmarks.quality.cells import Result
from benchmarks.quality.data import NEWEST_STRATA, STRATA, TARGET_STRATA, Array, QualityData
from benchmarks.quality.systems import (
    DEFAULT,
    EQUIPPED,
    METRIC,
    MULTI_KINDS,
    PLAIN,
    RELEASED,
    Rivals,
    Row,
    System,
    choose_rivals,
    systems_of,
)
from benchmarks.quality.trials import DONE

METRICS = (METRIC, "hr@10", "mrr")
SAMPLED = {"own100": "same domain", "all100": "all domains"}  # the negatives of the papers' protocol
BEST_SINGLE, BEST_MULTI = "best_single", "best_multi"
Values = dict[str, float]


@dataclass(frozen=True)
class Cost:
    """train_s: mean of a seed; train_core_s: of processor, all cores added. search_s: of all finished attempts
    together. user_ms: to score and rank one case. device: of the first seed; the seconds are of seeds on its like.
    """

    train_s: float
    train_core_s: float
    search_s: float
    parameters: int
    user_ms: float
    peak_gib: float
    device: str = "cpu"


@dataclass(frozen=True)
class SystemFigures:
    """One line of the tables. test: measure -> domain -> value, with "macro" and "min". macro: of NDCG@10.

    strata, target_strata, newest_strata: domain or "macro" -> stratum -> NDCG@10, of newest_strata among the items
    that somebody had in training. sampled: "own100" or "all100" -> as `test`, {} where a view cannot be ranked so.
    valid_macro is what choices are made by.
    """

    name: str
    row: str
    kind: str
    source: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    valid_macro: float
    test: dict[str, Values]
    macro: Interval
    strata: dict[str, Values]
    target_strata: dict[str, Values]
    newest_strata: dict[str, Values]
    sampled: dict[str, dict[str, Values]]
    cost: Cost
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """One system against its rivals. rivals: domain -> name."""

    system: str
    rivals: dict[str, str]
    domains: dict[str, Gain]
    macro: Gain


@dataclass(frozen=True)
class Figures:
    """Everything that the tables and plots show.

    versus: our default against "best_single", "best_multi", the two ensembles. known: the same of targets that
    somebody had in training, ranked among such items; empty where all are, and for cells of before they were ranked
    so. cases: how many, "strata", "target_strata" or "newest_strata" -> stratum -> cases. transfer: every row that
    learns from all domains against the best of one domain (RQ2). ablations: variants of ours against the whole;
    weights: what multiplied their cross losses (RQ3, ablations.py).
    """

    domains: tuple[str, ...]
    systems: dict[str, SystemFigures]
    rivals: Rivals
    versus: dict[str, Comparison]
    known: dict[str, Comparison]
    cases: dict[str, dict[str, int]]
    transfer: dict[str, Comparison]
    ablations: tuple[Ablation, ...]
    weights: dict[str, dict[str, dict[str, float]]]


def summarise(rows: Mapping[str, Row], data: QualityData, n_resamples: int = 2_000) -> Figures:
    """Return all figures of what is there. Rivals are chosen on validation, everything shown is of test."""
    systems = systems_of(rows.values(), data)
    bootstrap = Bootstrap(data, n_resamples=n_resamples)
    rivals = choose_rivals(systems, data)
    single = [systems[rivals.single[domain]] for domain in data.domains if domain in rivals.single]
    everywhere = len(single) == len(data.domains)
    against = {BEST_SINGLE: single} if everywhere else {}
    for key, name in ((BEST_MULTI, rivals.multi), (PLAIN, PLAIN), (EQUIPPED, EQUIPPED)):
        if name in systems:
            against[key] = [systems[name]] * len(data.domains)
    versus, known = {}, {}
    if DEFAULT in systems:
        ours, known_M = systems[DEFAULT], data.target_events("test") > 0
        versus = {key: _compare(bootstrap, ours, rival) for key, rival in against.items()}
        if not known_M.all() and all(map(_ranked_among_known, [ours, *chain(*against.values())])):
            of_known = Bootstrap(data, n_resamples=n_resamples, where_M=known_M, ranking="known")
            known = {key: _compare(of_known, ours, rival) for key, rival in against.items()}
    transfer = {
        system.name: _compare(bootstrap, system, single)
        for system in systems.values()
        if everywhere and system.kind in ("ours", *MULTI_KINDS)
    }
    strata = {
        "strata": (STRATA, data.cases["test"].stratum_M),
        "target_strata": (TARGET_STRATA, data.target_stratum("test")),
        "newest_strata": (NEWEST_STRATA, data.newest_stratum("test")),
    }
    lines = {name: _system(system, rows[system.row], bootstrap, strata) for name, system in systems.items()}
    lines = {name: _with_needs(line, rows[line.row], lines) for name, line in lines.items()}
    ablations = ablations_of(systems, bootstrap)
    cases = {by: _counts(names, stratum_M) for by, (names, stratum_M) in strata.items()}
    return Figures(
        data.domains, lines, rivals, versus, known, cases, transfer, ablations, followed(rows, data.domains)
    )


def _ranked_among_known(system: System) -> bool:
    """Were its cases ranked among the items that somebody had in training? Older cells were not."""
    return all(f"{system.view}/test/known" in run.ranks for run in system.runs)


def _counts(names: Sequence[str], stratum_M: Array) -> dict[str, int]:
    """Return how many cases each stratum has."""
    return {name: int((stratum_M == number).sum()) for number, name in enumerate(names)}


def _compare(bootstrap: Bootstrap, ours: System, rivals: list[System]) -> Comparison:
    domains = bootstrap.data.domains
    found, macro = gains(bootstrap, ours, rivals)
    names = {domain: rival.name for domain, rival in zip(domains, rivals, strict=True)}
    return Comparison(ours.name, names, dict(zip(domains, found, strict=True)), macro)


def _system(
    system: System, row: Row, bootstrap: Bootstrap, strata: Mapping[str, tuple[Sequence[str], Array]]
) -> SystemFigures:
    runs = system.runs
    device = _device(runs[0])
    timed = [run for run in runs if _device(run) == device]
    sampled = {ranking: _measures(system, ranking) for ranking in SAMPLED}
    return SystemFigures(
        name=system.name,
        row=system.row,
        kind=system.kind,
        source=system.source,
        seeds=tuple(run.cell.seed for run in runs),
        settings=dict(runs[0].cell.settings),
        valid_macro=system.macro("valid"),
        test=_measures(system, "full"),
        macro=macro_interval(bootstrap, system),
        strata=_strata(system, *strata["strata"]),
        target_strata=_strata(system, *strata["target_strata"]),
        newest_strata=_strata(system, *strata["newest_strata"], ranking="known"),
        sampled={ranking: found for ranking, found in sampled.items() if math.isfinite(found[METRIC]["macro"])},
        cost=Cost(
            train_s=_mean([run.figures["train_s"] for run in timed]),
            train_core_s=_mean([run.figures["train_core_s"] for run in timed]),
            search_s=sum(trial.seconds for trial in row.trials if trial.outcome == DONE),
            parameters=int(runs[0].figures["parameters"]),
            user_ms=_mean([run.figures["score_ms"][system.view] for run in timed]),
            peak_gib=max(float(run.figures["peak_gib"]) for run in timed),
            device=device,
        ),
        notes=tuple(dict.fromkeys(note for run in runs for note in run.figures["notes"])),
    )


def _with_needs(line: SystemFigures, row: Row, lines: Mapping[str, SystemFigures]) -> SystemFigures:
    """Return a line whose costs hold those of the rows that it reads; of several choices, the one that was made."""
    chosen = [name for name in row.peer.needs if name in line.settings.values()] or list(row.peer.needs)
    costs = [line.cost, *(lines[name].cost for name in chosen if name in lines)]
    cost = Cost(
        train_s=sum(cost.train_s for cost in costs),
        train_core_s=sum(cost.train_core_s for cost in costs),
        search_s=sum(cost.search_s for cost in costs),
        parameters=sum(cost.parameters for cost in costs),
        user_ms=sum(cost.user_ms for cost in costs),
        peak_gib=max(cost.peak_gib for cost in costs),
        device="+".join(sorted({cost.device for cost in costs})),
    )
    return replace(line, cost=cost)


def _measures(system: System, ranking: str) -> dict[str, Values]:
    return {metric: _named(system, system.by_domain("test", metric, ranking)) for metric in METRICS}


def _named(system: System, values_D: Any) -> Values:
    """Return values by domain, with their mean and the worst of them."""
    named = {domain: float(value) for domain, value in zip(system.data.domains, values_D, strict=True)}
    known = values_D[np.isfinite(values_D)]
    return {
        **named,
        "macro": float(mean_over_domains(values_D)),
        "min": float(known.min()) if len(known) else math.nan,
    }


def _strata(system: System, names: Sequence[str], stratum_M: Array, ranking: str = "full") -> dict[str, Values]:
    """Return NDCG@10 by domain and stratum; macro is the mean over the domains that have cases of the stratum."""
    found: dict[str, Values] = {domain: {} for domain in [*system.data.domains, "macro"]}
    for number, stratum in enumerate(names):
        values_D = system.by_domain("test", ranking=ranking, where_M=stratum_M == number)
        for domain, value in zip(system.data.domains, values_D, strict=True):
            found[domain][stratum] = float(value)
        found["macro"][stratum] = float(mean_over_domains(values_D))
    return found


def _device(run: Result) -> str:
    return str(run.figures.get("device", "cpu"))  # cells of before it was kept are of a CPU


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def flat(figures: Figures, prefix: str = "a5") -> Values:
    """Return the figures that the results file shows, rounded; those whose rows are not there are left out."""
    found: Values = {}
    for name, line in figures.systems.items():
        for domain in figures.domains:
            value = line.test[METRIC][domain]
            if name == DEFAULT:
                found[f"{prefix}.ndcg10.{domain}.default"] = value
            if name == RELEASED:
                owner = "" if prefix == "a5" else f"{prefix}."
                found[f"{owner}released.ndcg10.{domain}"] = value
            if figures.rivals.single.get(domain) == name:
                found[f"{prefix}.ndcg10.{domain}.best_single"] = value
            if figures.rivals.multi == name:
                found[f"{prefix}.ndcg10.{domain}.best_multi"] = value
    names = {
        BEST_SINGLE: "gain_macro_vs_best_single",
        BEST_MULTI: "gain_macro_vs_best_multi",
        EQUIPPED: "gain_macro_vs_equipped_ensemble",
    }
    for key, name in names.items():
        if key in figures.versus:
            found[f"{prefix}.{name}"] = figures.versus[key].macro.ratio.value
        if key in figures.known:
            found[f"{prefix}.known.{name}"] = figures.known[key].macro.ratio.value
    if BEST_SINGLE in figures.versus:
        for domain, gain in figures.versus[BEST_SINGLE].domains.items():
            found[f"{prefix}.gain_ci_low.{domain}"] = gain.ratio.low
    return {name: float(f"{value:.4g}") for name, value in sorted(found.items()) if math.isfinite(value)}


def plain(value: Any) -> Any:
    """Return JSON values; a figure has six digits, one that is not defined becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
