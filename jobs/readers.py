"""Reading landing files so that no line is lost: each line or record becomes one row, sound or marked as broken.

Text forms are read line by line, and a line is a record: a line break inside quotes makes two broken lines. CSV
follows RFC 4180: `"` quotes, `""` is a quote inside. JSON lines hold one object each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.errors import JobError
from jobs.landing import LandingFile, csv_header, parquet_metadata, parse_header
from jobs.settings import ClickSource, Source
from jobs.spark import frame_of

RAW = (
    "source string, file string, arrival_ds date, content string, broken boolean, "
    "user_id string, item_id string, domain string, ts timestamp"
)
"""One row a line: what was read, and null where it could not be read."""
RAW_CLICKS = f"{RAW}, clicked string, arm string"
"""The same of click logs."""
CONTENT_LENGTH = 1000
MAX_LINE_LENGTH = 1_000_000
MAX_CSV_COLUMNS = 20_000  # above, Spark's CSV parser does not mark the line but throws
_BLANKS = (  # all that Unicode calls white space, and what has no width: an id of nothing else is none
    " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
_HALF_A_PAIR = (  # in JSON: \ud83d without \ude00 behind it, or the reverse
    r"(?<!\\)(\\\\)*(\\u[dD][89aAbB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89aAbB][0-9a-fA-F]{2})\\u[dD][c-fC-F])"
)
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def read_landing(spark: SparkSession, landing: Path, files: Sequence[LandingFile], empty: str = RAW) -> DataFrame:
    """Read landing files into one frame of the form RAW; those of click sources into RAW_CLICKS.

    empty: the form where there is no file.

    Raises
    ------
    JobError
        A file lacks a column that the settings name, or is of another form than they say.
    """
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")  # Spark knows no nanoseconds; pandas writes them
    frames = []
    for (source, shape), group in groupby(sorted(_shaped(files), key=_order), key=lambda file: file[:2]):
        paths = [_address(file) for _, _, file in group]
        if source.format == "parquet":
            frames.append(_read_parquet(spark, landing, source, paths, {name: kind for name, kind, _ in shape}))
        else:
            frames.append(_read_text(spark, landing, source, paths, shape[0] if shape else None))
    return reduce(DataFrame.unionByName, frames) if frames else frame_of(spark, [], empty)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn Spark's own errors about a damaged file into one clear line."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        found = re.search(r"FAILED_READ_FILE.*?file:/*(\S+?)\.?(?:\s|$)", str(error))
        if not found:
            raise
        raise JobError(
            f"cannot read /{unquote(found[1])} to its end: truncated or damaged; have the file delivered again"
        ) from None


Shape = tuple[Any, ...]


def _shaped(files: Sequence[LandingFile]) -> Iterator[tuple[Source, Shape, LandingFile]]:
    """Each file with what decides how it is read: its CSV header line, or its Parquet types."""
    for file in files:
        shape: Shape = ()
        if file.source.format == "parquet":
            shape = _parquet_types(file)
        elif file.source.header:
            shape = (csv_header(file),)
        yield file.source, shape, file


def _order(file: tuple[Source, Shape, LandingFile]) -> tuple[str, str, str]:
    return file[0].name, str(file[1]), str(file[2].path)


def _address(file: LandingFile) -> str:
    """The path for Spark, to which it is a pattern: a [ or * in a name stands for itself."""
    return "file://" + re.sub(r"([\\*?\[\]{}])", r"\\\1", str(file.path))


def _read(spark: SparkSession, landing: Path, form: str, paths: Sequence[str]) -> DataFrame:
    """Read files, with `arrival_ds` and `file` worked out of their paths `<landing>/<day>/<file>`."""
    frame = spark.read.format(form).load(list(paths))
    parts = F.split(F.regexp_replace("_metadata.file_path", "^file:/+", ""), "/")
    below = len(landing.parts) - 1
    rest = F.array_join(F.slice(parts, below + 2, 1000), "/")
    name = F.coalesce(F.try_url_decode(F.replace(rest, F.lit("+"), F.lit("%2B"))), rest)
    return frame.select("*", F.to_date(F.get(parts, F.lit(below))).alias("arrival_ds"), name.alias("file"))


def _read_text(
    spark: SparkSession, landing: Path, source: Source, paths: Sequence[str], header: object | None
) -> DataFrame:
    text = _read(spark, landing, "text", paths)
    lines = text
    if header is not None:
        lines = text.where(F.col("value") != F.lit(header))
        repeated = text.where(F.col("value") == F.lit(header)).groupBy("arrival_ds", "file", "value").count()
        extra = F.when(F.col("count") > 1, F.sequence(F.lit(2), F.col("count").cast("int")))
        repeated = repeated.select("value", "arrival_ds", "file", F.explode(extra).alias("copy")).drop("copy")
        lines = lines.unionByName(repeated)  # one header a file; another one is a broken line
    value = F.col("value")
    sound = (
        F.is_valid_utf8(value)
        & ~F.contains(value, F.lit("\0"))
        & (F.length(value) <= MAX_LINE_LENGTH)
        & (F.btrim(value, F.lit(_BLANKS)) != "")
    )
    if source.format == "csv":
        sound = sound & _sound_csv(value, source.delimiter)
    if header is not None:
        sound = sound & (value != F.lit(header))
    line = F.when(sound, value)
    parsed = _parse_csv(line, source, header) if source.format == "csv" else _parse_json(line, source)
    fields = lines.select("*", parsed.alias("parsed")).select("*", "parsed.*")
    content = F.make_valid_utf8(value)
    return _shape_rows(fields, source, content, F.col("parsed").isNull() | F.col("broken"), source.time_unit)


def _sound_csv(value: Column, delimiter: str) -> Column:
    """Every quote is closed, and there are not more columns than Spark's parser can hold."""

    def count(text: str) -> Column:
        return F.length(value) - F.length(F.replace(value, F.lit(text), F.lit("")))

    return (count('"') % 2 == 0) & (count(delimiter) < MAX_CSV_COLUMNS)


def _mapped(source: Source) -> dict[str, str]:
    """The names of what is read as long as it is raw, and the file's."""
    return {f"raw_{own}": name for own, name in source.mapped.items()}


def _parse_csv(line: Column, source: Source, header: object | None) -> Column:
    columns = source.columns if header is None else parse_header(str(header), source.delimiter)
    schema = ", ".join([*(f"c{place} string" for place in range(len(columns))), "_corrupt string"])
    options = {
        "sep": source.delimiter,
        "escape": '"',
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_corrupt",
        "maxColumns": str(MAX_CSV_COLUMNS + 1),
    }
    parsed = F.from_csv(line, schema, options)
    fields = [parsed[f"c{columns.index(name)}"].alias(own) for own, name in _mapped(source).items()]
    return F.when(line.isNotNull(), F.struct(*fields, parsed["_corrupt"].isNotNull().alias("broken")))


def _parse_json(line: Column, source: Source) -> Column:
    # Read alone, an object hides what follows it on the line; as the one element of an array it cannot.
    wanted = sorted(set(_mapped(source).values()))
    schema = "array<struct<" + ", ".join(f"`{name.replace('`', '``')}`: string" for name in wanted) + ">>"
    objects = F.from_json(F.concat(F.lit("["), line, F.lit("]")), schema, {"mode": "PERMISSIVE"})
    record = F.get(objects, F.lit(0))
    whole = F.endswith(F.btrim(line), F.lit("}"))  # Spark forgives what follows the array's end
    broken = objects.isNull() | (F.size(objects) != 1) | record.isNull() | ~whole | _half_a_pair(line)
    for name in wanted:
        broken = broken | _is_nested(line, name, record.getField(name))
    fields = [record.getField(name).alias(own) for own, name in _mapped(source).items()]
    return F.when(line.isNotNull(), F.struct(*fields, broken.alias("broken")))


def _half_a_pair(line: Column) -> Column:
    """Does it escape half of a surrogate pair? It would be read as '?', and other ids with it."""
    escaped = F.contains(line, F.lit("\\ud")) | F.contains(line, F.lit("\\uD"))
    return escaped & line.rlike(_HALF_A_PAIR)


def _is_nested(line: Column, name: str, value: Column) -> Column:
    """Is the value an object or an array? Spark reads one as text; only what looks like one is looked at again."""
    quote = '"' if "'" in name else "'"
    found = F.try_variant_get(F.try_parse_json(line), f"$[{quote}{name}{quote}]", "variant")
    nested = F.schema_of_variant(found).rlike("^(OBJECT|ARRAY)")
    looks = F.substring(value, 1, 1).isin("{", "[")
    return F.when(looks, F.coalesce(nested, F.lit(True))).otherwise(F.lit(False))


def _parquet_types(file: LandingFile) -> Shape:
    """Of every mapped column its name, its kind (text, number, timestamp, timestamp_ns or date) and its very type.

    The type is there because Spark reads files together by the types of one of them: a day that came with wider
    numbers, or with ids as text where they were numbers, is read apart.
    """
    schema: pa.Schema = parquet_metadata(file).schema.to_arrow_schema()
    shape = []
    for own, name in _mapped(file.source).items():
        if name not in schema.names:
            raise JobError(f"{file}: no column '{name}'; its columns are {', '.join(schema.names)}")
        found = schema.field(name).type
        kind = _kind(found)
        if kind == "other":
            raise JobError(f"{file}: column '{name}' is {found}, not a single value")
        if own == "raw_ts" and file.source.time_unit == "timestamp" and kind == "number":
            raise JobError(
                f"{file}: column '{name}' holds numbers ({found}) where the settings say "
                "time_unit = 'timestamp': set s, ms or us"
            )
        shape.append((name, kind, str(found)))
    return tuple(shape)


def _kind(found: pa.DataType) -> str:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_timestamp(found):
        return "timestamp_ns" if found.unit == "ns" else "timestamp"
    if pa.types.is_date(found):
        return "date"
    if pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found):
        return "number"
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if any(test(found) for test in (*texts, pa.types.is_boolean, pa.types.is_null)):
        return "text"
    return "other"


