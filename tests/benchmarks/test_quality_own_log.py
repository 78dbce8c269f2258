"""A log of one's own as a benchmark set: who is inside, what is left out, what is refused, where figures go."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.quality import __main__ as command
from benchmarks.quality.data import TEST, QualityData
from benchmarks.quality.own_log import load_log
from syncrec_model.study_columns import StudyError

NAMES = ("books", "toys")


def rows(user: str, domains: str, first: int = 1) -> list[tuple[str, str, str, str]]:
    """Return six events of a user, one a day from a day on, each with the next item of the next domain."""
    names = dict(zip("bt", NAMES, strict=True))
    return [
        (user, f"i{(first + step) % 6}", names[domains[step % len(domains)]], f"2024-01-{first + step:02}T10:00:00")
        for step in range(6)
    ]


def write(folder: Path, events: list[tuple[str, str, str, str]], suffix: str = ".csv") -> Path:
    frame = pd.DataFrame(events, columns=["user", "item", "domain", "ts"])
    path = folder / f"shop{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.assign(ts=pd.to_datetime(frame["ts"])).to_parquet(path)
    return path


USERS = [(f"u{user:02}", ("bt", "tb")[user // 2 % 2], 1 + user % 12) for user in range(24)]
BOTH = [event for user in USERS for event in rows(*user)]
GIFTS = [(user, "card", "gifts", "2024-01-01T09:00:00") for user, _, _ in USERS]
EVERYTHING = [
    (f"u{user}", f"i{item}", domain, f"2024-01-{1 + item:02}")
    for user in range(9)
    for item in range(3)
    for domain in NAMES
]
COARSE = [(*event[:3], f"2024-01-{1 + place % 6 // 3:02}") for place, event in enumerate(BOTH)]
ALONE = [event for user in range(5) for event in rows(f"x{user}", "b", 2)]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_users_of_two_domains_are_inside_everybody_else_outside(tmp_path: Path, suffix: str) -> None:
    data = load_log(write(tmp_path, BOTH + ALONE, suffix))
    assert isinstance(data, QualityData) and data.domains == ("books", "toys") and data.n_users == 24
    assert data.n_items == (6, 6), "an id in two domains is two items"
    assert len(data.events) == 24 * 6 and len(data.outside) == 5 * 6
    assert data.n_outside_items == (6, 6)
    last = data.events.domain_E[data.part_E == TEST]
    assert last.tolist() == [2 if domains == "bt" else 1 for _, domains, _ in USERS]
    assert data.name == "shop-all-leave-one-out"


def test_an_item_had_before_is_no_case_and_times_of_any_unit_only_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [("u00", "i1", "books", "2024-02-01T00:00:00"), ("u01", "i3", "toys", "2024-02-01T00:00:00")]
    data = load_log(write(tmp_path, again + BOTH))
    assert len(data.events) == 24 * 6
    said = capsys.readouterr().err
    assert "24 users of two domains or more with 144 events, 0 people outside" in said
    assert "2 events with an item had before are left out" in said


def test_a_user_with_every_item_of_a_domain_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sated = [
        ("all", f"i{item}", domain, f"2024-01-{2 + item:02}") for item in range(6) for domain in ("books", "toys")
    ]
    data = load_log(write(tmp_path, [(*event[:3], f"{event[3][:10]}T11:00:00") for event in sated] + BOTH))
    assert data.n_users == 24 and len(data.outside) == 12
    assert "1 people outside, 1 of them because they had every item of a domain" in capsys.readouterr().err


def test_fewer_users_are_a_fixed_draw_and_more_than_there_are_all(tmp_path: Path) -> None:
    path = write(tmp_path, BOTH + ALONE)
    assert load_log(path, users=22).n_users == 22 and load_log(path, users=500).n_users == 24
    assert load_log(path, users=22).fingerprint() == load_log(path, users=22).fingerprint()


@pytest.mark.parametrize(
    ("events", "options", "words"),
    [
        (ALONE, {}, r"one domain only \(books\)"),
        (BOTH, {"core": 2}, "give 3 or more"),
        (BOTH, {"core": 50}, "nothing is left of core 50 .* give a smaller CORE="),
        (BOTH[:96], {"core": 3}, "domain 'books' has 8 validation cases, fewer than 10"),
        (BOTH, {"users": 9}, "fewer than 10: too few to tell systems apart"),
        (BOTH, {"domains": ["books", "games"]}, "has no domain 'games'; it has books, toys"),
        (BOTH, {"domains": ["books"]}, r"one domain only \(books\)"),
        ([*BOTH, *GIFTS], {}, "domain 'gifts' has one item"),
        (COARSE, {"split": "time"}, "too coarse to split by"),
        (BOTH, {"split": "time"}, "validation cases, fewer than 10"),
        (BOTH, {"columns": {"user": "customer"}}, "customer"),
        (EVERYTHING, {}, "every user had every item of a domain"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(
    tmp_path: Path, events: list, options: dict, words: str
) -> None:
    with pytest.raises(StudyError, match=words):
        load_log(write(tmp_path, events), **options)


def test_domains_can_be_named(tmp_path: Path) -> None:
    data = load_log(write(tmp_path, [*BOTH, *GIFTS]), domains=["toys", "books"])
    assert data.domains == ("toys", "books") and data.n_users == 24


def test_options_of_a_log_need_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--core", "0"]) == 2
    assert "error: --core is for a log of your own: give LOG=" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--data", "x"], ["--record"], ["--restore"]])
def test_options_of_set_a5_are_refused_beside_a_log(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--log", "log.csv", *option]) == 2
    assert f"error: {option[0]} is for set A5 and does nothing for a log" in capsys.readouterr().err


def test_figures_of_a_log_go_to_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, BOTH + ALONE)
    places = ["--cache", str(tmp_path / "cache"), "--results", str(tmp_path / "repository"), "--page", str(path)]
    options = ["--rows", "popularity", "popularity.all", "--threads", "1", "--jobs", "1", *places]
    before = path.read_text()
    assert command.main(["--log", str(path), *options]) == 0
    shown = capsys.readouterr()
    assert "| popularity.all" in shown.out and "not recorded" not in shown.err
    (folder,) = (tmp_path / "cache").glob("shop-all-*")
    found = json.loads((folder / "quality.json").read_text())
    systems = found["parts"]["log"]["details"]["systems"]
    assert set(found["parts"]) == {"log"} and set(systems) == {"popularity", "popularity.all"}
    assert set(systems["popularity"]["test"]["ndcg@10"]) == {"books", "toys", "macro", "min"}
    assert not (tmp_path / "repository").exists() and path.read_text() == before
    assert command.main(["--log", str(path), "--epochs", "7", "--report", *options]) == 0
    assert json.loads((folder / "quality.json").read_text()) == found, "nothing is there of 7 epochs to write"
    assert command.main(["--log", str(tmp_path / "none.csv"), *options]) == 2
    assert "error:" in capsys.readouterr().err
