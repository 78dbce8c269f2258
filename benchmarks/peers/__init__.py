"""The systems of the quality benchmark, one file each. Add a `Peer` here and it is a row."""

from __future__ import annotations

from benchmarks.quality.protocol import Peer


def all_peers() -> dict[str, Peer]:
    """Return every system by the name of its row."""
    peers: tuple[Peer, ...] = ()
    return {peer.name: peer for peer in peers}
