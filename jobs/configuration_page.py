"""docs/configuration.md, made from the typed settings: `python -m jobs.configuration_page`, `--check` compares."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from jobs.page_command import run_page
from jobs.settings import Settings
from syncrec_model import ModelConfig, TrainingConfig, config
from syncrec_model.descriptions import DESCRIPTIONS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_CHOICES = {
    "architecture": config.ARCHITECTURES, "gate": config.GATES, "loss": config.LOSSES, "start": config.STARTS,
    "correction": config.CORRECTIONS, "mim_score": config.MIM_SCORES, "device": config.DEVICES,
    "precision": config.PRECISIONS,
}  # fmt: skip
_TYPES: dict[Any, str] = {
    int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", date: "day",
}  # fmt: skip
_INTRODUCTION = """# Configuration

<!-- Made by `python -m jobs.configuration_page` from jobs/settings.py, syncrec_model/config.py and
syncrec_model/descriptions.py: change a setting's description there, not here. -->

One TOML file says everything: `make nightly CONFIG=my.toml`; without `CONFIG` it is `$SYNCREC_CONFIG`, else
`syncrec.toml`. It is read once and checked as a whole: an unknown name or a wrong value stops with one line that
names it; so does what `[model.options]` and `[training.options]` hold, before a night begins. [Your own
data](own-data.md) shows a file; this page lists every setting.

- **The environment wins over the file**: `SYNCREC_`, the section, two underscores, the key.
  `SYNCREC_SPARK__MASTER=spark://host:7077` is `master` in `[spark]`, `SYNCREC_STATE_DIR` is `state_dir`.
  A variable that looks like one of these and is none stops, too.
- **Relative paths** count from `SYNCREC_HOME`, else from the working directory.
- **Required** means that there is no default."""
_OPTIONS = {
    "model": (
        ModelConfig,
        "Further fields of the model; `--set` of the [study kit](study.md) takes them, too. The defaults are "
        "those of the preset `default`; [the model's page](model.md#settings) has all presets.",
    ),
    "training": (
        TrainingConfig,
        "Further fields of training; `--set` of the [study kit](study.md) takes them, too.",
    ),
}


def page() -> str:
    """Return the page."""
    parts = [_INTRODUCTION, _section("", "At the top of the file", None, _rows(Settings))]
    for name, field in Settings.model_fields.items():
        kind, many = _record(field)
        if kind is None:
            continue
        heading = "[domains.NAME]" if name == "domains" else f"[[{name}]]" if many else f"[{name}]"
        parts.append(_section(name, f"`{heading}`", (kind.__doc__ or "") + many, _rows(kind)))
        if name in _OPTIONS:
            record, words = _OPTIONS[name]
            elsewhere = {key for key in kind.model_fields if key != "options"} | {"max_length"}
            rows = _option_rows(record, elsewhere if name == "model" else elsewhere - {"max_length"})
            parts.append(_section(f"{name}.options", f"`[{name}.options]`", words, rows))
    return "\n\n".join(parts) + "\n"


def _section(name: str, heading: str, words: str | None, rows: Iterator[tuple[str, ...]]) -> str:
    lines = [f"## {heading}", ""]
    if words:
        lines += [re.sub(r"\s+", " ", words).strip(), ""]
    lines += ["| setting | type | default | what it is |", "|---|---|---|---|"]
    return "\n".join(
        [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]
    )


def _rows(kind: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in kind.model_fields.items():
        if _record(field)[0] is None:
            if not field.description:
                raise ValueError(f"{kind.__name__}.{name} in jobs/settings.py has no description")
            yield (
                f"`{name}`",
                _type(field.annotation, field),
                _default(field),
                re.sub(r"(<\w+>\S*)", r"`\1`", field.description),
            )


def _option_rows(record: type, elsewhere: set[str]) -> Iterator[tuple[str, ...]]:
    for field in dataclasses.fields(record):
        if field.name not in elsewhere:
            choices = _CHOICES.get(field.name)
            kind = ", ".join(f"`{choice}`" for choice in choices) if choices else _TYPES[type(field.default)]
            yield f"`{field.name}`", kind, _toml(field.default), DESCRIPTIONS[field.name]


def _record(field: FieldInfo) -> tuple[type[BaseModel] | None, str]:
    """Return the section that a field holds, and words about how many."""
    for part in (field.annotation, *get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            origin = get_origin(field.annotation)
            return part, " One block each." if origin in (dict, tuple) else ""
    return None, ""


def _type(annotation: Any, field: FieldInfo) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _type(next(part for part in parts if part is not type(None)), field)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return "list of texts"
    if origin is dict:
        return "table"
    return ", ".join([_TYPES[annotation], *_bounds(field)])


def _bounds(field: FieldInfo) -> Iterator[str]:
    for limit in field.metadata:
        for key, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
            if hasattr(limit, key):
                yield f"{words} {getattr(limit, key)}"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "required" if value is PydanticUndefined else _toml(value)


def _toml(value: Any) -> str:
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return "`{ " + ", ".join(f"{key} = {part}" for key, part in value.items()) + " }`"
    if isinstance(value, (str, Path)):
        return f'`"{value}"`'
    return f"`{value}`"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; with --check say whether the one that is there is current."""
    return run_page(PAGE, page, "jobs.configuration_page", __doc__ or "", argv)


if __name__ == "__main__":
    raise SystemExit(main())
