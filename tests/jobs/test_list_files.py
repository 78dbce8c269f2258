"""The files of lists: how they lie on disk."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.list_files import LISTS, ListWriter, Written

N_ITEMS, ROWS = 60_000, 480_000


def test_each_item_id_is_written_once_a_row_group(tmp_path: Path) -> None:
    ids = pa.array([f"an-item-with-a-long-name-{n:07d}" for n in range(N_ITEMS)])
    item_R = np.arange(ROWS) % N_ITEMS

    def same(value: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(np.zeros(ROWS, np.int32), pa.array([value]))

    rank = pa.array(np.ones(ROWS, np.int32))
    columns = [same("ann"), same("books"), rank, ids.take(pa.array(item_R)), pa.array(np.ones(ROWS)), same("model")]
    with ListWriter(Written(folder=str(tmp_path), ds=date(2024, 1, 29), version="1")) as files:
        files.write(pa.table(columns, schema=LISTS))
    (file,) = files.made()["file"].to_pylist()
    group = pq.ParquetFile(file).metadata.row_group(0)
    items = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "item_id")
    text = N_ITEMS * 36  # 32 letters and their length
    assert text < items.total_uncompressed_size < text + 3 * ROWS, "a dictionary, and places in it"