def _read_parquet(
    spark: SparkSession, landing: Path, source: Source, paths: Sequence[str], kinds: dict[str, str]
) -> DataFrame:
    frame = _read(spark, landing, "parquet", paths)
    mapped = _mapped(source)
    fields = frame.select(
        "arrival_ds", "file", *(F.col(f"`{name.replace('`', '``')}`").alias(own) for own, name in mapped.items())
    )
    kind = kinds[source.time]
    if kind == "timestamp_ns":
        fields = fields.withColumn("raw_ts", F.timestamp_micros(F.floor(F.col("raw_ts") / 1000).cast("bigint")))
    unit = "instant" if kind in ("timestamp", "timestamp_ns", "date") else source.time_unit
    content = F.to_json(F.struct(*(F.col(own).cast("string").alias(name) for own, name in mapped.items())))
    texts = [F.col(own).cast("string") for own in mapped if own != "raw_ts"]
    unreadable = reduce(Column.__or__, [~F.is_valid_utf8(text) for text in texts])
    return _shape_rows(fields, source, content, F.coalesce(unreadable, F.lit(False)), unit)


def _shape_rows(fields: DataFrame, source: Source, content: Column, broken: Column, unit: str) -> DataFrame:
    """Bring the mapped columns into the form RAW."""
    domain = _text_of("raw_domain") if source.domain_column else F.lit(source.domain)
    ids = [F.col(own).cast("string") for own in ("raw_user_id", "raw_item_id")]
    nul = F.coalesce(F.contains(F.concat_ws("", *ids), F.lit("\0")), F.lit(False))
    return fields.select(
        F.lit(source.name).alias("source"),
        "file",
        "arrival_ds",
        F.substring(content, 1, CONTENT_LENGTH).alias("content"),
        (broken | nul).alias("broken"),
        _text_of("raw_user_id").alias("user_id"),
        _text_of("raw_item_id").alias("item_id"),
        domain.alias("domain"),
        _time_of("raw_ts", unit).alias("ts"),
        *_clicks(source),
    )


def _clicks(source: Source) -> list[Column]:
    """What a click log says besides, as text."""
    if not isinstance(source, ClickSource):
        return []
    arm = _text_of("raw_arm") if source.arm else F.lit(None).cast("string")
    return [_text_of("raw_clicked").alias("clicked"), arm.alias("arm")]


def _text_of(column: str) -> Column:
    """A value as text without blanks around it; null where nothing is left."""
    return F.nullif(F.btrim(F.col(column).cast("string"), F.lit(_BLANKS)), F.lit(""))


def _time_of(column: str, unit: str) -> Column:
    """A value as a time; null where it is none."""
    if unit == "instant":
        return F.col(column).cast("timestamp")
    text = _text_of(column)
    if unit == "timestamp":  # Spark reads '12:30' as half past twelve today: a time must begin with its day
        return F.when(text.rlike(r"^\d{4}-\d{1,2}-\d{1,2}([T ]|$)"), text.try_cast("timestamp"))
    micros = text.try_cast("decimal(26,6)") * F.lit(_MICROSECONDS[unit]).cast("decimal(7,0)")
    return F.timestamp_micros(micros.try_cast("bigint"))
