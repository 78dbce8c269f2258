"""The arms are the same in Python, Spark and DuckDB, stable under other shares, and as large as they should be."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.arms import Split, threshold_of
from jobs.schemas import ANYONE

SHARES = (0.0, 1e-9, 0.1, 0.25, 0.5, 1 / 3, 0.999, 1.0)
USERS = [*(f"user-{n}" for n in range(2_000)), "", " ", "ä:ö", "o'neil", '"', "日本", "\U0001f600", ANYONE]


def test_python_spark_and_duckdb_agree_on_every_user(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(user,) for user in USERS], "user_id string")
    splits = [Split(name=name, share=share) for name in ("a", "wider-net.2") for share in SHARES]
    columns = [split.arm(F.col("user_id")).alias(f"s{n}") for n, split in enumerate(splits)]
    in_spark = {row[0]: row[1:] for row in frame.select("user_id", *columns).collect()}
    connection = duckdb.connect()
    connection.register("users", pa.table({"user_id": USERS}))
    for place, split in enumerate(splits):
        text = "select user_id, md5(concat($name, ':', user_id)) < $threshold from users"
        in_sql = dict(connection.execute(text, {"name": split.name, "threshold": split.threshold}).fetchall())
        in_batch = dict(zip(USERS, split.are_candidates(pa.array(USERS)).tolist(), strict=True))
        for user in USERS:
            assert split.is_candidate(user) == in_sql[user] == in_batch[user]
            own = "candidate" if split.is_candidate(user) and user != ANYONE else "champion"
            assert in_spark[user][place] == own, (user, split)


def test_another_share_moves_only_the_users_between_the_two() -> None:
    low, high = Split(name="a", share=0.2), Split(name="a", share=0.3)
    was, now = ({user for user in USERS if split.is_candidate(user)} for split in (low, high))
    assert was < now
    places = {user: next(n for n in range(1001) if Split(name="a", share=n / 1000).is_candidate(user)) for user in
              USERS[:50]}  # fmt: skip
    assert {user for user in USERS[:50] if 200 < places[user] <= 300} == (now - was) & set(USERS[:50])


def test_another_name_deals_anew_and_shares_are_kept() -> None:
    users = [f"u{n}" for n in range(20_000)]
    first, second = (Split(name=name, share=0.3).are_candidates(pa.array(users)) for name in ("a", "b"))
    assert first.mean() == pytest.approx(0.3, abs=0.015) == second.mean()
    assert (first & second).mean() == pytest.approx(0.09, abs=0.01), "one name tells nothing of the other"


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_who_is_in_with_a_share_is_in_with_every_larger_one(user: str, one: float, two: float) -> None:
    user = user.encode("utf-8", "ignore").decode()
    low, high = sorted((one, two))
    if Split(name="x", share=low).is_candidate(user):
        assert Split(name="x", share=high).is_candidate(user)
    assert not Split(name="x", share=0).is_candidate(user) and Split(name="x", share=1).is_candidate(user)


def test_thresholds_are_text_that_sorts_as_numbers_do() -> None:
    assert [threshold_of(share) for share in (0, 0.5, 1)] == ["00000000", "80000000", "g"]
