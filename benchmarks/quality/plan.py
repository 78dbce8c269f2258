"""Which rows a run trains, in which order, under how many seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.quality.protocol import KINDS, Peer
from benchmarks.quality.systems import DEFAULT


@dataclass(frozen=True)
class Scale:
    """How much is trained. headline: seeds of our default, the best single-domain systems and the ensembles; other:
    seeds of every other row. trials: settings of each search that are tried, from the first; None: all.
    """

    headline: int = 5
    other: int = 3
    trials: int | None = None

    def settings(self, peer: Peer) -> Sequence[Mapping[str, Any]]:
        """Return the settings to try, at least one; of an ensemble all, for it trains nothing."""
        trials = None if peer.kind == "ensemble" else self.trials
        return list(peer.search)[:trials] or [{}]


class UnknownRow(Exception):
    """A row was asked for that nobody registered; the message lists those that are there."""


def order(peers: Mapping[str, Peer], wanted: Collection[str] = ()) -> list[Peer]:
    """Return the wanted rows (none: all) and the rows that they need; what is needed comes first.

    Raises
    ------
    UnknownRow : a wanted row is not there.
    ValueError : rows need one another in a circle, or scores that are not kept; an unknown kind.
    """
    unknown = sorted(set(wanted) - set(peers))
    if unknown:
        raise UnknownRow(f"no row {', '.join(unknown)}; there are {', '.join(peers) or 'none'}")
    found: dict[str, Peer] = {}

    def add(name: str, dependents: tuple[str, ...]) -> None:
        if name in dependents:
            raise ValueError(f"rows need one another: {' -> '.join([*dependents, name])}")
        peer = peers[name]
        if peer.kind not in KINDS:
            raise ValueError(f"row {name!r} is of kind {peer.kind!r}; the kinds are {', '.join(KINDS)}")
        for need in peer.needs:
            if need not in peers:
                continue  # its row will say so
            if not peers[need].keeps_scores:
                raise ValueError(f"row {name!r} reads the scores of {need!r}, which must set keeps_scores")
            add(need, (*dependents, name))
        found.setdefault(name, peer)

    for name in peers:
        if not wanted or name in wanted:
            add(name, ())
    return list(found.values())


def seeds(peer: Peer, peers: Collection[Peer], scale: Scale, rivals: Collection[str] = ()) -> range:
    """Return the seeds of a row: as many as every row that reads its scores has. rivals: rows chosen as such."""
    if not peer.seeded:
        return range(1)
    headline = (peer.kind == "ours" and peer.name == DEFAULT) or peer.kind == "ensemble" or peer.name in rivals
    readers = [other for other in peers if peer.name in other.needs and other.name != peer.name]
    own = scale.headline if headline else scale.other
    return range(max([own, *(len(seeds(reader, peers, scale, rivals)) for reader in readers)]))
