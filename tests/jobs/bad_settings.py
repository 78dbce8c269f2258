"""Wrong values for every field of the settings, worked out from their types and bounds."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.settings import ClickSource, Settings, Source

NOT_A = {
    int: ["many", 1.5, [1]], float: ["much", [1.0], float("nan"), float("inf")], bool: ["maybe", 7, []],
    str: [5, True, ["a"], {"a": 1}], Path: [5, []], date: ["soon", "2024-02-30", True],
    dict: ["x", [1]], tuple: ["x", 5],
}  # fmt: skip


@dataclass(frozen=True)
class Wrong:
    """One wrong value: where, which, and the place that the error must name."""

    path: tuple[str | int, ...]
    value: Any
    named: str


def wrong_values() -> Iterator[Wrong]:
    """At least one wrong value of each field, one unknown name a section, and each required field left out."""
    yield from _of_model(Settings, ())


def _of_model(model: type[BaseModel], path: tuple[str | int, ...]) -> Iterator[Wrong]:
    yield Wrong((*path, "nonsense"), 1, ".".join(map(str, (*path, "nonsense"))))
    for name, field in model.model_fields.items():
        place = (*path, name)
        if field.is_required():
            yield Wrong(place, None, _named(place))
        inner = _inner(field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield Wrong(place, "x", _named(place))
            yield from _of_model(inner, place)
        elif name == "domains":
            yield Wrong(place, {}, "domains")
            yield Wrong((*place, "a b"), {}, "domains")
            yield Wrong((*place, "books", "repeats"), "maybe", "domains.books.repeats")
        elif name in ("sources", "click_sources"):
            yield Wrong(place, "x", name)
            yield from _of_model(Source if name == "sources" else ClickSource, (*place, 0))
        else:
            yield from (Wrong(place, value, _named(place)) for value in _wrong_for(field, inner))


def _named(place: tuple[str | int, ...]) -> str:
    return ".".join(map(str, place))


def _inner(annotation: Any) -> Any:
    """The type without None and without what Annotated adds."""
    if get_origin(annotation) is Annotated:
        return _inner(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _inner(next(own for own in get_args(annotation) if own is not type(None)))
    return annotation


def _wrong_for(field: FieldInfo, inner: Any) -> Iterator[Any]:
    base = get_origin(inner) or inner
    if base is Literal:
        yield from ("nonsense", 5, [])
        return
    yield from NOT_A[base]
    for bound in field.metadata:
        for name, step in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
            if (limit := getattr(bound, name, None)) is not None:
                yield limit + step
        if getattr(bound, "pattern", None):
            yield "! nonsense !"
        if getattr(bound, "min_length", None):
            yield ""
        if getattr(bound, "max_length", None):
            yield "x" * (bound.max_length + 1)
