from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from full_disk import limited_files
from online_trl.preferences import import_dataset, read_preferences
from online_trl.store import (
    ErasedError,
    FeedbackStore,
    Screening,
    StoreError,
    Trace,
    UnknownInteractionError,
    UnknownUserError,
)
from online_trl.store.erasure import subject_hash
from online_trl.types import ANONYMOUS, ErasedSubject, Feedback, FeedbackKind, Interaction, Purpose, new_id

SECRET = "my number is 0815 4711"


def interaction(text: str = "On its way.", prompt: Any = "Where is my parcel?", **fields: Any) -> Interaction:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return Interaction(
        prompt=messages,
        completion=[{"role": "assistant", "content": text}],
        **({"policy_version": "policy-0001", "session_id": "session", "user_id": "ada"} | fields),
    )


def said(kind: str, answers: list[Interaction], value: Any, **fields: Any) -> Feedback:
    ids = [answer.interaction_id for answer in answers]
    return Feedback(kind=FeedbackKind(kind), interaction_ids=ids, value=value, **({"user_id": "ada"} | fields))


def test_a_user_goes_with_what_was_asked_said_and_said_about_it(store):
    own, other = store.add_interactions([interaction(), interaction("Lost.", user_id="bob", session_id="other")])
    about_own = store.add_feedback(said("binary", [own], True, user_id="bob"))
    by_ada = store.add_feedback(said("correction", [other], "Here."))
    taken_back = store.add_feedback(said("binary", [], None, user_id="bob", supersedes=about_own.feedback_id))
    both = store.add_feedback(said("comparison", [own, other], "first", user_id="bob"))
    stays = store.add_feedback(said("binary", [other], False, user_id="bob"))

    tombstone = store.erase_user("ada")
    assert (tombstone.seq, tombstone.subject) == (8, ErasedSubject.USER)
    assert tombstone.subject_hash == subject_hash(ErasedSubject.USER, "ada")
    assert tombstone.interaction_ids == (own.interaction_id,)
    assert tombstone.feedback_ids == tuple(row.feedback_id for row in (about_own, by_ada, taken_back, both))
    assert store.interactions() == [other]
    assert store.feedback() == [stays]
    assert store.latest_seq() == 8
    assert store.tombstones() == store.tombstones(after=7) == [tombstone]
    assert store.tombstones(after=8) == store.tombstones(upto=7) == []


def test_an_interaction_goes_with_the_turns_that_quote_it(store):
    first = interaction("Which one?")
    told = [*first.prompt, *first.completion, {"role": "user", "content": "The lamp."}]
    linked = interaction("Tomorrow.", told, parent_id=first.interaction_id, session_id="another")
    repeated = interaction("Today.", told)
    last = interaction("Welcome.", [*told, *linked.completion, *told[:1]], parent_id=linked.interaction_id)
    sibling = interaction("Look.", regenerates=first.interaction_id)
    elsewhere = interaction("Elsewhere.", told, session_id="of somebody else", user_id="bob")
    store.add_interactions([first, linked, repeated, last, sibling, elsewhere])
    store.add_feedback_batch([said("binary", [row], True) for row in (first, linked, last)])
    kept = store.add_feedback(said("binary", [sibling], True))

    tombstone = store.erase_interaction(first.interaction_id)
    assert tombstone.subject is ErasedSubject.INTERACTION
    assert set(tombstone.interaction_ids) == {row.interaction_id for row in (first, linked, repeated, last)}
    assert [row.interaction_id for row in store.interactions()] == [sibling.interaction_id, elsewhere.interaction_id]
    assert store.feedback() == [kept]


