import pytest

from online_trl.types import CANCELLED, FeedbackKind, PreferencePair, Ranking, UnpairedLabel
from preferences.log import assistant, user


def test_a_ranking_keeps_its_whole_order_and_its_sources(log):
    answers = [log.answer(text, session_id=f"session-{text}") for text in "abc"]
    said = log.say("ranking", answers, [2, 1, 2], user_id="cyd")
    assert log.read().rankings == (
        Ranking(
            prompt=user("Where is my parcel?"),
            completions=[assistant(text) for text in "abc"],
            ranks=(2, 1, 2),
            kind=FeedbackKind.RANKING,
            feedback_ids=(said.feedback_id,),
            seq=said.seq,
            interaction_ids=tuple(answer.interaction_id for answer in answers),
            voice="cyd",
            session_ids=("session-a", "session-b", "session-c"),
            user_ids=("ada", "cyd"),
            policy_versions=("policy-0001",),
            said_at=said.created_at,
            answered_at=answers[2].created_at,
        ),
    )


def test_a_tied_comparison_is_a_ranking_on_one_rank(log):
    log.say("comparison", [log.answer("a"), log.answer("b")], "tie")
    (ranking,) = log.read().rankings
    assert (ranking.ranks, ranking.kind) == ((1, 1), FeedbackKind.COMPARISON)


@pytest.mark.parametrize("value", ["first", "second"])
def test_a_decided_comparison_is_no_ranking(log, value):
    log.say("comparison", [log.answer("a"), log.answer("b")], value)
    assert log.read().rankings == ()


def test_answers_that_cannot_be_compared_are_left_out_of_a_ranking(log):
    cut = log.answer("", sampling={"finish_reason": CANCELLED})
    answers = [log.answer("a"), log.answer("a"), cut, log.answer("c", prompt="And my refund?"), log.answer("d")]
    log.say("ranking", answers, [1, 2, 3, 4, 5])
    (ranking,) = log.read().rankings
    assert (ranking.completions, ranking.ranks) == ([assistant("a"), assistant("d")], (1, 5))
    log.say("ranking", answers[:3], [1, 2, 3], user_id="bob")
    assert len(log.read().rankings) == 1


def test_the_same_answers_ranked_again_by_the_same_user_count_once(log):
    answers = [log.answer(text) for text in "abc"]
    log.say("ranking", answers, [1, 2, 3])
    before = log.store.latest_seq()
    log.say("ranking", answers[::-1], [1, 2, 3])
    log.say("ranking", answers, [1, 2, 3], user_id="bob")
    assert [ranking.voice for ranking in log.read().rankings] == ["ada", "bob"]
    assert [ranking.voice for ranking in log.read(after=before).rankings] == ["bob"]


def test_a_ranking_that_was_taken_back_is_gone(log):
    said = log.say("ranking", [log.answer("a"), log.answer("b")], [1, 2])
    log.say("ranking", [], None, supersedes=said.feedback_id)
    assert log.read().rankings == ()


def test_statements_say_everything_once(log):
    answers = [log.answer(text) for text in "abcd"]
    log.say("ranking", answers[:3], [1, 2, 3])
    log.say("comparison", [answers[0], answers[3]], "first")
    log.say("binary", [answers[1]], True)
    batch = log.read()
    assert [type(statement) for statement in batch.statements] == [Ranking, PreferencePair, UnpairedLabel]
    assert len(batch.pairs) == 3


def test_rankings_of_one_user_are_capped_like_pairs(log):
    for number in range(4):
        answers = [log.answer(f"{text}{number}") for text in "abc"]
        log.say("ranking", answers, [1, 2, 3], user_id="ada" if number else "bob")
    capped = log.read().with_capped_shares(0.5)
    assert [ranking.weight for ranking in capped.rankings] == [1.0, *[pytest.approx(1 / 3)] * 3]
