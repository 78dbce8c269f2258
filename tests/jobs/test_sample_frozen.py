"""The generator of the sample is frozen: what it writes has these hashes, whatever the code looks like.

Published figures stand on it. Where this fails, the code changed what is written: mend the code. A wanted change of
the sample is a new version: another SAMPLE_VERSION, new hashes here, all figures measured anew.
"""

import gzip
import hashlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.sample import PLANTED, SAMPLE_VERSION, SampleSettings, write_days

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FROZEN = {
    "default seed, 28 days": (
        SampleSettings(),
        date(2024, 1, 28),
        {
            "books": "14f9453ef0743cb6",
            "toys": "114912eee3a09554",
            "groceries": "2f8b24430ebcee3d",
            "coupons": "d6f103aea1e797c1",
            "navigation": "a73cdfaa4370fe01",
        },
    ),
    "seed 3, 150 users, none late, 9 days": (
        SampleSettings(seed=3, n_users=150, late=False),
        date(2024, 1, 9),
        {
            "books": "319842e6b653b2e0",
            "toys": "fce84673cb170597",
            "groceries": "b344e97e5d37dfa7",
            "coupons": "4d177a98dcbba664",
            "navigation": "d80b36cfcaf2f180",
        },
    ),
}


def content(file: Path) -> bytes:
    """What a reader gets from a file: text unpacked, Parquet as its columns' names and its values row by row."""
    if file.suffix == ".gz":
        return gzip.decompress(file.read_bytes())
    if file.suffix != ".parquet":
        return file.read_bytes()
    table = pq.read_table(file)
    lines = [",".join(f"{field.name}:{field.type}" for field in table.schema)]
    for row in table.to_pylist():
        at = row.pop("event_time")
        lines.append(repr([*row.values(), at and (at - EPOCH) // timedelta(microseconds=1)]))
    return "\n".join(lines).encode()


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_written_never_changes(tmp_path: Path, name: str) -> None:
    settings, last, frozen = FROZEN[name]
    hashes = {domain: hashlib.sha256() for domain in PLANTED}
    for folder in write_days(tmp_path, settings.start, last, settings=settings):
        for domain, planted in PLANTED.items():
            hashes[domain].update(f"{folder.name}/{planted.file}\n".encode())
            hashes[domain].update(content(folder / planted.file))
    assert {domain: found.hexdigest()[:16] for domain, found in hashes.items()} == frozen
    assert SAMPLE_VERSION == "sample-1"
