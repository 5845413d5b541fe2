import json
import math
from dataclasses import asdict

import pytest

from online_trl import evaluation
from online_trl.evaluation.opinions import Opinions
from online_trl.types import ANONYMOUS, Feedback, FeedbackKind, Interaction, Judgements, Purpose


def answer(store, version, text="an answer", purpose=Purpose.EVALUATION, user="asker", session="session"):
    interaction = Interaction(
        prompt=[{"role": "user", "content": "hello"}],
        completion=[{"role": "assistant", "content": text}],
        policy_version=version,
        session_id=session,
        user_id=user,
        purpose=purpose,
    )
    return store.add_interaction(interaction).interaction_id


def say(store, kind, interaction_ids, value, user="ada", **fields):
    return store.add_feedback(
        Feedback(kind=kind, interaction_ids=interaction_ids, value=value, user_id=user, **fields)
    )


def thumb(store, interaction_id, value, user="ada", **fields):
    return say(store, FeedbackKind.BINARY, [interaction_id], value, user, **fields)


def compare(store, first, second, value, user="ada", **fields):
    return say(store, FeedbackKind.COMPARISON, [first, second], value, user, **fields)


def test_satisfaction_is_the_mean_of_thumbs_and_scaled_ratings(store):
    answers = [answer(store, "policy-0001") for _ in range(3)]
    thumb(store, answers[0], True, "ada")
    thumb(store, answers[1], False, "bob")
    say(store, FeedbackKind.RATING, [answers[2]], {"score": 4, "low": 1, "high": 5}, "eve")
    estimate = evaluation.satisfaction(store, "policy-0001")
    assert estimate.mean == pytest.approx((1 + 0 + 0.75) / 3)
    assert estimate.n == 3
    assert 0.0 <= estimate.low < estimate.mean < estimate.high <= 1.0


def test_satisfaction_leaves_out_chats_other_versions_and_other_kinds(store):
    thumb(store, answer(store, "policy-0001"), True)
    thumb(store, answer(store, "policy-0001", purpose=Purpose.CHAT), False)
    thumb(store, answer(store, "policy-0002"), False)
    say(store, FeedbackKind.CORRECTION, [answer(store, "policy-0001")], "Better this way.")
    estimate = evaluation.satisfaction(store, "policy-0001")
    assert (estimate.mean, estimate.n) == (1.0, 1)


def test_satisfaction_honours_a_changed_and_a_withdrawn_judgement(store):
    changed, withdrawn = answer(store, "policy-0001"), answer(store, "policy-0001")
    earlier = thumb(store, changed, False, "ada")
    thumb(store, changed, True, "ada", supersedes=earlier.feedback_id)
    regretted = thumb(store, withdrawn, False, "bob")
    thumb(store, withdrawn, None, "bob", supersedes=regretted.feedback_id)
    estimate = evaluation.satisfaction(store, "policy-0001")
    assert (estimate.mean, estimate.n) == (1.0, 1)


def test_a_version_without_judgements_has_no_satisfaction(store):
    for _ in range(2):
        estimate = evaluation.satisfaction(store, "policy-0001")
        assert math.isnan(estimate.mean)
        assert (estimate.low, estimate.high, estimate.n) == (0.0, 1.0, 0)
        answer(store, "policy-0001")


def test_win_rate_counts_from_both_sides_and_ties_half(store):
    old, new = answer(store, "policy-0001"), answer(store, "policy-0002")
    compare(store, new, old, "first", "ada")
    compare(store, old, new, "second", "bob")
    compare(store, old, new, "tie", "eve")
    compare(store, old, new, "first", "kim")
    estimate = evaluation.win_rate(store, "policy-0002", "policy-0001")
    mirrored = evaluation.win_rate(store, "policy-0001", "policy-0002")
    assert (estimate.mean, estimate.n) == (pytest.approx(2.5 / 4), 4)
    assert (mirrored.mean, mirrored.low) == (pytest.approx(1.5 / 4), pytest.approx(1 - estimate.high))


def test_win_rate_leaves_out_chats_third_versions_and_withdrawn_comparisons(store):
    old, new, third = (answer(store, f"policy-000{number}") for number in (1, 2, 3))
    chat = answer(store, "policy-0001", purpose=Purpose.CHAT)
    compare(store, new, old, "first", "ada")
    compare(store, new, third, "second", "bob")
    compare(store, new, chat, "second", "bob")
    compare(store, third, old, "second", "bob")
    regretted = compare(store, new, old, "second", "eve")
    compare(store, new, old, None, "eve", supersedes=regretted.feedback_id)
    estimate = evaluation.win_rate(store, "policy-0002", "policy-0001")
    assert (estimate.mean, estimate.n) == (1.0, 1)


def test_win_rate_does_not_depend_on_which_answer_came_first(store):
    new, old = answer(store, "policy-0002"), answer(store, "policy-0001")
    compare(store, new, old, "first", "ada")
    assert evaluation.win_rate(store, "policy-0002", "policy-0001").n == 1
    assert evaluation.win_rate(store, "policy-0001", "policy-0002").n == 1


