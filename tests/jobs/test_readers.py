"""No line of a landing file is lost, and what is wrong with a file is said in one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.errors import JobError
from jobs.landing import count_lines, find_files
from jobs.readers import read_landing, readable_errors
from jobs.settings import Settings

DAY = date(2024, 1, 5)
NOON = datetime(2024, 1, 5, 12, tzinfo=UTC)
SECONDS = str(int(NOON.timestamp()))

Row = tuple[str | None, str | None, str | None, datetime | None, bool]


class Landing:
    """One landing day, and what the readers make of it."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark, self.settings, self.path = spark, settings, settings.landing_path
        self.folder = self.path / DAY.isoformat()
        self.folder.mkdir(parents=True)
        (self.folder / "_SUCCESS").touch()

    def write(self, name: str, content: bytes | str) -> Path:
        file = self.folder / name
        data = content.encode() if isinstance(content, str) else content
        file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return file

    def read(self) -> list[Row]:
        files, _ = find_files(self.path, [DAY], self.settings.sources, self.settings.landing.marker)
        with readable_errors():
            rows = read_landing(self.spark, self.path, files).collect()
            assert count_lines(files) == len(rows)
        assert {row.arrival_ds for row in rows} <= {DAY}
        self.named = {row.file for row in rows}
        self.contents = [row.content for row in rows]
        rows.sort(key=lambda row: (row.file, str(row.content)))
        times = [row.ts.astimezone(UTC) if row.ts else None for row in rows]
        return [(r.user_id, r.item_id, r.domain, ts, r.broken) for r, ts in zip(rows, times, strict=True)]


@pytest.fixture
def landing(spark: SparkSession, settings: Callable[..., Settings]) -> Landing:
    return Landing(spark, settings())


def test_csv_without_header_keeps_every_line(landing: Landing) -> None:
    lines = {
        f"u01,i,5.0,{SECONDS}": ("u01", "i", NOON, False),
        f" u02 ,i\t,5.0, {SECONDS} ": ("u02", "i", NOON, False),
        f'"u,03","i""x",5.0,{SECONDS}.0': ("u,03", 'i"x', NOON, False),
        f",i04,5.0,{SECONDS}": (None, "i04", NOON, False),
        f"u05,  ,5.0,{SECONDS}": ("u05", None, NOON, False),
        "u06,i,5.0,12:30": ("u06", "i", None, False),
        "u07,i,5.0,99999999999999999999999999": ("u07", "i", None, False),
        f"u08,i,{SECONDS}": (None, None, None, True),
        f"u09,i,5.0,{SECONDS},extra": (None, None, None, True),
        f'"u10,i,5.0,{SECONDS}': (None, None, None, True),
        "": (None, None, None, True),
        "   ": (None, None, None, True),
        "u11" + "," * 30_000: (None, None, None, True),
        f"u12\0,i,5.0,{SECONDS}": (None, None, None, True),
    }
    landing.write("books.csv", "\n".join(lines) + "\n")
    rows = landing.read()
    assert len(rows) == len(lines)
    sound = [(row[0], row[1], row[3], row[4]) for row in rows if not row[4]]
    assert sorted(sound, key=str) == sorted((v for v in lines.values() if not v[3]), key=str)
    assert sum(row[4] for row in rows) == sum(v[3] for v in lines.values())


def test_marks_line_ends_and_encodings(landing: Landing) -> None:
    first = b"\xef\xbb\xbf" + f"u1,i,5,{SECONDS}\r\n".encode()
    landing.write("books a+b [1].csv", first + f"ü2,i,5,{SECONDS}\r\n".encode())
    landing.write("books{2}*%20?.csv", f"u3,i,5,{SECONDS}\ru4,i,5,{SECONDS}")
    landing.write("books3.csv", b"u\xff5,i,5," + SECONDS.encode())
    rows = landing.read()
    assert sorted(str(row[0]) for row in rows if not row[4]) == ["u1", "u3", "u4", "ü2"]
    assert [row[4] for row in rows].count(True) == 1
    assert landing.named == {"books a+b [1].csv", "books{2}*%20?.csv", "books3.csv"}


def test_header_is_read_file_by_file(landing: Landing) -> None:
    milliseconds = f"{SECONDS}000"
    landing.write("toys1.csv", f"user_id,asin,timestamp\na,x,{milliseconds}\nuser_id,asin,timestamp\n")
    bom = "\ufeff"
    landing.write("toys2.csv.gz", f'{bom}extra,"timestamp",asin,user_id\n5,{milliseconds},y,b\n')
    landing.write("toys3.csv", "")
    rows = landing.read()
    assert ("a", "x", "toys", NOON, False) in rows and ("b", "y", "toys", NOON, False) in rows
    assert len(rows) == 3 and sum(row[4] for row in rows) == 1  # a header in the middle is a broken line


def test_missing_columns_are_named(landing: Landing) -> None:
    landing.write("toys.csv", "user_id,item,when\na,x,1\n")
    with pytest.raises(JobError, match=r"toys\.csv.*no column 'asin', 'timestamp'; its header names user_id, item"):
        landing.read()


