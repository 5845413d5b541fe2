"""A log as the first release wrote it: its schema, and rows of every kind in it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from online_trl import migrations
from online_trl.store import prompt_key
from online_trl.types import Feedback, FeedbackKind, FeedbackSource, Interaction, Purpose

_START = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

_VALUES: list[tuple[FeedbackKind, int, Any]] = [
    (FeedbackKind.BINARY, 1, True),
    (FeedbackKind.RATING, 1, {"score": 4.5, "low": 1, "high": 5}),
    (FeedbackKind.COMPARISON, 2, "tie"),
    (FeedbackKind.RANKING, 3, [2, 1, 2]),
    (FeedbackKind.CORRECTION, 1, "¿Mañana? \U0001f4e6"),
    (FeedbackKind.IMPLICIT, 1, "regenerate"),
]


def write_first_log(url: str) -> tuple[list[Interaction], list[Feedback]]:
    """Makes a log of revision 0001, and returns what is in it."""
    interactions = _interactions()
    feedback = _feedback([row.interaction_id for row in interactions], len(interactions))
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        tables = sa.MetaData()
        tables.reflect(connection)
        _insert(connection, tables.tables["interactions"], interactions)
        _insert(connection, tables.tables["feedback"], feedback)
        links = [
            {"feedback_seq": row.seq, "interaction_id": name} for row in feedback for name in set(row.interaction_ids)
        ]
        connection.execute(tables.tables["feedback_interactions"].insert(), links)
        connection.execute(tables.tables["log_position"].update().values(seq=feedback[-1].seq))
    engine.dispose()
    return interactions, feedback


def _interactions() -> list[Interaction]:
    return [
        Interaction(
            prompt=[{"role": "user", "content": f"question {number} \x00"}],
            completion=[{"role": "assistant", "content": "answer"}],
            policy_version="policy-0001",
            session_id="session",
            user_id="ada",
            purpose=purpose,
            sampling={"temperature": 0.7, "stop": ["\n"], "seed": None},
            prompt_ids=[1, 2],
            completion_ids=[3],
            logprobs=[-12.345678901234567],
            created_at=_START + timedelta(microseconds=number),
            seq=number,
        )
        for number, purpose in enumerate([Purpose.CHAT, Purpose.EVALUATION, Purpose.BACKGROUND], start=1)
    ]


def _feedback(ids: list[str], end: int) -> list[Feedback]:
    rows = [
        Feedback(
            kind=kind,
            interaction_ids=ids[:count],
            value=value,
            user_id="bob",
            source=FeedbackSource.SYNTHETIC,
            comment="late",
            tags={"page": "help"},
            created_at=_START,
            seq=end + number,
        )
        for number, (kind, count, value) in enumerate(_VALUES, start=1)
    ]
    retraction = Feedback(
        kind=FeedbackKind.BINARY,
        interaction_ids=[],
        value=None,
        user_id="bob",
        supersedes=rows[0].feedback_id,
        created_at=_START,
        seq=rows[-1].seq + 1,
    )
    return [*rows, retraction]


def _insert(connection: sa.Connection, table: sa.Table, rows: list[Any]) -> None:
    fields = [column.name for column in table.columns if column.name != "prompt_key"]
    values = [{name: _plain(getattr(row, name)) for name in fields} for row in rows]
    if "prompt_key" in table.columns:
        values = [value | {"prompt_key": prompt_key(value["prompt"])} for value in values]
    for value in values:
        # SQL's NULL, where the reflected JSON type would write JSON's.
        connection.execute(table.insert().values({name: item for name, item in value.items() if item is not None}))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
