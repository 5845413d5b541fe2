from __future__ import annotations

import pytest
from datasets import Features, List, Value

from online_trl.preferences import preference_dataset, prompt_dataset, statement_dataset, unpaired_dataset
from preferences.log import assistant, user

MESSAGES = List({"role": Value("string"), "content": Value("string")})


def test_pairs_become_a_preference_dataset(log):
    log.say("comparison", [log.answer("a"), log.answer("b")], "first")
    dataset = preference_dataset(log.read().pairs)
    assert dataset.features == Features(prompt=MESSAGES, chosen=MESSAGES, rejected=MESSAGES)
    assert dataset[:] == {
        "prompt": [user("Where is my parcel?")],
        "chosen": [assistant("a")],
        "rejected": [assistant("b")],
    }


def test_the_margin_is_a_column_if_every_pair_has_one(log):
    log.rate(log.answer("a"), 9)
    log.rate(log.answer("b"), 1)
    dataset = preference_dataset(log.read().pairs)
    assert dataset.features["margin"] == Value("float64")
    assert dataset["margin"][:] == [0.8]
    log.say("correction", [log.answer("c")], "d")
    assert preference_dataset(log.read().pairs).column_names == ["prompt", "chosen", "rejected"]


def test_labels_become_an_unpaired_dataset(log):
    log.say("binary", [log.answer("a")], True)
    dataset = unpaired_dataset(log.read().labels)
    assert dataset.features == Features(prompt=MESSAGES, completion=MESSAGES, label=Value("bool"))
    assert dataset[0] == {"prompt": user("Where is my parcel?"), "completion": assistant("a"), "label": True}


def test_interactions_become_a_prompt_dataset(log):
    dataset = prompt_dataset([log.answer("a"), log.answer("b", prompt="And my refund?")])
    assert dataset[:] == {"prompt": [user("Where is my parcel?"), user("And my refund?")]}


def test_statements_of_every_kind_share_one_dataset(log):
    one, two, three = (log.answer(text) for text in "abc")
    said = log.say("ranking", [one, two, three], [2, 1, 2])
    log.rate(one, 9, user_id="bob")
    log.rate(two, 1, user_id="cyd")
    rows = list(statement_dataset(log.read().statements))
    assert [row["completions"] for row in rows] == [
        [assistant("a"), assistant("b"), assistant("c")],
        [assistant("a")],
        [assistant("a"), assistant("b")],
        [assistant("b")],
    ]
    assert [row["ranks"] for row in rows] == [[2, 1, 2], [1], [1, 2], [1]]
    assert [row["score"] for row in rows] == [None, 0.9, None, 0.1]
    assert [row["margin"] for row in rows] == [None, None, pytest.approx(0.8), None]
    assert [row["voice"] for row in rows] == ["ada", "bob", "cyd", "cyd"]
    assert rows[0]["key"] == "/".join([said.feedback_id, *said.interaction_ids])
    assert len({row["key"] for row in rows}) == 4
    assert {row["weight"] for row in rows} == {1.0}


@pytest.mark.parametrize(
    ("make", "columns"),
    [
        (preference_dataset, ["prompt", "chosen", "rejected"]),
        (unpaired_dataset, ["prompt", "completion", "label"]),
        (prompt_dataset, ["prompt"]),
        (statement_dataset, ["prompt", "completions", "ranks", "weight", "voice", "score", "margin", "key"]),
    ],
)
def test_an_empty_dataset_has_the_columns_of_a_full_one(make, columns):
    dataset = make([])
    assert (len(dataset), dataset.column_names) == (0, columns)
    assert dataset.features["prompt"] == MESSAGES
