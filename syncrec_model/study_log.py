"""The study kit's reading: a Parquet or CSV log of user, item, domain and time, checked before anything is learned.

Shapes: E events.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .study_columns import UNITS, Array, StudyError, ids_of, times_of, unit_of

ROLES: dict[str, tuple[str, ...]] = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "domain": ("domain",),
    "ts": ("ts", "timestamp", "time"),
}
"""What a log must hold, and the column names that are tried for it."""
_MOST_DOMAINS = 100


@dataclass(frozen=True, eq=False)
class RawLog:
    """A log as it was read: per event the place of its ids in the lists, and its time as the column has it.

    unit: the unit of ts_E since 1970, or None where the numbers are no dates and only their order counts.
    """

    path: Path
    users: list[str]
    items: list[str]
    domains: list[str]
    user_E: Array
    item_E: Array
    domain_E: Array
    ts_E: Array
    unit: str | None

    def day(self, ts: float) -> str:
        """Return a moment as a date, or as the number that it is."""
        if self.unit is None:
            return f"{ts:g}"
        return datetime.fromtimestamp(ts / UNITS[self.unit], UTC).strftime("%Y-%m-%d")


def read_log(path: str | Path, columns: Mapping[str, str] | None = None, unit: str | None = None) -> RawLog:
    """Read a Parquet file, a folder of them, or a CSV file with a header (also .gz).

    columns: the names of the columns by role (`ROLES`), where they differ. unit: "s", "ms", "us" or "ns" of numbers
    in the time column; None: seen from the values.

    Raises
    ------
    StudyError : a file or column that is missing or unusable.
    """
    path = Path(path)
    for role in columns or {}:
        if role not in ROLES:
            raise StudyError(f"columns: unknown role {role!r}; roles are {', '.join(ROLES)}")
    table, names = _read_table(path, dict(columns or {}))
    if table.num_rows == 0:
        raise StudyError(f"{path} has no rows: give a log with at least a few hundred events")
    ids = {role: ids_of(path, table[names[role]], names[role]) for role in ("user", "item", "domain")}
    ts_E, known_unit = times_of(path, table[names["ts"]], names["ts"])
    (user_E, users), (item_E, items), (domain_E, domains) = ids["user"], ids["item"], ids["domain"]
    if len(domains) > _MOST_DOMAINS:
        raise StudyError(
            f"{path}: column '{names['domain']}' has {len(domains):,} different values, more than {_MOST_DOMAINS} "
            "domains: is it another column that names the domain? Name it with --domain COLUMN"
        )
    place = f"{path}: column '{names['ts']}'"
    found = unit_of(place, ts_E, [domains[code] for code in range(len(domains))], domain_E, unit or known_unit)
    return RawLog(path, users, items, domains, user_E, item_E, domain_E, ts_E, found)


def _read_table(path: Path, given: dict[str, str]) -> tuple[Any, dict[str, str]]:
    """Return the four columns and their names by role."""
    try:
        import pyarrow as pa
        from pyarrow import csv, dataset
    except ImportError:
        raise StudyError("reading a log needs pyarrow: pip install pyarrow") from None
    if not path.exists():
        raise StudyError(f"{path} does not exist: give the path of a Parquet or CSV log")
    is_csv = ".csv" in path.suffixes
    if path.is_file() and path.stat().st_size == 0:
        raise StudyError(f"{path} is empty: nothing was written into it")
    if path.is_dir() and not any(path.rglob("*.parquet")):
        raise StudyError(f"{path} is a folder without *.parquet files: give it some, or the path of a file")
    kind = "CSV" if is_csv else "Parquet"
    if is_csv and path.is_file() and path.open("rb").read(4) == b"PAR1":
        raise StudyError(f"{path} is a Parquet file under another name: let it end in .parquet")
    try:
        if is_csv:
            _comma(path)
            try:
                names = _names(path, csv.open_csv(path).schema.names, given)
                text = {names[role]: pa.string() for role in ("user", "item", "domain")}
                options = csv.ConvertOptions(include_columns=list(names.values()), column_types=text)
                return csv.read_csv(path, convert_options=options), names
            except pa.ArrowInvalid as error:
                if "Expected" in str(error):
                    csv.read_csv(path, csv.ReadOptions(use_threads=False))  # slower, and its error names the row
                raise
        source = dataset.dataset(path, format="parquet", partitioning="hive")
        names = _names(path, source.schema.names, given)
        return source.to_table(columns=list(names.values())), names
    except (pa.ArrowException, OSError, UnicodeError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        if "magic bytes" in why or "smaller than the minimum" in why:  # of three clauses around these words
            why = "it was cut short, or is no Parquet file"
        asked = "mend or take out that row (the header is #1)" if "Row #" in why else "give a .parquet or .csv file"
        raise StudyError(f"{path} cannot be read as {kind}: {why}: {asked}") from None


def _comma(path: Path) -> None:
    """Refuse a CSV whose header is parted by another mark."""
    if path.suffix not in (".csv", ".gz"):
        return
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        header = lines.readline(10_000).decode("utf-8", "replace").strip()
    for mark in ";\t|":
        if header.count(mark) > header.count(","):
            raise StudyError(
                f"{path}: what parts the columns of its header, {header!r}, is {mark!r}: it must be a comma"
            )


def _names(path: Path, known: list[str], given: dict[str, str]) -> dict[str, str]:
    names = {}
    for role, tried in ROLES.items():
        wanted = (given[role],) if role in given else tried
        found = [name for name in wanted if name in known]
        if not found:
            raise StudyError(
                f"{path} has no column {' or '.join(map(repr, wanted))}; its columns are {', '.join(known)}. "
                f"Name the right one: --{role} COLUMN, in Python columns={{'{role}': COLUMN}}"
            )
        names[role] = found[0]
    if len(set(names.values())) < len(names):
        raise StudyError(f"one column has two roles in {names}: each of user, item, domain and ts needs its own")
    return names
