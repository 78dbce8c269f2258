"""docker-compose.yml as a container engine understands it: variables filled in, one dictionary a service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\})")


class MissingVariable(Exception):
    """A variable that the file asks for is not there; the engine would refuse to start."""


def filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace `${NAME:?message}`, `${NAME:-default}` and `$$` in every text below a value."""
    if isinstance(value, dict):
        return {key: filled_in(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled_in(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if found := variables.get(match["name"]):
            return found
        if match["kind"] == "-":
            return match["rest"]
        raise MissingVariable(f"{match['name']}: {match['rest'] or 'is not set'}")

    return _VARIABLE.sub(replace, value)


def read(file: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the file with its merges resolved and, where variables are given, filled in."""
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found if variables is None else filled_in(found, variables)


def read_env(text: str) -> dict[str, str]:
    """Return the variables of an .env file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
