"""A small lakehouse with planted numbers: nights 29 and 30 January are published, the 31st failed its audit.

Two domains, three users. One item id is hostile HTML and SQL. Tests say which numbers must come out.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.expressions import And, EqualTo

from jobs.lakehouse import Lakehouse
from jobs.schemas import SEQUENCES, TABLES
from jobs.sequence_nights import SequenceNight, shape_of
from jobs.settings import Settings
from jobs.splits import micros

D27, D28, D29, D30, D31 = (date(2024, 1, day) for day in range(27, 32))
HOSTILE = "<script>alert('b3')</script>'; drop view items; --\""
RUNS = {D29: "run-29", D30: "run-30", D31: "run-31"}

# (arrival, day of the event, user, domain, item)
EVENTS = [
    (D28, D28, "ann", "books", "b1"),
    (D28, D28, "ann", "books", "b2"),
    (D28, D28, "bob", "books", "b1"),
    (D28, D28, "bob", "toys", "t1"),
    (D28, D28, "cai", "toys", "t2"),
    (D29, D29, "ann", "toys", "t1"),
    (D29, D29, "bob", "books", "b2"),
    (D29, D27, "cai", "books", "b1"),  # two days late
    (D30, D30, "ann", "books", HOSTILE),
    (D31, D31, "bob", "toys", "t3"),
]
ITEMS = [
    ("books", "b1", 1, D28),
    ("books", "b2", 2, D28),
    ("books", HOSTILE, 3, D30),
    ("toys", "t1", 1, D28),
    ("toys", "t2", 2, D28),
    ("toys", "t3", 3, D31),
]
REJECTS = [
    (D29, "books", "bad_time", "books.csv", "ann,b1,5,yesterday"),
    (D29, "books", "bad_time", "books.csv", "ann,b2,5,never"),
    (D29, "books", "null_user", "books.csv", ",b1,5,1706500000"),
    (D30, "toys", "broken_line", "toys.csv.gz", HOSTILE),
]
# night -> (user, domain, source) -> items, best first
LISTS: dict[date, dict[tuple[str, str, str], list[str]]] = {
    D29: {
        ("ann", "books", "model popularity"): ["b1", "b2"],
        ("ann", "toys", "model model"): ["t1", "t2"],
        ("bob", "books", "model model"): ["b1", "b2"],
        ("cai", "toys", "popularity popularity"): ["t1", "t2"],
        ("__anyone__", "books", "popularity popularity"): ["b1", "b2"],
        ("__anyone__", "toys", "popularity popularity"): ["t1", "t2"],
    },
    D30: {
        ("ann", "books", "model model"): ["b1", HOSTILE],
        ("ann", "toys", "model model"): ["t2", "t1"],
        ("bob", "books", "model model"): [HOSTILE, "b2"],
        ("bob", "toys", "model"): ["t1"],
        ("cai", "toys", "popularity"): ["t1"],
        ("__anyone__", "books", "popularity popularity"): ["b1", "b2"],
        ("__anyone__", "toys", "popularity popularity"): ["t1", "t2"],
    },
}
KEPT_EPOCH = {D29: 4, D30: 3, D31: 5}  # of at most 5
# night, version, role -> domain -> (ndcg of the cross, single, served view, lambda)
QUALITY: dict[tuple[date, str, str], dict[str, tuple[float, float, float, float]]] = {
    (D29, "1", "challenger"): {"books": (0.30, 0.28, 0.31, 1.2), "toys": (0.15, 0.20, 0.199, 0.8)},
    (D30, "2", "challenger"): {"books": (0.33, 0.29, 0.34, 1.3), "toys": (0.18, 0.20, 0.21, 0.7)},
    (D30, "1", "champion"): {"books": (0.29, 0.27, 0.30, 1.2), "toys": (0.14, 0.19, 0.189, 0.8)},
    (D31, "3", "challenger"): {"books": (0.32, 0.29, 0.33, 1.3), "toys": (0.19, 0.20, 0.22, 0.7)},
}
POPULARITY = {"books": 0.10, "toys": 0.12}
AUDITS = [
    (D29, "interactions", "rows in = rows out + rejected + duplicates", True, 8, 0),
    (D29, "recommendations", "every user has a list", True, 12, 0),
    (D30, "recommendations", "every user has a list", True, 12, 0),
    (D31, "interactions", "rows in = rows out + rejected + duplicates", True, 1, 0),
    (D31, "recommendations", "no seen item where a domain does not repeat", False, 12, 5),
]
# (night, step, attempt, outcome, message, seconds, GiB)
STEPS = [
    (D29, "ingest", 1, "done", "", 20.0, 1.0),
    (D29, "train", 1, "done", "", 30.0, 2.0),
    (D30, "wait_for_landing", 1, "done", "", 0.5, 0.25),
    (D30, "ingest", 1, "done", "", 24.0, 1.5),
    (D30, "train", 2, "done", "", 400.0, 2.5),
    (D31, "ingest", 1, "done", "", 22.0, 1.0),
    (D31, "score", 1, "failed", "audit failed, nothing was published", 12.0, 1.0),
]
# An experiment on 29 January: (landing day, day shown, user, item, clicked, arm shown, arm of the user's lists)
SHOWN = [
    (D30, D30, "ann", "b1", True, "champion", "champion"),
    (D30, D30, "ann", "b2", False, "champion", "champion"),
    (D31, D30, "ann", "b2", True, "champion", "champion"),  # its click came a day later
    (D30, D30, "bob", "b1", False, "champion", "champion"),
    (D30, D30, "bob", "t1", False, "champion", "champion"),
    (D30, D30, "cai", "b1", True, "candidate", "candidate"),
    (D30, D30, "cai", "b2", True, "candidate", "candidate"),
    (D30, D30, "cai", "t2", True, "candidate", "candidate"),
    (D30, D30, "dee", "b1", False, "candidate", "candidate"),
    (D30, D30, "dee", "b2", True, "candidate", "candidate"),
    (D30, D30, "dee", "t1", True, "champion", "candidate"),  # a fault of serving
    (D30, D30, "new", "b1", True, "champion", None),  # a stranger
    (D31, D31, "ann", "b1", False, "champion", "champion"),  # from the lists of the 30th: no experiment
]


CONFIG = """
state_dir = "{state}"
[night]
bootstrap_through = 2024-01-28
[sequences]
max_length = 2
valid_days = 1
test_days = 1
[domains.books]
[domains.toys]
[[sources]]
name = "books"
domain = "books"
files = "books.csv"
format = "csv"
columns = ["user", "item", "time"]
user = "user"
item = "item"
time = "time"
time_unit = "s"
"""


def write_config(folder: Path) -> Path:
    """A configuration file whose state lies beside it."""
    file = folder / "syncrec.toml"
    file.write_text(CONFIG.format(state=folder / "state"))
    return file


def fill(settings: Settings, nights: tuple[date, ...] = (D29, D30, D31)) -> Lakehouse:
    """Fill the tables with what these nights (and the bootstrap day before them) left behind."""
    lakehouse = Lakehouse(settings)
    lakehouse.create_tables()
    for day in (D28, *nights):
        put(lakehouse, "interactions", day, [_event(n, *e) for n, e in enumerate(EVENTS) if e[0] == day])
        put(lakehouse, "rejected_interactions", day, [_reject(*r) for r in REJECTS if r[0] == day])
        for domain in ("books", "toys"):
            put(lakehouse, "items", day, [_item(*i) for i in ITEMS if (i[0], i[3]) == (domain, day)], domain)
        put(lakehouse, "recommendations", day, _recommendations(day))
        put(lakehouse, "experiments", day, _arms(day))
        put(lakehouse, "impressions", day, [_shown(*s) for s in SHOWN if s[0] == day])
        put(lakehouse, "domain_metrics", day, _metrics(day))
        put(lakehouse, "gate_checks", day, _checks(day))
        put(lakehouse, "steps", day, [_step(n, *row) for n, row in enumerate(STEPS) if row[0] == day])
        put(lakehouse, "audits", day, [_audit(*a) for a in AUDITS if a[0] == day])
        if day in nights:
            _put_sequences(lakehouse, settings, day, first=day == nights[0])
        if day in LISTS:
            put(lakehouse, "nights", day, [_night(day, lakehouse)])
    return lakehouse


def put(lakehouse: Lakehouse, table: str, day: date, rows: list[dict[str, Any]], domain: str | None = None) -> None:
    """Replace the day's rows of one table."""
    schema = TABLES[table].arrow_schema
    column = "arrival_ds" if "arrival_ds" in schema.names else "ds"
    run_id = RUNS.get(day, "bootstrap")
    files = lakehouse.stage_arrow(table, pa.Table.from_pylist(rows, schema=schema), day, run_id)
    where = EqualTo(column, day.isoformat())
    lakehouse.replace(
        table, And(where, EqualTo("domain", domain)) if domain else where, files, ds=day, run_id=run_id
    )


