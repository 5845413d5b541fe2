import pytest

from feedback import add_comparisons
from online_trl.config import ConfigError
from online_trl.data import PreferenceFeed
from online_trl.rewards.schedule import RefreshSchedule
from online_trl.rewards.statements import NothingToTrainOnError
from online_trl.store import FeedbackStore


class Recorder:
    """A refresher that learns nothing and remembers what it was asked."""

    def __init__(self, *, is_ready=True, drifts_after=None, takes_nothing_before=0):
        self.is_ready = is_ready
        self.takes_nothing_before = takes_nothing_before
        self.drifts_after = drifts_after
        self.remembered, self.watched, self.refreshed = [], [], []

    def trainable(self, batch):
        return len(batch.statements)

    def remember(self, batch):
        self.remembered.append((batch.after, batch.upto))

    def watch(self, batch):
        self.watched.append((batch.after, batch.upto))
        return self.drifts_after is not None and batch.upto >= self.drifts_after

    def refresh(self, batch):
        if batch.after < self.takes_nothing_before:
            raise NothingToTrainOnError("no row is short enough")
        self.refreshed.append((batch.after, batch.upto))
        self.is_ready = True
        return batch.upto

    def state_dict(self):
        return {"watched": len(self.watched)}

    def load_state_dict(self, state):
        self.state = state


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        yield store


def schedule(store, refresher, **options):
    return RefreshSchedule(PreferenceFeed(store), refresher, **{"min_statements": 4, **options})


def add(store, count):
    """Adds comparisons, three rows each; returns where the log ends."""
    add_comparisons(store, count, start=store.latest_seq())
    return store.latest_seq()


def test_a_start_remembers_what_was_used_and_learns_from_what_was_not(store):
    used, upto = add(store, 5), add(store, 6)
    refresher = Recorder()
    begun = schedule(store, refresher)
    begun.feed.cursor = used
    begun.begin()
    assert (refresher.remembered, refresher.refreshed) == ([(0, used)], [(used, upto)])
    assert begun.feed.cursor == upto


def test_a_resumed_start_remembers_and_goes_on(store):
    used = add(store, 5)
    add(store, 6)
    refresher = Recorder()
    begun = schedule(store, refresher)
    begun.feed.cursor = used
    begun.begin(learn=False)
    assert (refresher.remembered, refresher.refreshed) == ([(0, used)], [])


def test_too_little_for_a_first_version_says_what_to_do(store):
    add(store, 3)
    with pytest.raises(ConfigError, match=r"holds 3 statements .* 4 are needed: .*online-trl import"):
        schedule(store, Recorder(is_ready=False)).begin()


def test_a_refresh_that_nothing_can_be_trained_on_is_skipped_and_the_next_one_is_not(store, caplog):
    refresher, outcomes = Recorder(takes_nothing_before=1), []
    skipping = schedule(store, refresher, on_drift=False, on_refresh=outcomes.append)
    skipped = add(store, 5)
    assert not skipping.run_if_due(due=True)
    assert not skipping.run_if_due(due=True)
    assert (skipping.feed.cursor, refresher.refreshed, outcomes) == (skipped, [], [])
    assert caplog.messages == [
        f"no refresh of the reward model on rows 1 to {skipped} of the log: no row is short enough: going on with the "
        "version in service"
    ]
    upto = add(store, 5)
    assert skipping.run_if_due(due=True)
    assert (refresher.refreshed, outcomes) == ([(skipped, upto)], [upto])


def test_a_first_version_that_nothing_can_be_trained_on_says_what_to_do(store):
    add(store, 5)
    with pytest.raises(ConfigError, match="no row is short enough; raise the `max_length` of the reward model"):
        schedule(store, Recorder(is_ready=False, takes_nothing_before=1)).begin()


def test_without_a_version_a_refresh_is_due_as_soon_as_there_is_enough(store):
    refresher = Recorder(is_ready=False)
    waiting = schedule(store, refresher)
    add(store, 3)
    assert not waiting.run_if_due()
    upto = add(store, 1)
    assert waiting.run_if_due()
    assert refresher.refreshed == [(0, upto)]
    assert refresher.watched == []


def test_so_many_rows_make_a_refresh_due(store):
    refresher = Recorder()
    counting = schedule(store, refresher, rows=30, on_drift=False)
    add(store, 9)
    assert not counting.run_if_due()
    upto = add(store, 1)
    assert counting.run_if_due()
    assert refresher.refreshed == [(0, upto)]
    assert not counting.run_if_due()


def test_a_refresh_that_is_due_waits_for_enough_and_loses_nothing(store):
    refresher = Recorder()
    waiting = schedule(store, refresher, on_drift=False)
    add(store, 3)
    assert not waiting.run_if_due(due=True)
    upto = add(store, 1)
    assert waiting.run_if_due(due=True)
    assert refresher.refreshed == [(0, upto)]


def test_new_feedback_is_watched_once_before_it_is_learned_from(store):
    refresher = Recorder()
    watching = schedule(store, refresher)
    add(store, 10)
    watching.run_if_due()
    assert refresher.watched == []
    first = add(store, 1)
    watching.run_if_due()
    watching.run_if_due()
    upto = add(store, 5)
    assert watching.run_if_due(due=True)
    assert refresher.watched == [(0, first), (first, upto)]
    assert refresher.refreshed == [(0, upto)]


def test_a_change_makes_a_refresh_due_even_if_it_has_to_wait(store):
    refresher = Recorder(drifts_after=33)
    waiting = schedule(store, refresher, min_statements=15)
    add(store, 11)
    assert not waiting.run_if_due()
    again = schedule(store, refresher, min_statements=15)
    again.load_state_dict(waiting.state_dict())
    assert refresher.state == {"watched": 1}
    upto = add(store, 4)
    assert again.run_if_due()
    assert refresher.refreshed == [(0, upto)]


def test_outcomes_are_handed_on(store):
    outcomes = []
    upto = add(store, 5)
    schedule(store, Recorder(), on_refresh=outcomes.append).begin()
    assert outcomes == [upto]
