"""The registered model on every kind of input that a stranger may send it."""

from __future__ import annotations

import logging
import math
from datetime import datetime
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from syncrec_model import Recommender
from tests.jobs.registered import DOMAINS, REPEATS, VIEWS, VOCABULARY, formula_model, registered, table

LONG = [("b1", "books", 3), ("f4", "food", 1), ("t2", "toys", 9), ("b7", "books", 4), ("f30", "food", 5)]
HISTORIES = [
    LONG,
    [],
    [("t1", "toys", 1)],
    [(f"b{i}", "books", i) for i in range(1, 9)],  # longer than the window of 5
    [("f1", "food", 2), ("f1", "food", 7), ("b2", "books", 6)],
]


@pytest.fixture(scope="module")
def pyfunc(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mlflow.pyfunc.load_model(str(registered(tmp_path_factory.mktemp("pyfunc"), formula_model())))


def same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """The same lists, scores to 1e-5."""
    pd.testing.assert_frame_equal(left.drop(columns="score"), right.drop(columns="score"))
    assert left.score.to_numpy() == pytest.approx(right.score.to_numpy(), abs=1e-5)


def test_it_says_what_the_model_in_the_repository_says(pyfunc: Any) -> None:
    found = pyfunc.predict(table(HISTORIES), params={"n": 4})
    own = Recommender(formula_model(), VOCABULARY, VIEWS).recommend(HISTORIES, 4, repeats=REPEATS)
    rows = [
        (f"u{user}", domain, rank, item, score, 0)
        for user, lists in enumerate(own.items)
        for domain, best in lists.items()
        for rank, (item, score) in enumerate(best, 1)
    ]
    expected = pd.DataFrame(rows, columns=["user_id", "domain", "rank", "item_id", "score", "ignored_items"])
    same(found, expected.astype({"rank": "int32", "ignored_items": "int32"}))
    lists = found.groupby(["user_id", "domain"])["rank"].agg(list)
    # Of eight read books, four are left; all others have the four asked for.
    assert lists.map(lambda ranks: ranks == [1, 2, 3, 4]).all() and len(lists) == len(HISTORIES) * len(DOMAINS)


def test_a_batch_and_its_users_one_by_one_are_equal(pyfunc: Any) -> None:
    batch = table(HISTORIES)
    alone = [pyfunc.predict(batch.iloc[[row]].reset_index(drop=True)) for row in range(len(batch))]
    same(pyfunc.predict(batch), pd.concat(alone, ignore_index=True))
    backwards = pyfunc.predict(batch.iloc[::-1].reset_index(drop=True))
    order = [pd.DataFrame(backwards[backwards.user_id == user]) for user in batch.user_id]
    same(pyfunc.predict(batch), pd.concat(order, ignore_index=True))


def test_n_is_twenty_unless_the_call_says_otherwise_and_short_domains_give_fewer(pyfunc: Any) -> None:
    def sizes(**call: Any) -> dict[str, int]:
        return dict(pyfunc.predict(table([LONG]), **call).groupby("domain").size())

    assert sizes() == {"books": 10, "toys": 8, "food": 20}  # two books and one toy are read; food repeats
    assert sizes(params={"n": 1}) == {"books": 1, "toys": 1, "food": 1}
    assert sizes(params={"n": 10**9}) == {"books": 10, "toys": 8, "food": 30}


def test_items_of_the_history_stay_out_also_those_older_than_the_window(pyfunc: Any) -> None:
    found = pyfunc.predict(table(HISTORIES), params={"n": 30})
    books = found[(found.user_id == "u3") & (found.domain == "books")].item_id
    assert sorted(books) == ["b10", "b11", "b12", "b9"]
    assert "f1" in set(found[found.user_id == "u4"].item_id)  # food repeats


def test_unknown_items_are_ignored_counted_and_logged(pyfunc: Any, caplog: pytest.LogCaptureFixture) -> None:
    strange = [*LONG, ("new", "books", 8), ("b1", "toys", 10)]  # b1 is a book: among toys nobody knows it
    with caplog.at_level(logging.WARNING, logger="syncrec"):
        found = pyfunc.predict(table([strange, LONG]))
    assert "2 events of 1 users name items that this version does not know" in caplog.text
    assert found.groupby("user_id").ignored_items.unique().map(list).to_dict() == {"u0": [2], "u1": [0]}
    first, second = (found[found.user_id == user].reset_index(drop=True) for user in ("u0", "u1"))
    same(first.assign(user_id="", ignored_items=0), second.assign(user_id="", ignored_items=0))


def test_the_order_of_the_rows_and_the_kind_of_time_change_nothing(pyfunc: Any) -> None:
    expected = pyfunc.predict(table([LONG]))
    ordered = sorted(LONG, key=lambda event: event[2])
    days = [datetime(2024, 1, ts) for _, _, ts in LONG]
    other_times: list[list[Any]] = [
        [*reversed(LONG)],
        [(i, d, float(ts)) for i, d, ts in LONG],
        [(i, d, np.int32(ts)) for i, d, ts in LONG],
        [(i, d, day) for (i, d, _), day in zip(LONG, days, strict=True)],
        [(i, d, pd.Timestamp(day)) for (i, d, _), day in zip(LONG, days, strict=True)],
        [(i, d, day.isoformat() + "Z") for (i, d, _), day in zip(LONG, days, strict=True)],
        [(i, d) for i, d, _ in ordered],
        [(i, d, None) for i, d, _ in ordered],
        [(i, d, math.nan) for i, d, _ in ordered],
        [*LONG, LONG[0], LONG[3]],  # the same event twice
    ]
    for history in other_times:
        same(pyfunc.predict(table([history])), expected)
    assert not pyfunc.predict(table([[(i, d) for i, d, _ in LONG]])).equals(expected)  # order matters


def test_a_user_without_history_gets_lists_and_no_user_gets_none(pyfunc: Any) -> None:
    assert dict(pyfunc.predict(table([[]])).groupby("domain").size()) == {"books": 12, "toys": 9, "food": 20}
    nobody = pyfunc.predict(
        pd.DataFrame({"user_id": pd.Series([], dtype=str), "history": pd.Series([], dtype=object)})
    )
    assert len(nobody) == 0 and list(nobody.columns)[-1] == "ignored_items"


@pytest.mark.parametrize(
    ("histories", "users", "sentence"),
    [
        ([[], [("x", "cars", 1)]], None, r"user 'u1' \(row 1\): unknown domain 'cars'.*knows books, toys, food"),
        ([[("b1", "books", 1), ("b2", "books", None)]], None, r"user 'u0' \(row 0\), event 1: ts is missing"),
        ([[("b1", "books", 1), ("b2", "books", math.nan)]], None, "event 1: ts is missing while other events"),
        ([[("b1", "books", math.inf)]], None, "event 0: ts = inf; give a finite number"),
        ([[("b1", "books", "noon")]], None, "ts = 'noon' is no ISO 8601 time"),
        ([[], None], None, r"history of user 'u1' \(row 1\) is None; give a list of events, an empty one"),
        ([[], []], ["u", "u"], "user_id 'u' stands in rows 0 and 1; give one row a user"),
        ([[], []], ["u", None], "row 1: user_id is None; give a text"),
        ([[(7, "books", 1)]], None, "`item_id`. Expected type string, received type int"),
        ([[("b1",)]], None, "Missing required properties: .*domain"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_user_and_row(
    pyfunc: Any, histories: list[Any], users: list[Any] | None, sentence: str
) -> None:
    with pytest.raises(Exception, match=sentence):
        pyfunc.predict(table(histories, users))


@pytest.mark.parametrize("n", [0, -1, None, 2.5, "5"])
def test_an_impossible_n_is_refused(pyfunc: Any, n: Any) -> None:
    with pytest.raises(Exception, match=r"top_n: n = (0|-1|None); give a whole number|'n'.*integer"):
        pyfunc.predict(table([LONG]), params={"n": n})


def test_a_missing_column_is_named(pyfunc: Any) -> None:
    with pytest.raises(Exception, match="no column 'history'; give user_id and history"):
        pyfunc.predict(pd.DataFrame({"user_id": ["u"]}))