def test_what_the_same_user_quotes_it_in_goes_too(store):
    first = interaction("Noted.", SECRET)
    going_on = [{"role": "system", "content": "Be brief."}, *first.prompt, *first.completion, *interaction().prompt]
    title = {"prompt": f"Find a title: USER: {SECRET} ASSISTANT: Noted.", "purpose": Purpose.BACKGROUND}
    quoting = [
        interaction("Fine.", going_on, session_id="named later"),
        interaction("Fine.", going_on, session_id="judged", purpose=Purpose.EVALUATION),
        interaction("Numbers", **title, session_id="of the front-end"),
    ]
    kept = [
        interaction("Fine.", going_on, session_id="of bob", user_id="bob"),
        interaction("Numbers", **title, user_id="bob"),
        interaction("Parcels", "Find a title: USER: Where?", purpose=Purpose.BACKGROUND),
        interaction("Noted.", f"Once more: {SECRET}"),
    ]
    store.add_interactions([first, *quoting, *kept])
    erased = store.erase_interaction(first.interaction_id).interaction_ids
    assert erased == tuple(row.interaction_id for row in (first, *quoting))


def test_those_who_give_no_name_are_not_one_user(store):
    first, stranger = (interaction("Hello!", "Hi", user_id=ANONYMOUS, session_id=name) for name in ("one", "other"))
    title = {"purpose": Purpose.BACKGROUND, "user_id": ANONYMOUS, "prompt": "A title for: Hi / Hello!"}
    own, of_stranger = (interaction("Greetings", **title, session_id=name) for name in ("one", "other"))
    store.add_interactions([first, stranger, own, of_stranger])
    erased = store.erase_interaction(first.interaction_id).interaction_ids
    assert erased == (first.interaction_id, own.interaction_id)


@pytest.mark.parametrize("named", [0, 1])
@pytest.mark.parametrize("upstream", [None, "chatcmpl-1"])
def test_a_completion_goes_with_all_of_its_choices(store, named, upstream):
    choices = [interaction(text, upstream_id=upstream) for text in ("a", "b")]
    again = interaction("c", regenerates=choices[1].interaction_id, upstream_id=upstream and "chatcmpl-2")
    elsewhere = interaction("a", session_id="elsewhere", upstream_id=upstream and "chatcmpl-3")
    store.add_interactions([*choices, again, elsewhere])
    name = choices[named].interaction_id
    tombstone = store.erase_completion(name)
    assert tombstone.interaction_ids == tuple(row.interaction_id for row in choices)
    assert [row.completion[0]["content"] for row in store.interactions()] == ["c", "a"]
    assert store.erase_completion(name) == store.erase_interaction(name) == tombstone
    assert store.erase_completion(choices[1 - named].interaction_id) == tombstone


def test_a_completion_is_erased_by_the_name_of_its_upstream_twice(store):
    store.add_interactions([interaction(text, upstream_id="chatcmpl-1") for text in ("a", "b")])
    tombstone = store.erase_completion("chatcmpl-1")
    assert len(tombstone.interaction_ids) == 2
    assert store.erase_completion("chatcmpl-1") == tombstone
    with pytest.raises(UnknownInteractionError, match="chatcmpl-2"):
        store.erase_completion("chatcmpl-2")


def test_erasing_twice_leaves_one_tombstone(store):
    answer = store.add_interaction(interaction())
    tombstone = store.erase_interaction(answer.interaction_id)
    assert store.erase_interaction(answer.interaction_id) == tombstone
    store.add_interaction(interaction())
    by_user = store.erase_user("ada")
    assert store.erase_user("ada") == by_user
    assert store.tombstones() == [tombstone, by_user]


def test_a_user_who_never_was_cannot_be_erased(store):
    with pytest.raises(UnknownUserError, match="nothing in the log is of the user 'ada'"):
        store.erase_user("ada")
    assert (store.tombstones(), store.latest_seq()) == ([], 0)


def test_what_went_with_its_user_has_the_tombstone_of_the_user(store):
    answer = store.add_interaction(interaction())
    tombstone = store.erase_user("ada")
    assert store.erase_interaction(answer.interaction_id) == tombstone


def test_an_interaction_that_never_was_cannot_be_erased(store):
    with pytest.raises(UnknownInteractionError, match=r"no such interaction in the log: nowhere$"):
        store.erase_interaction("nowhere")
    assert (store.tombstones(), store.latest_seq()) == ([], 0)


