from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

from online_trl.preferences import (
    LOOKBACK,
    REGENERATED_WEIGHT,
    DatasetFormatError,
    PreferenceBatch,
    import_dataset,
    labels_from_feedback,
    pairs_from_feedback,
    preference_dataset,
    prompt_dataset,
    read_preferences,
    standing_feedback,
    unpaired_dataset,
)
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, FeedbackSource, Interaction, PreferencePair, Purpose

MESSAGES = List({"role": Value("string"), "content": Value("string")})


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


class Log:
    """A store, and short words for what happens in it."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store

    def answer(self, text: str, prompt: str = "Where is my parcel?", **fields: Any) -> Interaction:
        defaults = {"policy_version": "policy-0001", "session_id": "session", "user_id": "ada"}
        return self.store.add_interaction(
            Interaction(prompt=user(prompt), completion=assistant(text), **(defaults | fields))
        )

    def say(self, kind: str, answers: list[Interaction], value: Any, **fields: Any) -> Feedback:
        ids = [answer.interaction_id for answer in answers]
        defaults = {"user_id": "ada"}
        return self.store.add_feedback(
            Feedback(kind=FeedbackKind(kind), interaction_ids=ids, value=value, **(defaults | fields))
        )

    def rate(self, answer: Interaction, score: float, **fields: Any) -> Feedback:
        return self.say("rating", [answer], {"score": score, "low": 0, "high": 10}, **fields)

    def read(self, after: int = 0, upto: int | None = None) -> PreferenceBatch:
        return read_preferences(self.store, after=after, upto=self.store.latest_seq() if upto is None else upto)


@pytest.fixture
def log(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path / 'feedback.db'}") as store:
        yield Log(store)


def texts(pairs: tuple[PreferencePair, ...]) -> list[tuple[str, str]]:
    return [(pair.chosen[-1]["content"], pair.rejected[-1]["content"]) for pair in pairs]


def test_a_comparison_is_one_pair_with_all_its_sources(log):
    first = log.answer("Lost.", policy_version="policy-0002", session_id="b", user_id="bob")
    second = log.answer("On its way.", session_id="a", user_id="ada")
    said = log.say("comparison", [first, second], "second", user_id="cyd")
    assert log.read().pairs == (
        PreferencePair(
            prompt=user("Where is my parcel?"),
            chosen=assistant("On its way."),
            rejected=assistant("Lost."),
            kind=FeedbackKind.COMPARISON,
            feedback_ids=(said.feedback_id,),
            seq=3,
            session_ids=("a", "b"),
            user_ids=("ada", "bob", "cyd"),
            policy_versions=("policy-0001", "policy-0002"),
        ),
    )


@pytest.mark.parametrize(("value", "pairs"), [("first", [("a", "b")]), ("second", [("b", "a")]), ("tie", [])])
def test_a_comparison_prefers_what_it_names(log, value, pairs):
    log.say("comparison", [log.answer("a"), log.answer("b")], value)
    assert texts(log.read().pairs) == pairs


def test_a_ranking_pairs_neighbouring_tiers_which_share_a_weight(log):
    answers = [log.answer(text) for text in "abcde"]
    log.say("ranking", answers, [5, 1, 2, 2, 5])
    pairs = log.read().pairs
    assert texts(pairs) == [("b", "c"), ("b", "d"), ("c", "a"), ("c", "e"), ("d", "a"), ("d", "e")]
    assert [pair.weight for pair in pairs] == [1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 4, 1 / 4]
    assert {pair.margin for pair in pairs} == {None}


def test_a_ranking_of_equals_says_nothing(log):
    log.say("ranking", [log.answer("a"), log.answer("b")], [1, 1])
    assert log.read().pairs == ()


def test_a_correction_is_preferred_to_the_answer(log):
    log.say("correction", [log.answer("Lost.")], "It arrives today.")
    (pair,) = log.read().pairs
    assert (pair.chosen, pair.rejected) == (assistant("It arrives today."), assistant("Lost."))
    assert (pair.kind, pair.weight, pair.policy_versions) == (FeedbackKind.CORRECTION, 1.0, ("policy-0001",))


def test_verdicts_are_labels_and_pairs_of_answers_to_one_prompt(log):
    good, bad, elsewhere = log.answer("good"), log.answer("bad"), log.answer("other", prompt="And my refund?")
    up = log.say("binary", [good], True)
    log.say("binary", [elsewhere], False)
    rated = log.rate(bad, 2)
    batch = log.read()
    assert [(label.completion, label.label, label.score) for label in batch.labels] == [
        (assistant("good"), True, 1.0),
        (assistant("other"), False, 0.0),
        (assistant("bad"), False, 0.2),
    ]
    assert texts(batch.pairs) == [("good", "bad")]
    (pair,) = batch.pairs
    assert (pair.feedback_ids, pair.seq) == ((up.feedback_id, rated.feedback_id), rated.seq)
    assert (pair.margin, pair.weight, pair.kind) == (0.8, 1.0, FeedbackKind.RATING)


def test_a_middling_rating_is_not_a_thumb_up(log):
    log.rate(log.answer("fair"), 5)
    (label,) = log.read().labels
    assert (label.label, label.score) == (False, 0.5)


@pytest.mark.parametrize(("score", "pairs"), [(2, [("a", "b")]), (3, []), (7, [])])
def test_only_clearly_different_scores_make_a_pair(log, score, pairs):
    log.rate(log.answer("a"), 7)
    log.rate(log.answer("b"), score)
    assert texts(log.read().pairs) == pairs


def test_a_mined_pair_weighs_one_over_the_pairs_of_its_busier_answer(log):
    bad = log.answer("bad")
    log.say("binary", [bad], False)
    for number in range(3):
        log.say("binary", [log.answer(f"good {number}")], True)
    assert [pair.weight for pair in log.read().pairs] == [1, 1 / 2, 1 / 3]
    log.say("binary", [log.answer("worse")], False)
    assert [pair.weight for pair in log.read(after=log.store.latest_seq() - 1).pairs] == [1 / 3] * 3


def test_a_popular_prompt_gives_a_bounded_number_of_pairs_per_verdict(log):
    for number in range(3 * LOOKBACK):
        log.say("binary", [log.answer(str(number))], number % 2 == 0)
    last = log.read(after=log.store.latest_seq() - 1).pairs
    assert len(last) == LOOKBACK / 2
    assert texts(last)[0][0] == str(2 * LOOKBACK)


@pytest.mark.parametrize(
    ("kind", "value"), [("comparison", "first"), ("ranking", [1, 2])], ids=["comparison", "ranking"]
)
def test_identical_answers_and_answers_to_different_prompts_are_never_paired(log, kind, value):
    log.say(kind, [log.answer("same"), log.answer("same")], value)
    log.say(kind, [log.answer("a"), log.answer("b", prompt="And my refund?")], value)
    assert log.read().pairs == ()


def test_identical_answers_are_not_paired_by_verdicts_corrections_or_regeneration(log):
    first, second = log.answer("same"), log.answer("same")
    log.say("binary", [first], True)
    log.say("binary", [second], False)
    log.say("correction", [first], "same")
    log.say("implicit", [first], "regenerate")
    assert log.read().pairs == ()


def test_the_next_answer_is_preferred_to_the_regenerated_one(log):
    log.answer("before")
    old = log.answer("old")
    log.answer("other session", session_id="elsewhere")
    log.answer("other prompt", prompt="And my refund?")
    log.answer("for a judge", purpose=Purpose.EVALUATION)
    log.answer("new")
    log.answer("newest")
    said = log.say("implicit", [old], "regenerate", source=FeedbackSource.IMPLICIT)
    (pair,) = log.read().pairs
    assert texts([pair]) == [("new", "old")]
    assert (pair.weight, pair.seq, pair.kind) == (REGENERATED_WEIGHT, said.seq, FeedbackKind.IMPLICIT)


def test_an_answer_that_comes_after_its_regeneration_dates_the_pair(log):
    old = log.answer("old")
    said = log.say("implicit", [old], "regenerate")
    assert log.read().pairs == ()
    new = log.answer("new")
    (pair,) = log.read(after=said.seq).pairs
    assert (texts([pair]), pair.seq, pair.feedback_ids) == ([("new", "old")], new.seq, (said.feedback_id,))
    assert log.read(upto=said.seq).pairs == ()


def test_other_signals_give_no_pair(log):
    old = log.answer("old")
    log.answer("new")
    log.say("implicit", [old], "copy")
    assert log.read().pairs == log.read().labels == ()


@pytest.mark.parametrize("purpose", [Purpose.EVALUATION, Purpose.BACKGROUND])
def test_only_feedback_about_chats_counts(log, purpose):
    chat, other = log.answer("chat"), log.answer("other", purpose=purpose)
    log.say("comparison", [chat, other], "first")
    log.say("binary", [other], False)
    up = log.say("binary", [chat], True)
    batch = log.read()
    assert batch.pairs == ()
    assert batch.feedback_ids == (up.feedback_id,)
    assert [label.completion for label in batch.labels] == [assistant("chat")]


def test_a_batch_names_all_feedback_of_its_interval(log):
    answers = [log.answer("a"), log.answer("b")]
    rows = [
        log.say("binary", [answers[0]], True),
        log.say("comparison", answers, "tie"),
        log.say("implicit", [answers[0]], "copy"),
    ]
    batch = log.read(after=3, upto=5)
    assert batch == PreferenceBatch((), (), (rows[1].feedback_id, rows[2].feedback_id), 3, 5)


def test_a_superseding_row_replaces(log):
    a, b = log.answer("a"), log.answer("b")
    first = log.say("comparison", [a, b], "first")
    log.say("comparison", [a, b], "second", supersedes=first.feedback_id)
    assert texts(log.read(upto=first.seq).pairs) == [("a", "b")]
    assert texts(log.read().pairs) == texts(log.read(after=first.seq).pairs) == [("b", "a")]


def test_what_is_taken_back_is_left_out_from_then_on(log):
    good, bad = log.answer("good"), log.answer("bad")
    up = log.say("binary", [good], True)
    log.say("binary", [], None, supersedes=up.feedback_id)
    down = log.say("binary", [bad], False)
    batch = log.read(after=down.seq - 1)
    assert batch.pairs == ()
    assert batch.feedback_ids == (down.feedback_id,)
    assert [label.completion for label in log.read().labels] == [assistant("bad")]
    assert standing_feedback(log.store.feedback()) == [down]


def test_a_new_verdict_is_paired_with_one_from_before_the_interval(log):
    bad = log.answer("bad")
    log.say("binary", [bad], False)
    cursor = log.store.latest_seq()
    up = log.say("binary", [log.answer("good")], True)
    (pair,) = log.read(after=cursor).pairs
    assert (texts([pair]), pair.seq) == ([("good", "bad")], up.seq)


@pytest.mark.parametrize(("after", "upto"), [(0, 2), (1, 0), (-1, 1)])
def test_an_interval_outside_the_log_is_refused(log, after, upto):
    log.answer("a")
    with pytest.raises(ValueError, match="is no interval of the log, which ends at 1"):
        log.read(after, upto)


def test_rows_that_no_store_returned_are_refused(log):
    answer = log.answer("a")
    said = Feedback(kind=FeedbackKind.CORRECTION, interaction_ids=[answer.interaction_id], value="b", user_id="ada")
    with pytest.raises(ValueError, match="has no `seq`"):
        pairs_from_feedback([said], {answer.interaction_id: answer})


def write_random_log(log: Log, rng: random.Random, *, events: int, takes_back: bool) -> None:
    answers, rows = [log.answer("0")], []
    for _ in range(events):
        one, other = rng.choice(answers), rng.choice(answers)
        replaces = {"supersedes": rng.choice(rows).feedback_id} if takes_back and rows and rng.random() < 0.3 else {}
        kind = rng.choice(["answer", "answer", "binary", "binary", "rating", "comparison", "ranking", "regenerate"])
        if kind == "answer":
            purpose = rng.choice([Purpose.CHAT] * 5 + [Purpose.EVALUATION])
            prompt, session = rng.choice(["p", "q"]), rng.choice(["s", "t"])
            answers.append(log.answer(str(rng.randrange(9)), prompt, session_id=session, purpose=purpose))
        elif kind == "binary":
            value = None if replaces and rng.random() < 0.3 else rng.random() < 0.5
            rows.append(log.say("binary", [one], value, **replaces))
        elif kind == "rating":
            rows.append(log.rate(one, rng.randrange(11), **replaces))
        elif kind == "regenerate":
            rows.append(log.say("implicit", [one], "regenerate", **replaces))
        elif one is not other:
            value = "first" if kind == "comparison" else [1, 2]
            rows.append(log.say(kind, [one, other], value, **replaces))


@pytest.mark.parametrize("seed", range(5))
def test_consecutive_intervals_give_every_pair_and_label_exactly_once(log, seed):
    rng = random.Random(seed)
    write_random_log(log, rng, events=80, takes_back=False)
    whole = log.read()
    assert len(whole.pairs) > 20
    ends = sorted(rng.sample(range(1, whole.upto), 12))
    batches = [log.read(after, upto) for after, upto in zip([0, *ends], [*ends, whole.upto], strict=True)]
    assert tuple(pair for batch in batches for pair in batch.pairs) == whole.pairs
    assert tuple(label for batch in batches for label in batch.labels) == whole.labels
    assert tuple(name for batch in batches for name in batch.feedback_ids) == whole.feedback_ids


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_gives_the_same_as_the_newest_part_of_the_whole_log(log, seed):
    rng = random.Random(seed)
    write_random_log(log, rng, events=80, takes_back=True)
    store = log.store
    for _ in range(10):
        after, upto = sorted(rng.sample(range(store.latest_seq() + 1), 2))
        feedback, answers = (
            store.feedback(upto=upto),
            {row.interaction_id: row for row in store.interactions(upto=upto)},
        )
        batch = log.read(after, upto)
        assert list(batch.pairs) == pairs_from_feedback(feedback, answers, after=after)
        assert list(batch.labels) == labels_from_feedback(feedback, answers, after=after)
        assert all(after < row.seq <= upto for row in (*batch.pairs, *batch.labels))


def test_an_interval_is_read_alike_from_every_database(store):
    log = Log(store)
    write_random_log(log, random.Random(0), events=40, takes_back=True)
    middle = store.latest_seq() // 2
    answers = {row.interaction_id: row for row in store.interactions()}
    expected = pairs_from_feedback(store.feedback(), answers, after=middle)
    assert list(log.read(after=middle).pairs) == expected != []


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


@pytest.mark.parametrize(
    ("make", "columns"),
    [
        (preference_dataset, ["prompt", "chosen", "rejected"]),
        (unpaired_dataset, ["prompt", "completion", "label"]),
        (prompt_dataset, ["prompt"]),
    ],
)
def test_an_empty_dataset_has_the_columns_of_a_full_one(make, columns):
    dataset = make([])
    assert (len(dataset), dataset.column_names) == (0, columns)
    assert dataset.features["prompt"] == MESSAGES


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


def test_preferences_load_without_the_training_stack():
    code = """
import sys
import online_trl.preferences
assert not {"torch", "transformers", "trl", "datasets"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
