"""Kill every step of a night at random moments, read the tables, run it again, compare with an undisturbed night.

    make chaos                                    # all steps, 20 kills each
    make chaos STEPS="train score" KILLS=5        # some
    python -m tests.chaos --steps maintain        # a night under maintenance

docs/chaos.md says what is done and counted. Twenty kills or more go to benchmarks/results/chaos.json.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.orchestrator import REPOSITORY
from tests.chaos.nights import ROLLBACK, Chaos, StepNames
from tests.chaos.project import StepFailed
from tests.chaos.results import Table, keep

ENOUGH = 20
HOME = REPOSITORY / "var/chaos"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 all is well, 1 a difference, a kill without recovery, or a step that failed by itself."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", nargs="+", choices=StepNames, default=list(StepNames), metavar="STEP")
    parser.add_argument("--kills", type=int, default=ENOUGH, help="kills a step")
    parser.add_argument("--seed", type=int, default=0, help="another seed kills at other moments")
    parser.add_argument("--home", type=Path, default=HOME, help="where the project is made; removed if it is stale")
    arguments = parser.parse_args(argv)
    steps = [step for step in StepNames if step in arguments.steps]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is ended, too
    chaos = Chaos(arguments.home, seed=arguments.seed)
    table = Table(steps, arguments.kills)
    try:
        chaos.prepare(steps, table.say)
        table.plan({step: chaos.seconds(step) for step in steps})
        for step in steps:
            outcome = chaos.hurt(step, arguments.kills, table)
            if arguments.kills >= ENOUGH:
                keep(outcome)
                if step == ROLLBACK:
                    chaos.time_rollback()
    except StepFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    table.close()
    if arguments.kills < ENOUGH:
        print(f"not kept: fewer than {ENOUGH} kills a step")
    return 0 if table.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
