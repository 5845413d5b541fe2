from __future__ import annotations

import gc
import random
import subprocess
import sys
from collections import Counter

import pytest

from online_trl.preferences import (
    LOOKBACK,
    PreferenceBatch,
    labels_from_feedback,
    pairs_from_feedback,
    standing_feedback,
    statement_key,
)
from online_trl.types import Feedback, FeedbackKind, Interaction, PreferencePair, Purpose, Statement
from preferences.log import Log, assistant, texts, user


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
            interaction_ids=(second.interaction_id, first.interaction_id),
            voice="cyd",
            session_ids=("a", "b"),
            user_ids=("ada", "bob", "cyd"),
            policy_versions=("policy-0001", "policy-0002"),
            said_at=said.created_at,
            answered_at=second.created_at,
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


def test_every_turn_is_judged_with_its_whole_conversation(log):
    conversation = [*user("Where is my parcel?"), *assistant("Which one?"), *user("The lamp.")]
    ids = [
        log.store.add_interaction(
            Interaction(
                prompt=conversation,
                completion=assistant(text),
                policy_version="policy-0001",
                session_id="session",
                user_id="ada",
            )
        )
        for text in ("On its way.", "Lost.")
    ]
    first_turn = [log.answer("Which one?"), log.answer("Look.")]
    log.say("comparison", ids, "first")
    log.say("comparison", first_turn, "first")
    log.say("binary", [ids[0]], True)
    batch = log.read()
    assert [pair.prompt for pair in batch.pairs] == [conversation, conversation[:1]]
    assert texts(batch.pairs) == [("On its way.", "Lost."), ("Which one?", "Look.")]
    assert [(label.prompt, label.completion) for label in batch.labels] == [(conversation, assistant("On its way."))]


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


def test_an_answer_cut_before_its_first_word_is_no_side_of_a_pair(log):
    cut = {"sampling": {"finish_reason": "cancelled"}}
    nothing, begun = log.answer("", **cut), log.answer("It ar", **cut)
    best, silent, worst = log.answer("Today."), log.answer("", sampling={"finish_reason": "stop"}), log.answer("Lost.")
    log.say("correction", [nothing], "Tomorrow.")
    log.say("comparison", [best, nothing], "first")
    log.say("implicit", [nothing], "regenerate")
    assert log.read().pairs == ()
    log.say("ranking", [best, nothing, worst], [1, 2, 3])
    log.say("comparison", [best, begun], "first")
    log.say("comparison", [best, silent], "first")
    assert texts(log.read().pairs) == [("Today.", "Lost."), ("Today.", "It ar"), ("Today.", "")]


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
    wanted = PreferenceBatch((), (), (rows[1].feedback_id, rows[2].feedback_id), 3, 5, rankings=batch.rankings)
    assert batch == wanted


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


def test_what_is_taken_back_or_replaced_later_is_withdrawn_from_earlier_batches(log):
    good, bad = log.answer("good"), log.answer("bad")
    up, down = log.say("binary", [good], True), log.say("binary", [bad], False)
    corrected = log.say("correction", [bad], "better")
    earlier = log.read().pairs
    log.say("binary", [], None, supersedes=up.feedback_id)
    log.say("correction", [bad], "best", supersedes=corrected.feedback_id)
    later = log.read(after=corrected.seq)
    assert later.withdrawn == {up.feedback_id, corrected.feedback_id}
    assert [later.still_counts(pair) for pair in earlier] == [False, False]
    assert all(later.still_counts(pair) for pair in later.pairs)
    kept = log.say("binary", [good], True)
    assert log.read(after=kept.seq - 1).withdrawn == frozenset()
    assert log.read(upto=down.seq).withdrawn == frozenset()


def test_the_last_verdict_of_a_user_on_an_answer_counts(log):
    good, bad = log.answer("good"), log.answer("bad")
    log.say("binary", [good], False)
    log.say("binary", [bad], False)
    other = log.say("binary", [good], False, user_id="bob")
    last = log.rate(good, 9)
    batch = log.read()
    assert [(label.completion, label.score, label.voice) for label in batch.labels] == [
        (assistant("bad"), 0.0, "ada"),
        (assistant("good"), 0.0, "bob"),
        (assistant("good"), 0.9, "ada"),
    ]
    assert texts(batch.pairs) == [("good", "bad")]
    earlier = log.read(upto=other.seq)
    later = log.read(after=other.seq)
    assert [label.feedback_ids for label in later.labels] == [(last.feedback_id,)]
    assert [later.still_counts(label) for label in earlier.labels] == [False, True, True]
    assert later.pairs == batch.pairs


def test_a_verdict_counts_again_when_the_one_after_it_is_taken_back(log):
    good, bad = log.answer("good"), log.answer("bad")
    log.say("binary", [bad], False)
    up = log.say("binary", [good], True)
    first = log.read()
    down = log.say("binary", [good], False)
    second = log.read(after=first.upto)
    assert second.pairs == ()
    assert [label.label for label in second.labels] == [False]
    assert second.withdrawn == {up.feedback_id}
    log.say("binary", [], None, supersedes=down.feedback_id)
    third = log.read(after=second.upto)
    assert (third.pairs, third.labels) == (first.pairs, first.labels[1:])
    assert third.withdrawn == {down.feedback_id}


