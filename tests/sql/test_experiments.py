"""The numbers of an A/B test: planted ones by hand, the coverage of the interval, a mismatch that is found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from jobs.query import connect
from jobs.settings import Settings
from jobs.sql_views import SQL

DOMAINS, USERS = 400, 300
"""Simulated tests, as domains of one log; users an arm in each."""


def answer(connection: duckdb.DuckDBPyConnection, name: str, **replaced: str) -> list[dict[str, Any]]:
    text = (SQL / "queries" / f"{name}.sql").read_text()
    for old, new in replaced.items():
        text = text.replace(f"'' as {old}", f"'{new}' as {old}")
    rows: list[dict[str, Any]] = connection.sql(text).to_arrow_table().to_pylist()
    return rows


@pytest.fixture(scope="module")
def duck(planted: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(planted) as connection:
        yield connection


def test_the_planted_uplift_by_hand(duck: duckdb.DuckDBPyConnection) -> None:
    rows = {row["domain"]: row for row in answer(duck, "experiment_uplift")}
    assert set(rows) == {"(all)", "books", "toys"}
    books = rows["books"]
    assert (books["champion_users"], books["candidate_users"]) == (2, 2), "strangers and other nights left out"
    assert (books["champion_impressions"], books["candidate_impressions"]) == (3, 4), "told twice, counted once"
    assert books["champion_ctr"] == pytest.approx(2 / 3, abs=1e-5) and books["candidate_ctr"] == 0.75
    # ann 2 of 2, bob 0 of 1: residuals 2/3 and -2/3; cai 2 of 2, dee 1 of 2: residuals 1/2 and -1/2
    margin = 1.959964 * math.sqrt(2 * 2 * (2 / 3) ** 2 / 9 + 2 * 2 * (1 / 2) ** 2 / 16)
    assert books["high"] - books["uplift"] == pytest.approx(margin, abs=2e-5)
    assert books["uplift"] - books["low"] == pytest.approx(margin, abs=2e-5)
    assert books["candidate"] == "not clear" and books["relative_uplift"] == 0.125
    assert rows["toys"]["candidate"] == "too few users" and rows["toys"]["low"] is None


def test_a_name_chooses_the_experiment(duck: duckdb.DuckDBPyConnection) -> None:
    assert answer(duck, "experiment_uplift", experiment="wider") == answer(duck, "experiment_uplift")
    for name in ("experiment_uplift", "experiment_sample_ratio"):
        assert answer(duck, name, experiment="none of ours") == []


def test_the_planted_sample_ratio(duck: duckdb.DuckDBPyConnection) -> None:
    lists, shown = answer(duck, "experiment_sample_ratio")
    assert (lists["counted"], lists["champion_users"], lists["candidate_users"]) == ("with lists", 2, 2)
    assert (lists["chi_square"], lists["verdict"]) == (0.0, "as it should be")
    assert (shown["counted"], shown["champion_users"], shown["candidate_users"]) == ("shown", 3, 2)
    assert shown["crossed_users"] == 1, "dee was shown the champion's"


def with_tables(nights: dict[str, list[Any]], shown: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.register("experiment_nights", pa.table(nights))
    connection.register("experiment_impressions", pa.table(shown))
    return connection


def night(share: float, champion: int, candidate: int) -> dict[str, list[Any]]:
    users = {"champion_users": [champion], "candidate_users": [candidate]}
    return {"ds": ["2024-01-29"], "experiment": ["x"], "share": [share], **users}


def simulated(uplift: float, seed: int) -> tuple[dict[str, Any], float]:
    """Clicks of users who differ: busy ones click less, and whoever clicks, clicks often. And the true uplift."""
    rng = np.random.default_rng(seed)
    n = DOMAINS * USERS * 2
    domain, arm = np.repeat(np.arange(DOMAINS), USERS * 2), np.tile([0, 1], n // 2)
    busy = rng.random(n) < 0.3
    impressions = 1 + rng.poisson(np.where(busy, 20, 4))
    rate = np.where(busy, rng.beta(0.5, 9.5, n), rng.beta(0.8, 4.2, n)) * (1 + uplift * arm)
    row = np.repeat(np.arange(n), impressions)
    shown = {
        "experiment": np.full(len(row), "x"), "share": np.full(len(row), 0.5),
        "user_id": row, "domain": np.char.mod("%d", domain)[row],
        "clicked": rng.random(len(row)) < np.minimum(rate[row], 1),
        "arm": np.array(["champion", "candidate"])[arm][row],
    }  # fmt: skip
    champion = (0.3 * 21 * 0.05 + 0.7 * 5 * 0.16) / (0.3 * 21 + 0.7 * 5)
    return {**shown, "listed_arm": shown["arm"]}, champion * uplift


@pytest.mark.parametrize("uplift", [0.0, 0.15])
def test_the_interval_holds_the_true_uplift_in_95_of_100_tests(uplift: float) -> None:
    shown, truth = simulated(uplift, seed=1 + int(100 * uplift))
    rows = answer(with_tables(night(0.5, 1, 1), shown), "experiment_uplift")
    own = [row for row in rows if row["domain"] != "(all)"]
    assert len(own) == DOMAINS
    covered = np.mean([row["low"] <= truth <= row["high"] for row in own])
    assert 0.92 <= covered <= 0.98, "95 % but for chance"
    simple = [1.96 * math.sqrt(sum(
        row[f"{arm}_ctr"] * (1 - row[f"{arm}_ctr"]) / row[f"{arm}_impressions"] for arm in ("champion", "candidate")
    )) for row in own]  # fmt: skip
    naive = np.mean([abs(row["uplift"] - truth) <= margin for row, margin in zip(own, simple, strict=True)])
    assert naive < 0.85, "impressions of one user are not independent: without clusters it would promise too much"
    (whole,) = (row for row in rows if row["domain"] == "(all)")
    assert whole["low"] <= truth <= whole["high"]
    assert whole["candidate"] == ("better" if uplift else "not clear")


def ratio(share: float, champion: int, candidate: int) -> list[dict[str, Any]]:
    users = champion + candidate
    arm = np.repeat(["champion", "candidate"], [champion, candidate])
    shown = {"experiment": ["x"] * users, "share": [share] * users, "user_id": np.arange(users), "arm": arm}
    tables = with_tables(
        night(share, round(users * (1 - share)), round(users * share)), shown | {"listed_arm": arm}
    )
    return answer(tables, "experiment_sample_ratio")


def test_a_mismatch_is_found_and_chance_is_not() -> None:
    for share in (0.5, 0.1):
        n = 20_000
        lists, shown = ratio(
            share, round(n * (1 - share)), round(n * share * 0.9)
        )  # every tenth got lost on the way
        assert (lists["verdict"], shown["verdict"]) == ("as it should be", "mismatch")
    rng = np.random.default_rng(5)
    found = [ratio(0.2, 5_000 - k, k)[1] for k in rng.binomial(5_000, 0.2, size=20).tolist()]
    assert {row["verdict"] for row in found} == {"as it should be"}
    for row in found:
        assert row["p_value"] == pytest.approx(math.erfc(math.sqrt(row["chi_square"] / 2)), abs=1e-3)
    assert ratio(1.0, 0, 50)[1]["verdict"] == "one arm has all"


def test_the_tail_of_chi_square_is_right_where_it_decides() -> None:
    row = ratio(0.5, 5_165, 4_835)[1]  # chi-square 10.89
    assert (
        row["p_value"] == pytest.approx(math.erfc(math.sqrt(10.89 / 2)), abs=1e-5) and row["verdict"] == "mismatch"
    )
