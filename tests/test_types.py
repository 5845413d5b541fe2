from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from online_trl.types import (
    Feedback,
    FeedbackKind,
    FeedbackSource,
    Interaction,
    InvalidRecordError,
    Purpose,
    new_id,
    utcnow,
)

PROMPT = [{"role": "user", "content": "Where is my parcel?"}]
COMPLETION = [{"role": "assistant", "content": "On its way."}]


def interaction(**fields: Any) -> Interaction:
    defaults = {"policy_version": "policy-0001", "session_id": "session", "user_id": "ada"}
    return Interaction(**({"prompt": PROMPT, "completion": COMPLETION} | defaults | fields))


def feedback(kind: str, count: int, value: Any, **fields: Any) -> Feedback:
    ids = [f"interaction-{number}" for number in range(count)]
    return Feedback(kind=FeedbackKind(kind), interaction_ids=ids, value=value, user_id="ada", **fields)


def test_ids_sort_by_time():
    ids = []
    for _ in range(5):
        ids.append(new_id())
        time.sleep(0.002)
    assert ids == sorted(set(ids))
    assert {name[14] for name in ids} == {"7"}


def test_the_present_time_is_in_utc():
    assert utcnow().tzinfo is timezone.utc
    assert abs(utcnow() - datetime.now(timezone(timedelta(hours=9)))) < timedelta(minutes=1)


def test_an_interaction_is_a_chat_with_an_id_and_a_time_unless_told_otherwise():
    one, other = interaction(), interaction()
    assert (one.purpose, one.sampling, one.seq) == (Purpose.CHAT, {}, None)
    assert one.interaction_id != other.interaction_id
    assert one.created_at.tzinfo is timezone.utc


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        interaction().user_id = "bob"
    with pytest.raises(FrozenInstanceError):
        feedback("binary", 1, True).value = False


@pytest.mark.parametrize("name", ["prompt", "completion"])
@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "is empty; it needs at least one message"),
        (["Hello"], "holds 'Hello'; a message is"),
        ([{"role": "user"}], "holds {'role': 'user'}; a message is"),
    ],
)
def test_an_interaction_is_made_of_messages(name, messages, message):
    with pytest.raises(InvalidRecordError, match=f"`{name}` {message}"):
        interaction(**{name: messages})


VALID = [
    ("binary", 1, True),
    ("binary", 1, False),
    ("rating", 1, {"score": 4, "low": 1, "high": 5}),
    ("rating", 1, {"score": 0.5, "low": 0.0, "high": 1.0}),
    ("comparison", 2, "first"),
    ("comparison", 2, "second"),
    ("comparison", 2, "tie"),
    ("ranking", 2, [1, 1]),
    ("ranking", 4, [2, 1, 3, 3]),
    ("correction", 1, "It arrives today."),
    ("implicit", 1, "regenerate"),
]