def test_feedback_about_an_erased_interaction_is_refused_and_says_why(store):
    answer, other = store.add_interactions([interaction(), interaction(user_id="bob")])
    store.erase_user("ada")
    unknown = interaction(interaction_id="nowhere")
    with pytest.raises(UnknownInteractionError, match=rf"{answer.interaction_id} \(it was erased\), nowhere$"):
        store.add_feedback(said("ranking", [answer, unknown, other], [1, 2, 3]))


@pytest.mark.parametrize("change", [{}, {"feedback_id": "another"}, {"idempotency_key": "another"}])
def test_a_retry_does_not_bring_an_erased_row_back(store, change):
    answer = store.add_interaction(interaction(user_id="bob"))
    row = {"feedback_id": "feedback", "idempotency_key": "key"}
    store.add_feedback(said("binary", [answer], True, **row))
    store.erase_user("ada")
    with pytest.raises(ErasedError, match="erased from the log, and not to be added again"):
        store.add_feedback(said("binary", [answer], True, **(row | change)))
    assert store.feedback() == []
    assert store.add_feedback(said("binary", [answer], True)).seq == 4


def test_an_erased_interaction_does_not_come_back(store):
    answer = interaction()
    store.add_interaction(answer)
    store.erase_user("ada")
    with pytest.raises(ErasedError, match=answer.interaction_id):
        store.add_interaction(answer)
    assert store.add_interaction(interaction()).seq == 3


def test_importing_again_does_not_bring_back_what_was_erased(store):
    rows = [{"prompt": f"p{number}", "chosen": "a", "rejected": "b"} for number in range(3)]
    import_dataset(store, Dataset.from_list(rows))
    store.erase_interaction(store.interactions()[2].interaction_id)
    assert import_dataset(store, Dataset.from_list(rows)) == 0
    assert [row.prompt[0]["content"] for row in store.interactions()] == ["p0", "p0", "p1", "p2", "p2"]


def test_the_pairs_of_an_erased_row_are_gone_from_every_interval_and_withdrawn_from_this_one(store):
    answers = store.add_interactions([interaction("a"), interaction("b"), interaction("c", user_id="bob")])
    pairs = [said("comparison", answers[:2], "first", user_id="cyd"), said("correction", answers[2:], "d")]
    first, second = store.add_feedback_batch(pairs)
    earlier = read_preferences(store, after=0, upto=5)
    assert len(earlier.pairs) == 2
    store.erase_user("ada")

    later = read_preferences(store, after=5, upto=6)
    ids = {first.feedback_id, second.feedback_id, *(row.interaction_id for row in answers[:2])}
    assert later.withdrawn == ids
    assert [later.still_counts(pair) for pair in earlier.pairs] == [False, False]
    again = read_preferences(store, after=0, upto=5)
    assert (again.pairs, again.labels, again.feedback_ids) == ((), (), ())


def test_a_pair_that_no_feedback_made_is_withdrawn_with_its_answers(store):
    old = interaction("old")
    new = interaction("new", regenerates=old.interaction_id)
    going_on = interaction("Welcome.", "Thanks!", parent_id=new.interaction_id)
    store.add_interactions([old, new, going_on])
    (pair,) = read_preferences(store, after=0, upto=3).pairs
    store.erase_interaction(old.interaction_id)
    assert not read_preferences(store, after=3, upto=4).still_counts(pair)
    assert read_preferences(store, after=0, upto=4).pairs == ()


def test_quarantined_rows_go_too_released_or_not(store):
    answer = store.add_interaction(interaction(user_id="bob"))
    screening = Screening(burst_rows=1, burst_seconds=60, near_duplicates=0, near_duplicate_seconds=60)
    rows = [said("binary", [answer], True) for _ in range(3)]
    store.submit_feedback(rows, screening=screening).result()
    store.release([rows[1].feedback_id])
    assert store.erase_user("ada").feedback_ids == tuple(row.feedback_id for row in rows)
    assert (store.quarantined(), store.admitted_feedback(), store.feedback()) == ([], [], [])


def test_many_rows_are_erased_at_once(store):
    answers = store.add_interactions([interaction(session_id=str(number)) for number in range(1200)])
    store.add_feedback_batch([said("binary", [answer], True) for answer in answers])
    tombstone = store.erase_user("ada")
    assert (len(tombstone.interaction_ids), len(tombstone.feedback_ids)) == (1200, 1200)
    assert (store.summary().interactions, store.feedback()) == (0, [])