def _checks(day: date) -> list[dict[str, Any]]:
    """The gate lets books pass and objects to toys."""
    run = {"run_id": RUNS.get(day, "bootstrap"), "challenger": "2", "champion": "1", "ds": day}
    rule = {"rule": "champion", "value": 0.1, "rival_value": 0.2, "low": -0.15, "high": -0.05, "cases": 30}
    return [
        {**run, **rule, "domain": "books", "outcome": "passed", "words": "books: fine", "tolerance": 0.6},
        {**run, **rule, "domain": "toys", "outcome": "objection", "words": "toys: bad", "tolerance": 0.05},
        {**run, "rule": "decision", "domain": "", "outcome": "refused", "words": "toys: bad"},
    ]


def _put_sequences(lakehouse: Lakehouse, settings: Settings, day: date, first: bool) -> None:
    """The rows of the users whose events came that night; all users on the first one."""
    known = sorted((_event(n, *e) for n, e in enumerate(EVENTS) if e[0] <= day), key=lambda e: e["ts"])
    own: dict[str, list[dict[str, Any]]] = {}
    for event in known:
        own.setdefault(event["user_id"], []).append(event)
    rows = [
        {
            "user_id": user,
            "items": [e["item_index"] for e in events],
            "domains": [settings.domain_names.index(e["domain"]) + 1 for e in events],
            "times": [micros(e["ts"]) for e in events],
            "event_ids": [e["event_id"] for e in events],
            "older_items": [],
            "n_events": len(events),
            "ds": day,
        }
        for user, events in own.items()
        if first or any(e["arrival_ds"] == day for e in events)
    ]
    night = SequenceNight(
        ds=day, base_ds=D29, previous_ds=None if first else day - timedelta(days=1), previous_snapshot=None,
        interactions_snapshot=lakehouse.current_snapshot("interactions"), shape=shape_of(settings),
        kind="full" if first else "incremental", reason="planted", events=len(known),
    )  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=SEQUENCES.arrow_schema)
    files = lakehouse.stage_arrow("sequences", table, day, RUNS[day])
    where = EqualTo("ds", day.isoformat())
    lakehouse.replace("sequences", where, files, ds=day, run_id=RUNS[day], properties=night.properties())


