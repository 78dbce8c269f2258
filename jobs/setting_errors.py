"""What is wrong with a configuration file or a variable, in words: where it stands, and what was meant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

PREFIX = "SYNCREC_"
OTHER_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        *("AIRFLOW", "ALERT_COMMAND", "CHAOS_HOME", "CHROMIUM", "CODE_VERSION", "CONFIG", "DEADLINE_HOURS", "DS"),
        *("FULL", "GPU_QUEUE", "HOME", "JOBS_PYTHON", "LINKS", "LOG_LEVEL", "MLFLOW_PAGE", "PEERS", "RELEASED"),
        *("REPORTS_PAGE", "RETRIES", "RETRY_SECONDS", "RUN_ID", "STACK", "UMASK"),
    )
)
"""Variables of the environment that are no settings of the file: for the DAG, the pages, benchmarks, tests."""
WRITTEN = {
    "spark.driver_memory": "as a number and k, m, g or t, such as 4g",
    "spark.master": "local[2], spark://host:7077, k8s://... or yarn",
    "gate.metric": "hr, ndcg or mrr @5, @10 or @20, such as ndcg@10",
}
"""How some settings are written, for whom a pattern would say little."""
RETIRED: dict[str, str] = {}
"""Settings of the past, e.g. "training.rounds", and what to do instead: said to whose file still has one."""


def in_words(found: dict[str, Any], values: dict[str, Any], settings: type[BaseModel], names: Sequence[str]) -> str:
    """One wrong value: where it stands and what is wrong; an unknown name with the one that it may stand for.

    found: of pydantic's `errors()`. values: the whole file. names: those of all settings in all sections.
    """
    place = ".".join(str(part) for part in found["loc"]) or "file"
    source = _source_of(found["loc"], values)
    if found["type"] != "extra_forbidden":
        said = "is missing" if found["type"] == "missing" else found["msg"].removeprefix("Value error, ")
        if found["type"] == "string_pattern_mismatch" and place in WRITTEN:
            said = f"'{found['input']}' is not written {WRITTEN[place]}"
        named = source and said.startswith(source.strip(" ()"))
        return said if place == "file" else f"{place}{'' if named else source}: {said}"
    if place in RETIRED:
        return f"{place}: there is no such setting any more: {RETIRED[place]}"
    name, section = str(found["loc"][-1]), str(found["loc"][0])
    said = f"{place}{source}: there is no setting '{name}'"
    if len(found["loc"]) == 1:
        meant = get_close_matches(name, settings.model_fields, n=1)
    else:
        near = get_close_matches(name, _fields(settings, section), n=1)
        meant = near or get_close_matches(name, [other for other in names if other != name], n=1, cutoff=0.8)
    if section in ("model", "training") and not (meant and meant[0] in _fields(settings, section)):
        return f"{said} here: options of the {section} go into [{section}.options]"
    return said + (f": did you mean {meant[0]}?" if meant else "")


def _fields(settings: type[BaseModel], section: str) -> list[str]:
    """The names that a section has; none where it is a list or a table of tables."""
    kind = settings.model_fields[section].annotation if section in settings.model_fields else None
    return [*kind.model_fields] if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def misspelt_variable(settings: type[BaseModel]) -> str:
    """What is wrong with a variable that looks like one of ours and is none, and what it may stand for; "" if none.

    Others may have variables SYNCREC_... of their own (Kubernetes makes some of a service of that name): they pass
    where they look like nothing of ours.
    """
    known = {name.upper() for name in settings.model_fields}
    known |= {f"{name}__{own}".upper() for name in settings.model_fields for own in _fields(settings, name)}
    known |= {name.removeprefix(PREFIX) for name in OTHER_VARIABLES}
    for name in sorted(os.environ):
        rest = name.upper().removeprefix(PREFIX)
        section = rest.partition("__")[0].lower()
        if not name.upper().startswith(PREFIX) or name in OTHER_VARIABLES or section in settings.model_fields:
            continue
        if meant := get_close_matches(rest, known, n=1, cutoff=0.75):
            return (
                f"the variable {name} of the environment is no setting: did you mean {PREFIX}{meant[0]}? "
                "(docs/configuration.md)"
            )
    return ""


def _source_of(loc: tuple[Any, ...], values: dict[str, Any]) -> str:
    """The name of the source that a value is of: nobody counts the tables of a file."""
    if len(loc) > 1 and loc[0] in ("sources", "click_sources"):
        with suppress(LookupError, TypeError):
            return f" (source '{values[loc[0]][loc[1]]['name']}')"
    return ""
