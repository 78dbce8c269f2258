"""Every table and column of the lakehouse, in one place: names, types, grain, meaning.

The Iceberg tables, the Spark schemas, the audits, the comments in analytics.duckdb and docs/tables.md are all made
from these definitions.
"""

from __future__ import annotations

from jobs.table_form import Column, Table

SPLITS = ("train", "valid", "test", "serve")
VIEWS = ("cross", "single", "blend")
ANYONE = "__anyone__"
"""user_id of the popularity lists that serve users whom the night has never seen."""
CHAMPION_ARM, CANDIDATE_ARM = ARMS = ("champion", "candidate")
"""Whose lists a user gets: the champion's, or those of the candidate of an experiment."""
SERVED, NOT_SERVED = "served", "not served"

ROLLED_BACK = "rolled_back"
"""The decision of nights whose lists jobs.rollback withdrew, and the tag of the version that made them."""
_DS = Column(
    "ds",
    "date",
    "the logical day of the night; its cutoff is midnight UTC after it",
    example="2024-01-29",
    unit="day, UTC",
)
_RUN = Column("run_id", "string", "the run that wrote the row", example="manual__2024-01-30T04:00:00+00:00")

INTERACTIONS = Table(
    "interactions",
    "one event",
    "arrival_ds",
    (
        Column("user_id", "string", "user, as in the log", example="A23PWGSVHEAJ2K"),
        Column(
            "item_id",
            "string",
            "item, as in the log; the same id in two domains is two items",
            example="B0ZGGSVVDT",
        ),
        Column("domain", "string", "domain of the item", example="toys"),
        Column(
            "ts",
            "timestamp",
            "time of the event, UTC",
            example="2024-01-29 15:59:56",
            unit="UTC, to the microsecond",
        ),
        Column(
            "event_id",
            "bigint",
            "xxhash64 of (user_id, item_id, domain, ts); breaks ties in time",
            example="4901009820078851359",
            unit="hash",
        ),
        Column("event_day", "date", "day of ts, UTC", example="2024-01-29", unit="day, UTC"),
        Column("source", "string", "the configured source that brought it", example="toys"),
        Column(
            "item_index",
            "int",
            "the item's index within its domain, as in items",
            example="181",
            unit="place in the domain, from 1",
        ),
        Column(
            "known_ds",
            "date",
            "the first night that counts it: arrival_ds, or that of its item in items where that is later",
            example="2024-01-29",
            unit="day, UTC",
        ),
        Column(
            "arrival_ds",
            "date",
            "the landing day that brought it: that of ts, or a later one for late events",
            example="2024-01-29",
            unit="day, UTC",
        ),
    ),
)
REJECTED_INTERACTIONS = Table(
    "rejected_interactions",
    "one refused input line",
    "arrival_ds",
    (
        Column(
            "reason",
            "string",
            "why, e.g. null_user, bad_time, future_time, broken_line, unknown_domain",
            example="bad_time",
        ),
        Column("source", "string", "the configured source", example="books"),
        Column("file", "string", "file name inside the landing day", example="books.csv"),
        Column(
            "content",
            "string",
            "the line as read (the first 1,000 characters)",
            example="AFCWWWHAIKWHQX,470851766X,5.0,yesterday",
        ),
        Column("arrival_ds", "date", "the landing day that brought it", example="2024-01-29", unit="day, UTC"),
    ),
)
ITEMS = Table(
    "items",
    "one item of one domain; append-only",
    "domain",
    (
        Column("domain", "string", "domain of the item", example="toys"),
        Column("item_id", "string", "item, as in the log", example="B0ZGGSVVDT"),
        Column(
            "item_index",
            "int",
            "its index within the domain, from 1, never changed; 0 is padding",
            example="181",
            unit="place in the domain, from 1",
        ),
        Column(
            "arrival_ds",
            "date",
            "the landing day of its first event: nights before it do not know the item",
            example="2024-01-29",
            unit="day, UTC",
        ),
    ),
)
SEQUENCES = Table(
    "sequences",
    "one user whose events changed since the night before; the latest row of a user is the one that counts",
    "ds",
    (
        Column("user_id", "string", "user", example="A23PWGSVHEAJ2K"),
        Column(
            "items",
            "array<int>",
            "item indexes within their domains of the kept events, oldest first",
            example="[203, 100, 237]",
            unit="places in their domains, from 1",
        ),
        Column(
            "domains",
            "array<int>",
            "domain codes of the kept events, from 1 in the order of the settings",
            example="[5, 5, 1]",
            unit="codes, from 1",
        ),
        Column(
            "times",
            "array<bigint>",
            "times of the kept events, microseconds since 1970 UTC",
            example="[1704396573000000, 1704397075000000]",
            unit="microseconds since 1970 UTC",
        ),
        Column(
            "event_ids",
            "array<bigint>",
            "event ids of the kept events; they break ties in time",
            example="[2012171090229835946, 6945440193632048543]",
            unit="hashes",
        ),
        Column(
            "older_items",
            "array<bigint>",
            "domain code << 32 | item index of all events that are not kept, each once, ascending",
            example="[4294967313]",
            unit="code * 2^32 + place",
        ),
        Column(
            "n_events",
            "bigint",
            "all events of the user that the night knew, kept or not",
            example="10",
            unit="events",
        ),
        _DS,
    ),
)
NIGHTS = Table(
    "nights",
    "one published night",
    "ds",
    (
        _DS,
        _RUN,
        Column(
            "interactions_snapshot",
            "bigint",
            "Iceberg snapshot that was read",
            example="3190552134475623141",
            unit="Iceberg snapshot id",
        ),
        Column(
            "items_snapshot",
            "bigint",
            "Iceberg snapshot that was read",
            example="7714420083366118920",
            unit="Iceberg snapshot id",
        ),
        Column(
            "sequences_snapshot",
            "bigint",
            "Iceberg snapshot that was written and read",
            example="5290045168773312908",
            unit="Iceberg snapshot id",
        ),
        Column(
            "recommendations_snapshot",
            "bigint",
            "Iceberg snapshot that was written",
            example="8861130094512227745",
            unit="Iceberg snapshot id",
        ),
        Column("served_version", "string", "registry version of the model that scored", example="2"),
        Column(
            "champion_before",
            "string",
            "version that was champion when the night began",
            optional=True,
            example="1",
        ),
        Column("challenger", "string", "version that tonight's training registered", optional=True, example="2"),
        Column(
            "decision",
            "string",
            "promoted, refused, no_challenger (training failed or was not due), rolled_back (jobs.rollback: the "
            "lists of this night are shown no more)",
            example="promoted",
        ),
        Column(
            "reason", "string", "why, in words", example="no objection in 5 of 5 domains with at least 20 cases"
        ),
        Column("code_version", "string", "git commit of the jobs", example="b9135e636a81"),
        Column(
            "published_at",
            "timestamp",
            "when the night was published, UTC",
            example="2026-01-30 00:41:07",
            unit="UTC",
        ),
    ),
)
RECOMMENDATIONS = Table(
    "recommendations",
    "one user, domain and rank",
    "ds",
    (
        Column(
            "user_id", "string", f"user; '{ANYONE}' holds the list for users never seen", example="A23PWGSVHEAJ2K"
        ),
        Column("domain", "string", "domain of the item", example="toys"),
        Column("rank", "int", "1 is best", example="1", unit="place, from 1"),
        Column("item_id", "string", "recommended item", example="B0ZGGSVVDT"),
        Column(
            "score",
            "double",
            "model logit (source = model) or share of recent events (source = popularity)",
            example="7.31",
            unit="logit, or share of events (0 to 1)",
        ),
        Column("source", "string", "model, or popularity (short lists, cold users)", example="model"),
        Column("model_version", "string", "registry version of the model that scored", example="2"),
        Column(
            "arm",
            "string",
            "A/B arm: champion, or candidate for its users while an experiment runs",
            example="champion",
        ),
        _DS,
    ),
)
EXPERIMENTS = Table(
    "experiments",
    "one arm of the experiment of one published night",
    "ds",
    (
        Column(
            "experiment",
            "string",
            "name of the experiment; it also decides who is in which arm",
            example="first-test",
        ),
        Column("arm", "string", "champion or candidate", example="champion"),
        Column(
            "share",
            "double",
            "share of the users that the settings give to the arm",
            example="0.5",
            unit="share, 0 to 1",
        ),
        Column(
            "threshold",
            "string",
            "users whose md5(experiment || ':' || user_id) sorts before it are the candidate's, in hex",
            example="80000000",
        ),
        Column(
            "model_version", "string", "registry version of the arm's lists; null: none", optional=True, example="2"
        ),
        Column("users", "bigint", "users with lists of the arm", example="1427", unit="users"),
        Column(
            "outcome",
            "string",
            "served; not served: the champion serves all users; rolled_back: served, withdrawn by jobs.rollback",
            example="served",
        ),
        Column(
            "reason",
            "string",
            "why, in words; '' where the arm is served",
            example="no version is named challenger",
        ),
        _RUN,
        _DS,
    ),
)
IMPRESSIONS = Table(
    "impressions",
    "one item shown to one user at one moment, as one landing day tells it",
    "arrival_ds",
    (
        Column("user_id", "string", "user, as in the click log", example="A23PWGSVHEAJ2K"),
        Column("item_id", "string", "item that was shown", example="B0ZGGSVVDT"),
        Column("domain", "string", "domain of the item", example="toys"),
        Column(
            "ts",
            "timestamp",
            "when it was shown, UTC",
            example="2024-01-29 15:59:56",
            unit="UTC, to the microsecond",
        ),
        Column(
            "clicked", "boolean", "whether one of the day's lines about it says that it was clicked", example="true"
        ),
        Column(
            "arm",
            "string",
            "A/B arm that was shown: as the log says, else listed_arm",
            optional=True,
            example="champion",
        ),
        Column(
            "listed_arm",
            "string",
            "arm of the user's lists of night_ds; null: none, a stranger",
            optional=True,
            example="champion",
        ),
        Column(
            "night_ds",
            "date",
            "night whose lists were shown: the newest published one before event_day",
            optional=True,
            example="2024-01-29",
            unit="day, UTC",
        ),
        Column("event_day", "date", "day of ts, UTC", example="2024-01-29", unit="day, UTC"),
        Column("source", "string", "the configured click source that brought it", example="clicks"),
        Column("arrival_ds", "date", "the landing day that brought it", example="2024-01-29", unit="day, UTC"),
    ),
)
REJECTED_IMPRESSIONS = Table(
    "rejected_impressions",
    "one refused line of a click log",
    "arrival_ds",
    REJECTED_INTERACTIONS.columns,
)
DOMAIN_METRICS = Table(
    "domain_metrics",
    "one run, model version, domain, split, view and metric",
    "ds",
    (
        _RUN,
        Column(
            "model_version",
            "string",
            "registry version that was measured; 'popularity' for the baseline",
            example="2",
        ),
        Column("role", "string", "challenger, champion or popularity", example="challenger"),
        Column(
            "domain",
            "string",
            "domain; 'macro' the plain mean over domains, 'min' the worst domain",
            example="toys",
        ),
        Column("split", "string", "train, valid or test", example="test"),
        Column("view", "string", "cross, single, blend, served; '' where a metric has no view", example="served"),
        Column(
            "metric",
            "string",
            "ndcg@10, ..., ntg_loss, ntg_ndcg, ntg_served, ntg_view, lambda, weight; epoch, epochs_at_most: which "
            "epoch of training was kept, of how many; gate_champion, gate_single, gate_popularity: the gate's "
            "metric of the served view less that rival's, paired",
            example="ndcg@10",
        ),
        Column("value", "double", "the value", example="0.2502", unit="unit of the metric"),
        Column(
            "low",
            "double",
            "lower end of the 95 % bootstrap interval over users",
            optional=True,
            example="0.2391",
            unit="unit of the metric",
        ),
        Column(
            "high",
            "double",
            "upper end of the 95 % bootstrap interval over users",
            optional=True,
            example="0.2617",
            unit="unit of the metric",
        ),
        Column("cases", "bigint", "number of cases behind it", optional=True, example="812", unit="cases"),
        _DS,
    ),
)
GATE_CHECKS = Table(
    "gate_checks",
    "one rule of the gate in one domain, in one run; and one row with rule = 'decision'",
    "ds",
    (
        _RUN,
        Column("challenger", "string", "registry version that wanted to be promoted", optional=True, example="2"),
        Column("champion", "string", "registry version that was champion", optional=True, example="1"),
        Column(
            "rule",
            "string",
            "champion, single, popularity (who is compared with), cases, warning, decision",
            example="champion",
        ),
        Column("domain", "string", "domain; '' for decision and warning", example="toys"),
        Column(
            "outcome",
            "string",
            "passed, objection, not judged, warning; of the decision: promoted, refused, no_challenger",
            example="passed",
        ),
        Column(
            "words",
            "string",
            "why, in words",
            example="toys: ndcg@10 0.251 is within 5% of the champion 0.243 or above",
        ),
        Column(
            "value",
            "double",
            "the gate's metric of the challenger's served view",
            optional=True,
            example="0.2510",
            unit="unit of the metric",
        ),
        Column(
            "rival_value",
            "double",
            "the same of the rival",
            optional=True,
            example="0.2430",
            unit="unit of the metric",
        ),
        Column(
            "low",
            "double",
            "lower end of the 95 % interval of the paired difference",
            optional=True,
            example="-0.0035",
            unit="unit of the metric",
        ),
        Column(
            "high",
            "double",
            "upper end of the 95 % interval of the paired difference",
            optional=True,
            example="0.0198",
            unit="unit of the metric",
        ),
        Column("cases", "bigint", "test cases of the domain", optional=True, example="812", unit="cases"),
        Column(
            "tolerance",
            "double",
            "relative drop that is tolerated",
            optional=True,
            example="0.05",
            unit="share, 0 to 1",
        ),
        _DS,
    ),
)
AUDITS = Table(
    "audits",
    "one expectation of one audited table of one run",
    "ds",
    (
        _RUN,
        Column("table_name", "string", "the audited table", example="interactions"),
        Column("rule", "string", "the rule in words", example="lines read = events + rejected lines + duplicates"),
        Column("success", "boolean", "did it hold", example="true"),
        Column(
            "checked",
            "bigint",
            "how many were looked at, of recommendations lists",
            optional=True,
            example="14230",
            unit="rows or lists",
        ),
        Column("failed", "bigint", "how many of them broke it", optional=True, example="0", unit="rows or lists"),
        Column("observed", "string", "what was found", example="0 of 14,230 rows break it"),
        _DS,
    ),
)


