"""When to kill a step: at random seconds, and at what it does to files, drawn from a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.chaos.kill import Happening, Moment

CRITICAL = (
    "warehouse/*.db-journal begun",  # in the middle of the catalog's transaction
    "warehouse/*.db-journal removed",  # just committed; the next commit of the step is still to come
    "/metadata/*.metadata.json written",  # of a table, and the catalog does not name it yet
    "/metadata/*.avro written",
    "/data/#/*.parquet begun",
    "/data/#/*.parquet written",  # staged, not committed
    "_nights/#/*.json swapped in",
    "checkpoints/* begun",
    "checkpoints/*.partial written",
    "checkpoints/* swapped in",
    "reports/*.html swapped in",
    "*.duckdb",
    "mlflow/*.db-journal begun",
    "mlflow/*.db-journal removed",
    "artifacts/",
)
"""Parts of kinds of happenings between which a step must not leave a half."""
LATER = 0.03
"""Half of the aimed kills come at once, half at a random moment of these seconds later."""


def moments(seconds: float, happenings: Sequence[Happening], rng: random.Random) -> Iterator[Moment]:
    """Moments without end.

    Of four, one is any moment of the step, one any moment from the first thing it does to a file on, and two are
    aimed: at each critical kind of happening in turn, and then at all kinds in turn.

    Parameters
    ----------
    seconds, happenings
        What an undisturbed run took and did.
    rng
        The source of all choices.
    """
    first = min((one.seconds for one in happenings), default=0.0)
    aimed = _aimed(happenings, rng)
    while True:
        yield Moment(rng.uniform(0.0, seconds))
        yield next(aimed, None) or Moment(rng.uniform(first, seconds))
        yield Moment(rng.uniform(first, seconds))
        yield next(aimed, None) or Moment(rng.uniform(0.0, seconds))


def _aimed(happenings: Sequence[Happening], rng: random.Random) -> Iterator[Moment]:
    counts = Counter(one.kind for one in happenings)
    while counts:
        groups = [[kind for kind in sorted(counts) if part in kind] for part in CRITICAL]
        chosen = [rng.choice(group) for group in groups if group]
        rng.shuffle(chosen)
        rest = sorted(set(counts) - set(chosen))
        rng.shuffle(rest)
        for kind in [*chosen, *rest]:
            wait = rng.choice((0.0, rng.uniform(0.0, LATER)))
            yield Moment(wait, kind, rng.randint(1, counts[kind]))
