"""
Rows of the log as lines of JSON and back, exactly: times to the microsecond, numbers to the last bit.

What is sent is one line for each row, and a last one that is their number: whoever reads it knows when it was cut off.
Both sides have to know the same records; the revision of the log's schema, which every reply names, stands for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar, get_origin, get_type_hints

Row = TypeVar("Row")

REVISION_HEADER = "X-Log-Revision"
"""Header of each reply that names the revision of the log's schema."""
PAGE_ROWS = 1000
"""Most rows of an interval that one request may ask for."""
LOOKUP_NAMES = 500
"""Most names that one request may look up."""


class CutOffError(ValueError):
    """The lines end before all rows have come."""


def to_line(row: Any) -> bytes:
    """Returns a record as a line."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    # Whatever is not ASCII is escaped, so that no text can hold what somebody takes for the end of a line.
    return json.dumps(values, default=_plain, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def end_line(count: int) -> bytes:
    """Returns the line that says that this many rows were sent, and no more come."""
    return b"%d\n" % count


def read_lines(record: type[Row], lines: Iterable[str]) -> list[Row]:
    """
    Returns the rows that were sent as lines.

    Args:
        record (`type`):
            What they are.
        lines (`Iterable[str]`):
            Their lines and the end line.

    Raises:
        [`CutOffError`]: if lines are missing.
    """
    *rows, end = list(lines) or [""]
    if end != str(len(rows)):
        raise CutOffError(f"the reply was cut off after {len(rows)} rows")
    return list(_records(record, map(json.loads, rows)))


def _records(record: type[Row], rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    converters = _converters(record)
    for values in rows:
        yield record(**values | {name: convert(values[name]) for name, convert in converters.items()})


def _converters(record: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """What makes the fields of a record again that JSON has no type of its own for."""
    hints = get_type_hints(record).items()
    return {name: convert for name, hint in hints if (convert := _converter(hint)) is not None}


def _converter(hint: Any) -> Callable[[Any], Any] | None:
    kind = get_origin(hint) or hint
    if kind is datetime:
        return datetime.fromisoformat
    is_converted = isinstance(kind, type) and (kind in (tuple, frozenset) or issubclass(kind, Enum))
    return kind if is_converted else None


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{value!r} is nothing that a row of the log holds")
