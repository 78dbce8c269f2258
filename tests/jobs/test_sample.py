"""The sample: the same bytes every time, forms that read, relations that are there, faults that count up."""

import gzip
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.sample import (
    FAULTS,
    PLANTED,
    SampleError,
    SampleSettings,
    day_accounts,
    main,
    planted_faults,
    publish_day,
    write_days,
    write_log,
)
from jobs.sample_laws import DOMAINS, TASTE_DOMAINS, item_id, user_id
from jobs.sample_world import World

FIRST = date(2024, 1, 1)
SMALL = SampleSettings(n_users=150)


def day(n: int) -> date:
    return FIRST + timedelta(days=n)


def contents(landing: Path) -> dict[str, bytes]:
    return {str(p.relative_to(landing)): p.read_bytes() for p in landing.rglob("*") if p.is_file()}


def read(folder: Path) -> dict[str, list[dict[str, object] | None]]:
    """Every data line of a landing day as {user, item, ts}; None where it cannot be read so."""

    def csv(text: str, order: str, factor: int) -> list[dict[str, object] | None]:
        out: list[dict[str, object] | None] = []
        for line in text.splitlines():
            cells = line.split(",")
            sound = len(cells) == 4 and cells[3].isdigit()
            place = {name: n for n, name in enumerate(order.split())}
            parsed = {"user": cells[place["user"]], "item": cells[place["item"]]} if sound else None
            out.append(parsed and {**parsed, "ts": int(cells[3]) // factor})
        return out

    def coupon(line: str) -> dict[str, object] | None:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return None
        ts = record["unixReviewTime"]
        event = {"user": record["reviewerID"], "item": record["asin"], "ts": ts}
        return event if isinstance(ts, int) else None

    header, groceries = (folder / "groceries.csv").read_text().split("\n", 1)
    assert header == "user_id,parent_asin,rating,timestamp"
    table = pq.read_table(folder / "navigation.parquet")
    assert str(table.schema.field("event_time").type) == "timestamp[us, tz=UTC]"
    toys = gzip.decompress((folder / "toys.csv.gz").read_bytes()).decode()
    coupons = gzip.decompress((folder / "coupons.jsonl.gz").read_bytes()).decode()
    return {
        "books": csv((folder / "books.csv").read_text(), "user item", 1),
        "toys": csv(toys, "item user", 1),
        "groceries": csv(groceries, "user item", 1_000),
        "coupons": [coupon(line) for line in coupons.splitlines()],
        "navigation": [
            {"user": r["driver"], "item": r["place"], "ts": int(r["event_time"].timestamp())}
            if r["event_time"]
            else None
            for r in table.to_pylist()
        ],
    }


def test_the_same_bytes_whichever_way_the_days_are_asked_for(tmp_path: Path) -> None:
    write_days(tmp_path / "at_once", day(0), day(8), settings=SMALL)
    for n in (8, 0, 3, 1, 2, 7, 6, 5, 4):
        write_days(tmp_path / "on_demand", day(n), day(n), settings=SMALL)
    assert contents(tmp_path / "at_once") == contents(tmp_path / "on_demand")


def test_another_seed_is_another_world(tmp_path: Path) -> None:
    a = write_days(tmp_path / "a", day(0), day(0), settings=SMALL)[0]
    b = write_days(tmp_path / "b", day(0), day(0), settings=SampleSettings(n_users=150, seed=8))[0]
    assert (a / "books.csv").read_bytes() != (b / "books.csv").read_bytes()


@pytest.mark.parametrize("late", [True, False])
def test_faults_are_counted_and_everything_else_reads(tmp_path: Path, late: bool) -> None:
    settings = SampleSettings(n_users=400, late=late)
    seen_late = 0
    for folder in write_days(tmp_path, day(0), day(9), settings=settings):
        today = date.fromisoformat(folder.name)
        start = int(datetime(today.year, today.month, today.day, tzinfo=UTC).timestamp())
        accounts = day_accounts(today, settings=settings)
        found: Counter[str] = Counter()
        for domain, lines in read(folder).items():
            account = accounts[domain]
            assert len(lines) == account["lines"]
            assert account["lines"] == account["events"] + sum(account[f] for f in FAULTS if f != "late")
            readable = [line for line in lines if line]
            unreadable = account["bad_time"] + account["wrong_columns"] + account["broken_json"]
            assert len(lines) - len(readable) == unreadable
            whole = [line for line in readable if line["user"] and line["item"]]
            found["missing"] += len(readable) - len(whole)
            times = [int(str(line["ts"])) for line in whole]
            found["future"] += sum(ts >= start + 86_400 for ts in times)
            found["late"] += sum(start - 3 * 86_400 <= ts < start for ts in times)
            assert min(times, default=start) >= start - 3 * 86_400
            keys = Counter((line["user"], line["item"], line["ts"]) for line in whole)
            found["duplicate"] += sum(keys.values()) - len(keys)
        faults = planted_faults(today, settings=settings)
        assert found["missing"] == faults["missing_user"] + faults["missing_item"]
        for fault in ("future", "late", "duplicate"):
            assert found[fault] == faults[fault], fault
        assert all(1 <= faults[fault] <= 3 for fault in FAULTS if fault != "late")
        seen_late += faults["late"]
    assert (seen_late > 0) == late


def test_late_events_are_the_ones_their_own_day_lacked(tmp_path: Path) -> None:
    def events(late: bool) -> Counter[tuple[object, ...]]:
        settings = SampleSettings(n_users=150, late=late)
        out: Counter[tuple[object, ...]] = Counter()
        for folder in write_days(tmp_path / str(late), day(0), day(12), settings=settings):
            for domain, lines in read(folder).items():
                out.update({(domain, x["user"], x["item"], x["ts"]) for x in lines if x})
        # the last days' late events have not arrived yet, planted future lines lie beyond
        end = datetime(2024, 1, 10, tzinfo=UTC).timestamp()
        return Counter({key: 1 for key in out if key[1] and key[2] and float(str(key[3])) < end})

    with_late, without = events(True), events(False)
    assert set(without) - set(with_late) == set()


def test_nobody_gets_a_book_a_toy_or_a_coupon_twice_but_groceries_and_places_repeat() -> None:
    world = World(SampleSettings(n_users=500))
    days = [world.step() for _ in range(40)]
    for code, domain in enumerate(DOMAINS):
        pairs = [
            pair
            for events in days
            for pair in zip(
                events.user[events.domain == code].tolist(),
                events.item[events.domain == code].tolist(),
                strict=True,
            )
        ]
        assert (len(pairs) > len(set(pairs))) == PLANTED[domain].repeats, domain


def mutual_information(pairs: list[tuple[int, int]]) -> float:
    """In nats, between two labels of 0 to 9."""
    joint = np.zeros((10, 10))
    np.add.at(joint, tuple(np.array(pairs).T), 1)
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / independent[there])).sum())


