"""docs/study.md: its example runs, its commands are understood, its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch
from study_logs import columns, write

from syncrec_model.__main__ import _setting, parser
from syncrec_model.study_run import configurations

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")


def test_the_example_stands_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    example = example.replace('{"epochs": 5}', '{"epochs": 1, "channels": 8, "max_length": 10}')
    write(tmp_path / "log.parquet", columns())
    monkeypatch.chdir(tmp_path)
    said, threads = io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(example, "docs/study.md", "exec"), {})
    finally:
        torch.set_num_threads(threads)
    assert "served - what follows [95 %]" in said.getvalue()
    (folder,) = re.findall(r'out="([^"]+)"', example)
    assert (tmp_path / folder / "table.md").exists()
    commands = re.findall(r"--out (\S+)", PAGE)
    assert commands and folder not in commands, "another study: who ran the command above would be refused"


def test_every_command_is_understood() -> None:
    commands = re.findall(r"^    python -m syncrec_model (.*?)(?:  +#.*)?$", PAGE, re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        given = parser().parse_args(shlex.split(command))
        configurations(given.preset, dict(_setting(text) for text in given.set))


def test_every_flag_and_link_of_the_page_exists() -> None:
    shown = parser().format_help()
    for flag in re.findall(r"`(--[a-z]+)", PAGE):
        assert flag in shown or flag == "--help", flag
    for target in re.findall(r"\]\(((?!http|#)[^)]+)\)", PAGE):
        assert (ROOT / "docs" / target.split("#")[0]).is_file(), target
