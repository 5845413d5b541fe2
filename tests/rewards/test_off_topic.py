from dataclasses import replace

from online_trl.preferences import statement_key
from online_trl.rewards.off_topic import off_topic_pairs
from online_trl.types import FeedbackKind, Ranking
from rewards.statements import answer, label, pair, question


def ranking(number):
    return Ranking(
        prompt=question(number),
        completions=[answer(f"no {number}"), answer(f"yes {number}"), answer(f"yes fox {number}")],
        ranks=(3, 1, 1),
        kind=FeedbackKind.RANKING,
        feedback_ids=(f"feedback-{number}",),
        seq=number,
    )


def test_the_best_answer_of_each_statement_is_set_over_one_to_another_prompt():
    statements = [pair(1, weight=0.5), ranking(2), label(3, "no", up=False)]
    drawn = off_topic_pairs(statements, 9, seed="any")
    best = {row.prompt[0]["content"]: row.chosen for row in drawn}
    assert best == {"question 1": answer("yes 1"), "question 2": answer("yes 2"), "question 3": answer("no 3")}
    for row in drawn:
        own = next(each for each in statements if each.prompt == row.prompt)
        others = [each for each in statements if row.rejected in each.completions]
        assert others
        assert own not in others
        assert (row.weight, row.voice) == (own.weight, own.voice)
        assert {*own.feedback_ids, *others[0].feedback_ids} == set(row.feedback_ids)
    assert len({statement_key(row) for row in [*statements, *drawn]}) == 6


def test_so_many_statements_give_pairs_and_the_seed_decides_which():
    statements = [pair(number) for number in range(400)]
    drawn = off_topic_pairs(statements, 32, seed="any")
    assert len({row.prompt[0]["content"] for row in drawn}) == 32
    assert drawn == off_topic_pairs(statements, 32, seed="any")
    assert drawn != off_topic_pairs(statements, 32, seed="other")
    assert off_topic_pairs(statements, 0, seed="any") == []


def test_what_answers_the_prompt_as_well_is_not_off_topic():
    one_prompt = [label(1, "yes", up=True), label(1, "no", up=False)]
    assert off_topic_pairs(one_prompt, 9, seed="any") == []
    same_words = [replace(label(number, "sorry", up=True), completion=answer("sorry")) for number in (1, 2)]
    assert off_topic_pairs(same_words, 9, seed="any") == []
