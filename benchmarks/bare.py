"""The bare database: fills a log by the million, and commits feedback through nothing but the driver."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from online_trl.database import Database
from online_trl.migrations import schema
from online_trl.serving.client_keys import stored_key
from online_trl.store import FeedbackStore, prompt_key
from online_trl.types import FeedbackKind, FeedbackSource, Purpose, new_id

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_ROWS_PER_UNIT = 3
_UNITS_PER_TRANSACTION = 2000

Row = dict[str, Any]


def fill(url: str, rows: int) -> list[str]:
    """
    Makes a log of so many rows: pairs of answers to one prompt, and a comparison of each pair.

    Returns:
        `list[str]`: Ids of the newest answers, at most 1000.
    """
    FeedbackStore(url).close()
    ids: list[str] = []
    with closing(Database(url)) as database:
        for first in range(0, rows // _ROWS_PER_UNIT, _UNITS_PER_TRANSACTION):
            units = range(first, min(first + _UNITS_PER_TRANSACTION, rows // _ROWS_PER_UNIT))
            answers = [row for unit in units for row in _answers(unit)]
            comparisons = [
                _comparison(unit, pair)
                for unit, pair in zip(units, zip(answers[::2], answers[1::2], strict=True), strict=True)
            ]
            with database.writing() as connection:
                connection.execute(sa.insert(schema.interactions), answers)
                connection.execute(sa.insert(schema.feedback), comparisons)
                connection.execute(
                    sa.insert(schema.feedback_interactions), [link for row in comparisons for link in _links(row)]
                )
                connection.execute(sa.update(schema.log_position).values(seq=comparisons[-1]["seq"]))
            ids = [*ids, *(row["interaction_id"] for row in answers)][-1000:]
        if database.name.startswith("postgresql"):
            with database.writing() as connection:
                connection.exec_driver_sql("ANALYZE")
    return ids


def _answers(unit: int) -> list[Row]:
    prompt = [{"role": "user", "content": f"How do I reset the password of account {unit}?"}]
    return [
        {
            "seq": unit * _ROWS_PER_UNIT + place,
            "interaction_id": new_id(),
            "session_id": f"session-{unit}",
            "user_id": f"asker-{unit % 5000}",
            "policy_version": "policy-0001",
            "purpose": Purpose.CHAT,
            "prompt_key": prompt_key(prompt),
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": f"Answer {place}: open the settings, then choose reset."}],
            "sampling": {"temperature": 1.0, "top_p": 1.0, "seed": unit},
            "created_at": _START,
        }
        for place in (1, 2)
    ]


def _comparison(unit: int, pair: tuple[Row, Row]) -> Row:
    name = new_id()
    return {
        "seq": unit * _ROWS_PER_UNIT + 3,
        "feedback_id": name,
        "idempotency_key": name,
        "kind": FeedbackKind.COMPARISON,
        "interaction_ids": [row["interaction_id"] for row in pair],
        "value": "first",
        "user_id": f"asker-{unit % 5000}",
        "source": FeedbackSource.HUMAN,
        "tags": {},
        "created_at": _START,
        "received_at": _START,
    }


def _links(row: Row) -> list[Row]:
    return [{"feedback_seq": row["seq"], "interaction_id": name} for name in row["interaction_ids"]]


def bare_rows_per_second(url: str, interaction_ids: list[str], transaction: int, seconds: float) -> float:
    """
    Commits thumbs in transactions of one size and with the log's own durability, and returns how many per second.

    What is to be written lies ready before the clock starts; the clock stops between transactions.
    """
    with closing(Database(url)) as database, database.writing() as connection:
        position = connection.execute(sa.select(schema.log_position.c.seq)).scalar_one()
        dialect = connection.dialect
    with closing(Database(url)) as database:
        rows = _thumbs(interaction_ids, position + 1, is_text=dialect.name == "sqlite")
        statements = [
            str(sa.insert(table).compile(dialect=dialect, column_keys=keys))
            for table, keys in ((schema.feedback, _COLUMNS), (schema.feedback_interactions, _LINK_COLUMNS))
        ]
        spent, written = 0.0, 0
        while spent < seconds:
            some = [next(rows) for _ in range(transaction)]
            thumbs, links = [row for row, _ in some], [link for _, link in some]
            if dialect.name == "sqlite":
                thumbs, links = [tuple(row.values()) for row in thumbs], [tuple(row.values()) for row in links]
            begin = time.perf_counter()
            with database.writing() as connection:
                connection.exec_driver_sql(statements[0], thumbs)
                connection.exec_driver_sql(statements[1], links)
                connection.exec_driver_sql(f"UPDATE log_position SET seq = {some[-1][0]['seq']}")
            spent += time.perf_counter() - begin
            written += transaction
    return written / spent


_COLUMNS = [
    "seq", "feedback_id", "idempotency_key", "kind", "interaction_ids", "value", "user_id", "source", "tags",
    "created_at", "received_at", "statement_key",
]  # fmt: skip
_LINK_COLUMNS = ["feedback_seq", "interaction_id"]


def _thumbs(interaction_ids: list[str], seq: int, *, is_text: bool) -> Iterator[tuple[Row, Row]]:
    now: Any = _START.replace(tzinfo=None).isoformat(sep=" ") if is_text else _START
    while True:
        for name in interaction_ids:
            row, user = new_id(), f"bare-{seq}"
            # As scattered over its index as that of a real row.
            statement = hashlib.sha256(user.encode()).hexdigest()
            values = [
                seq, row, stored_key(user, row), "binary", json.dumps([name]), "true", user, "human", "{}", now, now,
                statement,
            ]  # fmt: skip
            yield dict(zip(_COLUMNS, values, strict=True)), {"feedback_seq": seq, "interaction_id": name}
            seq += 1
