"""What a table is made of: columns with type, meaning, unit and example; the forms that Spark and Iceberg want."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

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
_DUCKDB = {"string": "varchar", "timestamp": "timestamptz", "array<int>": "int[]", "array<bigint>": "bigint[]"}


@dataclass(frozen=True)
class Column:
    """One column: name, Spark SQL type, meaning, a value as it may stand there, what numbers and times count in."""

    name: str
    type: str
    doc: str
    optional: bool = False
    example: str = ""
    unit: str = ""

    @property
    def duckdb_type(self) -> str:
        """The type's name in DuckDB."""
        return _DUCKDB.get(self.type, self.type)


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
