"""Kinds of files and landing days that are odd, and what becomes of their lines; jobs/ingest reads all of them.

Every kind is a landing day of its own. `files` writes into its folder; @s and the like stand for the day's noon, as
in bad_lines.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Write = Callable[[Path, date], None]
NOON = datetime(2019, 1, 5, 12, tzinfo=UTC)
UTC_US = pa.timestamp("us", tz="UTC")
MILLIS = int(NOON.timestamp()) * 1000


@dataclass(frozen=True, kw_only=True)
class Odd:
    """One kind. events, rejected, duplicates: what its lines become; note: that in words, where numbers say little.

    day: a landing day that matters.
    """

    name: str
    files: Write
    events: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0
    note: str = ""
    day: date | None = None


def filled(text: str | bytes, day: date) -> bytes:
    """A text with the times of its day put in."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    seconds = int(noon.timestamp())
    raw = text.encode() if isinstance(text, str) else text
    words = {
        "@s": seconds, "@ms": seconds * 1000, "@us": seconds * 1_000_000, "@day": day, "@next": seconds + 43_200,
        "@at": noon.isoformat(),
    }  # fmt: skip
    for word in sorted(words, key=len, reverse=True):
        raw = raw.replace(word.encode(), str(words[word]).encode())
    return raw


def texts(**files: str | bytes) -> Write:
    """Files by name, in which __ stands for the dot; .gz is packed."""

    def write(folder: Path, day: date) -> None:
        for name, text in files.items():
            file = folder / name.replace("__", ".")
            raw = filled(text, day)
            file.write_bytes(gzip.compress(raw) if file.suffix == ".gz" else raw)

    return write


def named(name: str) -> Write:
    """One sound line in a file of that name."""
    return lambda folder, day: _put(folder / name, filled("u,i,5,@s\n", day))


def _put(file: Path, raw: bytes) -> None:
    file.write_bytes(raw)


def parquet(name: str, times: Any, kind: pa.DataType | None = None, **columns: Any) -> Write:
    """A Parquet file with one row for each time; ids and further columns may be given."""

    def write(folder: Path, day: date) -> None:
        at = pa.array(times, kind)
        ids = {"user": [f"{day}-{n}" for n in range(len(at))], "item": ["i"] * len(at)}
        pq.write_table(pa.table({**ids, **columns, "at": at}), folder / name)

    return write


def many(lines: int, user: str, item: str) -> Write:
    """So many events; {n} counts them."""
    text = "".join(f"{user.format(n=n)},{item.format(n=n)},5,{820454400 + n}\n" for n in range(lines))
    return texts(books__csv=text)


def _folder(folder: Path, day: date) -> None:
    (folder / "books.csv").mkdir()
    _put(folder / "books.csv" / "part-0.csv", filled("u,i,5,@s\n", day))


def _linked(folder: Path, day: date) -> None:
    _put(folder / "_kept", filled("u,i,5,@s\n", day))
    (folder / "books.csv").symlink_to(folder / "_kept")
    (folder / "books_gone.csv").symlink_to(folder / "absent")


def _members(folder: Path, day: date) -> None:
    parts = [gzip.compress(filled(text, day)) for text in ("user_id,asin,timestamp\nu,i,@ms\n", "v,i,@ms\n")]
    _put(folder / "toys.csv.gz", b"".join(parts))


