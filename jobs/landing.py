"""The landing day folders: which file belongs to which source, and what is wrong with it before Spark looks."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import JobError
from jobs.settings import Source

NO_MARKER = (
    'its sender writes it last; without such a sender: [landing] marker = "" and required = true on the sources '
    "that make a day complete"
)
MAX_HEADER_BYTES = 1_000_000
_PACKED = (".bz2", ".zip", ".zst", ".xz", ".lz4", ".snappy", ".deflate", ".7z", ".Z", ".lzo")
_GZIP = b"\x1f\x8b"
_AS_TEXT = "deliver it plain or as .gz"
_AS_UTF8 = "deliver it as UTF-8"
_NOT_TEXT = (
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", f"text in UTF-32; {_AS_UTF8}"),
    (rb"\xff\xfe|\xfe\xff|(?:[^\0]\0){4}|(?:\0[^\0]){4}", f"text in UTF-16; {_AS_UTF8}"),
    (rb"PK\x03\x04", f"a zip archive (or a spreadsheet); {_AS_TEXT}"),
    (rb"BZh[1-9]1AY&SY", f"packed with bzip2; {_AS_TEXT}"),
    (rb"\xfd7zXZ\0", f"packed with xz; {_AS_TEXT}"),
    (rb"\x28\xb5\x2f\xfd", f"packed with Zstandard; {_AS_TEXT}"),
    (rb"PAR1\x15", "Parquet; correct its name or format in [[sources]]"),
)
"""How files begin that are no text, whatever their names say; UTF-16 without its mark by four Latin letters."""
_DAY = re.compile(r"^\d{4}-\d{2}-\d{2}$")
log = logging.getLogger("syncrec")


@dataclass(frozen=True)
class LandingFile:
    """One file of a landing day that a source claims."""

    path: Path
    day: date
    source: Source

    def __str__(self) -> str:
        return f"{self.day}/{self.path.name} (source '{self.source.name}')"

    @property
    def packed(self) -> bool:
        """Is it gzip?"""
        return self.path.suffix == ".gz"


def landing_days(landing: Path, first: date, last: date) -> list[date]:
    """The days first..last that have a landing folder; `last` must have one.

    Raises
    ------
    JobError
        There is no folder for `last`.
    """
    if not (landing / last.isoformat()).is_dir():
        raise JobError(f"no landing folder {landing / last.isoformat()}: deliver the day or correct [landing] path")
    return sorted(day for day in _days(landing) if first <= day <= last)


def _days(landing: Path) -> Iterator[date]:
    """The days that folders are named after; 2024-02-30 is none."""
    for folder in landing.iterdir():
        if _DAY.match(folder.name) and folder.is_dir():
            try:
                yield date.fromisoformat(folder.name)
            except ValueError:
                log.warning("%s is no day: the folder was left alone", folder)


def find_files(
    landing: Path,
    days: Sequence[date],
    sources: Sequence[Source],
    marker: str | None,
    elsewhere: Sequence[Source] = (),
) -> tuple[list[LandingFile], list[str]]:
    """The files of every source in the days' folders, and the names of files that belong to none.

    elsewhere: sources that another job reads; their files are no strangers.

    Raises
    ------
    JobError
        A day lacks its marker or a required source, two sources claim one file, or a file is packed in another
        way than its name says. The message lists everything that is wrong.
    """
    found: list[LandingFile] = []
    strangers: list[str] = []
    wrong: list[str] = []
    for day in days:
        folder = landing / day.isoformat()
        if marker and not (folder / marker).is_file():
            wrong.append(f"{day} is not complete: it has no marker file {marker} ({NO_MARKER})")
        owners: dict[Path, list[Source]] = {}
        for source in sources:
            files = [file for file in folder.glob(source.files) if file.is_file() and not _hidden(file, folder)]
            for file in files:
                owners.setdefault(file, []).append(source)
            if not files and source.required:
                wrong.append(f"{day} has no file {source.files} of the required source '{source.name}'")
            elif not files:
                log.info("%s: no file of source %s (%s)", day, source.name, source.files)
        wrong += [
            f"{day}/{file.name} belongs to more than one source: {', '.join(source.name for source in claimed)}"
            for file, claimed in owners.items()
            if len(claimed) > 1
        ]
        found += [LandingFile(file, day, claimed[0]) for file, claimed in sorted(owners.items())]
        everything = (file for file in sorted(folder.rglob("*")) if file.is_file() and not _hidden(file, folder))
        claimed_elsewhere = {file for source in elsewhere for file in folder.glob(source.files)}
        strangers += [
            f"{day}/{file.relative_to(folder)}" for file in everything if file not in {*owners, *claimed_elsewhere}
        ]
    wrong += [problem for file in found if (problem := _problem(file))]
    if wrong:
        raise JobError("; ".join(wrong))
    return [file for file in found if not _is_empty(file)], strangers


def _hidden(file: Path, folder: Path) -> bool:
    """Spark passes over such names, and so do we: markers, and files that are still being written."""
    return any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def _problem(file: LandingFile) -> str | None:
    """What keeps a file from being read, seen by its name and its first bytes; None: nothing."""
    try:
        file.path.name.encode()
    except UnicodeEncodeError:
        return f"{file.day}/{file.path.name!a}: the file's name is not UTF-8; rename it"
    if file.source.format == "parquet":
        return None
    if file.path.suffix in _PACKED:
        return f"{file}: {file.path.suffix} is not read; {_AS_TEXT}"
    with file.path.open("rb") as start:
        first = start.read(16)
    if first and file.packed != first.startswith(_GZIP):
        return f"{file}: {'not gzip, but named .gz' if file.packed else 'gzip, but not named .gz'}; rename it"
    if file.packed:
        try:
            with _open(file) as inside:
                first = inside.read(16)
        except (OSError, EOFError, zlib.error):
            return None  # count_lines says that it cannot be read to its end
        if first.startswith(_GZIP):
            return f"{file}: packed twice with gzip; deliver it packed once"
    return next((f"{file}: {words}" for begin, words in _NOT_TEXT if re.match(begin, first, re.DOTALL)), None)


def _open(file: LandingFile) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(file.path, "rb") if file.packed else file.path.open("rb")


def _is_empty(file: LandingFile) -> bool:
    """Has it not one line? Spark's readers fail on some of those."""
    if file.source.format == "parquet":
        return False
    try:
        with _open(file) as lines:
            empty = not lines.read(1)
    except (OSError, EOFError, zlib.error):
        return False  # let the reader say what is wrong
    if empty:
        log.warning("%s: the file is empty", file)
    return empty