@pytest.mark.parametrize(("kind", "count", "value"), VALID)
def test_feedback_of_every_kind_can_be_given(kind, count, value):
    said = feedback(kind, count, value)
    assert (said.kind, said.value, said.source) == (FeedbackKind(kind), value, FeedbackSource.HUMAN)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("binary", 1, "a `binary` value is true or false, not 1"),
        ("binary", "up", "a `binary` value is true or false, not 'up'"),
        ("rating", 4, "a `rating` value is {'score': 4, 'low': 1, 'high': 5}, not 4"),
        ("rating", {"score": 4}, "a `rating` value is {'score': 4, 'low': 1, 'high': 5}, not"),
        ("rating", {"score": math.nan, "low": 1, "high": 5}, "a `rating` value holds finite numbers"),
        ("rating", {"score": True, "low": 0, "high": 1}, "a `rating` value holds finite numbers"),
        ("rating", {"score": "4", "low": 1, "high": 5}, "a `rating` value holds finite numbers"),
        ("rating", {"score": 6, "low": 1, "high": 5}, "a `rating` needs low < high and low <= score <= high"),
        ("rating", {"score": 1, "low": 1, "high": 1}, "a `rating` needs low < high and low <= score <= high"),
        ("comparison", "third", "a `comparison` value is 'first', 'second' or 'tie', not 'third'"),
        ("comparison", 1, "a `comparison` value is 'first', 'second' or 'tie', not 1"),
        ("ranking", [1, 2, 3], "a `ranking` value holds one rank per interaction, not"),
        ("ranking", "12", "a `ranking` value holds one rank per interaction, not '12'"),
        ("ranking", 1, "a `ranking` value holds one rank per interaction, not 1"),
        ("ranking", [0, 1], "a rank is a whole number from 1"),
        ("ranking", [1.5, 1], "a rank is a whole number from 1"),
        ("ranking", [True, 2], "a rank is a whole number from 1"),
        ("correction", " ", "a `correction` or `implicit` value is a non-empty text, not ' '"),
        ("implicit", 1, "a `correction` or `implicit` value is a non-empty text, not 1"),
    ],
)
def test_a_value_that_does_not_fit_its_kind_is_refused(kind, value, message):
    count = 2 if kind in ("comparison", "ranking") else 1
    with pytest.raises(InvalidRecordError) as caught:
        feedback(kind, count, value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "count", "value", "wanted"),
    [
        ("binary", 0, True, "names 0 interactions; it needs 1"),
        ("rating", 2, {"score": 4, "low": 1, "high": 5}, "names 2 interactions; it needs 1"),
        ("comparison", 1, "first", "names 1 interactions; it needs 2"),
        ("comparison", 3, "first", "names 3 interactions; it needs 2"),
        ("ranking", 1, [1], "names 1 interactions; it needs at least 2"),
        ("correction", 2, "Today.", "names 2 interactions; it needs 1"),
        ("implicit", 2, "copy", "names 2 interactions; it needs 1"),
    ],
)
def test_the_number_of_interactions_has_to_fit_the_kind(kind, count, value, wanted):
    with pytest.raises(InvalidRecordError, match=f"feedback of kind `{kind}` {wanted}"):
        feedback(kind, count, value)


def test_an_interaction_is_not_compared_with_itself():
    with pytest.raises(InvalidRecordError, match="names the same interaction twice"):
        Feedback(kind=FeedbackKind.COMPARISON, interaction_ids=["a", "a"], value="tie", user_id="ada")


def test_only_what_is_superseded_can_be_taken_back():
    with pytest.raises(InvalidRecordError, match="must name the row that it takes back: `supersedes`"):
        feedback("binary", 1, None)
    assert feedback("binary", 0, None, supersedes="earlier").value is None


def test_feedback_is_its_own_idempotency_key_unless_one_is_given():
    said = feedback("binary", 1, True)
    assert said.idempotency_key == said.feedback_id
    assert feedback("binary", 1, True, idempotency_key="click-1").idempotency_key == "click-1"


@pytest.mark.parametrize(
    ("kind", "value", "score"),
    [
        ("binary", True, 1.0),
        ("binary", False, 0.0),
        ("rating", {"score": 4, "low": 1, "high": 5}, 0.75),
        ("rating", {"score": -10, "low": -10, "high": 10}, 0.0),
    ],
)
def test_thumbs_and_ratings_have_a_score(kind, value, score):
    assert feedback(kind, 1, value).score == score


@pytest.mark.parametrize(("kind", "count", "value"), [case for case in VALID if case[0] not in ("binary", "rating")])
def test_other_kinds_have_no_score(kind, count, value):
    with pytest.raises(InvalidRecordError, match=f"feedback of kind `{kind}` has no score"):
        _ = feedback(kind, count, value).score


def test_records_load_without_the_training_stack_and_without_sql():
    code = """
import sys
import online_trl.types
assert not {"torch", "transformers", "trl", "sqlalchemy", "fastapi"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