def test_planted_relations_are_there() -> None:
    world = World(SampleSettings())
    last: dict[tuple[str, int], int] = {}
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for _ in range(42):
        events = world.step()
        order = np.argsort(events.ts, kind="stable")
        for code, user, item in zip(
            events.domain[order].tolist(), events.user[order].tolist(), events.item[order].tolist(), strict=True
        ):
            domain = DOMAINS[code]
            shop = domain in TASTE_DOMAINS
            label = int(world.item_taste(domain)[item]) if shop else int(world.route[user] % 10)
            for source in DOMAINS:
                if (source, user) in last:
                    pairs.setdefault((source, domain), []).append((last[source, user], label))
            last[domain, user] = label
    assert mutual_information(pairs["books", "coupons"]) > 0.5  # of at most ln 10 = 2.3
    own = mutual_information(pairs["coupons", "coupons"])
    assert mutual_information(pairs["books", "coupons"]) > 1.5 * own  # coupons live off the others
    for a in TASTE_DOMAINS[:3]:
        for b in TASTE_DOMAINS:
            assert mutual_information(pairs[a, b]) > 0.3, (a, b)
        assert mutual_information(pairs[a, "navigation"]) < 0.05
        assert mutual_information(pairs["navigation", a]) < 0.05


def test_users_and_items_keep_arriving_and_some_users_live_in_few_domains() -> None:
    world = World(SampleSettings())
    days = [world.step()]
    before = {domain: world.n_items(domain) for domain in DOMAINS}
    days += [world.step() for _ in range(27)]
    assert world.interest.size == 3_000
    assert all(world.n_items(domain) > before[domain] for domain in DOMAINS)
    user = np.concatenate([d.user for d in days])
    domain = np.concatenate([d.domain for d in days])
    sizes = np.bincount(np.unique(user * 5 + domain) // 5)
    assert 0.2 < np.mean(sizes[sizes > 0] <= 2) < 0.6
    counts = np.bincount(domain, minlength=5)
    assert 50_000 < counts.sum() < 70_000
    assert 8 < counts[0] / counts[3] < 13  # coupons are sparse
    assert days[6].ts[days[6].domain == 0].max() % 86_400 == 0  # a day of books with dates only


def test_ids_are_unique_in_a_domain_and_two_are_shared_between_two() -> None:
    names = {domain: [item_id(domain, 7, n) for n in range(700)] for domain in DOMAINS}
    assert all(len(set(ids)) == 700 for ids in names.values())
    assert len(set(names["books"]) & set(names["toys"])) == 2
    assert len({user_id(7, n) for n in range(5_000)}) == 5_000


def test_a_killed_write_leaves_no_day_and_the_next_run_completes_it(tmp_path: Path) -> None:
    def killed(folder: Path) -> None:
        (folder / "books.csv").write_text("half a li")
        assert not (folder / "_SUCCESS").exists()  # the marker comes last
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_day(tmp_path, day(0), killed)
    assert not (tmp_path / "2024-01-01").exists()
    (tmp_path / ".2024-01-01.dead0000.partial").mkdir()  # what SIGKILL would leave
    (tmp_path / "2024-01-01").mkdir()  # a folder without its marker is not a day
    (tmp_path / "2024-01-01" / "stray.csv").touch()
    write_days(tmp_path, day(0), day(0), settings=SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["2024-01-01"]
    names = {p.name for p in (tmp_path / "2024-01-01").iterdir()}
    assert names == {planted.file for planted in PLANTED.values()} | {"_SUCCESS"}


def test_a_complete_day_is_left_alone_and_a_slower_writer_yields(tmp_path: Path) -> None:
    (folder,) = write_days(tmp_path, day(0), day(0), settings=SMALL)
    (folder / "books.csv").write_text("ours")
    write_days(tmp_path, day(0), day(0), settings=SMALL)
    assert (folder / "books.csv").read_text() == "ours"

    def slow(partial: Path) -> None:
        publish_day(tmp_path, day(1), lambda other: (other / "a").write_text("first") and None)
        (partial / "a").write_text("second")  # its folder is gone by now

    publish_day(tmp_path, day(1), slow)
    assert (tmp_path / "2024-01-02" / "a").read_text() == "first"
    assert not list(tmp_path.glob(".*"))


def test_requests_it_cannot_meet_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SampleError, match="before the sample's first day 2024-01-01"):
        write_days(tmp_path, date(2023, 12, 31), day(0), settings=SMALL)
    with pytest.raises(
        SampleError, match=r"log\.csv: a Parquet file is written, give it a name that ends in \.parquet"
    ):
        write_log(tmp_path / "log.csv", day(0), day(0), settings=SMALL)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for arguments in (
        ["--landing", str(tmp_path), "--from", "2024-01-02", "--to", "2024-01-01"],
        ["--landing", str(tmp_path), "--from", "2024-01-01", "--users", "3"],
        ["--landing", str(tmp_path / "file"), "--from", "2024-01-01"],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["--describe"]) == 0
    described = capsys.readouterr().out
    assert all(f"{domain}: " in described for domain in DOMAINS)


def test_the_command_line_writes_what_the_function_writes(tmp_path: Path) -> None:
    options = ["--users", "150", "--no-late", "--seed", "3"]
    assert main(["--landing", str(tmp_path / "a"), "--from", "2024-01-01", "--to", "2024-01-02", *options]) == 0
    settings = SampleSettings(seed=3, n_users=150, late=False)
    write_days(tmp_path / "b", day(0), day(1), settings=settings)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_log_for_the_study_kit_holds_the_sound_events_of_all_days(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "deep" / "log.parquet"
    arguments = ["--log", str(log), "--from", "2024-01-02", "--to", "2024-01-04", "--users", "150"]
    assert main(arguments) == 0

    table = pq.read_table(log)
    accounts = [day_accounts(day(n), settings=SMALL) for n in (1, 2, 3)]
    expected = Counter()
    for account in accounts:
        expected.update({domain: count["events"] for domain, count in account.items()})
    assert Counter(table["domain"].to_pylist()) == expected
    assert table.column_names == ["user", "item", "domain", "ts"]
    assert all(table[name].null_count == 0 for name in table.column_names)
    assert f"{table.num_rows:,} events" in capsys.readouterr().out
    assert [path.name for path in log.parent.iterdir()] == ["log.parquet"]


def test_a_log_and_landing_days_are_not_asked_for_at_once(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--log", str(tmp_path / "a"), "--landing", str(tmp_path / "b"), "--from", "2024-01-01"])
