from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from online_trl.preferences import DatasetFormatError, import_dataset, preference_dataset, unpaired_dataset
from online_trl.store import FeedbackStore
from online_trl.types import FeedbackKind, FeedbackSource
from preferences.log import Log, assistant, texts, user

CONVERSATION = user("What color is the sky?")
BLUE, GREEN = assistant("It is blue."), assistant("It is green.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": CONVERSATION, "chosen": BLUE, "rejected": GREEN},
        {"chosen": CONVERSATION + BLUE, "rejected": CONVERSATION + GREEN},
        {"prompt": "What color is the sky?", "chosen": CONVERSATION + BLUE, "rejected": CONVERSATION + GREEN},
        {"prompt": "What color is the sky?", "chosen": "It is blue.", "rejected": "It is green."},
        {"prompt": CONVERSATION, "chosen": BLUE, "rejected": GREEN, "score": 3.5, "margin": None},
    ],
    ids=["explicit", "implicit", "plain beside implicit", "plain", "more columns"],
)
def test_a_preference_row_becomes_a_comparison(log, row):
    assert import_dataset(log.store, Dataset.from_list([row])) == 1
    (pair,) = log.read().pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (CONVERSATION, BLUE, GREEN)
    assert (pair.kind, pair.user_ids, pair.policy_versions) == (FeedbackKind.COMPARISON, ("import",), ("import",))


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is green.", ("The sky is", " blue.", " green.")),
        ("The sky is blue.", "The sky is black.", ("The sky is", " blue.", " black.")),
        ("The sky is blue", "The sky is blue.", ("The sky is", " blue", " blue.")),
        ("Human: Hi\n\nAssistant: Hello", "Human: Hi\n\nAssistant: Go", ("Human: Hi\n\nAssistant:", " Hello", " Go")),
    ],
)
def test_the_prompt_in_two_plain_texts_is_what_they_share_word_by_word(log, chosen, rejected, expected):
    import_dataset(log.store, Dataset.from_list([{"chosen": chosen, "rejected": rejected}]))
    (pair,) = log.read().pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (
        user(expected[0]),
        assistant(expected[1]),
        assistant(expected[2]),
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": CONVERSATION, "completion": BLUE},
        {"prompt": CONVERSATION[0]["content"], "completion": "It is blue."},
    ],
    ids=["conversational", "plain"],
)
@pytest.mark.parametrize("label", [True, False, 1, 0])
def test_an_unpaired_row_becomes_a_thumb(log, row, label):
    assert import_dataset(log.store, Dataset.from_list([row | {"label": label}])) == 1
    (verdict,) = log.read().labels
    assert (verdict.prompt, verdict.completion, verdict.label) == (CONVERSATION, BLUE, bool(label))


def test_every_imported_row_is_a_session_ascribed_to_user_and_source(log):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}]
    import_dataset(log.store, Dataset.from_list(rows), user_id="model", source=FeedbackSource.SYNTHETIC)
    sessions = [pair.session_ids for pair in log.read().pairs]
    assert [len(names) for names in sessions] == [1, 1]
    assert sessions[0] != sessions[1]
    assert {(row.user_id, row.source) for row in log.store.feedback()} == {("model", FeedbackSource.SYNTHETIC)}


def test_importing_again_adds_only_what_is_new(log):
    rows = [{"prompt": f"p{number}", "chosen": "a", "rejected": "b"} for number in range(600)]
    rows.append(rows[0])  # judged twice
    assert import_dataset(log.store, Dataset.from_list(rows[:550])) == 550
    assert import_dataset(log.store, Dataset.from_list(rows)) == 51
    end = log.store.latest_seq()
    assert import_dataset(log.store, Dataset.from_list(rows)) == 0
    assert import_dataset(log.store, Dataset.from_list(rows[:1]).to_iterable_dataset()) == 0
    assert log.store.latest_seq() == end == 3 * 601
    assert import_dataset(log.store, Dataset.from_list(rows[:1]), user_id="another") == 1


def test_what_is_exported_can_be_imported(log, tmp_path):
    log.say("comparison", [log.answer("a"), log.answer("b")], "first")
    log.rate(log.answer("c"), 9)
    batch = log.read()
    with FeedbackStore(f"sqlite:///{tmp_path / 'other.db'}") as store:
        assert import_dataset(store, preference_dataset(batch.pairs)) == 1
        assert import_dataset(store, unpaired_dataset(batch.labels)) == 1
        again = Log(store).read()
    assert texts(again.pairs) == texts(batch.pairs)
    assert [(row.completion, row.label) for row in again.labels] == [(assistant("c"), True)]


def test_rows_that_prefer_an_answer_to_itself_are_left_out(log, caplog):
    rows = [
        {"chosen": CONVERSATION + BLUE, "rejected": CONVERSATION + BLUE},
        {"chosen": CONVERSATION + BLUE, "rejected": CONVERSATION + GREEN},
    ]
    assert import_dataset(log.store, Dataset.from_list(rows)) == 1
    assert caplog.messages == ["1 rows prefer an answer to itself and were left out"]


@pytest.mark.parametrize(
    ("columns", "found"),
    [({"prompt": ["p"], "text": ["t"]}, "prompt, text"), ({"prompt": ["p"], "chosen": ["c"]}, "prompt, chosen")],
)
def test_missing_columns_are_named_with_the_expected_ones(log, columns, found):
    message = (
        f"has the columns {found}; expected are `chosen` and `rejected`, .* or `prompt`, `completion` and `label`"
    )
    with pytest.raises(DatasetFormatError, match=message):
        import_dataset(log.store, Dataset.from_dict(columns))
    assert log.store.latest_seq() == 0


def test_splits_are_to_be_chosen(log):
    splits = DatasetDict(train=Dataset.from_dict({"prompt": ["p"]}), test=Dataset.from_dict({"prompt": ["p"]}))
    with pytest.raises(DatasetFormatError, match="splits train, test; pass one"):
        import_dataset(log.store, splits)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "row 1: `chosen` is None; expected is a text, or messages"),
        ({"prompt": "p", "chosen": "good", "rejected": 3}, "row 1: `rejected` is 3"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, r"row 1: `prompt` is \[\]"),
        ({"prompt": None, "chosen": "good", "rejected": "great"}, "row 1: there is no `prompt`"),
        ({"prompt": "p", "chosen": [{"role": "assistant"}], "rejected": "b"}, "row 1: `chosen` is"),
        ({"prompt": None, "chosen": BLUE, "rejected": BLUE + GREEN}, "row 1: there is no `prompt`"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(log, row, message):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(DatasetFormatError, match=message):
        import_dataset(log.store, Rows([good, row]))
    assert log.store.latest_seq() == 0


def test_a_label_is_true_or_false(log):
    dataset = Dataset.from_list([{"prompt": "p", "completion": "a", "label": 0.5}])
    with pytest.raises(DatasetFormatError, match=r"row 0: `label` is 0\.5"):
        import_dataset(log.store, dataset)


def test_an_empty_dataset_adds_nothing(log):
    assert import_dataset(log.store, preference_dataset([])) == 0


class Rows(list):
    """Rows of mixed types, which a `Dataset` could not hold but one that streams can."""

    column_names = None
