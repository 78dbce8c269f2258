"""Kinds of files and days that stop the ingestion, and the words of the one line that says why and what to do.

`files` writes into the landing folder of a day that is otherwise complete. Most are seen before anything is read;
AUDITED are days whose lines can be read and are not believed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.jobs.bad_files import HEADER, MILLIS, NOON, ONE, Write, filled, parquet, texts

PACKED_TWICE = gzip.compress(gzip.compress(b"u,i,5,1\n"))


@dataclass(frozen=True, kw_only=True)
class Stop:
    """One kind, and the words that its error holds besides the name of the file or the day."""

    name: str
    files: Write
    words: tuple[str, ...]


def stop(name: str, files: Write, *words: str) -> Stop:
    return Stop(name=name, files=files, words=words)


def raw(name: str, content: bytes) -> Write:
    return lambda folder, day: _put(folder / name, content)


def _put(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("books.csv", "u,i,5,1\n")
    return packed.getvalue()


def _cut_gz(folder: Path, day: date) -> None:
    whole = gzip.compress("".join(f"u{n * 7919},i,5,{n}\n" for n in range(2_000)).encode())
    _put(folder / "mixed.jsonl.gz", whole[: len(whole) // 2])


def _wrong_sum(folder: Path, day: date) -> None:
    whole = bytearray(gzip.compress(filled(HEADER + "u,i,@ms\n", day)))
    whole[-8] ^= 0xFF
    _put(folder / "toys.csv.gz", bytes(whole))


def _cut_parquet(folder: Path, day: date) -> None:
    file = folder / "groceries.parquet"
    parquet(file.name, [NOON], pa.timestamp("us", tz="UTC"))(folder, day)
    _put(file, file.read_bytes()[:-20])


def _damaged_pages(folder: Path, day: date) -> None:
    file = folder / "groceries.parquet"
    times = pa.array([NOON] * 500, pa.timestamp("us", tz="UTC"))
    ids = [f"u{n * 7919}" for n in range(500)]
    pq.write_table(pa.table({"user": ids, "item": ids, "at": times}), file, compression="zstd")
    content = bytearray(file.read_bytes())
    content[60:200] = b"\xff" * 140
    _put(file, bytes(content))


def _no_marker(folder: Path, day: date) -> None:
    (folder / "_SUCCESS").unlink()


def _no_folder(folder: Path, day: date) -> None:
    _no_marker(folder, day)
    folder.rmdir()


def _file_for_folder(folder: Path, day: date) -> None:
    _no_folder(folder, day)
    folder.write_text(ONE)


def _foreign_name(folder: Path, day: date) -> None:
    _put(folder / "books\udcff.csv", filled(ONE, day))


GONE = "have it delivered again"
PACKING = [
    stop("gzip without .gz", raw("books.csv", gzip.compress(b"u,i,5,1\n")), "gzip, but not named .gz", "rename it"),
    stop("plain text named .gz", raw("toys.csv.gz", b"user_id,asin,timestamp\n"), "not gzip, but named .gz"),
    stop("gzip inside gzip", raw("toys.csv.gz", PACKED_TWICE), "packed twice", "deliver"),
    stop("a .gz cut off", _cut_gz, "cannot be read to its end", GONE),
    stop("a .gz with a wrong checksum", _wrong_sum, "cannot be read to its end", GONE),
    stop("a .gz with waste behind it", raw("toys.csv.gz", gzip.compress(HEADER.encode()) + b"waste"), GONE),
    stop("bzip2", raw("mixed.jsonl.bz2", bz2.compress(b"{}")), ".bz2 is not read", "as .gz"),
    stop("bzip2 named .csv", raw("books.csv", bz2.compress(b"u,i,5,1\n")), "bzip2", "as .gz"),
    stop("xz named .csv", raw("books.csv", lzma.compress(b"u,i,5,1\n")), "xz", "as .gz"),
    stop("Zstandard named .csv", raw("books.csv", b"\x28\xb5\x2f\xfd\x04\x00"), "Zstandard", "as .gz"),
    stop("a zip archive or a spreadsheet named .csv", raw("books.csv", _zip()), "zip", "as .gz"),
    stop("Parquet named .csv", raw("books.csv", b"PAR1\x15\x04PAR1"), "Parquet", "format"),
    stop("UTF-16 with its mark, either way", raw("books.csv", "u,i,5,1".encode("utf-16")), "UTF-16", "as UTF-8"),
    stop("UTF-16 without a mark", raw("books.csv", "u,i,5,1\n".encode("utf-16-le")), "UTF-16", "as UTF-8"),
    stop("UTF-32", raw("books.csv", "u,i,5,1\n".encode("utf-32")), "UTF-32", "as UTF-8"),
]
COLUMNS = [
    stop("a column gone from the header", texts(toys__csv="user_id,timestamp\nu,@ms\n"), "no column 'asin'",
         "its header names user_id, timestamp", "Correct the file or [[sources]]"),
    stop("a column renamed", texts(toys__csv="user,asin,timestamp\nu,i,@ms\n"), "no column 'user_id'"),
    stop("a column in other letters", texts(toys__csv="USER_ID,asin,timestamp\nu,i,@ms\n"), "no column 'user_id'"),
    stop("a column named twice", texts(toys__csv="user_id,asin,asin,timestamp\nu,i,i,@ms\n"), "names asin twice"),
    stop("no header where one is configured", texts(toys__csv="u,i,@ms\n"), "no column 'user_id'"),
    stop("a header that is not UTF-8", raw("toys.csv", b"user_id,asin,timestamp,\xff\n"), "line is not UTF-8 text"),
    stop("a header of 2 MB", raw("toys.csv", b"x" * 2_000_000 + b"\n"), "read the header line"),
    stop("another delimiter than configured", texts(toys__csv="user_id;asin;timestamp\nu;i;@ms\n"),
         "no column 'user_id'"),
]  # fmt: skip
PARQUET = [
    stop("text named .parquet", raw("groceries.parquet", b"user,item,at\n"), "not a Parquet file, or damaged"),
    stop("an empty file named .parquet", raw("groceries.parquet", b""), "not a Parquet file, or damaged"),
    stop("Parquet cut off", _cut_parquet, "not a Parquet file, or damaged"),
    stop("Parquet with damaged pages", _damaged_pages, "damaged", "delivered again"),
    stop("Parquet that is encrypted", raw("groceries.parquet", b"PARE" + b"\0" * 40 + b"PARE"),
         "not a Parquet file"),
    stop("Parquet without a column", lambda folder, day: pq.write_table(
        pa.table({"user": ["u"], "at": [NOON]}), folder / "groceries.parquet"), "no column 'item'", "user, at"),
    stop("Parquet numbers where times are configured", parquet("groceries.parquet", [MILLIS]),
         "holds numbers (int64)", "set s, ms or us"),
    stop("Parquet ids that are structs", parquet("groceries.parquet", [NOON], user=[{"id": 1}]),
         "not a single value"),
    stop("Parquet ids that are lists", parquet("groceries.parquet", [NOON], item=[["i"]]), "not a single value"),
]  # fmt: skip
DAYS = [
    stop("no landing folder", _no_folder, "no landing folder", "deliver the day"),
    stop("a file in the place of the folder", _file_for_folder, "no landing folder", "deliver the day"),
    stop("no marker file", _no_marker, "no marker file _SUCCESS"),
    stop("no file of a required source", texts(), "no file needed*.csv of the required source 'needed'"),
    stop("a file that two sources claim", texts(books_mixed__csv=ONE), "more than one source: books, both"),
    stop("a file name that is not UTF-8", _foreign_name, "not UTF-8", "rename it"),
]
STOPS = [*PACKING, *COLUMNS, *PARQUET, *DAYS]


def lines(name: str, line: str, head: str = "") -> Write:
    """Twelve lines of one kind."""
    return texts(**{name: head + "".join(line.replace("#", str(n)) + "\n" for n in range(12))})


AUDITED = [
    stop("milliseconds where seconds are configured, most lines", lines("books__csv", "u#,i,5,@ms"),
         "source books are refused for their time", "is time_unit = 's' right?"),
    stop("seconds where milliseconds are configured, most lines", lines("toys__csv", "u#,i,@s", HEADER),
         "source toys are refused for their time", "is time_unit = 'ms' right?"),
    stop("another delimiter than configured, most lines", lines("semicolon__csv", "u#,i,@at"),
         "source semicolon are refused for their form", "are format, columns and delimiter right?"),
    stop("the configured id is another key now, most lines",
         lines("mixed__jsonl", '{"uid": "u#", "item": "i", "shop": "books", "at": "@at"}'),
         "source mixed are refused for their ids", "are the columns user = 'user' and item = 'item' right?"),
]  # fmt: skip