def test_json_lines_keep_every_line(landing: Landing) -> None:
    at = "2024-01-05T12:00:00Z"
    lines = [
        f'{{"user": "u1", "item": 7, "shop": "books", "at": "{at}"}}',
        '{"user": "u2", "item": "x", "shop": "books", "at": "2024-01-05 14:00:00+02:00"}',
        '{"user": "u3", "item": "x", "shop": "books", "at": "12:00"}',
        '{"user": "u4", "shop": "books", "at": "2024-01-05T12:00:00"}',
        f'{{"user": "u5", "item": "x", "shop": null, "at": "{at}"}}',
        f'{{"user": "u6", "item": "x", "shop": "books", "at": "{at}"',
        f'{{"user": "u7", "item": "x", "shop": "books", "at": "{at}"}} tail',
        f'{{"user": "u8", "at": "{at}"}},{{"user": "u8", "at": "{at}"}}',
        f'{{"user": "u10", "item": "x", "shop": "books", "at": "{at}"}}] tail',
        '["user", "u9"]',
        "null",
        "",
    ]
    landing.write("mixed.jsonl.gz", "\n".join(lines) + "\n")
    rows = landing.read()
    assert len(rows) == len(lines)
    assert sorted((row for row in rows if not row[4]), key=lambda row: str(row[0])) == [
        ("u1", "7", "books", NOON, False),
        ("u2", "x", "books", NOON, False),
        ("u3", "x", "books", None, False),
        ("u4", None, "books", NOON, False),
        ("u5", "x", None, NOON, False),
    ]


def parquet(landing: Landing, name: str, times: pa.Array, **columns: Any) -> None:
    table = pa.table({"user": ["a"] * len(times), "item": list(range(len(times))), **columns, "at": times})
    pq.write_table(table, landing.folder / name)


def test_parquet_times_of_every_type(landing: Landing) -> None:
    for unit in ("s", "ms", "us", "ns"):
        parquet(landing, f"groceries_{unit}.parquet", pa.array([NOON], pa.timestamp(unit, tz="UTC")))
        parquet(
            landing, f"groceries_{unit}_plain.parquet", pa.array([NOON.replace(tzinfo=None)], pa.timestamp(unit))
        )
    parquet(landing, "groceries_text.parquet", pa.array(["2024-01-05T12:00:00Z", "noon", None]))
    rows = landing.read()
    assert len(rows) == 11
    assert {row[:3] for row in rows} == {("a", str(item), "groceries") for item in range(3)}
    assert [row[3] for row in rows].count(NOON) == 9
    assert [row[3] for row in rows].count(None) == 2


def test_parquet_of_the_wrong_form_is_refused(landing: Landing) -> None:
    parquet(landing, "groceries.parquet", pa.array([1704456000]))
    with pytest.raises(JobError, match=r"column 'at' holds numbers \(int64\).*set s, ms or us"):
        landing.read()
    pq.write_table(pa.table({"user": ["a"], "when": [1]}), landing.folder / "groceries.parquet")
    with pytest.raises(JobError, match=r"groceries\.parquet.*no column 'item'; its columns are user, when"):
        landing.read()
    landing.write("groceries.parquet", "user,item\n")
    with pytest.raises(JobError, match=r"groceries\.parquet.*not a Parquet file"):
        landing.read()


def test_a_damaged_gz_is_refused_in_one_line(landing: Landing) -> None:
    whole = gzip.compress("".join(f'{{"user": "u{n}"}}\n' for n in range(50_000)).encode())
    (landing.folder / "mixed.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JobError, match=r"mixed\.jsonl\.gz to its end: truncated or damaged"):
        landing.read()
    with pytest.raises(JobError, match=r"mixed\.jsonl\.gz.*cannot be read to its end"):
        count_lines(find_files(landing.path, [DAY], landing.settings.sources, None)[0])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mixed.jsonl.bz2", b"BZh", r"\.bz2 is not read"),
        ("mixed.jsonl", gzip.compress(b"{}", mtime=0), "gzip, but not named .gz"),
        ("books.csv", "u,i,5,1".encode("utf-16"), "UTF-16"),
    ],
)
def test_packing_that_we_do_not_read(landing: Landing, name: str, content: bytes, words: str) -> None:
    (landing.folder / name).write_bytes(content)
    with pytest.raises(JobError, match=words):
        landing.read()


def test_what_is_wrong_with_a_day_is_listed(landing: Landing, settings: Callable[..., Settings]) -> None:
    sources = [source.model_dump() for source in landing.settings.sources]
    sources[1]["required"] = True
    sources[2]["files"] = "b*.csv"
    landing.write("books.csv", f"u,i,5,{SECONDS}\n")
    (landing.folder / "_SUCCESS").unlink()
    landing.settings = settings(sources=sources)
    with pytest.raises(JobError) as error:
        landing.read()
    assert "no marker file _SUCCESS" in str(error.value)
    assert "no file toys*.csv* of the required source 'toys'" in str(error.value)
    assert "books.csv belongs to more than one source: books, mixed" in str(error.value)
