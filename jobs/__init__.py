"""The steps of the night, one file per step: a pure transform plus a thin command line."""

import os

# OpenMP threads that wait spin by default; on a machine that does anything else besides, training then takes many
# times as long. Read when torch is first imported, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
