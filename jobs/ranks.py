"""Training on several processes, `torchrun --nproc_per_node 2 -m jobs.train --ds ...`; the usual case is one.

Rank 0 is the job: it alone reads the lakehouse, talks to MLflow, writes checkpoints and registers. The others wait
until it trains, train along, and end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from syncrec_model import FitResult, fit, process_group
from syncrec_model.distributed import from_first_rank, rank, world_size

Fit = Callable[..., FitResult]


def together(job: Callable[[Fit], str]) -> str:
    """Run the job on rank 0; where it calls the `fit` it is given, every rank trains.

    Parameters
    ----------
    job
        Takes the function to train with (the arguments are those of `syncrec_model.fit`, by name; on_epoch and
        progress concern rank 0 alone) and returns the closing line.

    Returns
    -------
    str
        The closing line of this rank.
    """
    with process_group():
        if rank() > 0:
            return _train_along()
        called = False

        def fit_on_all_ranks(*, on_epoch: Any = None, progress: bool = True, **call: Any) -> FitResult:
            nonlocal called
            called = True
            from_first_rank(call)
            return fit(**call, on_epoch=on_epoch, progress=progress)

        try:
            return job(fit_on_all_ranks)
        finally:
            if not called:  # nothing to do, or an error: let the others go
                from_first_rank(None)


def _train_along() -> str:
    call: dict[str, Any] | None = from_first_rank(None)
    if call is None:
        return f"rank {rank()}: nothing to train"
    fit(**call, progress=False)
    return f"rank {rank()} of {world_size()} trained along"
