"""The typed settings of a project, read once from one TOML file with environment overrides.

`SYNCREC_SPARK__MASTER=spark://host:7077` overrides `master` in `[spark]`: prefix, section, two underscores,
key. Relative paths count from `SYNCREC_HOME` where it is set, else from the working directory.
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from jobs.errors import JobError
from jobs.private import keep_secret, passwords, secret_values
from jobs.setting_errors import PREFIX, in_words, misspelt_variable

DEFAULT_CONFIG = "syncrec.toml"
DROPPABLE = (
    "interactions", "rejected_interactions", "recommendations", "domain_metrics", "audits", "impressions",
    "rejected_impressions",
)  # fmt: skip
"""Tables of which nothing is lost but what the dropped days say; items must stay for good, sequences look after
themselves, nights are one row each."""
_NAME = r"^[A-Za-z][A-Za-z0-9_]*$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Night(_Section):
    """When nights begin."""

    bootstrap_through: date = Field(description="last landing day that the first run ingests at once")
    first_run_nights: int = Field(2, ge=1, description="nights the first `make nightly` runs; later runs: one")


class Landing(_Section):
    """Where the day's log files arrive: one folder a day, `<path>/<YYYY-MM-DD>/`."""

    path: Path | None = Field(None, description="folder of the day folders; default <state_dir>/landing")
    marker: str | None = Field(
        "_SUCCESS", description="file that says a day is complete; '' = none: required sources decide"
    )
    timeout_minutes: float = Field(60, gt=0, description="how long a night waits for its day, minutes")
    poll_seconds: float = Field(15, gt=0, description="seconds between two looks")


class Source(_Section):
    """One kind of log file and how its columns map to (user, item, domain, time)."""

    name: str = Field(pattern=_NAME, description="how rejects, audits and the report call it")
    files: str = Field(min_length=1, description="glob inside the day folder, e.g. 'books*.csv'")
    format: Literal["csv", "jsonl", "parquet"] = Field(
        description="CSV, JSON lines or Parquet; .gz is seen by name"
    )
    domain: str | None = Field(None, description="the domain of every row of these files")
    domain_column: str | None = Field(None, min_length=1, description="or: the column that names it")
    user: str = Field(min_length=1, description="column of the user id")
    item: str = Field(min_length=1, description="column of the item id")
    time: str = Field(min_length=1, description="column of the event time")
    time_unit: Literal["s", "ms", "us", "timestamp"] = Field(
        description="numbers since 1970 UTC in that unit; 'timestamp': ISO 8601 text or a Parquet timestamp"
    )
    header: bool = Field(False, description="CSV: the first line names the columns")
    columns: tuple[str, ...] = Field((), description="CSV without header: the column names in order")
    delimiter: str = Field(",", min_length=1, max_length=1, description="CSV: what stands between two columns")
    required: bool = Field(False, description="a day without such a file is not complete")

    @property
    def mapped(self) -> dict[str, str]:
        """Our names of what is read, and the names of the file's columns."""
        own = {"user_id": self.user, "item_id": self.item, "ts": self.time}
        return own | ({"domain": self.domain_column} if self.domain_column else {})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.domain is None) == (self.domain_column is None):
            raise ValueError(f"source '{self.name}': give either domain or domain_column")
        if self.format == "csv" and self.header == bool(self.columns):
            raise ValueError(f"source '{self.name}': a CSV has either header = true or a list of columns")
        if self.format != "csv" and (self.columns or self.header):
            raise ValueError(f"source '{self.name}': columns and header belong to format = 'csv'")
        if self.delimiter in '"\r\n\0':
            raise ValueError(f"source '{self.name}': {self.delimiter!r} cannot stand between two columns")
        twice = {name for name in self.columns if self.columns.count(name) > 1}
        twice |= {name for name in self.mapped.values() if list(self.mapped.values()).count(name) > 1}
        if twice:
            raise ValueError(f"source '{self.name}': {sorted(twice)} named more than once")
        missing = [name for name in self.mapped.values() if self.columns and name not in self.columns]
        if missing:
            raise ValueError(f"source '{self.name}': {missing} not among its columns {list(self.columns)}")
        return self

    @field_validator("files")
    @classmethod
    def _pattern(cls, files: str) -> str:
        if files.startswith("/") or ".." in Path(files).parts:
            raise ValueError(f"'{files}': give a pattern of names inside the day folder, e.g. 'books*.csv'")
        return files


