"""Every table and column of the lakehouse, in one place: names, types, grain, meaning.

The Iceberg tables, the Spark schemas, the audits and the docs are all made from these definitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SPLITS = ("train", "valid", "test", "serve")
VIEWS = ("cross", "single", "blend")
ANYONE = "__anyone__"
"""user_id of the popularity lists that serve users whom the night has never seen."""
CHAMPION_ARM, CANDIDATE_ARM = ARMS = ("champion", "candidate")
"""Whose lists a user gets: the champion's, or those of the candidate of an experiment."""
SERVED, NOT_SERVED = "served", "not served"

_ARROW = {
    "string": pa.string(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "array<int>": pa.list_(pa.field("element", pa.int32())),
    "array<bigint>": pa.list_(pa.field("element", pa.int64())),
}


@dataclass(frozen=True)
class Column:
    """One column: name, Spark SQL type, meaning (with units)."""

    name: str
    type: str
    doc: str
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """One table: grain in words, the partition column, the columns."""

    name: str
    grain: str
    partition: str
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> list[str]:
        """The column names in order."""
        return [column.name for column in self.columns]

    @property
    def spark_ddl(self) -> str:
        """The schema in Spark's DDL form, for spark.read.schema(...)."""
        return ", ".join(f"`{column.name}` {column.type}" for column in self.columns)

    @property
    def arrow_schema(self) -> pa.Schema:
        """The schema for PyArrow and PyIceberg, with the meanings as docs."""
        return pa.schema(
            [pa.field(c.name, _ARROW[c.type], nullable=True, metadata={"doc": c.doc}) for c in self.columns]
        )


ROLLED_BACK = "rolled_back"
"""The decision of nights whose lists jobs.rollback withdrew, and the tag of the version that made them."""
_DS = Column("ds", "date", "the logical day of the night; its cutoff is midnight UTC after it")
_RUN = Column("run_id", "string", "the run that wrote the row")

INTERACTIONS = Table(
    "interactions",
    "one event",
    "arrival_ds",
    (
        Column("user_id", "string", "user, as in the log"),
        Column("item_id", "string", "item, as in the log; the same id in two domains is two items"),
        Column("domain", "string", "domain of the item"),
        Column("ts", "timestamp", "time of the event, UTC"),
        Column("event_id", "bigint", "xxhash64 of (user_id, item_id, domain, ts); breaks ties in time"),
        Column("event_day", "date", "day of ts, UTC"),
        Column("source", "string", "the configured source that brought it"),
        Column("item_index", "int", "the item's index within its domain, as in items"),
        Column(
            "known_ds",
            "date",
            "the first night that counts it: arrival_ds, or that of its item in items where that is later",
        ),
        Column(
            "arrival_ds",
            "date",
            "the landing day that brought it; earlier than ts never, later for late events",
        ),
    ),
)
REJECTED_INTERACTIONS = Table(
    "rejected_interactions",
    "one refused input line",
    "arrival_ds",
    (
        Column("reason", "string", "why, e.g. null_user, bad_time, future_time, broken_line, unknown_domain"),
        Column("source", "string", "the configured source"),
        Column("file", "string", "file name inside the landing day"),
        Column("content", "string", "the line as read (the first 1,000 characters)"),
        Column("arrival_ds", "date", "the landing day that brought it"),
    ),
)
ITEMS = Table(
    "items",
    "one item of one domain; append-only",
    "domain",
    (
        Column("domain", "string", "domain of the item"),
        Column("item_id", "string", "item, as in the log"),
        Column("item_index", "int", "its index within the domain, from 1, never changed; 0 is padding"),
        Column("arrival_ds", "date", "the landing day of its first event: nights before it do not know the item"),
    ),
)
SEQUENCES = Table(
    "sequences",
    "one user whose events changed since the night before; the latest row of a user is the one that counts",
    "ds",
    (
        Column("user_id", "string", "user"),
        Column("items", "array<int>", "item indexes within their domains of the kept events, oldest first"),
        Column("domains", "array<int>", "domain codes of the kept events, from 1 in the order of the settings"),
        Column("times", "array<bigint>", "times of the kept events, microseconds since 1970 UTC"),
        Column("event_ids", "array<bigint>", "event ids of the kept events; they break ties in time"),
        Column(
            "older_items",
            "array<bigint>",
            "domain code << 32 | item index of all events that are not kept, each once, ascending",
        ),
        Column("n_events", "bigint", "all events of the user that the night knew, kept or not"),
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
        Column("interactions_snapshot", "bigint", "Iceberg snapshot that was read"),
        Column("items_snapshot", "bigint", "Iceberg snapshot that was read"),
        Column("sequences_snapshot", "bigint", "Iceberg snapshot that was written and read"),
        Column("recommendations_snapshot", "bigint", "Iceberg snapshot that was written"),
        Column("served_version", "string", "registry version of the model that scored"),
        Column("champion_before", "string", "version that was champion when the night began", optional=True),
        Column("challenger", "string", "version that tonight's training registered", optional=True),
        Column(
            "decision",
            "string",
            "promoted, refused, no_challenger (training failed or was not due), rolled_back (jobs.rollback: the "
            "lists of this night are shown no more)",
        ),
        Column("reason", "string", "why, in words"),
        Column("code_version", "string", "git commit of the jobs"),
        Column("published_at", "timestamp", "when the night was published, UTC"),
    ),
)
RECOMMENDATIONS = Table(
    "recommendations",
    "one user, domain and rank",
    "ds",
    (
        Column("user_id", "string", f"user; '{ANYONE}' holds the list for users never seen"),
        Column("domain", "string", "domain of the item"),
        Column("rank", "int", "1 is best"),
        Column("item_id", "string", "recommended item"),
        Column("score", "double", "model logit (source = model) or share of recent events (source = popularity)"),
        Column("source", "string", "model, or popularity (short lists, cold users)"),
        Column("model_version", "string", "registry version of the model that scored"),
        Column("arm", "string", "A/B arm: champion, or candidate for its users while an experiment runs"),
        _DS,
    ),
)
EXPERIMENTS = Table(
    "experiments",
    "one arm of the experiment of one published night",
    "ds",
    (
        Column("experiment", "string", "name of the experiment; it also decides who is in which arm"),
        Column("arm", "string", "champion or candidate"),
        Column("share", "double", "share of the users that the settings give to the arm"),
        Column(
            "threshold",
            "string",
            "users whose md5(experiment || ':' || user_id) sorts before it are the candidate's, in hex",
        ),
        Column("model_version", "string", "registry version of the arm's lists; null: none", optional=True),
        Column("users", "bigint", "users with lists of the arm"),
        Column(
            "outcome",
            "string",
            "served; not served: the champion serves all users; rolled_back: served, withdrawn by jobs.rollback",
        ),
        Column("reason", "string", "why, in words; '' where the arm is served"),
        _RUN,
        _DS,
    ),
)
IMPRESSIONS = Table(
    "impressions",
    "one item shown to one user at one moment, as one landing day tells it",
    "arrival_ds",
    (
        Column("user_id", "string", "user, as in the click log"),
        Column("item_id", "string", "item that was shown"),
        Column("domain", "string", "domain of the item"),
        Column("ts", "timestamp", "when it was shown, UTC"),
        Column("clicked", "boolean", "whether one of the day's lines about it says that it was clicked"),
        Column("arm", "string", "A/B arm that was shown: as the log says, else listed_arm", optional=True),
        Column(
            "listed_arm", "string", "arm of the user's lists of night_ds; null: none, a stranger", optional=True
        ),
        Column(
            "night_ds",
            "date",
            "night whose lists were shown: the newest published one before event_day",
            optional=True,
        ),
        Column("event_day", "date", "day of ts, UTC"),
        Column("source", "string", "the configured click source that brought it"),
        Column("arrival_ds", "date", "the landing day that brought it"),
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
        Column("model_version", "string", "registry version that was measured; 'popularity' for the baseline"),
        Column("role", "string", "challenger, champion or popularity"),
        Column("domain", "string", "domain; 'macro' the plain mean over domains, 'min' the worst domain"),
        Column("split", "string", "train, valid or test"),
        Column("view", "string", "cross, single, blend, served; '' where a metric has no view"),
        Column(
            "metric",
            "string",
            "ndcg@10, ..., ntg_loss, ntg_ndcg, ntg_served, ntg_view, lambda, weight; gate_champion, gate_single, "
            "gate_popularity: the gate's metric of the served view less that rival's, paired",
        ),
        Column("value", "double", "the value"),
        Column("low", "double", "lower end of the 95 % bootstrap interval over users", optional=True),
        Column("high", "double", "upper end of the 95 % bootstrap interval over users", optional=True),
        Column("cases", "bigint", "number of cases behind it", optional=True),
        _DS,
    ),
)
GATE_CHECKS = Table(
    "gate_checks",
    "one rule of the gate in one domain, in one run; and one row with rule = 'decision'",
    "ds",
    (
        _RUN,
        Column("challenger", "string", "registry version that wanted to be promoted", optional=True),
        Column("champion", "string", "registry version that was champion", optional=True),
        Column("rule", "string", "champion, single, popularity (who is compared with), cases, warning, decision"),
        Column("domain", "string", "domain; '' for decision and warning"),
        Column(
            "outcome",
            "string",
            "passed, objection, not judged, warning; of the decision: promoted, refused, no_challenger",
        ),
        Column("words", "string", "why, in words"),
        Column("value", "double", "the gate's metric of the challenger's served view", optional=True),
        Column("rival_value", "double", "the same of the rival", optional=True),
        Column("low", "double", "lower end of the 95 % interval of the paired difference", optional=True),
        Column("high", "double", "upper end of the 95 % interval of the paired difference", optional=True),
        Column("cases", "bigint", "test cases of the domain", optional=True),
        Column("tolerance", "double", "relative drop that is tolerated", optional=True),
        _DS,
    ),
)
AUDITS = Table(
    "audits",
    "one expectation of one audited table of one run",
    "ds",
    (
        _RUN,
        Column("table_name", "string", "the audited table"),
        Column("rule", "string", "the rule in words"),
        Column("success", "boolean", "did it hold"),
        Column("checked", "bigint", "rows looked at", optional=True),
        Column("failed", "bigint", "rows that broke it", optional=True),
        Column("observed", "string", "what was found"),
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
    )
}
