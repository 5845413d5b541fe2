"""The page at a server that always asks which of two answers is better."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from serving.deployment import Deployment, deployed
from serving.visitor import LOW_CONTRAST, OVERFLOWING, QUESTION, Visitor

NEXT_QUESTION = "And where do I find it?"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("asking")
    settings = {"comparison_strategy": "random", "comparison_share": 1.0, "comparison_rate_per_user": "1/hour"}
    with deployed(folder, policy_folders, **settings) as deployment:
        yield deployment


def test_answers_that_come_to_be_compared_stand_side_by_side_and_the_better_one_is_gone_on_from(visitor: Visitor):
    visitor.page.set_viewport_size({"width": 1000, "height": 720})
    visitor.ask(QUESTION)
    boxes = [box.bounding_box() for box in visitor.page.locator(".answer").all()]
    (left, right) = boxes
    assert left is not None
    assert right is not None
    assert (left["y"], left["width"]) == (right["y"], right["width"])
    assert left["x"] + left["width"] <= right["x"]
    expect(visitor.page.get_by_text("Now and then two come by themselves")).to_be_visible()
    assert visitor.page.evaluate(LOW_CONTRAST) == []
    assert visitor.nameless_controls() == []
    visitor.tab_to("B is better")
    with visitor.saying():
        visitor.page.keyboard.press("Enter")
    visitor.ask(NEXT_QUESTION)
    first, second, after = visitor.answers()
    assert visitor.said() == [("comparison", [first.interaction_id, second.interaction_id], "second")]
    assert [row.sampling["comparison"]["strategy"] for row in (first, second)] == ["random", "random"]
    assert after.parent_id == second.interaction_id
    assert after.prompt == [*second.prompt, *second.completion, {"role": "user", "content": NEXT_QUESTION}]
    # This user has been asked as often as the limit allows: one answer, with its own reactions.
    assert "comparison" not in after.sampling
    expect(visitor.button("Good answer")).to_have_count(1)
    visitor.page.reload()
    expect(visitor.button("B is better")).to_have_attribute("aria-pressed", "true")
    visitor.page.set_viewport_size({"width": 360, "height": 720})
    assert visitor.page.evaluate(OVERFLOWING) == []
    assert visitor.problems == []


def test_two_that_were_asked_for_are_no_question_of_the_server(visitor: Visitor):
    visitor.ask(QUESTION, answers=2)
    expect(visitor.button("B is better")).to_be_visible()
    expect(visitor.page.get_by_text("Now and then two come by themselves")).to_be_hidden()
    assert ["comparison" in row.sampling for row in visitor.answers()] == [False, False]
