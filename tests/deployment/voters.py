"""Users who judge the answers of a version, and those whom a canary gives one."""

import itertools

from online_trl.canary import assign
from online_trl.types import Feedback, FeedbackKind, Interaction


def thumbs(store, version, ups, downs, canary=None, *, silent=0, **whom):
    """So many thumbs of each direction, each by a user of its own, and so many users who say nothing."""
    for number in range(ups + downs + silent):
        user = _somebody(store, version, canary, **whom)
        answer = store.add_interaction(
            Interaction(
                prompt=[{"role": "user", "content": "hello"}],
                completion=[{"role": "assistant", "content": "hi"}],
                policy_version=version,
                session_id=user,
                user_id=user,
            )
        )
        if number >= ups + downs:
            continue
        store.add_feedback(
            Feedback(
                kind=FeedbackKind.BINARY,
                interaction_ids=[answer.interaction_id],
                value=number < ups,
                user_id=user,
            )
        )


def _somebody(store, version, canary, *, is_drawn=True):
    """A new user; while a canary runs, one whom it gives the version, or one whom it does not."""
    names = (f"user-{store.latest_seq()}-{number}" for number in itertools.count())
    if canary is None:
        return next(names)
    gets = (version == canary.version) is is_drawn
    return next(name for name in names if assign(name, canary.canary_id, canary.share) is gets)