HEADER = "user_id,asin,timestamp\n"
ONE = "u,i,5,@s\n"
SAME = "late,i,5,1546689600\n"
FORMS = [
    Odd(name="a landing day long ago", files=texts(books__csv=ONE), events=1, day=date(1996, 1, 1)),
    Odd(name="an empty day: only the marker", files=texts(), note="the day is empty: a warning"),
    Odd(name="an empty file", files=texts(books__csv=""), note="no line"),
    Odd(name="a .gz of nothing", files=texts(toys__csv__gz=""), note="no line"),
    Odd(name="a .gz of 0 bytes", files=lambda folder, day: _put(folder / "toys.csv.gz", b""), note="no line"),
    Odd(name="a header and no line", files=texts(toys__csv=HEADER), note="no line"),
    Odd(name="no line break at the end", files=texts(books__csv=ONE.strip()), events=1),
    Odd(name="three kinds of line ends in one file", files=texts(books__csv="a,i,5,@s\r\nb,i,5,@s\rc,i,5,@s\n"),
        events=3),
    Odd(name="a blank line at the end", files=texts(books__csv=ONE + "\n"), events=1, rejected={"broken_line": 1}),
    Odd(name="a header again in the middle", files=texts(toys__csv=f"{HEADER}u,i,@ms\n{HEADER}v,i,@ms\n"), events=2,
        rejected={"broken_line": 1}),
    Odd(name="a header with a byte order mark and quotes",
        files=texts(toys__csv='\ufeff"user_id","asin","timestamp"\nu,i,@ms\n'), events=1),
    Odd(name="columns in another order, and more of them",
        files=texts(toys__csv="more,timestamp,asin,user_id\n1,@ms,i,u\n"), events=1),
    Odd(name="lines shorter than their header", files=texts(toys__csv=HEADER + "u,i\n"),
        rejected={"broken_line": 1}),
    Odd(name="two packed parts, one after the other", files=_members, events=2),
    Odd(name="seconds where milliseconds are configured, a few lines",
        files=texts(toys__csv=HEADER + "u,i,@s\nv,i,@s\n"), rejected={"bad_time": 2}),
]  # fmt: skip
COPIES = [
    Odd(name="one line twice", files=texts(books__csv=ONE * 2), events=1, duplicates=1),
    Odd(name="a file twice under two names", files=texts(books__csv=ONE, books_copy__csv=ONE), events=1,
        duplicates=1),
    Odd(name="one event from two sources, in two formats",
        files=texts(books__csv=ONE, mixed__jsonl='{"user": "u", "item": "i", "shop": "books", "at": "@at"}\n'),
        events=1, duplicates=1),
    Odd(name="a late file", files=texts(books__csv=SAME), events=1),
    Odd(name="the same file again on a later day", files=texts(books__csv=SAME), duplicates=1),
    Odd(name="one item in two domains", files=texts(mixed__jsonl=(
        '{"user": "u", "item": "i", "shop": "books", "at": "@at"}\n'
        '{"user": "u", "item": "i", "shop": "toys", "at": "@at"}\n')), events=2, note="two items"),
    Odd(name="one user with 5,000 events", files=many(5_000, "crawler", "i{n}"), events=5_000),
    Odd(name="one item with half of all events", files=many(5_000, "v{n}", "bestseller"), events=5_000),
]  # fmt: skip
NAMES = [
    Odd(name="a file of no source", files=texts(notes__txt="hello"), note="left alone: a warning"),
    Odd(name="hidden files", files=lambda folder, day: [_put(folder / name, b"half") for name in
                                                      (".books.csv", "_books.csv")] and None, note="passed over"),
    Odd(name="a folder with the name of a file", files=_folder, note="left alone: a warning"),
    Odd(name="a link to a file, a link to nothing", files=_linked, events=1, note="the link is followed"),
    Odd(name="a name with patterns of the shell", files=named("books[1]*?{a}.csv"), events=1),
    Odd(name="a name with blanks, percent and plus", files=named("books %20 a+b.csv"), events=1),
    Odd(name="a name of other letters", files=named("books-東京.csv"), events=1),
    Odd(name="a name of 200 characters", files=named("books" + "x" * 191 + ".csv"), events=1),
    Odd(name="a name with quotes and SQL", files=named("books'; DROP TABLE x --.csv"), events=1),
]  # fmt: skip
PARQUET = [
    Odd(name="Parquet of no row", files=parquet("groceries.parquet", [], pa.timestamp("us", tz="UTC"))),
    Odd(name="Parquet times without a zone: UTC",
        files=parquet("groceries.parquet", [NOON.replace(tzinfo=None)], pa.timestamp("ms")), events=1),
    Odd(name="Parquet times in nanoseconds", events=1,
        files=parquet("groceries.parquet", [NOON], pa.timestamp("ns", tz="UTC"))),
    Odd(name="Parquet days", files=parquet("groceries.parquet", [NOON.date()], pa.date32()), events=1),
    Odd(name="Parquet times as text, one of them none",
        files=parquet("groceries.parquet", ["2019-01-05T12:00:00Z", "noon", None]), events=1,
        rejected={"bad_time": 2}),
    Odd(name="Parquet times before 1971 and in 9999", rejected={"bad_time": 1, "future_time": 1},
        files=parquet("groceries.parquet", [datetime(1900, 1, 1), datetime(9999, 12, 31)], pa.timestamp("us"))),
    Odd(name="Parquet ids that are null or blank", rejected={"null_user": 2},
        files=parquet("groceries.parquet", [NOON] * 2, pa.timestamp("us", tz="UTC"), user=[None, " "])),
    Odd(name="Parquet ids of another type: numbers", events=1,
        files=parquet("groceries.parquet", [NOON], UTC_US, user=[7], item=pa.array([8], pa.int8()))),
    Odd(name="Parquet ids as a dictionary", events=1,
        files=parquet("groceries.parquet", [NOON], pa.timestamp("us", tz="UTC"),
                      user=pa.array(["u"]).dictionary_encode())),
    Odd(name="Parquet ids in bytes that are not UTF-8", rejected={"broken_line": 1},
        files=parquet("groceries.parquet", [NOON], UTC_US, user=pa.array([b"\xff\xfe"], pa.binary()))),
    Odd(name="further Parquet columns, nested ones too", events=1,
        files=parquet("groceries.parquet", [NOON], pa.timestamp("us", tz="UTC"), more=[{"a": [1]}])),
    Odd(name="Parquet numbers as times: NaN, infinite, too large, null", events=1, rejected={"bad_time": 4},
        files=parquet("numbers.parquet", [float(MILLIS), float("nan"), float("inf"), 1e300, None], pa.float64())),
    Odd(name="Parquet times where numbers are configured", events=1, note="a Parquet time says its unit itself",
        files=parquet("numbers.parquet", [NOON], pa.timestamp("ms", tz="UTC"))),
    Odd(name="Parquet numbers beyond 64 bits with a sign", rejected={"bad_time": 2},
        files=parquet("numbers.parquet", [2**64 - 1, 2**63], pa.uint64())),
]  # fmt: skip
ODD = [*FORMS, *COPIES, *NAMES, *PARQUET]
