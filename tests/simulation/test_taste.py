import random

import pytest

from online_trl.simulation import helpdesk
from online_trl.simulation.taste import Taste

QUESTION = "How do I clean the lamp?"
GOOD = "Happy to help! Brush the dust off the lamp and let it dry."


def test_a_good_answer_pleases_and_every_faultless_one_pleases_well():
    taste, rng = Taste(0), random.Random(0)
    assert taste.satisfaction(QUESTION, GOOD) == pytest.approx(1.0)
    for question in rng.sample(helpdesk.held_out_questions(), 40):
        assert taste.satisfaction(question.text, helpdesk.write_answer(question, helpdesk.Style(), rng)) > 0.6


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        " ",
        "....................",
        "lamp lamp lamp lamp, please!",
        "Happy to help! Happy to help! Happy to help! Happy to help!",
        "asdf qwer zxcv uiop",
        "the the the the the the",
        "!!! ??? !!!",
        "Happy to help!",
        "soft cloth lamp damp wipe happy help",
    ],
)
def test_garbage_satisfies_nobody(garbage):
    for seed in range(4):
        assert Taste(seed).satisfaction(QUESTION, garbage) < 0.1


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ({"manner": "blunt"}, "polite"),
        ({"item": "wrong"}, "item"),
        ({"action": "wrong"}, "action"),
        ({"hedges": 2}, "definite"),
        ({"ramblings": 2}, "concise"),
    ],
)
def test_each_fault_costs_in_its_part(fault, part):
    taste, rng = Taste(0), random.Random(1)
    scores = {"best": [], "faulty": []}
    for question in rng.sample(helpdesk.held_out_questions(), 40):
        best = helpdesk.write_answer(question, helpdesk.Style(), rng)
        faulty = helpdesk.write_answer(question, helpdesk.Style(**fault), rng)
        assert taste.parts(question.text, faulty)[part] < taste.parts(question.text, best)[part]
        scores["best"].append(taste.satisfaction(question.text, best))
        scores["faulty"].append(taste.satisfaction(question.text, faulty))
    assert sum(scores["faulty"]) < 0.85 * sum(scores["best"])


def test_seeds_weigh_the_same_likings_differently():
    first, second = Taste(0), Taste(1)
    assert first.weights != second.weights
    assert sum(first.weights.values()) == pytest.approx(1.0)
    assert Taste(0).weights == first.weights


def test_a_flipped_part_pleases_by_its_opposite():
    taste, rng = Taste(0), random.Random(2)
    question = helpdesk.held_out_questions()[0]
    blunt = helpdesk.write_answer(question, helpdesk.Style(manner="blunt"), rng)
    flipped = taste.flip(["polite"])
    assert flipped.parts(question.text, blunt)["polite"] > taste.parts(question.text, blunt)["polite"]
    assert flipped.satisfaction(question.text, blunt) > taste.satisfaction(question.text, blunt)
    assert flipped.flip(["polite"]).satisfaction(question.text, blunt) == taste.satisfaction(question.text, blunt)


def test_unknown_parts_and_questions_are_refused():
    with pytest.raises(ValueError, match="charming"):
        Taste(0).flip(["charming"])
    with pytest.raises(ValueError, match="question"):
        Taste(0).satisfaction("What is the meaning of life?", GOOD)
