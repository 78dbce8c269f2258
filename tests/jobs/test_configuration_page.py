"""docs/configuration.md is made from the settings, and current."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import configuration_page
from jobs.configuration_page import main, page
from jobs.settings import Settings
from syncrec_model.descriptions import DESCRIPTIONS


def test_the_committed_page_is_current() -> None:
    assert main(["--check"]) == 0, "python -m jobs.configuration_page"


def test_every_setting_is_on_it_with_its_type_and_default() -> None:
    made = page()
    assert "| `top_n` | whole number, at least 1, at most 1000 | `20` | rows a user and domain |" in made
    assert "| `bootstrap_through` | day | required |" in made
    for section in Settings.model_fields:
        assert section == "state_dir" or f"[{section}" in made
    for name in DESCRIPTIONS:
        assert f"| `{name}` |" in made, name
    assert "default `<state_dir>/landing`" in made, "a page would hide what looks like a tag"


def test_a_page_that_is_not_current_is_told_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "configuration.md"
    monkeypatch.setattr(configuration_page, "PAGE", file)
    assert main(["--check"]) == 1
    assert capsys.readouterr().err == (
        "error: docs/configuration.md is not current: python -m jobs.configuration_page\n"
    )
    assert main([]) == 0 and main(["--check"]) == 0