def _event(number: int, arrival: date, day: date, user: str, domain: str, item: str) -> dict[str, Any]:
    ts = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(minutes=number)
    index = next(i for d, name, i, _ in ITEMS if (d, name) == (domain, item))
    values = {"user_id": user, "item_id": item, "domain": domain, "source": domain, "item_index": index}
    values |= {"known_ds": arrival}
    return values | {"ts": ts, "event_id": number, "event_day": day, "arrival_ds": arrival}


def _reject(arrival: date, source: str, reason: str, file: str, content: str) -> dict[str, Any]:
    return {"arrival_ds": arrival, "source": source, "reason": reason, "file": file, "content": content}


def _item(domain: str, item: str, index: int, arrival: date) -> dict[str, Any]:
    return {"domain": domain, "item_id": item, "item_index": index, "arrival_ds": arrival}


def _recommendations(day: date) -> list[dict[str, Any]]:
    return [
        {
            "user_id": user,
            "domain": domain,
            "rank": rank,
            "item_id": item,
            "score": 3.0 - rank if source == "model" else 0.5 / rank,
            "source": source,
            "model_version": "1" if day == D29 else "2",
            "arm": "champion",
            "ds": day,
        }
        for (user, domain, sources), items in LISTS.get(day, {}).items()
        for rank, (source, item) in enumerate(zip(sources.split(), items, strict=True), start=1)
    ]


def _arms(day: date) -> list[dict[str, Any]]:
    whole = {"experiment": "wider", "threshold": "80000000", "outcome": "served", "reason": "", "ds": day}
    arms = {"champion": ("1", 2), "candidate": ("0", 2)} if day == D29 else {}
    return [
        {**whole, "arm": arm, "share": 0.5, "model_version": version, "users": users, "run_id": RUNS[day]}
        for arm, (version, users) in arms.items()
    ]


