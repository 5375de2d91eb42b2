"""A result as others take it: JSON values, or an Arrow stream that carries the account of who answered."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

REPORT_KEY = b"atoll.report"


def as_json(table: pa.Table) -> dict[str, Any]:
    """Columns with their types, and rows of JSON values."""
    columns = [{"name": field.name, "type": str(field.type)} for field in table.schema]
    lists = [[_json_value(value) for value in column.to_pylist()] for column in table.columns]
    return {"columns": columns, "rows": [list(row) for row in zip(*lists, strict=True)]}


def as_stream(table: pa.Table, report: Mapping[str, Any]) -> bytes:
    """An Arrow IPC stream."""
    metadata = {**(table.schema.metadata or {}), REPORT_KEY: json.dumps(dict(report)).encode()}
    table = table.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_stream(stream: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        return reader.read_all()


def _json_value(value: Any) -> Any:
    """Numbers stay numbers, but for what JSON has no word for; everything else is text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return (
            value
            if math.isfinite(value)
            else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        )
    if isinstance(value, Decimal):
        return (
            int(value)
            if value == value.to_integral_value() and value.as_tuple().exponent == 0
            else float(value)
        )
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, pa.MonthDayNano):
        months, days, nanos = value
        return f"P{months}M{days}DT{nanos / 1e9:g}S"
    return str(value)
