"""Every test of the model starts from one seed and one thread, and finds small_models.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed():
    torch.set_num_threads(1)  # two threads that wait for each other crawl on a busy machine
    torch.manual_seed(0)