def _shown(
    arrival: date, day: date, user: str, item: str, clicked: bool, arm: str, listed: str | None
) -> dict[str, Any]:
    ts = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    values = {"user_id": user, "item_id": item, "domain": "books" if item[0] == "b" else "toys", "ts": ts}
    values |= {"clicked": clicked, "arm": arm, "listed_arm": listed, "night_ds": day - timedelta(days=1)}
    return values | {"event_day": day, "source": "clicks", "arrival_ds": arrival}


def _metrics(day: date) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(version: str, role: str, split: str, domain: str, view: str, metric: str, value: float) -> None:
        near = {"low": value - 0.01, "high": value + 0.01, "cases": 100} if split != "train" else {}
        key = {"run_id": RUNS[day], "model_version": version, "role": role, "domain": domain, "ds": day}
        rows.append(key | {"split": split, "view": view, "metric": metric, "value": value} | near)

    def add_ranking(version: str, role: str, domain: str, view: str, ndcg: float) -> None:
        for metric, value in (("ndcg@10", ndcg), ("hr@10", 2 * ndcg), ("mrr@10", ndcg / 2), ("ndcg@5", ndcg / 3)):
            add(version, role, "test", domain, view, metric, value)

    for (night, version, role), domains in QUALITY.items():
        if night != day:
            continue
        books, toys = domains["books"], domains["toys"]
        macro = tuple((b + t) / 2 for b, t in zip(books, toys, strict=True))
        least = tuple(min(b, t) for b, t in zip(books, toys, strict=True))
        for domain, (cross, single, served, weight) in {**domains, "macro": macro, "min": least}.items():
            for view, ndcg in (("cross", cross), ("single", single), ("served", served)):
                add_ranking(version, role, domain, view, ndcg)
            add(version, role, "test", domain, "", "ntg_ndcg", cross - single)
            add(version, role, "test", domain, "", "ntg_served", served - single)
            if role == "challenger" and domain == "macro":
                add(version, role, "train", domain, "", "epoch", KEPT_EPOCH[night])
                add(version, role, "train", domain, "", "epochs_at_most", 5)
            if role == "challenger" and domain in domains:
                add(version, role, "train", domain, "", "ntg_loss", 10 * (cross - single))
                add(version, role, "train", domain, "", "lambda", weight)
                add(version, role, "valid", domain, "cross", "ntg_view", cross - single)
                add(version, role, "valid", domain, "blend", "ntg_view", served - single)
                view = "blend" if served - 0.01 > single else "single"
                add(version, role, "valid", domain, view, "ntg_served", served - single if view == "blend" else 0)
    if rows:
        for domain, ndcg in POPULARITY.items():
            add_ranking("popularity", "popularity", domain, "", ndcg)
        add_ranking("popularity", "popularity", "macro", "", sum(POPULARITY.values()) / 2)
        add_ranking("popularity", "popularity", "min", "", min(POPULARITY.values()))
    return rows


def _audit(day: date, table: str, rule: str, success: bool, checked: int, failed: int) -> dict[str, Any]:
    values = {"table_name": table, "rule": rule, "success": success, "checked": checked, "failed": failed}
    return values | {"run_id": RUNS[day], "observed": f"{failed} of {checked} rows", "ds": day}


def _step(
    number: int, day: date, step: str, attempt: int, outcome: str, message: str, seconds: float, gib: float
) -> dict[str, Any]:
    started = datetime(day.year, day.month, day.day, 1, tzinfo=UTC) + timedelta(days=1, minutes=number)
    values = {"step": step, "attempt": attempt, "outcome": outcome, "message": message, "started_at": started}
    return values | {"seconds": seconds, "peak_memory": int(gib * 2**30), "run_id": RUNS[day], "ds": day}


def _night(day: date, lakehouse: Lakehouse) -> dict[str, Any]:
    pinned = ("interactions", "items", "sequences", "recommendations")
    first = day == D29
    return {
        "ds": day,
        "run_id": RUNS[day],
        **{f"{name}_snapshot": lakehouse.current_snapshot(name) for name in pinned},
        "served_version": "1" if first else "2",
        "champion_before": None if first else "1",
        "challenger": "1" if first else "2",
        "decision": "promoted",
        "reason": "first champion" if first else "served ndcg@10 rose in every domain",
        "code_version": "abc123",
        "published_at": datetime(day.year, day.month, day.day, 3, tzinfo=UTC) + timedelta(days=1),
    }
