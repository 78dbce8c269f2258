"""Reading a log for a study: many forms are read alike, and what cannot be studied is refused with what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from study_logs import START, columns, write

from syncrec_model import StudyError, read_study

Log = dict[str, Any]


def test_every_form_of_a_log_is_read_alike(tmp_path: Path) -> None:
    log = columns()
    expected = read_study(write(tmp_path / "log.parquet", log))
    moments = [datetime.fromtimestamp(ts, UTC) for ts in log["ts"]]
    forms: dict[str, Log] = {
        "log.csv": log,
        "texts.csv": log | {"ts": [moment.isoformat() for moment in moments]},
        "milliseconds.parquet": log | {"ts": [1000 * ts for ts in log["ts"]]},
        "moments.parquet": log | {"ts": pa.array(moments, pa.timestamp("ns", tz="UTC"))},
        "floats.parquet": log | {"ts": np.array(log["ts"], dtype=np.float64)},
        "categories.parquet": log | {"item": pa.array(log["item"]).dictionary_encode()},
        "reversed.parquet": {name: list(reversed(values)) for name, values in log.items()},
    }
    for name, form in forms.items():
        found = read_study(write(tmp_path / name, form))
        assert found.fingerprint() == expected.fingerprint(), name
        assert found.facts["first"] == "2023-11-14", name


def test_a_folder_of_files_and_other_column_names(tmp_path: Path) -> None:
    log = columns()
    expected = read_study(write(tmp_path / "log.parquet", log))
    names = {"user": "customer", "item": "asin", "domain": "shop", "ts": "at"}
    renamed = {names[role]: values for role, values in log.items()}
    (tmp_path / "parts").mkdir()
    for number in range(2):
        half = {name: values[number * 420 : (number + 1) * 420] for name, values in renamed.items()}
        write(tmp_path / "parts" / f"part-{number}.parquet", half)
    assert read_study(tmp_path / "parts", columns=names).fingerprint() == expected.fingerprint()


def test_numbers_are_ids_also_as_floats(tmp_path: Path) -> None:
    log = columns()
    log["user"] = [float(user[1:]) for user in log["user"]]
    data = read_study(write(tmp_path / "log.parquet", log))
    assert data.users[:3] == ["0", "1", "10"]


def test_the_same_event_twice_counts_once_and_is_told(tmp_path: Path) -> None:
    log = columns()
    twice = {name: values + values[:5] for name, values in log.items()}
    once, data = (read_study(write(tmp_path / f"{n}.parquet", form)) for n, form in enumerate((log, twice)))
    assert once.fingerprint() == data.fingerprint()
    assert "5 events say the same as another" in " ".join(data.notes)


def test_numbers_that_are_no_dates_count_by_their_order(tmp_path: Path) -> None:
    log = columns()
    log["ts"] = [ts - START for ts in log["ts"]]
    data = read_study(write(tmp_path / "log.parquet", log))
    assert "their order alone counts" in " ".join(data.notes)
    assert data.fingerprint() == read_study(write(tmp_path / "dates.parquet", columns())).fingerprint()


def without(name: str) -> Callable[[Log], Log]:
    return lambda log: {key: values for key, values in log.items() if key != name}


def changed(name: str, value: Callable[[int, Any], Any], places: range | None = None) -> Callable[[Log], Log]:
    def change(log: Log) -> Log:
        kept = range(len(log[name])) if places is None else places
        return log | {name: [value(at, old) if at in kept else old for at, old in enumerate(log[name])]}

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (without("user"), {}, r"no column 'user' or 'user_id'; its columns are item, domain, ts.*--user COLUMN"),
        (lambda log: log, {"columns": {"item": "asin"}}, r"no column 'asin'; its columns are user, item"),
        (lambda log: log, {"columns": {"item": "user"}}, r"one column has two roles"),
        (lambda log: log, {"columns": {"product": "item"}}, r"unknown role 'product'; roles are user, item"),
        (lambda log: {name: values[:0] for name, values in log.items()}, {}, r"has no rows"),
        (changed("user", lambda at, old: None, range(3, 5)), {}, r"'user' has no id in 2 of 840 rows.*row 4"),
        (changed("item", lambda at, old: "nan", range(9, 10)), {}, r"'item' has no id in 1 of 840 rows.*row 10"),
        (changed("item", lambda at, old: float(at % 9) if at else np.nan), {}, r"'item' has no id in 1 of"),
        (changed("item", lambda at, old: at / 7), {}, r"'item' holds fractions"),
        (changed("item", lambda at, old: at % 2 == 0), {}, r"'item' is of type bool"),
        (changed("domain", lambda at, old: f"d{at % 200}"), {}, r"'domain' has 200 different values.*--domain"),
        (changed("domain", lambda at, old: "books"), {}, r"one domain only \(books\)"),
        (
            lambda log: log,
            {"domains": ["toys"]},
            r"--domains\) names one domain only \(toys\).*more of books, toys",
        ),
        (changed("ts", lambda at, old: None, range(2)), {}, r"'ts' has no time in 2 of 840 rows"),
        (changed("ts", lambda at, old: 5), {}, r"'ts' has one value, 5"),
        (changed("ts", lambda at, old: "noon"), {}, r"texts that are no ISO 8601 times, such as 'noon'"),
        (changed("ts", lambda at, old: at % 2 == 0), {}, r"'ts' is of type bool"),
        (
            changed("ts", lambda at, old: 1000 * old, range(10)),
            {},
            r"mixes units of time \(s: 830 .*; ms: 10 events",
        ),
        (lambda log: log, {"unit": "ms"}, r"is not in ms: .* is 2023-11-1\d in s.*Give --unit s"),
        (lambda log: log, {"unit": "h"}, r"time unit 'h': choose one of s, ms, us, ns"),
        (lambda log: log, {"split": "random"}, r"split 'random': choose one of leave-one-out, time"),
        (lambda log: log, {"domains": ["books", "food"]}, r"has no domain 'food'; it has books, toys"),
        (lambda log: log, {"repeats": ["food"]}, r"repeats names the unknown domain 'food'"),
        (lambda log: log, {"core": 50}, r"nothing is left of core 50"),
        (
            lambda log: log,
            {"users": 4},
            r"too few users: 4 validation and 4 test cases from 4 users.*: give more --users than 4",
        ),
        (lambda log: log, {"users": 0}, r"users = 0"),
        (
            changed("user", lambda at, old: f"u{at}"),
            {},
            r"no user has events in two domains.*write their user ids in different ways",
        ),
        (
            changed("item", lambda at, old: "one", range(840)),
            {},
            r"domain books has 1 item here, so there is nothing to rank",
        ),
    ],
)
def test_an_unusable_log_is_refused(
    tmp_path: Path, change: Callable[[Log], Log], options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "log.parquet", change(columns()))
    with pytest.raises(StudyError, match=message):
        read_study(path, **options)


def test_users_of_two_events_give_no_cases(tmp_path: Path) -> None:
    log = {name: values[::7] for name, values in columns().items()}
    with pytest.raises(
        StudyError, match=r"too few users: 0 validation and 0 test cases from 60 users.*: give a longer log$"
    ):
        read_study(write(tmp_path / "log.parquet", log))


def test_a_parquet_file_named_csv_is_recognised(tmp_path: Path) -> None:
    path = write(tmp_path / "log.parquet", columns()).rename(tmp_path / "log.csv")
    with pytest.raises(
        StudyError, match=r"log\.csv is a Parquet file under another name: let it end in \.parquet$"
    ):
        read_study(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"absent\.parquet does not exist"):
        read_study(tmp_path / "absent.parquet")
    for name in ("log.parquet", "log.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(StudyError, match=r"is empty"):
            read_study(tmp_path / name)
    (tmp_path / "log.parquet").write_text("user,item\n1,2\n")
    with pytest.raises(StudyError, match=r"cannot be read as Parquet: it was cut short, or is no Parquet file"):
        read_study(tmp_path / "log.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match=r"empty is a folder without \*\.parquet files"):
        read_study(tmp_path / "empty")
    (tmp_path / "broken.csv").write_text("user,item,domain,ts\na,b,c,1\na,b\n")
    with pytest.raises(
        StudyError,
        match=r"cannot be read as CSV: .*Row #3: Expected 4 .*: mend or take out that row \(the header is #1\)$",
    ):
        read_study(tmp_path / "broken.csv")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_log_parted_by_another_mark_than_the_comma_says_so(tmp_path: Path, mark: str) -> None:
    lines = [mark.join(("user", "item", "domain", "ts")), mark.join(("u", "salt, fine", "food", "1,5"))]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    with pytest.raises(StudyError, match=f"what parts the columns .* is {mark!r}".replace("\\", "\\\\")):
        read_study(tmp_path / "log.csv")


def test_times_of_two_forms_are_told_from_one_bad_time(tmp_path: Path) -> None:
    log = columns()
    iso = [datetime.fromtimestamp(int(ts), UTC).isoformat() for ts in log["ts"]]
    mixed = [str(ts) for ts in log["ts"][:300]] + iso[300:]
    with pytest.raises(StudyError, match=rf"several forms: '{re.escape(iso[300])}' in row 301 is the first"):
        read_study(write(tmp_path / "log.parquet", log | {"ts": mixed}))
    with pytest.raises(StudyError, match=r"holds '5' in row 1, which is no time of the form of the others"):
        read_study(write(tmp_path / "log.parquet", log | {"ts": ["5", *iso[1:]]}))


@pytest.mark.parametrize("form", [str, lambda ts: datetime.fromtimestamp(ts, UTC).isoformat()])
@pytest.mark.parametrize("row", [0, 1, 77, 839])
def test_one_time_that_is_none_is_named_with_its_row(tmp_path: Path, form: Callable[[int], str], row: int) -> None:
    log = columns()
    log["ts"] = [form(int(ts)) for ts in log["ts"]]
    log["ts"][row] = "yesterday"
    with pytest.raises(StudyError, match=rf"'ts' holds 'yesterday' in row {row + 1}, which is no time"):
        read_study(write(tmp_path / "log.parquet", log))
