"""The number that says in which form nights wrote the tables and what lies beside them.

It stands in the catalog, as the property `syncrec.state_version` of the namespace `syncrec`, so that it goes
wherever the tables go. States of before it was written have none: they count as version 0.
"""

from __future__ import annotations

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError

from jobs.errors import JobError

STATE_VERSION = 2
"""What this code writes. Raise it with every change of the tables: jobs.upgrade has a step for each number."""
PROPERTY = "syncrec.state_version"


def read_version(catalog: Catalog, namespace: str) -> int | None:
    """The version of a state; None where there is no state yet.

    Raises
    ------
    JobError
        Something else than a number stands there.
    """
    try:
        text = str(catalog.load_namespace_properties(namespace).get(PROPERTY, "0"))
    except NoSuchNamespaceError:
        return None
    if not text.isdecimal():
        raise JobError(f"the catalog says {PROPERTY} = {text!r}: whole numbers only; set it to what it was before")
    return int(text)


def write_version(catalog: Catalog, namespace: str) -> None:
    """Say that a state is in today's form."""
    catalog.update_namespace_properties(namespace, updates={PROPERTY: str(STATE_VERSION)})


def is_older(found: int | None, where: object) -> bool:
    """Whether a state has to be brought to today's form; `where` names it.

    Raises
    ------
    JobError
        A newer version of the project wrote it: this one would misread it.
    """
    if found is not None and found > STATE_VERSION:
        raise JobError(
            f"the state in {where} has version {found}, this code knows versions up to {STATE_VERSION}: use the "
            "newer code that wrote it, or the copy of the state that was made before the upgrade"
        )
    return found is not None and found < STATE_VERSION