class ClickSource(Source):
    """One kind of click log: a line says that an item of a list was shown to a user, and whether it was clicked."""

    clicked: str = Field(
        min_length=1, description="column that says whether it was clicked: 1, 0, true, false, yes, no"
    )
    arm: str | None = Field(
        None, min_length=1, description="column of the A/B arm that was shown; absent: that of the lists"
    )

    @property
    def mapped(self) -> dict[str, str]:
        """Our names of what is read, and the names of the file's columns."""
        return super().mapped | {"clicked": self.clicked} | ({"arm": self.arm} if self.arm else {})


class Domain(_Section):
    """One domain: a shop section, an app, a service."""

    repeats: bool = Field(False, description="users come back to an item: seen items stay recommendable")


class Sequences(_Section):
    """The sequence tables and how time cuts them into splits."""

    max_length: int = Field(50, ge=2, le=1000, description="T: events kept per sequence")
    valid_days: int = Field(3, ge=1, description="days of the validation window")
    test_days: int = Field(3, ge=1, description="days of the test window; it ends with ds")
    compact_share: float = Field(
        0.5, ge=0, description="rows of changed users over all users of the base: beyond it a night rewrites all"
    )


class Model(_Section):
    """The model's shape; any other field of syncrec_model.ModelConfig may be given under `options`."""

    preset: Literal["default", "paper", "released"] = Field(
        "default", description="default, paper or released: docs/model.md#settings"
    )
    channels: int = Field(64, ge=1, description="C, the paper's r")
    options: dict[str, Any] = Field(default_factory=dict, description="further ModelConfig fields")


class Training(_Section):
    """How long and how hard a night trains."""

    epochs: int = Field(20, ge=1, description="epochs of a cold start, at most: patience may end it sooner")
    warm_epochs: int = Field(5, ge=1, description="epochs when it starts from the champion")
    warm_start: bool = Field(True, description="start from the champion where it fits: fewer epochs are enough")
    batch_size: int = Field(64, ge=2, description="users a step")
    learning_rate: float = Field(2e-3, gt=0, description="step size of AdamW")
    seed: int = Field(0, description="the same seed, data and threads give the same model on a CPU")
    threads: int = Field(2, ge=1, description="CPU threads")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a CUDA GPU where there is one")
    every_days: int = Field(1, ge=1, description="train every so many nights; the champion scores the others")
    min_cases: int = Field(20, ge=1, description="fewer validation cases than that: the night does not train")
    options: dict[str, Any] = Field(default_factory=dict, description="further TrainingConfig fields")


class Gate(_Section):
    """What a challenger must do, domain by domain on the served view, to replace the champion."""

    mode: Literal["disabled", "dry_run", "enabled", "hold"] = Field(
        "enabled",
        description="enabled: the rules decide; dry_run: they are noted, every challenger is promoted; disabled: "
        "no rule is asked, every challenger is promoted; hold: none is, e.g. after a rollback",
    )
    metric: str = Field(
        "ndcg@10",
        pattern=r"^((hr|ndcg|mrr)@(5|10|20)|mrr)$",
        description="what is compared: hr@10, ndcg@20, mrr, ...",
    )
    max_drop: float = Field(0.05, ge=0, description="relative drop against the champion that is tolerated")
    max_negative_transfer: float = Field(0.05, ge=0, description="relative drop against the single view")
    min_cases: int = Field(20, ge=1, description="domains with fewer test cases do not decide")
    stale_days: int = Field(14, ge=1, description="a champion whose data are older is warned of, days")


class Scoring(_Section):
    """The recommendation table."""

    top_n: int = Field(20, ge=1, le=1000, description="rows a user and domain")
    batch_users: int = Field(512, ge=1, description="users a model batch")
    min_history: int = Field(1, ge=1, description="users with fewer events of learnt items: popularity serves them")
    popularity_days: int = Field(28, ge=1, description="days of events that popularity counts")
    reuse: bool = Field(True, description="copy the lists of the night before where nothing has changed them")


