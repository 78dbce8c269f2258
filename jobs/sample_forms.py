"""The forms of the sample's files: each takes the rows of one domain and day and returns the bytes of its file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.sample_dirt import LandingRow


def _csv_line(row: LandingRow, cells: list[str]) -> str:
    if row.fault == "wrong_columns":  # one too many, or one too few
        cells = [*cells, "extra"] if row.ts % 2 else cells[:-1]
    return ",".join(cells) + "\n"


def _time(row: LandingRow, factor: int = 1) -> str:
    return row.bad_time or str(row.ts * factor)


def _books(rows: list[LandingRow]) -> bytes:
    lines = [_csv_line(r, [r.user or "", r.item or "", f"{r.rating}.0", _time(r)]) for r in rows]
    return "".join(lines).encode()


def _toys(rows: list[LandingRow]) -> bytes:
    lines = [_csv_line(r, [r.item or "", r.user or "", f"{r.rating}.0", _time(r)]) for r in rows]
    return gzip.compress("".join(lines).encode(), mtime=0)


def _groceries(rows: list[LandingRow]) -> bytes:
    lines = [_csv_line(r, [r.user or "", r.item or "", f"{r.rating}.0", _time(r, 1_000)]) for r in rows]
    return ("user_id,parent_asin,rating,timestamp\n" + "".join(lines)).encode()


def _coupons(rows: list[LandingRow]) -> bytes:
    lines = []
    for r in rows:
        record = {"reviewerID": r.user, "asin": r.item, "overall": float(r.rating)}
        line = json.dumps(record | {"unixReviewTime": r.bad_time or r.ts})
        lines.append(line[: len(line) // 2] if r.fault == "broken_json" else line)
    return gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0)


def _navigation(rows: list[LandingRow]) -> bytes:
    times = [None if r.bad_time else datetime.fromtimestamp(r.ts, UTC) for r in rows]
    table = pa.table(
        {
            "driver": pa.array([r.user for r in rows], pa.string()),
            "place": pa.array([r.item for r in rows], pa.string()),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


FORMS: dict[str, Callable[[list[LandingRow]], bytes]] = {
    "books": _books,
    "toys": _toys,
    "groceries": _groceries,
    "coupons": _coupons,
    "navigation": _navigation,
}


def study_log(days: list[dict[str, list[LandingRow]]]) -> tuple[bytes, int]:
    """The sound events of some days as one Parquet log for the study kit; duplicates and spoiled lines stay out.

    Returns the bytes of the file, columns user, item, domain (texts) and ts (UTC), and the number of events.
    """
    sound = [
        (row.user, row.item, domain, datetime.fromtimestamp(row.ts, UTC))
        for day in days
        for domain, rows in day.items()
        for row in rows
        if row.fault in ("", "late")
    ]
    types = (pa.string(), pa.string(), pa.string(), pa.timestamp("us", tz="UTC"))
    columns = [pa.array([event[n] for event in sound], kind) for n, kind in enumerate(types)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, names=["user", "item", "domain", "ts"]), sink, compression="zstd")
    return bytes(sink.getvalue()), len(sound)
