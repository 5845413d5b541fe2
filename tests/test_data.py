import pytest
from datasets import Dataset

from online_trl.data import OnlineDataCollator, PreferenceFeed
from online_trl.preferences import import_dataset
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, Interaction, Purpose


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        yield store


def say(store, text, **fields):
    return store.add_interaction(
        Interaction(
            prompt=[{"role": "user", "content": text}],
            completion=[{"role": "assistant", "content": f"about {text}"}],
            policy_version="policy-0001",
            session_id=text,
            **({"user_id": "ann"} | fields),
        )
    )


def thumb(store, interaction, up):
    return store.add_feedback(
        Feedback(kind=FeedbackKind.BINARY, interaction_ids=[interaction.interaction_id], value=up, user_id="ann")
    )


def seeds(count):
    return [{"prompt": [{"role": "user", "content": f"seed {index}"}], "answer": index} for index in range(count)]


def repeated(rows, times):
    return [dict(row) for row in rows for _ in range(times)]


def collator(store, *, prompts=4, generate_every=1, fresh_fraction=0.5, **options):
    return OnlineDataCollator(
        store,
        num_generations=2,
        generation_batch_size=2 * prompts,
        generate_every=generate_every,
        fresh_fraction=fresh_fraction,
        **options,
    )


def texts(batch):
    return [row["prompt"][-1]["content"] for row in batch]


def test_half_of_the_groups_are_fresh_and_groups_stay_whole(store):
    for text in ("old", "newer", "newest"):
        say(store, text)
    batch = collator(store)(repeated(seeds(4), 2))
    assert texts(batch)[::2] == texts(batch)[1::2]
    fresh = {text for text in texts(batch) if not text.startswith("seed")}
    assert fresh == {"newer", "newest"}
    for row in batch:
        assert (row["interaction_id"] is None) == (row["answer"] is not None)


@pytest.mark.parametrize(("prompts", "share", "fresh"), [(1, 0.5, 4), (3, 0.5, 12), (1, 0.25, 2), (5, 0.1, 4)])
def test_the_share_is_kept_over_batches_that_it_does_not_divide(store, prompts, share, fresh):
    collate = collator(store, prompts=prompts, fresh_fraction=share)
    found = 0
    for batch in range(8):
        for number in range(prompts):
            say(store, f"fresh {batch} {number}", user_id=f"user {batch} {number}")
        found += sum(not text.startswith("seed") for text in texts(collate(repeated(seeds(prompts), 2)))) // 2
    assert found == pytest.approx(fresh, abs=1)


def test_a_batch_that_takes_nothing_from_the_log_leaves_its_prompts_for_the_next(store):
    collate = collator(store, prompts=1)
    say(store, "first")
    first = texts(collate(repeated(seeds(1), 2)))
    say(store, "second")
    second, third = (texts(collate(repeated(seeds(1), 2))) for _ in range(2))
    assert (first[0], second[0], third[0]) == ("first", "seed 0", "second")


def test_a_prompt_is_offered_once_and_then_the_seeds_fill_in(store):
    say(store, "only")
    collate = collator(store)
    assert texts(collate(repeated(seeds(4), 2))).count("only") == 2
    assert texts(collate(repeated(seeds(4), 2))) == texts(repeated(seeds(4), 2))
    say(store, "later")
    assert texts(collate(repeated(seeds(4), 2))).count("later") == 2


def test_equal_prompts_take_one_group(store):
    for session in range(3):
        say(store, "same", purpose=Purpose.CHAT) if session == 0 else store.add_interaction(
            Interaction(
                prompt=[{"role": "user", "content": "same"}],
                completion=[{"role": "assistant", "content": str(session)}],
                policy_version="policy-0001",
                session_id=str(session),
                user_id="bob",
            )
        )
    assert texts(collator(store)(repeated(seeds(4), 2))).count("same") == 2


def test_evaluation_prompts_are_never_trained_on(store):
    say(store, "judged", purpose=Purpose.EVALUATION)
    assert "judged" not in texts(collator(store)(repeated(seeds(4), 2)))


def test_no_user_asks_more_than_the_share_of_the_fresh_prompts(store):
    for number in range(5):
        say(store, f"few {number}", user_id=f"user-{number}")
    for number in range(100):
        say(store, f"many {number}", user_id="flood")
    batch = collator(store, prompts=16, max_user_share=0.25)(repeated(seeds(16), 2))
    fresh = {text for text in texts(batch) if not text.startswith("seed")}
    assert fresh == {"many 99", "many 98", *(f"few {number}" for number in range(5))}


