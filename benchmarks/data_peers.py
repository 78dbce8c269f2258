"""The peers of `make bench-data`, each in a process of its own, and the proof that rows are equal.

    python -m benchmarks.data_peers duckdb --log LOG --out FOLDER --form separate

DuckDB makes the same sequences from the same files by SQL with bounded aggregates (data_sql/), in two forms.
RecTools and the released code read what `arrays` and `text` write for them first, which is not in their time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.generated_files import LogFiles, read_log
from benchmarks.generated_logs import DOMAINS, HISTORY_DAYS, landing_day

SQL = Path(__file__).parent / "data_sql"
FORMS = ("separate", "derived")
"""separate: both aggregates over all events. derived: cross from the last Ts of the domains."""
LENGTH = 50


def sql(name: str) -> str:
    """The text of one statement."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def connect(scratch: Path, *, threads: int = 2, memory_gib: float = 8) -> duckdb.DuckDBPyConnection:
    """An empty database in memory that may spill into the scratch folder."""
    connection = duckdb.connect()
    connection.execute(f"set threads = {threads}")
    connection.execute(f"set memory_limit = '{memory_gib}GiB'")
    connection.execute(f"set temp_directory = '{scratch / 'spill'}'")
    connection.execute("set preserve_insertion_order = false")
    connection.execute("set timezone = 'UTC'")
    return connection


def set_variables(connection: duckdb.DuckDBPyConnection, **values: Any) -> None:
    """What the statements ask for by getvariable()."""
    for name, value in values.items():
        connection.execute(f"set variable {name} = $value", {"value": value})


def events_of(connection: duckdb.DuckDBPyConnection, log: LogFiles, *, night: bool, length: int = LENGTH) -> None:
    """Make the view `events` of the history, or of the history and the night."""
    files = log.interactions(night=False) + (log.interactions(night=True) if night else [])
    last = landing_day(HISTORY_DAYS if night else HISTORY_DAYS - 1)
    cutoff = datetime(last.year, last.month, last.day) + timedelta(days=1)
    names = [str(file) for file in files]
    set_variables(connection, files=names, cutoff=cutoff, domains=list(DOMAINS), length=length)
    connection.execute(sql("events"))


def make_sequences(connection: duckdb.DuckDBPyConnection, out: Path, form: str) -> None:
    """Write cross.parquet and single.parquet of the view `events`."""
    out.mkdir(parents=True, exist_ok=True)
    if form == "derived":
        connection.execute(f"create temp table single as {sql('single')}")
        sources = {"single": "from single", "cross": sql("cross_of_single")}
    else:
        sources = {name: sql(name) for name in ("single", "cross")}
    for name, source in sources.items():
        connection.execute(f"create or replace temp view newest_{name} as {source}")
        target = out / f"{name}.parquet"
        connection.execute(f"copy ({sql(f'{name}_rows')}) to '{target}' (format parquet, compression zstd)")


def digests(connection: duckdb.DuckDBPyConnection, cross: str, single: str) -> dict[str, list[str]]:
    """Rows and order-independent content hash of both kinds of sequences, given as relations."""
    keys = {
        "cross": "user_id, items::integer[], domains::integer[], times::bigint[]",
        "single": "user_id, code::integer, items::integer[], times::bigint[]",
    }
    found = {}
    for name, relation in (("cross", cross), ("single", single)):
        counted = f"select count(*), sum(hash({keys[name]})::hugeint) from ({relation})"
        found[name] = [str(value) for value in connection.execute(counted).fetchall()[0]]
    return found


def digests_of_folder(connection: duckdb.DuckDBPyConnection, out: Path) -> dict[str, list[str]]:
    """The digests of what `make_sequences` wrote."""
    return digests(connection, *(f"from read_parquet('{out / name}.parquet')" for name in ("cross", "single")))


