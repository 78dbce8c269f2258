"""SASRec as a kept library has it: RecTools 0.19, its own network, batches, full softmax and Adam."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.neural_library import FORMS, LibraryPeer


class RecToolsSASRec(LibraryPeer):
    """RecTools' SASRecModel with loss = "softmax"."""

    family, model = "sasrec-rectools", "SASRecModel"
    source = "RecTools 0.19, SASRecModel (softmax)"
    grid = (
        {"n_factors": 64, "n_heads": 1, "n_blocks": 2, "dropout_rate": 0.2, "lr": 1e-3, "loss": "softmax"},
        {"n_factors": 64, "n_heads": 1, "n_blocks": 2, "dropout_rate": 0.5, "lr": 1e-3, "loss": "softmax"},
    )

    def notes(self) -> Sequence[str]:
        """Return what the library does its own way."""
        return ("Users of one event are left out of training; of longer rows than 51 events the newest are read.",)


PEERS = tuple(RecToolsSASRec(form) for form in FORMS)
