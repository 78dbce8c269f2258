"""The steps of the night, one file per step: a pure transform plus a thin command line."""

import os

# OpenMP threads that wait spin for milliseconds by default; on a machine that does anything else besides, training
# then takes many times as long. Not spinning at all costs a third of the speed on an idle machine. A thousand
# turns, some microseconds, is near the best of both (docs/benchmarks/training.md). Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
