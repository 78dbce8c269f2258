"""What training asks of the allocator, and when it leaves it alone."""

from __future__ import annotations

import platform

import pytest
import torch

from syncrec_model.machine import keep_freed_memory


def test_freed_memory_is_kept_with_glibc_on_the_cpu_alone():
    assert keep_freed_memory(torch.device("cpu")) == (platform.libc_ver()[0] == "glibc")
    assert not keep_freed_memory(torch.device("cuda"))


def test_a_user_who_set_the_allocator_keeps_the_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory(torch.device("cpu"))