def digests_of_table(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[str],
    *,
    domains: Sequence[str] = DOMAINS,
    length: int = LENGTH,
) -> dict[str, list[str]]:
    """The digests of files of the table `sequences`: the latest row of every user, cut to T."""
    names = [file.removeprefix("file://") for file in files]
    set_variables(connection, files=names, domains=list(domains), length=length)
    connection.execute(sql("kept"))
    return digests(connection, sql("kept_cross"), sql("kept_single"))


# --- what other peers read ------------------------------------------------------------------------------------


def write_arrays(connection: duckdb.DuckDBPyConnection, out: Path) -> None:
    """For RecTools: users, items (of all domains), domain codes and times of the view `events` as numpy files."""
    out.mkdir(parents=True, exist_ok=True)
    connection.execute("""
        create or replace temp view plain as select substr(user_id, 2)::bigint as "user", code::tinyint as code,
        (code::bigint << 32) | moment.item as item, moment.time as "time" from events
    """)
    for name, kind in (("user", "int64"), ("item", "int64"), ("code", "int8"), ("time", "int64")):
        connection.execute("set preserve_insertion_order = true")
        column = connection.execute(f'select "{name}" from plain').to_arrow_table()[0]
        np.save(out / f"{name}.npy", column.combine_chunks().cast(pa.type_for_alias(kind)).to_numpy())


def write_text(connection: duckdb.DuckDBPyConnection, out: Path) -> None:
    """For the released code: its raw files, a line a user with lists of items, types, times; two vocabularies."""
    out.mkdir(parents=True, exist_ok=True)
    connection.execute("""
        create or replace temp view named as select user_id, moment, code || '-' || moment.item as item,
        getvariable('domains')[code] as "type", (moment.time // 1000000)::varchar as seconds from events
    """)
    # Sorted, which may spill, and joined here: DuckDB's ordered string_agg does not get along with one heavy user.
    sorted_rows = connection.execute('select user_id, item, "type", seconds from named order by user_id, moment')
    batches = sorted_rows.to_arrow_reader(1_000_000)
    rows = (row for batch in batches for row in zip(*(column.to_pylist() for column in batch), strict=True))
    with (out / "amazon_seq.txt").open("w", encoding="utf-8") as text:
        text.write("\tuser_id\titem\ttype\tunix_time\tlist_len\n")
        for number, (user, events) in enumerate(groupby(rows, key=itemgetter(0))):
            _, *lists = zip(*events, strict=True)
            joined = "\t".join(",".join(values) for values in lists)
            text.write(f"{number}\t{user}\t{joined}\t{len(lists[0])}\n")
    for name in ("item", "type"):
        counted = (
            f'select row_number() over () - 1 as place, "{name}", count(*) as cnt from named group by "{name}"'
        )
        target = out / f"voca_{name}.txt"
        connection.execute(f"copy ({counted}) to '{target}' (format csv, delimiter '\t', header true, quote '')")
        body = target.read_text(encoding="utf-8").split("\n", 1)[1]
        target.write_text(f"\t{name}\tcnt\n{body}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Do one thing; digests are printed as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("duckdb", "digest", "arrays", "text"))
    parser.add_argument("--log", type=Path, help="folder of a written log")
    parser.add_argument("--night", action="store_true", help="with the events of the night")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into, or to read for digest")
    parser.add_argument(
        "--files", type=Path, help="digest: a JSON list of files of the table sequences, instead of --out"
    )
    parser.add_argument("--form", choices=FORMS, default=FORMS[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-gib", type=float, default=8)
    a = parser.parse_args(argv)
    a.out.mkdir(parents=True, exist_ok=True)
    try:
        with connect(a.out, threads=a.threads, memory_gib=a.memory_gib) as connection:
            if a.what == "digest":
                found = (
                    digests_of_table(connection, json.loads(a.files.read_text()))
                    if a.files
                    else digests_of_folder(connection, a.out)
                )
                print(json.dumps(found))
                return 0
            events_of(connection, read_log(a.log), night=a.night)
            if a.what == "duckdb":
                make_sequences(connection, a.out, a.form)
            elif a.what == "arrays":
                write_arrays(connection, a.out)
            else:
                write_text(connection, a.out)
    except duckdb.Error as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
