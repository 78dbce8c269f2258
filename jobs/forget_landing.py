"""Take users out of the landing files: their lines go, every other byte stays.

A text file is read line by line, as `ingest` reads it; a Parquet file is written anew without their rows. The new
file is written beside the old one, hidden, and swapped in: `ingest` sees the one or the other.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.errors import JobError
from jobs.forget_person import BLANKS, LineTest, People
from jobs.landing import MAX_HEADER_BYTES, parse_header
from jobs.settings import Settings, Source

MARK = ".forget"


@dataclass(frozen=True)
class Found:
    """A landing file that holds lines of the users; source: None where no source claims it."""

    path: Path
    lines: int
    source: Source | None


def find_lines(settings: Settings, people: People) -> list[Found]:
    """The landing files that hold lines of the users, with how many."""
    found = []
    for folder in sorted(path for path in _folders(settings.landing_path) if path.is_dir()):
        owners = {
            file: source
            for source in (*settings.sources, *settings.click_sources)
            for file in folder.glob(source.files)
        }
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            lines = sum(1 for theirs, _ in _judged(file, owners.get(file), people) if theirs)
            if lines:
                found.append(Found(file, lines, owners.get(file)))
    return found


def _folders(landing: Path) -> Iterable[Path]:
    return landing.iterdir() if landing.is_dir() else ()


def forget_lines(found: Found, people: People) -> None:
    """Write the file anew without the users' lines, and swap it in."""
    beside = found.path.with_name(f".{found.path.name}{MARK}")
    try:
        if _is_parquet(found.path, found.source):
            _write_rows(found.path, beside, found.source, people)
        else:
            with _opened(beside, "wb", _packed(found.path)) as out:
                out.writelines(line for theirs, line in _judged(found.path, found.source, people) if not theirs)
        shutil.copystat(found.path, beside)
        os.replace(beside, found.path)
    finally:
        beside.unlink(missing_ok=True)


def _judged(file: Path, source: Source | None, people: People) -> Iterator[tuple[bool, Any]]:
    """Each line, or row, and whether it is one of theirs."""
    if _is_parquet(file, source):
        for batch in _batches(file):
            yield from ((theirs, None) for theirs in _theirs(batch, source, people).to_pylist())
        return
    test = _line_test(file, source, people)
    for line in _lines(file):
        text = line.decode("utf-8", "replace")
        yield test(text), line


def _is_parquet(file: Path, source: Source | None) -> bool:
    return source.format == "parquet" if source else file.suffix == ".parquet"


def _packed(file: Path) -> bool:
    with file.open("rb") as start:
        return start.read(2) == b"\x1f\x8b"


def _opened(file: Path, mode: str, packed: bool) -> IO[bytes]:
    return gzip.open(file, mode) if packed else open(file, mode)  # type: ignore[return-value]


def _lines(file: Path) -> Iterator[bytes]:
    """The lines with what ends them: \\n, \\r\\n or \\r, as Spark parts them."""
    try:
        with _opened(file, "rb", _packed(file)) as stream:
            for piece in stream:
                yield from re.split(rb"(?<=\r)(?!\n|$)", piece) if b"\r" in piece else (piece,)
    except (OSError, EOFError, zlib.error) as error:
        raise JobError(
            f"{file}: cannot be read to its end ({error}): remove it or have it delivered again"
        ) from None


def _line_test(file: Path, source: Source | None, people: People) -> LineTest:
    if source is None:
        return people.mentioned_freely
    return people.line_test(source, csv_columns(file, source))


def csv_columns(file: Path, source: Source) -> tuple[str, ...] | None:
    """The columns of a CSV: the settings', or those in its first line; None where they are not to be had."""
    if source.format != "csv" or source.columns:
        return source.columns or None
    try:
        with _opened(file, "rb", _packed(file)) as stream:
            first = re.split(rb"[\r\n]", stream.readline(MAX_HEADER_BYTES), maxsplit=1)[0]
    except (OSError, EOFError, zlib.error):
        return None
    return tuple(parse_header(first.decode("utf-8-sig", "replace"), source.delimiter))


# --- Parquet ----------------------------------------------------------------------------------------------


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from pq.ParquetFile(file).iter_batches()
    except (pa.ArrowInvalid, OSError) as error:
        raise JobError(f"{file}: not a Parquet file, or damaged ({error}): remove it") from None


def _theirs(batch: pa.RecordBatch, source: Source | None, people: People) -> pa.Array:
    """Whether each row is one of theirs: by the source's user column, else by any text column."""
    named = [source.user] if source else [f.name for f in batch.schema if pa.types.is_string(f.type)]
    theirs = pa.array([False] * len(batch))
    for name in named:
        if name in batch.schema.names:
            theirs = pc.or_(theirs, _is_one(batch.column(name), people))
    return theirs


def _is_one(values: pa.Array, people: People) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):  # Spark writes 12.0; an id was given so
        return pa.array([str(value) in people.ids for value in values.to_pylist()])
    text = pc.utf8_trim(values.cast(pa.string()), BLANKS)
    return pc.is_in(text, value_set=pa.array(sorted(people.ids)))


def _write_rows(file: Path, beside: Path, source: Source | None, people: People) -> None:
    filter_parquet(file, beside, lambda batch: _theirs(batch, source, people))


def filter_parquet(
    file: Path, target: Path, theirs: Callable[[pa.RecordBatch], pa.Array], schema: pa.Schema | None = None
) -> int:
    """Copy a Parquet file without some rows, in the same order; returns how many rows stay."""
    source = pq.ParquetFile(file)
    groups = source.metadata.num_row_groups
    packing = source.metadata.row_group(0).column(0).compression.lower() if groups else "zstd"
    packing = "none" if packing == "uncompressed" else packing
    kept = 0
    with pq.ParquetWriter(target, schema or source.schema_arrow, compression=packing) as writer:
        for batch in source.iter_batches(batch_size=1 << 17):
            rows = pa.Table.from_batches([batch]).filter(pc.invert(theirs(batch)))
            kept += len(rows)
            if len(rows):
                writer.write_table(_fitted(rows, schema) if schema else rows)
    return kept


def _fitted(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows in the columns of a schema; NULL in those that a file of an older version lacks."""
    for name in schema.names:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(len(rows), schema.field(name).type))
    return rows.select(schema.names).cast(schema)
