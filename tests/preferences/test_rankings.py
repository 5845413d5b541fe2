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


def test_the_same_order_of_the_same_user_again_counts_once(log):
    answers = [log.answer(text) for text in "abc"]
    log.say("ranking", answers, [1, 2, 3])
    before = log.store.latest_seq()
    log.say("ranking", answers[::-1], [3, 2, 1])
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


def orders(log) -> list[tuple[str, ...]]:
    """Returns what the statements of a log say, as the letters of the answers from the best to the worst."""
    names = {answer.interaction_id: answer.completion[0]["content"] for answer in log.store.interactions()}
    return [
        tuple(
            names[name]
            for name, _ in sorted(
                zip(each.interaction_ids, each.ranks if isinstance(each, Ranking) else (1, 2), strict=True),
                key=lambda ranked: ranked[1],
            )
        )
        for each in log.read().statements
    ]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (("comparison", "ab", "first"), ("ranking", "abc", [1, 2, 3]), ["ab", "bc"]),
        (("comparison", "ab", "first"), ("ranking", "ab", [1, 2]), ["ab"]),
        (("ranking", "abc", [1, 2, 3]), ("ranking", "ac", [1, 2]), ["abc"]),
        (("ranking", "abc", [1, 2, 3]), ("ranking", "dab", [3, 1, 2]), ["abc", "bd"]),
        (("ranking", "abc", [1, 2, 3]), ("comparison", "ac", "first"), ["abc"]),
        (("ranking", "ab", [1, 2]), ("ranking", "ab", [2, 1]), ["ab", "ba"]),
        (("comparison", "ab", "tie"), ("ranking", "ab", [1, 2]), ["ab", "ab"]),
        (("comparison", "ab", "tie"), ("ranking", "ab", [1, 1]), ["ab"]),
        (("comparison", "ac", "first"), ("ranking", "abc", [1, 1, 2]), ["ac", "bc", "ab"]),
    ],
)
def test_what_was_said_before_is_no_statement_again(log, first, second, said):
    answers = {text: log.answer(text) for text in "abcd"}
    for kind, named, value in (first, second):
        log.say(kind, [answers[text] for text in named], value)
    assert orders(log) == [tuple(order) for order in said]


def test_a_ranking_weighs_only_what_thumbs_have_not_said(log):
    answers = [log.answer(text) for text in "abc"]
    for answer, up in zip(answers, (True, False, False), strict=True):
        log.say("binary", [answer], up)
    log.say("ranking", [answers[0], answers[2]], [1, 2])
    weights = [
        each.weight
        for each in log.read().statements
        if each.interaction_ids == (answers[0].interaction_id, answers[2].interaction_id)
    ]
    assert sum(weights) == pytest.approx(1.0)


def test_what_a_ranking_said_again_is_a_statement_once_the_first_is_taken_back(log):
    answers = [log.answer(text) for text in "abc"]
    compared = log.say("comparison", answers[:2], "first")
    log.say("ranking", answers, [1, 2, 3])
    before = log.read()
    log.say("comparison", [], None, supersedes=compared.feedback_id)
    after = log.read(after=before.upto)
    kept = [each for each in before.statements if after.still_counts(each)]
    said = sorted(each.interaction_ids for each in [*kept, *after.statements])
    names = [answer.interaction_id for answer in answers]
    assert said == sorted([(names[0], names[1]), (names[1], names[2])])


def test_answers_around_one_that_cannot_be_compared_are_neighbours(log):
    other = log.answer("b", prompt="And my refund?")
    answers = [log.answer("a"), other, log.answer("c")]
    log.say("ranking", answers, [1, 2, 3])
    assert orders(log) == [("a", "c")]
    (pair,) = log.read().pairs
    assert pair.interaction_ids == (answers[0].interaction_id, answers[2].interaction_id)


def test_rankings_of_one_user_are_capped_like_pairs(log):
    for number in range(4):
        answers = [log.answer(f"{text}{number}") for text in "abc"]
        log.say("ranking", answers, [1, 2, 3], user_id="ada" if number else "bob")
    capped = log.read().with_capped_shares(0.5)
    assert [ranking.weight for ranking in capped.rankings] == [1.0, *[pytest.approx(1 / 3)] * 3]
