from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from online_trl.evaluation import satisfaction
from online_trl.preferences import read_preferences, standing_feedback
from online_trl.serving.settings import ServerSettings
from online_trl.simulation import helpdesk
from online_trl.store import FeedbackStore, NotQuarantinedError, Screening, rows
from online_trl.store.statements import statement_key
from online_trl.types import ANONYMOUS, Feedback, FeedbackKind, Interaction, Purpose, QuarantineReason, utcnow

STRICT = Screening(burst_rows=3, burst_seconds=60, near_duplicates=2, near_duplicate_seconds=3600)
BURSTS = Screening(burst_rows=3, burst_seconds=60, near_duplicates=0, near_duplicate_seconds=3600)
DUPLICATES = Screening(burst_rows=0, burst_seconds=60, near_duplicates=2, near_duplicate_seconds=3600)
AT_ONCE = Screening(burst_rows=1, burst_seconds=60, near_duplicates=0, near_duplicate_seconds=3600)
OFF = Screening(burst_rows=0, burst_seconds=60, near_duplicates=0, near_duplicate_seconds=3600)
REWRITE = "It will arrive at your door today."


def answer(store: FeedbackStore, prompt: str = "Where is my parcel?", text: str = "Lost.", **fields: Any) -> str:
    row = Interaction(
        prompt=[{"role": "user", "content": prompt}],
        completion=[{"role": "assistant", "content": text}],
        **({"policy_version": "policy-0001", "session_id": "session", "user_id": "asker"} | fields),
    )
    return store.add_interaction(row).interaction_id


def statement(kind: str, ids: str | list[str], value: Any, **fields: Any) -> Feedback:
    names = [ids] if isinstance(ids, str) else ids
    return Feedback(kind=FeedbackKind(kind), interaction_ids=names, value=value, **({"user_id": "ada"} | fields))


def say(store: FeedbackStore, said: Iterable[Feedback], screening: Screening = STRICT) -> list[Feedback]:
    return store.submit_feedback(list(said), screening=screening).result()


def held(store: FeedbackStore) -> list[tuple[str, str]]:
    return [(row.feedback.feedback_id, row.reason.value) for row in store.quarantined()]


def test_what_is_beyond_a_burst_is_in_the_log_and_in_quarantine(store):
    ids = [answer(store, f"question {number}") for number in range(5)]
    said = say(store, (statement("binary", name, True) for name in ids), BURSTS)
    assert [row.seq for row in said] == [6, 7, 8, 9, 10]
    assert store.feedback() == said
    assert [row.feedback for row in store.quarantined()] == said[3:]
    assert {(row.reason, row.detail) for row in store.quarantined()} == {
        (QuarantineReason.BURST, "3 rows of this user came in the 60 s before it")
    }
    assert store.admitted_feedback() == said[:3]
    batch = read_preferences(store, after=0, upto=10)
    assert batch.feedback_ids == tuple(row.feedback_id for row in said[:3])
    assert len(batch.labels) == 3


def test_a_burst_is_told_of_single_statements_as_of_a_batch_and_of_each_user_alone(store):
    ids = [answer(store, f"question {number}") for number in range(4)]
    for name in ids:
        say(store, [statement("binary", name, True), statement("binary", name, False, user_id="bob")], BURSTS)
    assert [row.feedback.user_id for row in store.quarantined()] == ["ada", "bob"]


def test_rows_of_long_ago_are_no_burst_but_quarantined_ones_count(store, monkeypatch):
    start = utcnow()
    said = []
    for seconds in (0, 10, 20, 30, 40, 65, 130):
        now = start + timedelta(seconds=seconds)
        for module in ("online_trl.store.group.utcnow", "online_trl.store.quarantine.utcnow"):
            monkeypatch.setattr(module, lambda now=now: now)
        said += say(store, [statement("binary", answer(store), True)], BURSTS)
    # Of the last minute before the sixth, two rows were let through and two were not.
    assert [row.feedback for row in store.quarantined()] == said[3:6]


