"""BERT4Rec (Sun et al. 2019) as a kept library has it: RecTools 0.19, full softmax over the masked items."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.neural_library import FORMS, LibraryPeer

_NETWORK = {"n_factors": 64, "n_heads": 2, "n_blocks": 2, "dropout_rate": 0.2, "lr": 2e-3, "loss": "softmax"}


class BERT4Rec(LibraryPeer):
    """RecTools' BERT4RecModel."""

    family, model = "bert4rec", "BERT4RecModel"
    source = "RecTools 0.19, BERT4RecModel (arXiv 1904.06690)"
    grid = ({**_NETWORK, "mask_prob": 0.2}, {**_NETWORK, "mask_prob": 0.5})

    def notes(self) -> Sequence[str]:
        """Return what the library does its own way."""
        return ("Users of one event are left out of training; a history's newest 49 events and [MASK] are read.",)


PEERS = tuple(BERT4Rec(form) for form in FORMS)
