"""The Parquet files of `recommendations`, as Spark's Python workers write, read and copy them.

Lists are a hundred times as many rows as users, so they never pass through Spark's own rows: a worker writes its
file and tells Spark the name. Only what successful tasks name is committed; what a killed one left behind is not
part of any table. A user's lists lie next to each other in one row group.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.arms import Split
from jobs.schemas import CANDIDATE_ARM, CHAMPION_ARM, RECOMMENDATIONS

_NAME = pa.dictionary(pa.int32(), pa.string())
LISTS = pa.schema(
    [
        ("user_id", _NAME),
        ("domain", _NAME),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
        ("source", _NAME),
    ]
)
ROWS_TOGETHER = 1 << 19
"""Rows of a row group, at least; a batch of users more at most."""
DICTIONARY_BYTES = 16 << 20
"""Of item ids in the dictionary of a row group, at most. Parquet's usual 1 MiB holds some 40,000 ids, and what a
dictionary does not hold is written as text: audits and copies then take twice as long.
"""
MADE = "file string, rows bigint, users bigint, arm string"
_TEXTS = ["user_id", "domain", "item_id", "source", "model_version", "arm"]


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where lists are written, and what is the same in all rows of a file: one arm, one version."""

    folder: str
    ds: date
    version: str
    arm: str = CHAMPION_ARM


@dataclass
class ListWriter:
    """Writes lists, whole users at a time, to one file of its own; no file where there are none."""

    written: Written
    rows: int = 0
    users: int = 0
    _waiting: list[pa.Table] = field(default_factory=list)
    _file: pq.ParquetWriter | None = None
    _path: str = ""

    def __enter__(self) -> ListWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        if self._file is not None:
            self._file.close()

    def write(self, lists: pa.Table) -> None:
        """Take the lists of some users; columns as in LISTS, texts plain or as dictionaries."""
        self._waiting.append(lists)
        if sum(map(len, self._waiting)) >= ROWS_TOGETHER:
            self._flush()

    def made(self) -> pa.RecordBatch:
        """The file, its rows, users and arm, in the columns of MADE; call it at the end."""
        made = {"file": self._path, "rows": self.rows, "users": self.users, "arm": self.written.arm}
        return pa.RecordBatch.from_pylist([made] if self._path else [], schema=_MADE)

    def _flush(self) -> None:
        waiting = [part.unify_dictionaries() for part in self._waiting if len(part)]
        self._waiting = []
        if not waiting:
            return
        lists = pa.concat_tables(waiting).unify_dictionaries().combine_chunks()
        constant = {"model_version": self.written.version, "arm": self.written.arm}
        for name, value in constant.items():
            same = pa.DictionaryArray.from_arrays(np.zeros(len(lists), np.int32), pa.array([value]))
            lists = lists.append_column(name, same)
        lists = lists.append_column("ds", pa.array(np.full(len(lists), self.written.ds, "datetime64[D]")))
        lists = lists.select(RECOMMENDATIONS.column_names)
        if self._file is None:
            folder = Path(self.written.folder)
            folder.mkdir(parents=True, exist_ok=True)
            self._path = str(folder / f"part-{uuid.uuid4().hex}.parquet")
            dictionaries = [name for name in lists.column_names if name != "score"]
            self._file = pq.ParquetWriter(
                self._path, lists.schema, compression="zstd", use_dictionary=dictionaries,
                dictionary_pagesize_limit=DICTIONARY_BYTES, store_schema=False,
            )  # fmt: skip
        self._file.write_table(lists, row_group_size=len(lists))
        self.rows += len(lists)
        self.users += int(starts(codes(lists["user_id"])).sum())


_MADE = pa.schema([("file", pa.string()), ("rows", pa.int64()), ("users", pa.int64()), ("arm", pa.string())])


@contextmanager
def list_writers(written: Mapping[str, Written]) -> Iterator[dict[str, ListWriter]]:
    """A writer for each arm."""
    with ExitStack() as stack:
        yield {arm: stack.enter_context(ListWriter(own)) for arm, own in written.items()}


def row_groups(file: str, columns: list[str]) -> Iterator[pa.Table]:
    """The row groups of a file, texts as dictionaries."""
    with pq.ParquetFile(
        file.removeprefix("file://"), read_dictionary=[c for c in _TEXTS if c in columns]
    ) as parquet:
        for number in range(parquet.num_row_groups):
            group = parquet.read_row_group(number, columns=columns).unify_dictionaries()
            if len(group):
                yield group.combine_chunks()


def codes(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """The dictionary's places of a column, -1 for null."""
    values: NDArray[np.int32] = pc.fill_null(whole(column).indices, -1).to_numpy(zero_copy_only=False)
    return values


def whole(column: pa.ChunkedArray) -> Any:
    """A column of `row_groups` as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def starts(codes_R: NDArray[Any]) -> NDArray[np.bool_]:
    """Where another value begins."""
    return np.append(True, codes_R[1:] != codes_R[:-1])[: len(codes_R)]


# --- reuse ------------------------------------------------------------------------------------------------

USERS_OF_FILES = "user_id string, file string, version string, full int"


def users_of_files(batches: Iterable[pa.RecordBatch], top_n: int) -> Iterator[pa.RecordBatch]:
    """Who has lists of which version in which file; `full` counts those that the model filled up to rank top_n."""
    for batch in batches:
        for file in batch["file"].to_pylist():
            for group in row_groups(file, ["user_id", "rank", "source", "model_version"]):
                codes_R, user = codes(group["user_id"]), whole(group["user_id"])
                start_R = starts(codes_R)
                is_full_R = (group["rank"].to_numpy() == top_n) & equals(group["source"], "model")
                full = np.add.reduceat(is_full_R, np.flatnonzero(start_R), dtype=np.int32)
                names = (user, whole(group["model_version"]))
                users, versions = (name.filter(pa.array(start_R)).cast(pa.string()) for name in names)
                columns = [users, pa.array([file] * len(users)), versions, pa.array(full)]
                yield pa.RecordBatch.from_arrays(columns, names=["user_id", "file", "version", "full"])


def equals(column: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    """Where a text has a value."""
    places = [place for place, own in enumerate(whole(column).dictionary.to_pylist()) if own == value]
    return np.isin(codes(column), places)


def copy_lists(
    batches: Iterable[pa.RecordBatch], written: Mapping[str, Written], split: Split | None
) -> Iterator[pa.RecordBatch]:
    """Copy lists to one new file an arm, but for some users.

    Each user goes to tonight's arm. batches: `file` and `dropped`, a list of users. split: None without arms.
    """
    with list_writers(written) as files:
        for batch in batches:
            for file, dropped in zip(batch["file"].to_pylist(), batch["dropped"], strict=True):
                gone = dropped.values if dropped.is_valid else pa.array([], pa.string())
                for group in row_groups(file, LISTS.names):
                    user = whole(group["user_id"])
                    kept_by_code = pc.invert(pc.is_in(user.dictionary, value_set=gone)).to_numpy(
                        zero_copy_only=False
                    )
                    for arm, own_by_code in _by_arm(user.dictionary, split):
                        kept_R = (kept_by_code & own_by_code)[user.indices.to_numpy(zero_copy_only=False)]
                        files[arm].write(group if kept_R.all() else group.filter(pa.array(kept_R)))
    for own in files.values():
        yield own.made()


def _by_arm(users: pa.Array, split: Split | None) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if split is None:
        yield CHAMPION_ARM, np.ones(len(users), bool)
        return
    is_candidate = split.are_candidates(users)
    yield CHAMPION_ARM, ~is_candidate
    yield CANDIDATE_ARM, is_candidate
