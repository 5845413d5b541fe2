"""The opinions of a log that grows: reading on tells what reading all of it would, and reads only what is new."""

from online_trl.evaluation.opinions import OpinionReader, Opinions
from online_trl.store import FeedbackStore
from online_trl.store.quarantine import Screening
from online_trl.types import Feedback, FeedbackKind, Interaction

AT_ONCE = Screening(burst_rows=1, burst_seconds=60, near_duplicates=0, near_duplicate_seconds=60)


class Watched:
    """The log, and how many rows of it were read."""

    def __init__(self, store):
        self._store = store
        self.rows = 0

    def __getattr__(self, name):
        read = getattr(self._store, name)

        def counted(*args, **options):
            found = read(*args, **options)
            self.rows += len(found) if isinstance(found, list) else 0
            return found

        return counted


def answer(store, user, version="policy-0001"):
    row = Interaction(
        prompt=[{"role": "user", "content": "hello"}],
        completion=[{"role": "assistant", "content": f"hi {user}"}],
        policy_version=version,
        session_id=user,
        user_id=user,
    )
    return store.add_interaction(row).interaction_id


def thumb(name, user, value, **fields):
    return Feedback(kind=FeedbackKind.BINARY, interaction_ids=[name], value=value, user_id=user, **fields)


def told(opinions):
    """What is made of opinions."""
    versions = opinions.versions
    return (
        opinions.answers,
        [(row.feedback_id, row.seq, row.supersedes) for row in opinions.rows],
        [(opinions.scores(name), opinions.responses(name), opinions.implicit(name)) for name in versions],
        opinions.comparisons(),
    )


def test_reading_on_tells_what_reading_anew_tells(store: FeedbackStore):
    reader = OpinionReader(store)

    def check(times_begun):
        assert told(reader.read()) == told(Opinions.read(store, None))
        assert reader.times_begun == times_begun

    check(1)
    ada, bob, eve = answer(store, "ada"), answer(store, "bob"), answer(store, "eve", "policy-0002")
    up, down = store.add_feedback(thumb(ada, "ada", True)), store.add_feedback(thumb(bob, "bob", False))
    check(1)
    store.add_feedback(thumb(ada, "ada", False, supersedes=up.feedback_id))
    store.add_feedback(thumb(bob, "bob", None, supersedes=down.feedback_id))
    store.add_feedback(Feedback(kind=FeedbackKind.COMPARISON, interaction_ids=[ada, eve], value="tie", user_id="kim"))
    store.add_feedback(Feedback(kind=FeedbackKind.IMPLICIT, interaction_ids=[eve], value="copy", user_id="eve"))
    check(1)
    # What waits counts for nothing, and what replaces it counts against what that was to replace.
    first = store.add_feedback(thumb(eve, "eve", True))
    waiting = thumb(eve, "eve", False, supersedes=first.feedback_id)
    store.submit_feedback([waiting], screening=AT_ONCE).result()
    assert [row.feedback.feedback_id for row in store.quarantined()] == [waiting.feedback_id]
    check(1)
    store.add_feedback(thumb(eve, "eve", True, supersedes=waiting.feedback_id))
    check(1)
    store.release([waiting.feedback_id])
    check(2)
    answer(store, "ada", "policy-0003")
    check(2)
    store.erase_user("ada")
    check(3)
    assert not [name for name, row in reader.read().answers.items() if row.user_id == "ada"]
    # Who judged lives on where nothing is left that was judged.
    store.add_feedback(thumb(bob, "kim", True))
    for user in ("bob", "eve"):
        store.erase_user(user)
    check(4)
    assert not reader.read().rows


def test_only_what_is_new_is_read(store: FeedbackStore):
    names = [answer(store, f"user-{number}") for number in range(50)]
    store.add_feedback_batch([thumb(name, f"user-{number}", True) for number, name in enumerate(names)])
    watched = Watched(store)
    reader = OpinionReader(watched)
    reader.read()
    assert watched.rows >= 100
    watched.rows = 0
    store.add_feedback(thumb(answer(store, "ada"), "ada", True))
    assert len(reader.read().rows) == 51
    # The answer, and the thumb as it was written and as it counts.
    assert watched.rows == 3


def test_no_words_of_users_are_kept(store: FeedbackStore):
    secret = "my address is"
    name = answer(store, "ada")
    store.add_feedback(thumb(name, "ada", True, comment=secret, tags={"note": secret}))
    store.add_feedback(
        Feedback(kind=FeedbackKind.CORRECTION, interaction_ids=[name], value=secret, user_id="ada", comment=secret)
    )
    opinions = OpinionReader(store).read()
    assert len(opinions.rows) == 2
    assert secret not in repr(opinions)