def test_a_user_is_traced_through_what_is_there_and_what_was_erased(store):
    answer, other = store.add_interactions([interaction(), interaction(user_id="bob")])
    up, down = store.add_feedback_batch([said("binary", [answer], True), said("binary", [other], False)])
    asked = {answer.interaction_id: 1}
    given = frozenset({up.feedback_id, down.feedback_id})
    assert store.trace(ErasedSubject.USER, "ada") == Trace(interactions=asked, feedback_ids=given)
    assert store.trace(ErasedSubject.INTERACTION, answer.interaction_id) == Trace(interactions=asked)
    store.erase_user("ada")
    gone = frozenset({*given, answer.interaction_id})
    assert store.trace(ErasedSubject.USER, "ada") == Trace(interactions=asked, feedback_ids=given, erased=gone)
    assert store.trace(ErasedSubject.INTERACTION, answer.interaction_id) == Trace(
        interactions=asked, erased=frozenset(asked)
    )
    assert store.trace(ErasedSubject.USER, "nobody") == Trace()


def test_the_bytes_are_gone_from_the_files_of_sqlite(tmp_path):
    long = SECRET + " and so on" * 2000
    with FeedbackStore(f"sqlite:///{tmp_path / 'feedback.db'}") as store:
        for number in range(50):
            store.add_interaction(interaction(f"other {number}", user_id="bob"))
            answer = store.add_interaction(interaction(long if number % 9 == 0 else "Fine.", prompt=SECRET))
            store.add_feedback(said("correction", [answer], f"{SECRET} {number}", comment=SECRET))
        assert _files_with(tmp_path, SECRET) != []
        store.erase_user("ada")
        assert _files_with(tmp_path, SECRET) == []
        assert store.summary().interactions == 50
    assert _files_with(tmp_path, SECRET) == []


def test_nothing_is_left_where_earlier_erasures_have_moved_rows(tmp_path):
    rng = random.Random(0)
    users = [f"user-{rng.randrange(6)}" for _ in range(300)]
    asked = [f"secret of {user}" + "!" * rng.randrange(900) for user in users]
    with FeedbackStore(f"sqlite:///{tmp_path / 'feedback.db'}") as store:
        store.add_interactions(
            [
                interaction(prompt=text, user_id=user, session_id=str(number))
                for number, (user, text) in enumerate(zip(users, asked, strict=True))
            ]
        )
        for user in sorted(set(users))[:-1]:
            store.erase_user(user)
            assert _files_with(tmp_path, f"secret of {user}") == []


def test_an_erasure_without_room_for_a_copy_of_the_file_says_what_is_left_to_do(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path / 'feedback.db'}") as store:
        for user in ("ada", "bob", "eve"):
            store.add_interactions([interaction("." * 9000, user_id=user, session_id=user) for _ in range(50)])
        store.erase_user("eve")
        size = (tmp_path / "feedback.db").stat().st_size
        with (
            limited_files(os.getpid(), bytes_left=16_000, folder=tmp_path),
            pytest.raises(StoreError, match="make room for it"),
        ):
            store.erase_user("ada")
        assert store.summary().interactions == 50
        store.erase_user("ada")
        assert (tmp_path / "feedback.db").stat().st_size < 0.7 * size


def test_the_name_is_gone_from_the_indexes_of_sqlite(tmp_path):
    rng = random.Random(0)
    with FeedbackStore(f"sqlite:///{tmp_path / 'feedback.db'}") as store:
        for _ in range(20):
            users = ["ada-lovelace-1815" if rng.random() < 0.05 else f"user {rng.random()}" for _ in range(100)]
            answers = store.add_interactions([interaction(user_id=user, session_id=user) for user in users])
            rows = [said("binary", [row], True, user_id=row.user_id, idempotency_key=new_id()) for row in answers]
            store.add_feedback_batch(rows)
        store.erase_user("ada-lovelace-1815")
    assert _files_with(tmp_path, "ada-lovelace-1815") == []


def _files_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