def test_a_clock_that_goes_backwards_makes_no_burst(store, monkeypatch):
    ids = [answer(store, f"question {number}") for number in range(5)]
    say(store, (statement("binary", name, True) for name in ids[:3]), BURSTS)
    earlier = utcnow() - timedelta(hours=1)
    for module in ("online_trl.store.group.utcnow", "online_trl.store.quarantine.utcnow"):
        monkeypatch.setattr(module, lambda: earlier)
    say(store, [statement("binary", ids[3], True)], BURSTS)
    assert held(store) == []


def test_those_who_give_no_name_make_no_burst_together(store):
    ids = [answer(store, f"question {number}") for number in range(5)]
    say(store, (statement("binary", name, True, user_id=ANONYMOUS) for name in ids), BURSTS)
    assert held(store) == []


def test_the_same_words_about_different_answers_are_near_duplicates_whoever_says_them(store):
    texts = [REWRITE, "it will ARRIVE  at your door, today!", "It will arrive — at your door — today", REWRITE + "!!"]
    said = [
        statement("correction", answer(store, f"question {number}"), text, user_id=f"user-{number}")
        for number, text in enumerate(texts)
    ]
    say(store, said, DUPLICATES)
    assert held(store) == [(row.feedback_id, "near_duplicate") for row in said[2:]]
    assert store.quarantined()[0].detail == "2 rows said nearly the same in the 3600 s before it"


def test_the_same_comment_on_different_answers_is_a_near_duplicate_but_a_short_one_is_not(store):
    ids = [answer(store, f"question {number}") for number in range(6)]
    spam = [statement("binary", name, False, comment="Buy a better bot at bot.example") for name in ids[:3]]
    thanks = [statement("binary", name, True, comment="Thanks!") for name in ids[3:]]
    say(store, [*spam, *thanks], DUPLICATES)
    assert held(store) == [(spam[2].feedback_id, "near_duplicate")]


@pytest.mark.parametrize(("kind", "value"), [("binary", True), ("implicit", "copy"), ("correction", "Today.")])
def test_the_same_statement_about_the_same_answer_under_new_keys_is_a_near_duplicate(store, kind, value):
    name, other = answer(store), answer(store)
    said = [statement(kind, name, value) for _ in range(3)]
    say(store, [*said, statement(kind, other, value), statement(kind, name, value, user_id="bob")], DUPLICATES)
    assert held(store) == [(said[2].feedback_id, "near_duplicate")]


def test_what_takes_something_back_is_never_quarantined(store):
    said = say(store, [statement("binary", answer(store), True) for _ in range(3)], OFF)
    say(store, [statement("binary", [], None, supersedes=row.feedback_id) for row in said])
    assert held(store) == []


def test_a_bound_of_0_is_none(store):
    name = answer(store)
    say(store, [statement("binary", name, True) for _ in range(5)], OFF)
    assert held(store) == []


def test_what_is_written_without_screening_is_not_screened(store):
    name = answer(store)
    store.add_feedback_batch([statement("binary", name, True) for _ in range(9)])
    assert held(store) == []


def test_a_retry_of_a_quarantined_row_is_the_same_row(store):
    name = answer(store)
    said = [statement("binary", name, True) for _ in range(3)]
    stored = say(store, said, DUPLICATES)
    assert say(store, said, DUPLICATES) == stored
    assert held(store) == [(said[2].feedback_id, "near_duplicate")]


