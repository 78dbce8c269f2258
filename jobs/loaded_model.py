"""A registered version in memory, widened to tonight's vocabulary: what evaluate and score work with."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jobs.errors import JobError
from syncrec_model import SyNCRec, Vocabulary, build_model, load_model, warm_start

if TYPE_CHECKING:  # MLflow takes seconds to import, in every Spark worker
    from jobs.registry import Registry


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A version in memory, widened to tonight's vocabulary.

    known_items: per domain the items that the version was trained with; the others cannot be recommended by it.
    """

    version: str
    model: SyNCRec
    vocabulary: Vocabulary
    known_items: tuple[int, ...]
    views: dict[str, str]
    metadata: dict[str, Any]

    def require_numbers(self) -> None:
        """Stop at a version whose training went astray.

        Raises
        ------
        JobError
            A weight is not a finite number.
        """
        wrong = [name for name, weight in self.model.state_dict().items() if not torch.isfinite(weight).all()]
        if wrong:
            raise JobError(f"model version {self.version}: weights of {wrong[0]} are not finite numbers")


def load_version(registry: Registry, number: str, vocabulary: Vocabulary) -> LoadedModel:
    """Fetch a version from the registry and widen it to tonight's vocabulary.

    Raises
    ------
    JobError
        The version cannot be fetched, or its vocabulary is no prefix of tonight's.
    """
    return widen(number, *read_version(registry, number), vocabulary)


def read_version(registry: Registry, number: str) -> tuple[SyNCRec, Vocabulary, dict[str, str], dict[str, Any]]:
    """Fetch a version as it was saved: model, its own vocabulary, views, metadata.

    Raises
    ------
    JobError
        The version cannot be fetched or read.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            return load_model(registry.download(number, Path(folder)))
        except ValueError as error:
            raise JobError(f"model version {number} cannot be read: {error}") from error


def widen(
    number: str, model: SyNCRec, own: Vocabulary, views: dict[str, str], metadata: dict[str, Any], today: Vocabulary
) -> LoadedModel:
    """Give a model tonight's vocabulary; domains and items that it has never seen stay unknown to it."""
    known = dict(zip(own.domains, own.n_items, strict=True))
    if own != today:
        wide = build_model(model.config, today.domains, today.n_items)
        try:
            warm_start(wide, today, model, own)
        except ValueError as error:
            raise JobError(f"model version {number} does not fit tonight's items: {error}") from error
        model = wide
    known_items = tuple(known.get(domain, 0) for domain in today.domains)
    with torch.no_grad():  # an unknown item in a history says nothing, and says it the same way everywhere
        for offset, count, n_known in zip(today.offsets, today.n_items, known_items, strict=True):
            model.embedding.items_VC[offset + n_known + 1 : offset + count + 1] = 0
    return LoadedModel(
        version=number,
        model=model.eval(),
        vocabulary=today,
        known_items=known_items,
        views={domain: views.get(domain, "blend") for domain in today.domains},
        metadata=metadata,
    )