def test_what_had_been_said_twice_counts_when_what_was_said_first_is_replaced(log):
    good, bad = log.answer("good"), log.answer("bad")
    log.say("binary", [bad], False)
    log.say("binary", [good], True)
    (mined,) = log.read().pairs
    compared = log.say("comparison", [good, bad], "first")
    second = log.read(after=mined.seq)
    assert second.pairs == ()
    log.say("binary", [good], False)
    third = log.read(after=second.upto)
    assert not third.still_counts(mined)
    assert [(pair.feedback_ids, pair.seq) for pair in third.pairs] == [((compared.feedback_id,), compared.seq)]


def test_a_new_verdict_is_paired_with_one_from_before_the_interval(log):
    bad = log.answer("bad")
    log.say("binary", [bad], False)
    cursor = log.store.latest_seq()
    up = log.say("binary", [log.answer("good")], True)
    (pair,) = log.read(after=cursor).pairs
    assert (texts([pair]), pair.seq) == ([("good", "bad")], up.seq)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_reading_leaves_the_garbage_collector_as_it_was(log, is_enabled):
    log.answer("a")
    was_enabled = gc.isenabled()
    try:
        (gc.enable if is_enabled else gc.disable)()
        log.read()
        assert gc.isenabled() is is_enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


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


def write_random_log(
    log: Log, rng: random.Random, *, events: int, takes_back: bool, judges_again: bool = True
) -> None:
    answers, rows = [log.answer("0")], []
    for _ in range(events):
        one, other = rng.choice(answers), rng.choice(answers)
        replaces = {"supersedes": rng.choice(rows).feedback_id} if takes_back and rows and rng.random() < 0.3 else {}
        kind = rng.choice(["answer", "answer", "binary", "binary", "rating", "comparison", "ranking", "regenerate"])
        speaks = replaces if judges_again else {"user_id": f"user-{len(rows)}"}
        if kind == "answer":
            purpose = rng.choice([Purpose.CHAT] * 5 + [Purpose.EVALUATION])
            prompt, session = rng.choice(["p", "q"]), rng.choice(["s", "t"])
            links = {"parent_id": rng.choice([None, other.interaction_id])}
            same_turn = [answer for answer in answers if answer.prompt == user(prompt)]
            links["regenerates"] = rng.choice([None, *(answer.interaction_id for answer in same_turn[-1:])])
            fields = {"session_id": session, "purpose": purpose, "user_id": rng.choice(["ada", "bob"]), **links}
            answers.append(log.answer(str(rng.randrange(9)), prompt, **fields))
        elif kind == "binary":
            value = None if replaces and rng.random() < 0.3 else rng.random() < 0.5
            rows.append(log.say("binary", [one], value, **speaks))
        elif kind == "rating":
            rows.append(log.rate(one, rng.randrange(11), **speaks))
        elif kind == "regenerate":
            rows.append(log.say("implicit", [one], "regenerate", **replaces))
        elif one is not other:
            value = "first" if kind == "comparison" else [1, 2]
            rows.append(log.say(kind, [one, other], value, **replaces))


@pytest.mark.parametrize("seed", range(5))
def test_consecutive_intervals_give_every_pair_and_label_exactly_once(log, seed):
    rng = random.Random(seed)
    write_random_log(log, rng, events=80, takes_back=False, judges_again=False)
    whole = log.read()
    assert len(whole.pairs) > 20
    ends = sorted(rng.sample(range(1, whole.upto), 12))
    batches = [log.read(after, upto) for after, upto in zip([0, *ends], [*ends, whole.upto], strict=True)]
    assert tuple(pair for batch in batches for pair in batch.pairs) == whole.pairs
    assert tuple(label for batch in batches for label in batch.labels) == whole.labels
    assert tuple(name for batch in batches for name in batch.feedback_ids) == whole.feedback_ids


@pytest.mark.parametrize("takes_back", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_who_keeps_what_still_counts_of_consecutive_intervals_has_all_of_the_log_once(log, seed, takes_back):
    rng = random.Random(seed)
    write_random_log(log, rng, events=80, takes_back=takes_back)
    whole = log.read()
    assert len(whole.pairs) > 5
    ends = sorted(rng.sample(range(1, whole.upto), 12))
    kept: list[Statement] = []
    named: list[str] = []
    for after, upto in zip([0, *ends], [*ends, whole.upto], strict=True):
        batch = log.read(after, upto)
        kept = [statement for statement in kept if batch.still_counts(statement)]
        kept += [*batch.pairs, *batch.labels, *batch.rankings]
        named += batch.feedback_ids
    assert tuple(named) == whole.feedback_ids
    by_key = Counter((type(statement), statement_key(statement)) for statement in kept)
    assert set(by_key.values()) == {1}
    assert by_key.keys() >= {
        (type(statement), statement_key(statement)) for statement in (*whole.pairs, *whole.labels, *whole.rankings)
    }
    standing = {row.feedback_id for row in standing_feedback(log.store.feedback())}
    assert all(standing.issuperset(statement.feedback_ids) for statement in kept)


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
        rows = (*batch.pairs, *batch.labels)
        assert [row.seq for row in batch.pairs] == sorted(row.seq for row in batch.pairs)
        assert all(row.seq <= upto and (after < row.seq or batch.withdrawn) for row in rows)


def test_an_interval_is_read_alike_from_every_database(store):
    log = Log(store)
    write_random_log(log, random.Random(0), events=40, takes_back=True)
    middle = store.latest_seq() // 2
    answers = {row.interaction_id: row for row in store.interactions()}
    expected = pairs_from_feedback(store.feedback(), answers, after=middle)
    assert list(log.read(after=middle).pairs) == expected != []


def test_preferences_load_without_the_training_stack():
    code = """
import sys
import online_trl.preferences
assert not {"torch", "transformers", "trl", "datasets"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