def test_a_released_row_reaches_a_reader_who_has_read_past_it_exactly_once(store):
    first, second = answer(store, text="Lost."), answer(store, text="Today.")
    say(store, [statement("binary", first, True), statement("binary", first, True)])
    down = statement("comparison", [first, second], "second", comment="This is the better one of the two")
    held_back = say(store, [statement("binary", first, True), down], STRICT)
    assert [name for name, _ in held(store)] == [row.feedback_id for row in held_back]
    cursor = store.latest_seq()
    assert read_preferences(store, after=0, upto=cursor).pairs == ()

    (released,) = store.release([down.feedback_id])
    assert released.seq == cursor + 1 == store.latest_seq()
    fresh = read_preferences(store, after=cursor, upto=cursor + 1)
    assert [(pair.feedback_ids, pair.seq) for pair in fresh.pairs] == [((down.feedback_id,), cursor + 1)]
    assert fresh.feedback_ids == (down.feedback_id,)
    assert read_preferences(store, after=0, upto=cursor).pairs == ()
    assert read_preferences(store, after=0, upto=cursor + 1).pairs == fresh.pairs
    assert [row.seq for row in store.admitted_feedback(after=cursor)] == [cursor + 1]
    assert [row.feedback.seq for row in store.quarantined()] == [held_back[0].seq]


def test_a_row_is_released_once(store):
    name = answer(store)
    said = [statement("binary", name, True) for _ in range(3)]
    say(store, said, DUPLICATES)
    (released,) = store.release([said[2].feedback_id])
    assert store.release([said[2].feedback_id]) == [released]
    assert store.latest_seq() == released.seq
    assert held(store) == []


def test_only_what_is_in_quarantine_can_be_released(store):
    name = answer(store)
    said = [statement("binary", name, True) for _ in range(3)]
    say(store, said, DUPLICATES)
    with pytest.raises(NotQuarantinedError, match=f"not in quarantine: {said[0].feedback_id}"):
        store.release([said[2].feedback_id, said[0].feedback_id])
    assert held(store) == [(said[2].feedback_id, "near_duplicate")]


def test_the_list_is_read_in_parts(store):
    name = answer(store)
    said = say(store, [statement("binary", name, True) for _ in range(6)], DUPLICATES)
    assert [row.feedback.seq for row in store.quarantined(limit=2)] == [said[2].seq, said[3].seq]
    assert [row.feedback.seq for row in store.quarantined(after=said[3].seq)] == [said[4].seq, said[5].seq]


def test_quarantined_feedback_does_not_count_in_evaluations(store):
    judged = [answer(store, f"question {number}", purpose=Purpose.EVALUATION) for number in range(4)]
    say(store, (statement("binary", name, name == judged[3]) for name in judged), BURSTS)
    assert satisfaction(store, "policy-0001").mean == 0.0
    store.release([row.feedback.feedback_id for row in store.quarantined()])
    assert satisfaction(store, "policy-0001").mean == 0.25


def test_an_amendment_in_quarantine_waits_and_the_amended_row_counts(store):
    name = answer(store)
    first = say(store, [statement("binary", name, True)], OFF)[0]
    say(store, [statement("binary", name, True) for _ in range(2)], OFF)
    amended = statement("binary", name, False, supersedes=first.feedback_id, user_id="ada")
    say(store, [amended], BURSTS)
    assert first.feedback_id in [row.feedback_id for row in store.admitted_feedback()]
    assert amended.feedback_id not in [row.feedback_id for row in store.admitted_feedback()]


@pytest.mark.parametrize("waiting", [1, 2])
def test_what_supersedes_a_waiting_row_supersedes_what_that_was_to_replace(store, waiting):
    name, other = answer(store), answer(store, "Anything else?")
    first = last = store.add_feedback(statement("binary", name, True))
    for _ in range(waiting):
        (last,) = say(store, [statement("binary", other, False, supersedes=last.feedback_id)], AT_ONCE)
    cursor = store.latest_seq()
    assert [label.label for label in read_preferences(store, after=0, upto=cursor).labels] == [True]

    taken_back = store.add_feedback(statement("binary", [], None, supersedes=last.feedback_id))
    end = store.latest_seq()
    assert read_preferences(store, after=0, upto=end).labels == ()
    assert read_preferences(store, after=cursor, upto=end).withdrawn == {first.feedback_id}
    assert standing_feedback(store.admitted_feedback()) == []

    # What nobody replaced before it was released does not come back with its release.
    store.release([row.feedback.feedback_id for row in store.quarantined()])
    assert read_preferences(store, after=end, upto=store.latest_seq()).labels == ()
    assert read_preferences(store, after=cursor, upto=end).withdrawn == {first.feedback_id}
    assert store.admitted_feedback(after=cursor, upto=end) == [replace(taken_back, supersedes=first.feedback_id)]
    assert standing_feedback(store.admitted_feedback()) == []


