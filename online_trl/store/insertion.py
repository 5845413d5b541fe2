"""How rows are inserted: many at once, at little more than what the database itself takes for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import sqlalchemy as sa

# Older versions of SQLite take no more parameters in a statement.
_MOST_PARAMETERS = 999


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows that have the same columns."""
    if rows:
        _insertion(table, tuple(rows[0]), connection.dialect).run(connection, rows)


class _Insertion:
    """
    The insertion of many rows, made ready for the driver.

    SQLAlchemy looks up every value of every row by its name, which takes longer than to write it. Here the values are
    taken by column.
    """

    def __init__(self, table: sa.Table, names: tuple[str, ...], dialect: sa.Dialect) -> None:
        columns = [column for column in table.columns if column.name in names]
        self._text = str(sa.insert(table).compile(dialect=dialect, column_keys=names))
        self._names = [column.name for column in columns]
        self._encoders = [column.type.dialect_impl(dialect).bind_processor(dialect) for column in columns]
        self._is_sqlite = dialect.name == "sqlite"

    def run(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = [
            [row[name] for row in rows] if encode is None else [encode(row[name]) for row in rows]
            for name, encode in zip(self._names, self._encoders, strict=True)
        ]
        values = list(zip(*columns, strict=True))
        if not self._is_sqlite:
            connection.exec_driver_sql(self._text, [dict(zip(self._names, row, strict=True)) for row in values])
            return
        for some in _parts(values, _MOST_PARAMETERS // len(self._names)):
            text = _several(self._text, len(self._names), len(some))
            connection.exec_driver_sql(text, tuple(chain.from_iterable(some)))


def _parts(values: Sequence[tuple[Any, ...]], most: int) -> Iterator[Sequence[tuple[Any, ...]]]:
    """
    Gives the rows in parts, each for one statement.

    SQLite's driver gives the interpreter away at every statement, and where other threads are busy it waits for it
    longer than the rows take. Parts of 1, 2, 4 … rows need few statements, and few different ones to be prepared.
    """
    start = 0
    while left := min(len(values) - start, most):
        size = 1 << (left.bit_length() - 1)
        yield values[start : start + size]
        start += size


@lru_cache(maxsize=256)
def _several(text: str, columns: int, rows: int) -> str:
    """Returns the statement that inserts so many rows, made of the one that inserts one."""
    return text + f", ({', '.join('?' * columns)})" * (rows - 1)


_insertion = lru_cache(maxsize=64)(_Insertion)
