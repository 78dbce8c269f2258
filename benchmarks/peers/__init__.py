"""The systems of the quality benchmark, one file each. Add a `Peer` to a file's PEERS and it is a row."""

from __future__ import annotations

from benchmarks.quality.protocol import Peer


def all_peers() -> dict[str, Peer]:
    """Return every system by the name of its row."""
    from benchmarks.peers import (
        bert4rec,
        c2dsr,
        cgrec,
        ease,
        ensemble,
        gru4rec,
        item_knn,
        ours,
        popularity,
        rectools_sasrec,
        released,
        sasrec,
        weightings,
    )

    files = (
        popularity, item_knn, ease, sasrec, ours, weightings, ensemble, rectools_sasrec, bert4rec, gru4rec,
        released, cgrec, c2dsr,
    )  # fmt: skip
    return {peer.name: peer for file in files for peer in file.PEERS}