def audited_things(table_name: str) -> str:
    """What `checked` and `failed` count in audits of a table: rows, of recommendations the lists they make."""
    return "lists" if table_name == RECOMMENDATIONS.name else "rows"


STEPS = Table(
    "steps",
    "one step of one run of a night, its last attempt; the report step writes the rows and has none",
    "ds",
    (
        _RUN,
        Column("step", "string", "the step: wait_for_landing, ingest, ..., move_alias", example="train"),
        Column("attempt", "int", "which attempt of the run this was", example="1", unit="attempts, from 1"),
        Column(
            "outcome",
            "string",
            "done, nothing to do, failed, not ended (it was killed, or is still at work)",
            example="done",
        ),
        Column(
            "message",
            "string",
            "why it failed, or why there was nothing to do; '' where it is done",
            example="training.every_days = 7 and the newest version is of 2024-01-28",
        ),
        Column("started_at", "timestamp", "when its process began", example="2026-01-30 00:12:40", unit="UTC"),
        Column(
            "seconds",
            "double",
            "by the clock, from the beginning of its process to its end",
            optional=True,
            example="184.2",
            unit="seconds",
        ),
        Column(
            "peak_memory",
            "bigint",
            "the sum of the peaks of its process and of those that it started, Spark's JVM among them: an upper "
            "bound of what it held at once; null where the system does not tell",
            optional=True,
            example="1181116006",
            unit="bytes",
        ),
        _DS,
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        INTERACTIONS,
        REJECTED_INTERACTIONS,
        ITEMS,
        SEQUENCES,
        NIGHTS,
        RECOMMENDATIONS,
        EXPERIMENTS,
        IMPRESSIONS,
        REJECTED_IMPRESSIONS,
        DOMAIN_METRICS,
        GATE_CHECKS,
        AUDITS,
        STEPS,
    )
}