def test_the_parts_of_an_interval_are_read_as_they_count_at_one_position(store):
    name = answer(store)
    first = store.add_feedback(statement("binary", name, True))
    (waiting,) = say(store, [statement("binary", name, False, supersedes=first.feedback_id)], AT_ONCE)
    last = store.add_feedback(statement("binary", name, True, supersedes=waiting.feedback_id))
    before = store.latest_seq()
    store.release([waiting.feedback_id])
    end = store.latest_seq()
    parts = [row for seq in range(end) for row in store.admitted_feedback(after=seq, upto=seq + 1, at=end)]
    assert parts == store.admitted_feedback() == store.admitted_feedback(upto=end)
    assert standing_feedback(parts) == [last]
    at_its_time = store.admitted_feedback(after=waiting.seq, upto=last.seq)
    assert at_its_time == store.admitted_feedback(after=waiting.seq, upto=last.seq, at=before)
    assert [row.supersedes for row in at_its_time] == [first.feedback_id]


def test_an_amendment_of_a_waiting_row_counts_alone(store):
    name = answer(store)
    first = store.add_feedback(statement("binary", name, True))
    (second,) = say(store, [statement("binary", name, True, supersedes=first.feedback_id)], AT_ONCE)
    third = store.add_feedback(statement("binary", name, False, supersedes=second.feedback_id))
    (label,) = read_preferences(store, after=0, upto=store.latest_seq()).labels
    assert (label.feedback_ids, label.label) == ((third.feedback_id,), False)


def test_what_was_never_admitted_can_be_taken_back(store):
    name = answer(store)
    store.add_feedback(statement("binary", answer(store, "Another question"), True))
    (held_back,) = say(store, [statement("binary", name, True)], AT_ONCE)
    store.add_feedback(statement("binary", [], None, supersedes=held_back.feedback_id))
    batch = read_preferences(store, after=0, upto=store.latest_seq())
    assert (len(batch.labels), batch.withdrawn) == (1, {held_back.feedback_id})


def test_users_who_react_as_those_of_the_demo_are_not_quarantined(tmp_path):
    # In one minute, forty users judge 100 prompts for three versions (600 rows), and 600 sessions end in a reaction.
    rng = random.Random(0)
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        said = []
        for _ in range(100):
            user = f"user-{rng.randrange(40):03d}"
            judged = [answer(store, "judged", purpose=Purpose.EVALUATION) for _ in range(3)]
            for number, name in enumerate(judged):
                value = {"score": rng.randrange(101), "low": 0, "high": 100}
                said.append(statement("rating", name, value, user_id=user))
                said.append(statement("comparison", [name, judged[number - 1]], "tie", user_id=user))
        for number in range(600):
            question = rng.choice(helpdesk.train_questions())
            rewrite = helpdesk.write_answer(question, helpdesk.Style(), rng)
            kind, value = ("correction", rewrite) if number % 20 == 0 else ("binary", True)
            said.append(statement(kind, answer(store, question.text), value, user_id=f"user-{rng.randrange(40):03d}"))
        say(store, said, ServerSettings().screening)
        assert held(store) == []


def test_nearly_the_same_is_told_by_words_alone():
    def key(text: str, **fields: Any) -> str:
        return statement_key(statement("correction", ["a"], text, **fields))

    assert key("It will arrive at your door") == key("it will, arrive AT your-door.", user_id="bob")
    assert key("It will arrive at your door") != key("It will arrive at my door")
    assert key("At the door.") == key("at the door")
    assert key("At the door.") != key("At the door.", user_id="bob")
    row = statement("binary", "a", True)
    assert rows.feedback_values(row, utcnow())["statement_key"] == statement_key(row)