def test_a_version_is_not_compared_with_itself(store):
    with pytest.raises(ValueError, match="policy-0001 has no win rate against itself"):
        evaluation.win_rate(store, "policy-0001", "policy-0001")


def test_what_counts_is_asked_for_by_purpose(store):
    old, new = (answer(store, f"policy-000{number}", purpose=Purpose.CHAT) for number in (1, 2))
    thumb(store, new, True)
    compare(store, new, old, "first")
    assert evaluation.satisfaction(store, "policy-0002", purpose=Purpose.CHAT).n == 1
    assert evaluation.win_rate(store, "policy-0002", "policy-0001", purpose=Purpose.CHAT).mean == 1.0
    assert evaluation.satisfaction(store, "policy-0002").n == 0


def chat(store, version, user="ada", **fields):
    return answer(store, version, purpose=Purpose.CHAT, user=user, **fields)


def test_a_report_of_each_version_from_live_feedback(store):
    olds = [chat(store, "policy-0001", user) for user in ("ada", "bob", "eve", "kim")]
    news = [chat(store, "policy-0002", user) for user in ("ada", "bob")]
    thumb(store, olds[0], True, "ada")
    thumb(store, olds[1], False, "bob")
    say(store, FeedbackKind.RATING, [olds[2]], {"score": 2, "low": 1, "high": 5}, "eve")
    say(store, FeedbackKind.IMPLICIT, [olds[3]], "regenerate", "kim")
    say(store, FeedbackKind.CORRECTION, [news[0]], "Better this way.", "ada")
    compare(store, news[1], olds[1], "first", "bob")
    thumb(store, answer(store, "policy-0002"), False)
    old, new = evaluation.satisfaction_reports(store)
    assert (old.policy_version, old.answers, old.users) == ("policy-0001", 4, 4)
    assert (old.satisfaction.mean, old.satisfaction.n) == (pytest.approx((1 + 0 + 0.25) / 3), 3)
    assert (old.thumb_rate.mean, old.thumb_rate.n) == (0.5, 2)
    assert (old.rating.mean, old.rating.n) == (0.25, 1)
    assert (old.response_rate.mean, old.response_rate.n) == (0.75, 4)
    assert (old.implicit, new.implicit) == ({"regenerate": 1}, {})
    assert new.response_rate.mean == 1.0
    assert new.satisfaction.n == 0
    assert old.win_rate is None
    assert (new.win_rate.mean > 0.5, new.win_rate.n) == (True, 1)
    assert json.loads(json.dumps(asdict(old)))["implicit"] == {"regenerate": 1}


def test_a_report_is_of_an_interval_of_the_log(store):
    first = chat(store, "policy-0001")
    thumb(store, first, True)
    second = chat(store, "policy-0001", "bob")
    thumb(store, second, False, "bob")
    end = store.latest_seq()
    thumb(store, first, False)
    assert evaluation.satisfaction_reports(store, upto=end)[0].thumb_rate.mean == 0.5
    assert evaluation.satisfaction_reports(store)[0].thumb_rate.mean == 0.0
    assert evaluation.satisfaction_reports(store, after=2)[0].thumb_rate.n == 1
    assert evaluation.satisfaction_reports(store, after=store.latest_seq()) == ()


def test_answers_are_read_a_page_at_a_time(store, monkeypatch):
    monkeypatch.setattr("online_trl.evaluation.opinions._PAGE_ROWS", 2)
    for number in range(5):
        thumb(store, chat(store, f"policy-000{1 + number % 2}", f"user-{number}"), True, f"user-{number}")
    assert [report.answers for report in evaluation.satisfaction_reports(store)] == [3, 2]


def test_who_gives_no_name_is_told_apart_by_the_session(store):
    for session in "abcdef":
        thumb(store, chat(store, "policy-0001", ANONYMOUS, session=session), session in "abc", ANONYMOUS)
    (report,) = evaluation.satisfaction_reports(store)
    assert (report.users, report.satisfaction.mean) == (6, 0.5)


def test_the_feedback_of_two_versions_side_by_side(store):
    def feedback_of(store, **interval):
        versions = ("policy-0002", "policy-0001")
        return evaluation.canary_feedback(Opinions.read(store, Purpose.CHAT, *versions, **interval), *versions)

    old, new = chat(store, "policy-0001", "ada"), chat(store, "policy-0002", "bob")
    chat(store, "policy-0002", "eve")
    thumb(store, chat(store, "policy-0003"), True)
    thumb(store, old, False, "ada")
    thumb(store, new, True, "bob")
    compare(store, old, new, "second", "kim")
    live = feedback_of(store)
    assert live.candidate.scores == Judgements((1.0,), ("bob",))
    assert live.incumbent.scores == Judgements((0.0,), ("ada",))
    assert live.candidate.responses == Judgements((1.0, 0.0), ("bob", "eve"))
    assert live.incumbent.responses.values == (1.0,)
    assert live.comparisons == Judgements((1.0,), ("kim",))
    assert feedback_of(store, after=2).incumbent.scores == Judgements()
