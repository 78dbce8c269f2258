"""Readers against lines that hypothesis makes up: whatever a file holds, each line becomes exactly one row."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import ingest
from jobs.account import Account
from jobs.audit_rules import FIRST_MOMENT, MAX_ID_LENGTH
from jobs.ingest_checks import check_accounting
from jobs.landing import count_lines, find_files
from jobs.readers import read_landing
from jobs.schemas import INTERACTIONS
from jobs.settings import Settings

WHOLE = bool(os.environ.get("SYNCREC_TEST_BAD_INPUT"))  # make bad-input
DAY = date(2024, 1, 5)
SOUND = {
    "books.csv": b"u,i,5,1704456000",
    "toys.csv": b"u,i,1704456000000",
    "mixed.jsonl": b'{"user": "u", "item": "i", "shop": "books", "at": "2024-01-05T12:00:00Z"}',
}
PIECES = [b'"', b'""', b",", b"\\", b"{", b"}", b"[", b"]", b":", b"null", b"\0", b"\xff", b"\xef\xbb\xbf", b" ",
          b"\t", b"\r", b"\n", b"\r\n", b"1e400", b"-1", b"\\u0000", b"\\ud800", "é\u2028😀".encode()]  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn, line: bytes) -> bytes:
    """A sound line with some bytes taken out and others put in."""
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(line)))
        end = min(len(line), begin + draw(st.integers(0, 5)))
        line = line[:begin] + draw(st.sampled_from(PIECES) | st.binary(max_size=4)) + line[end:]
    return line


FILES = st.fixed_dictionaries(
    {
        name: st.lists(spoilt(line) | st.binary(max_size=40), min_size=60, max_size=60)
        for name, line in SOUND.items()
    }
)


@bounded(
    max_examples=25 if WHOLE else 2, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(files=FILES)
def test_each_line_becomes_one_row_and_what_is_accepted_is_sound(
    spark: SparkSession,
    settings: Callable[..., Settings],
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, list[bytes]],
) -> None:
    own = settings(state_dir=tmp_path_factory.mktemp("fuzz"))
    folder: Path = own.landing_path / DAY.isoformat()
    folder.mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    for name, lines in files.items():
        head = b"user_id,asin,timestamp" if name == "toys.csv" else SOUND[name]
        (folder / name).write_bytes(b"\n".join([head, *lines]))
    found, _ = find_files(own.landing_path, [DAY], own.sources, own.landing.marker)
    lines_read = count_lines(found)
    raw = read_landing(spark, own.landing_path, found)
    judged = raw.withColumn("reason", ingest.reject_reason(own.domain_names)).persist()
    parts = ingest.transform(judged, spark.createDataFrame([], INTERACTIONS.spark_ddl))
    events = parts.events.collect()
    account = Account(
        lines=lines_read,
        events=len(events),
        rejected=parts.rejected.count(),
        duplicates=parts.duplicates.agg(F.sum("copies")).collect()[0][0] or 0,
    )
    spark.catalog.clearCache()
    shutil.rmtree(folder)
    assert check_accounting(account).success, account
    assert events, "the first line of each file is sound"
    for event in events:
        for text in (event.user_id, event.item_id):
            assert text.strip() and "\0" not in text and len(text) <= MAX_ID_LENGTH
        assert event.domain in own.domain_names
        assert event.ts.timestamp() >= FIRST_MOMENT.timestamp()
