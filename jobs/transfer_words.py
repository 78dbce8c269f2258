"""Is a domain hurt? The answer in a sentence, for the end of a night and for its page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Transfer:
    """What a version's views are less its own single view in one domain: ends of 95 % intervals, in NDCG@10.

    None where there is no interval. view: the one that serves the domain, "" where it is not known.
    """

    served: tuple[float | None, float | None]
    cross: tuple[float | None, float | None]
    view: str = ""


def transfer_in_words(domains: Mapping[str, Transfer]) -> str:
    """Say which domains are hurt by the others, as served and by the cross view alone; "" without a domain.

    Only an interval that leaves 0 out counts.
    """
    measured = {name: found for name, found in domains.items() if None not in found.served}
    if not measured:
        return ""
    worse = [name for name, found in measured.items() if _below(found.served)]
    better = [name for name, found in measured.items() if _above(found.served)]
    if worse:
        said = f"As served, {_listed(worse)} {'is' if len(worse) == 1 else 'are'} worse than the single view alone"
    else:
        said = "As served, no domain is clearly worse than its single view alone"
    if len(better) == len(measured) > 1:
        said = "As served, every domain is clearly better than its single view alone."
    else:
        said += f"; {_listed(better)} gain{'s' if len(better) == 1 else ''}." if better else "."
    hurt = [name for name, found in measured.items() if _below(found.cross)]
    if hurt:
        said += f" The cross view alone would hurt {_listed(hurt)}"
        serving = [name for name in hurt if measured[name].view == "cross"]
        known = all(measured[name].view for name in hurt)
        said += f" and serves {_listed(serving)}." if serving else ": it serves none of these." if known else "."
    return said


def hurt_text(metrics: Iterable[Mapping[str, Any]], domains: Sequence[str], version: str) -> str:
    """Which domains the others hurt under a version, in a sentence; "" where it was not measured tonight.

    metrics: rows of domain_metrics of one run.
    """
    own = [row for row in metrics if str(row["model_version"]) == version]
    served, cross = (
        {
            row["domain"]: (row["low"], row["high"])
            for row in own
            if row["metric"] == metric and row["split"] == "test"
        }
        for metric in ("ntg_served", "ntg_ndcg")
    )
    views = {row["domain"]: row["view"] for row in own if (row["metric"], row["split"]) == ("ntg_served", "valid")}
    return transfer_in_words(
        {
            name: Transfer(served[name], cross.get(name, (None, None)), views.get(name) or "")
            for name in domains
            if name in served
        }
    )


def _below(ends: tuple[float | None, float | None]) -> bool:
    return ends[1] is not None and ends[1] < 0


def _above(ends: tuple[float | None, float | None]) -> bool:
    return ends[0] is not None and ends[0] > 0


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