def test_few_users_share_the_places_for_fresh_prompts(store):
    collate = collator(store, prompts=8, max_user_share=0.25)
    for number in range(6):
        say(store, f"alone {number}")
    assert sum(text.startswith("alone") for text in texts(collate(repeated(seeds(8), 2)))) == 2 * 4
    for number in range(6):
        say(store, f"bob {number}", user_id="bob" if number else "ann")
    batch = collate(repeated(seeds(8), 2))
    assert {text for text in texts(batch) if not text.startswith("seed")} == {"bob 5", "bob 4", "bob 0"}


def test_every_row_of_an_imported_dataset_asks_for_itself(store):
    import_dataset(
        store, Dataset.from_list([{"prompt": f"p{number}", "chosen": "a", "rejected": "b"} for number in range(9)])
    )
    batch = collator(store, prompts=8, max_user_share=0.25)(repeated(seeds(8), 2))
    assert sum(text.startswith("p") for text in texts(batch)) == 2 * 4


def test_two_ranks_see_one_generation_batch(store):
    for text in "abcdef":
        say(store, text)
    shared = []

    def main(read):
        shared.append(read())
        return shared[-1]

    first = collator(store, process_index=0, broadcast=main)
    second = collator(store, process_index=1, broadcast=lambda read: shared[-1])
    whole = collator(store)(repeated(seeds(4), 2))
    rows = repeated(seeds(4), 2)
    assert first(rows[:4]) + second(rows[4:]) == whole


def test_only_one_batch_in_generate_every_draws(store):
    say(store, "first")
    collate = collator(store, generate_every=2)
    assert texts(collate(repeated(seeds(4), 2))).count("first") == 2
    say(store, "second")
    assert "second" not in texts(collate(repeated(seeds(4), 2)))
    assert texts(collate(repeated(seeds(4), 2))).count("second") == 2


def test_the_state_is_that_of_the_trainers_batch_and_not_of_the_one_fetched_ahead(store):
    say(store, "one")
    collate = collator(store)
    collate(repeated(seeds(4), 2))
    behind = store.latest_seq()
    say(store, "two")
    ahead = collate(repeated(seeds(4), 2))
    state = collate.state_at(batches=1)
    assert state == {"cursor": behind, "ahead": [store.latest_seq()]}

    say(store, "three")
    after = collate(repeated(seeds(4), 2))
    resumed = collator(store)
    resumed.go_to(state, batches=1)
    assert resumed.state_at(batches=1) == {"cursor": behind, "ahead": []}
    assert [resumed(repeated(seeds(4), 2)), resumed(repeated(seeds(4), 2))] == [ahead, after]
    assert texts(ahead).count("two") == texts(after).count("three") == 2


def test_batches_that_a_resumed_run_fetches_again_ask_for_nothing(store):
    say(store, "one")
    collate = collator(store)
    collate(repeated(seeds(4), 2))
    resumed = collator(store)
    resumed.go_to(collate.state_at(batches=1), batches=1, fetched_again=1)
    say(store, "two")
    assert texts(resumed(repeated(seeds(4), 2))) == texts(repeated(seeds(4), 2))
    assert resumed(repeated(seeds(4), 2)) == collate(repeated(seeds(4), 2))


def test_preferences_are_handed_over_again_until_they_are_committed(store):
    good, bad = say(store, "lamp"), say(store, "chair")
    first = thumb(store, good, True)
    feed = PreferenceFeed(store)
    assert feed.take(upto=feed.latest()).feedback_ids == (first.feedback_id,)
    batch = feed.take(upto=feed.latest())
    assert batch.feedback_ids == (first.feedback_id,)
    feed.commit(batch)
    second = thumb(store, bad, False)
    batch = feed.take(upto=feed.latest())
    assert batch.feedback_ids == (second.feedback_id,)
    assert (batch.after, batch.upto) == (first.seq, second.seq)


def test_no_user_carries_more_than_the_share_of_a_batch(store):
    for number in range(14):
        user = "flood" if number < 10 else f"user-{number}"
        row = Feedback(
            kind=FeedbackKind.CORRECTION,
            interaction_ids=[say(store, f"prompt {number}").interaction_id],
            value="better",
            user_id=user,
        )
        store.add_feedback(row)
    feed = PreferenceFeed(store)
    pairs = feed.take(upto=feed.latest()).with_capped_shares(0.2).pairs
    assert [round(pair.weight, 12) for pair in pairs] == [0.1] * 10 + [1.0] * 4
    unbounded = PreferenceFeed(store).take(upto=feed.latest()).pairs
    assert {pair.weight for pair in unbounded} == {1.0}


def test_any_split_into_intervals_hands_over_every_row_once(store):
    feed = PreferenceFeed(store)
    handed = []
    expected = []
    for index in range(6):
        expected.append(thumb(store, say(store, f"prompt {index}"), index % 2 == 0).feedback_id)
        if index % 2:
            batch = feed.take(upto=feed.latest())
            feed.commit(batch)
            handed.extend(batch.feedback_ids)
    assert handed == expected
