"""docs/model.md and the files that it guides through: example, settings, links, legends, length."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
import torch

from syncrec_model import ModelConfig

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "syncrec_model").glob("*.py"))
PAGE = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")


def settings_table() -> tuple[list[str], list[list[str]]]:
    """The presets in the head of the table, and its rows of cells."""
    table = [line for line in PAGE.split("## Settings")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [cell.strip("`") for cell in head[2:-1]], rows


def test_the_example_trains_and_recommends() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(example.splitlines()) <= 26
    said, threads = io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(example, "docs/model.md", "exec"), {})
    finally:
        torch.set_num_threads(threads)
    assert re.search(r"books NTG of the loss [+-]0\.\d+, of NDCG@10 [+-]0\.\d+", said.getvalue())
    assert len(re.findall(r"\('t\d+', -?\d+\.\d+", said.getvalue())) == 5


def test_every_setting_of_the_model_is_in_the_table_once() -> None:
    _, rows = settings_table()
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(ModelConfig))


@pytest.mark.parametrize("place", range(len(settings_table()[0])))
def test_the_table_gives_the_values_of_the_presets(place: int) -> None:
    presets, rows = settings_table()
    values = ModelConfig.preset(presets[place]).to_dict()
    for row in rows:
        names, cell = re.findall(r"`(\w+)`", row[0]), row[2 + place]
        if cell != "not used":
            shown = [json.loads(part.replace("_", "")) if part[0].isdigit() else json.loads(part)
                     for part in cell.replace("`", "").split(", ")]  # fmt: skip
            assert shown == [values[name] for name in names], row


def test_every_file_that_the_page_names_exists() -> None:
    for name in re.findall(r"`((?:jobs/)?\w+\.py)`", PAGE):
        assert (ROOT / name).is_file() or (ROOT / "syncrec_model" / name).is_file(), name
    for target in re.findall(r"\]\(((?!http|#)[^)]+)\)", PAGE):
        assert (ROOT / "docs" / target.split("#")[0]).is_file(), target
    anchors = {
        re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", PAGE, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", PAGE):
        assert anchor in anchors, anchor


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_on_the_page_and_short(file: Path) -> None:
    assert f"`{file.name}`" in PAGE, f"say in docs/model.md what {file.name} is for"
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_letter_of_a_shape_suffix_is_in_the_legend_of_its_file(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {getattr(node, key) for node in ast.walk(tree) for key in ("id", "arg", "attr") if hasattr(node, key)}
    suffixes = [re.fullmatch(r"[a-z]\w*_([A-Za-z]?[A-Z][A-Z0-9]{0,3})", name or "") for name in names]
    letters = {letter: suffix[0] for suffix in suffixes if suffix for letter in re.findall("[A-Z]", suffix[1])}
    legend = ast.get_docstring(tree) or ""
    unexplained = {letter: name for letter, name in letters.items() if not re.search(rf"\b{letter}(\b|1)", legend)}
    assert not unexplained, f"name these letters in the docstring at the top of {file.name}: {unexplained}"


def test_the_figure_is_text_and_names_every_part() -> None:
    figure = (ROOT / "docs" / "img" / "gradient-routes.svg").read_text(encoding="utf-8")
    texts = " ".join(re.findall(r"<text[^>]*>([^<]+)</text>", figure))
    for part in (
        "experts 1 … j",
        "experts j+1 … K",
        "embedding",
        "gate",
        "tower",
        "SG",
        "φ",
        "λ",
        "SC-MIM",
        "L cross",
    ):
        assert part in texts, part
    assert "prefers-color-scheme: dark" in figure