class Experiment(_Section):
    """An A/B test: a share of the users gets the lists of another version than the champion."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="its name, which also decides who is in which arm: another name deals the users anew",
    )
    share: float = Field(0.5, ge=0, le=1, description="share of the users that get the candidate's lists")
    candidate: str = Field(
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="registry version number, or an alias such as challenger or previous_champion",
    )


class Spark(_Section):
    """The Spark session. `master = 'spark://host:7077'` moves the same jobs to a cluster."""

    master: str = Field(
        "local[2]",
        pattern=r"^(local(\[(\d+|\*)(, *\d+)?\])?|[a-z0-9-]+://\S+|yarn)$",
        description="local[CORES], or spark://host:7077 for a cluster",
    )
    shuffle_partitions: int = Field(4, ge=1, description="parts of a shuffle; on a cluster two or three a core")
    driver_memory: str = Field(
        "3g",
        pattern=r"^[1-9]\d*[kmgtKMGT]$",
        description="heap of the driver's JVM; with local[...] all of Spark lives in it",
    )
    java_options: str = Field("", description="options of the driver's JVM; they come after ours, and win")
    options: dict[str, str] = Field(default_factory=dict, description="further spark.* settings")


class Maintenance(_Section):
    """What `jobs.maintain` keeps. Days and nights count back from the newest published one, hours by the clock."""

    nights: int = Field(30, ge=1, description="the last so many published nights keep every snapshot they name")
    snapshot_days: int = Field(
        7, ge=1, description="snapshots of so many days stay, whether a night names them or not"
    )
    young_hours: float = Field(48, ge=0, description="nothing that was written or in use in these hours is removed")
    file_mb: int = Field(128, ge=1, description="small files of one partition are merged up to this size, MB")
    keep_days: dict[str, int] = Field(
        default_factory=lambda: {"recommendations": 90},
        description="days of rows a table keeps, by table; a table that is not named keeps all",
    )

    @field_validator("keep_days")
    @classmethod
    def _by_day(cls, keep_days: dict[str, int]) -> dict[str, int]:
        for name, days in keep_days.items():
            if name not in DROPPABLE:
                raise ValueError(f"'{name}': rows can be dropped by day of {', '.join(DROPPABLE)} only")
            if days < 1:
                raise ValueError(f"{name} = {days}: at least 1 day")
        return keep_days


class Catalog(_Section):
    """The Iceberg SQL catalog; PostgreSQL in production, SQLite by default."""

    name: str = Field("syncrec", min_length=1, description="the catalog's name; other engines must give the same")
    uri: str | None = Field(
        None, min_length=1, description="SQLAlchemy address; default sqlite in <state_dir>/warehouse"
    )
    warehouse: str | None = Field(None, description="folder of the tables; default <state_dir>/warehouse")

    @field_validator("warehouse")
    @classmethod
    def _folder(cls, warehouse: str | None) -> str | None:
        if warehouse and "://" in warehouse:
            raise ValueError(
                f"'{warehouse}': give a folder that jobs and Spark executors share under one path; object stores "
                "are not supported (docs/cluster.md)"
            )
        return warehouse


class MLflow(_Section):
    """Tracking server and registry."""

    tracking_uri: str | None = Field(None, min_length=1, description="default sqlite in <state_dir>/mlflow")
    artifact_root: str | None = Field(None, min_length=1, description="only for the embedded store")
    experiment: str = Field("syncrec-nightly", min_length=1, description="the experiment that nights log into")
    model_name: str = Field(
        "syncrec",
        pattern=_NAME[:-1].replace("_]", "_.-]") + "$",
        description="the registered model: models:/NAME@champion",
    )


class Sample(_Section):
    """The generated sample log; absent for real logs."""

    users: int = Field(3000, ge=10, description="people who have joined by the end of its first 28 days")
    seed: int = Field(7, description="another seed is another world of the same laws")
    start: date = Field(date(2024, 1, 1), description="its first landing day")


class Settings(BaseSettings):
    """Everything `syncrec.toml` can say."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    state_dir: Path = Field(Path("var/default"), description="folder of all that the project writes")
    night: Night
    landing: Landing = Landing()
    domains: dict[str, Domain]
    sources: tuple[Source, ...]
    click_sources: tuple[ClickSource, ...] = ()
    sequences: Sequences = Sequences()
    model: Model = Model()
    training: Training = Training()
    gate: Gate = Gate()
    scoring: Scoring = Scoring()
    experiment: Experiment | None = None
    spark: Spark = Spark()
    maintenance: Maintenance = Maintenance()
    catalog: Catalog = Catalog()
    mlflow: MLflow = MLflow()
    sample: Sample | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings

    @field_validator("domains")
    @classmethod
    def _domain_names(cls, domains: dict[str, Domain]) -> dict[str, Domain]:
        import re

        if not domains:
            raise ValueError("name at least one domain, e.g. [domains.books]")
        for name in domains:
            if not re.match(_NAME, name):
                raise ValueError(f"domain '{name}': letters, digits and _ only, a letter first")
        return domains

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        if not self.sources:
            raise ValueError("name at least one [[sources]]")
        named = [*self.sources, *self.click_sources]
        names = [source.name for source in named]
        for name in {n for n in names if names.count(n) > 1}:
            raise ValueError(f"two sources are named '{name}'")
        for source in named:
            if source.domain is not None and source.domain not in self.domains:
                raise ValueError(
                    f"source '{source.name}': domain '{source.domain}' has no [domains.{source.domain}]"
                )
        return self

    # --- what follows from the settings -----------------------------------------------------------------

    @property
    def home(self) -> Path:
        """The folder that relative paths count from."""
        return Path(os.environ.get("SYNCREC_HOME") or Path.cwd())

    @property
    def state(self) -> Path:
        """The absolute state folder."""
        return (self.home / self.state_dir).resolve()

    @property
    def landing_path(self) -> Path:
        """The absolute folder of the day folders."""
        return (self.home / self.landing.path).resolve() if self.landing.path else self.state / "landing"

    @property
    def warehouse(self) -> Path:
        """The absolute folder of the tables."""
        return (
            (self.home / self.catalog.warehouse).resolve() if self.catalog.warehouse else self.state / "warehouse"
        )

    @property
    def catalog_uri(self) -> str:
        """The SQLAlchemy address of the Iceberg catalog."""
        return self.catalog.uri or f"sqlite:///{self.warehouse}/catalog.db"

    @property
    def tracking_uri(self) -> str:
        """The MLflow tracking and registry address."""
        return self.mlflow.tracking_uri or f"sqlite:///{self.state}/mlflow/mlflow.db"

    @property
    def artifact_root(self) -> str:
        """Where the embedded MLflow store keeps artifacts."""
        return self.mlflow.artifact_root or f"{self.state}/mlflow/artifacts"

    @property
    def secrets(self) -> set[str]:
        """Every text in the settings, and in the variables that MLflow reads, that nobody may see."""
        found = secret_values(self.spark.options) | secret_values(os.environ)
        for address in (self.catalog_uri, self.tracking_uri, self.artifact_root):
            found |= passwords(address)
        return found

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The domains; their place, counted from 1, is the domain code in the sequence tables."""
        return tuple(self.domains)

    @property
    def repeating_domains(self) -> frozenset[str]:
        """Domains in which a seen item may be recommended again."""
        return frozenset(name for name, domain in self.domains.items() if domain.repeats)


_RECORDS: tuple[type[BaseModel], ...] = (Settings, ClickSource, *_Section.__subclasses__())
_NAMES = sorted({name for kind in _RECORDS for name in kind.model_fields})


def load_settings(path: str | Path | None = None) -> Settings:
    """Read and check the settings.

    Parameters
    ----------
    path
        The TOML file; default: `$SYNCREC_CONFIG`, else `syncrec.toml` in the home folder.

    Raises
    ------
    JobError
        The file is missing, is not TOML, or a value is wrong; the message names each wrong value.
    """
    home = Path(os.environ.get("SYNCREC_HOME") or Path.cwd())
    file = home / Path(path or os.environ.get("SYNCREC_CONFIG") or DEFAULT_CONFIG)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(
            f"no configuration file {file}: give CONFIG=PATH to make, --config PATH to a job, or set SYNCREC_CONFIG"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        of_value = isinstance(error, tomllib.TOMLDecodeError) and not re.search("overwrite|twice", str(error))
        hint = "; a day is written 2024-03-01, text in quotes" if of_value else ""
        raise JobError(f"{file} is not valid TOML: {error}{hint}") from None
    if said := misspelt_variable(Settings):
        raise JobError(said)
    try:
        settings = Settings(**values)
    except SettingsError as error:  # a variable that should hold JSON
        raise JobError(f"a variable SYNCREC_... of the environment cannot be read: {error}") from None
    except ValidationError as error:
        lines = [in_words(dict(found), values, Settings, _NAMES) for found in error.errors()]
        raise JobError(f"{file}: " + "; ".join(lines)) from None
    keep_secret(settings.secrets)
    return settings


def make_folder(folder: Path, setting: str) -> Path:
    """Make a folder of the project where it is missing.

    Raises
    ------
    JobError
        It cannot be made; the message names the setting that says where it is.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{setting}: the folder {folder} cannot be made: {error.strerror}") from None
    return folder