def csv_header(file: LandingFile) -> str:
    """The first line of a CSV file, as Spark will read it, after checking that it names the wanted columns.

    Raises
    ------
    JobError
        The file cannot be read, or a column that the settings name is missing.
    """
    try:
        with _open(file) as lines:
            first = re.split(rb"[\r\n]", lines.readline(MAX_HEADER_BYTES), maxsplit=1)[0]
        header = first.decode("utf-8-sig")
        source, names = file.source, parse_header(header, file.source.delimiter)
    except UnicodeDecodeError as error:
        raise JobError(
            f"{file}: the header line is not UTF-8 text (its byte {error.start + 1} is "
            f"0x{error.object[error.start]:02x}): in another encoding, packed or damaged; {_AS_UTF8}"
        ) from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise JobError(f"{file}: cannot read the header line: {error}; have it delivered again") from None
    wanted = list(source.mapped.values())
    missing = [name for name in wanted if name not in names]
    if missing:
        raise JobError(
            f"{file}: no column {', '.join(repr(name) for name in missing)}; its header names {', '.join(names)}. "
            "Correct the file or [[sources]]"
        )
    if twice := sorted({name for name in wanted if names.count(name) > 1}):
        raise JobError(f"{file}: its header names {', '.join(twice)} twice")
    return header


def parse_header(header: str, delimiter: str) -> list[str]:
    """The column names in a header line."""
    return [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]


def count_lines(files: Sequence[LandingFile]) -> int:
    """Count the lines or records of landing files, header lines left out, with nothing that reads them later on.

    Raises
    ------
    JobError
        A file ends too early.
    """
    return sum(_count(file) for file in files)


def parquet_metadata(file: LandingFile) -> pq.FileMetaData:
    """The footer of a Parquet file.

    Raises
    ------
    JobError
        It has none, or a damaged one.
    """
    try:
        return pq.read_metadata(file.path)
    except (pa.ArrowException, OSError) as error:
        raise JobError(
            f"{file}: not a Parquet file, or damaged: {error}. Have it delivered again, or correct [[sources]]"
        ) from None


def _count(file: LandingFile) -> int:
    if file.source.format == "parquet":
        return int(parquet_metadata(file).num_rows)
    lines, last = 0, b""
    try:
        with _open(file) as stream:
            while chunk := stream.read(1 << 20):
                lines += chunk.count(b"\n") + chunk.count(b"\r") - (last + chunk).count(b"\r\n")
                last = chunk[-1:]
    except (OSError, EOFError, zlib.error) as error:
        raise JobError(f"{file}: cannot be read to its end ({error}): have it delivered again") from None
    unended = last not in (b"", b"\n", b"\r")
    return lines + unended - file.source.header
