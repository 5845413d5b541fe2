from __future__ import annotations

import json
import re
from typing import Literal

import pytest
from playwright.sync_api import Route, expect

from online_trl.serving.client_keys import client_key
from online_trl.types import FeedbackSource, new_id
from serving.deployment import Deployment
from serving.visitor import COMPLETIONS, FEEDBACK, LOW_CONTRAST, OVERFLOWING, QUESTION, Visitor, chain, printable

NEXT_QUESTION = "And where do I find it?"
FAIR = {"score": 3, "low": 1, "high": 5}
PHONE_WIDTH = 360
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def test_page_and_its_files_are_served_with_safe_headers(deployment: Deployment):
    page = deployment.http.get("/")
    paths = ["/", *re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)]
    assert paths == ["/", "page/page.css", "page/page.js"]
    types = [deployment.http.get(path).headers["content-type"].split(";")[0] for path in paths]
    assert types[:2] == ["text/html", "text/css"]
    assert types[2] in ("text/javascript", "application/javascript")
    for path in paths:
        headers = deployment.http.get(path).headers
        assert headers["cache-control"] == "no-cache"
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
        assert "unsafe" not in policy
        again = deployment.http.get(path, headers={"If-None-Match": headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/page/", "/page/absent.js", "/page/..%2Fapp.py", "/page/%2e%2e/app.py"])
def test_nothing_else_is_served_as_a_file(deployment: Deployment, path: str):
    assert deployment.http.get(path).status_code == 404


def test_thumb_is_given_amended_and_taken_back(visitor: Visitor):
    visitor.ask(QUESTION)
    visitor.say("Good answer")
    expect(visitor.button("Good answer")).to_have_attribute("aria-pressed", "true")
    visitor.say("Bad answer")
    expect(visitor.button("Good answer")).to_have_attribute("aria-pressed", "false")
    visitor.say("Bad answer")
    expect(visitor.button("Bad answer")).to_have_attribute("aria-pressed", "false")
    expect(visitor.page.get_by_text("Taken back.")).to_be_visible()
    visitor.say("Bad answer")
    (answer,) = visitor.answers()
    ids = [answer.interaction_id]
    assert visitor.said() == [("binary", ids, value) for value in (True, False, None, False)]
    statements = visitor.statements()
    assert chain(statements) == [None, 0, 1, None]
    assert {row.session_id for row in statements} == {answer.session_id}
    assert {row.source for row in statements} == {FeedbackSource.HUMAN}
    assert [client_key(row) for row in statements] == [row.feedback_id for row in statements]
    assert answer.policy_version == "policy-0001"
    expect(visitor.page.get_by_text("policy-0001")).to_be_visible()
    assert visitor.problems == []


def test_answer_that_the_server_did_not_give_is_left_out(visitor: Visitor):
    def give_one(route: Route) -> None:
        reply = route.fetch(post_data=json.dumps(json.loads(visitor.shortened(route)) | {"n": 1}))
        names = f"{reply.headers['x-interaction-id']}, {new_id()}"
        route.fulfill(response=reply, headers=reply.headers | {"x-interaction-id": names})

    visitor.page.route(COMPLETIONS, give_one, times=1)
    visitor.ask(QUESTION, answers=2)
    expect(visitor.page.locator(".answer")).to_have_count(1)
    visitor.say("Good answer")
    assert visitor.said() == [("binary", [visitor.answers()[0].interaction_id], True)]
    assert visitor.problems == []


def test_rating_is_given_amended_and_taken_back(visitor: Visitor):
    visitor.ask(QUESTION)
    for button in ("5 of 5: excellent", "3 of 5: fair", "3 of 5: fair"):
        visitor.say(button)
    ids = [visitor.answers()[0].interaction_id]
    excellent = {"score": 5, "low": 1, "high": 5}
    assert visitor.said() == [("rating", ids, excellent), ("rating", ids, FAIR), ("rating", ids, None)]
    assert chain(visitor.statements()) == [None, 0, 1]


def test_answer_is_rewritten_and_the_rewrite_amended_and_taken_back(visitor: Visitor):
    visitor.ask(QUESTION)
    (answer,) = visitor.answers()
    rewrite = visitor.page.get_by_label("How the answer should have been")
    visitor.button("Rewrite").click()
    expect(rewrite).to_be_focused()
    assert printable(rewrite.input_value()) == printable(answer.completion[0]["content"])
    visitor.button("Record my version").click()
    expect(rewrite).to_be_hidden()
    for text in ("Press reset.", "Press “reset” on the login page."):
        visitor.button("Rewrite").click()
        rewrite.fill(text)
        visitor.say("Record my version")
        expect(visitor.page.locator(".own .text")).to_have_text(text)
    visitor.button("Rewrite").click()
    visitor.say("Take it back")
    expect(visitor.page.locator(".own")).to_be_hidden()
    values = [value for _, _, value in visitor.said()]
    assert values == ["Press reset.", "Press “reset” on the login page.", None]
    assert chain(visitor.statements()) == [None, 0, 1]
    assert {row.kind.value for row in visitor.statements()} == {"correction"}


def test_another_answer_is_asked_for_and_the_earlier_one_stays_readable(visitor: Visitor):
    visitor.ask(QUESTION)
    visitor.say("Another answer")
    visitor.wait_for_answer()
    first, second = visitor.answers()
    assert first.prompt == second.prompt
    assert first.session_id == second.session_id
    assert second.regenerates == first.interaction_id
    (signal,) = visitor.statements()
    assert (signal.kind.value, signal.interaction_ids, signal.value, signal.source.value) == (
        "implicit",
        [first.interaction_id],
        "regenerate",
        "implicit",
    )
    visitor.page.get_by_text("Earlier answer").click()
    assert visitor.page.locator(".earlier li").all_text_contents() == [first.completion[0]["content"]]
    visitor.say("Good answer")
    assert visitor.said()[1] == ("binary", [second.interaction_id], True)


@pytest.mark.parametrize("is_secure", [True, False])
def test_copying_an_answer_is_told_once(visitor: Visitor, deployment: Deployment, is_secure: bool):
    if is_secure:
        visitor.page.context.grant_permissions(["clipboard-write"], origin=deployment.server.url)
    else:
        visitor.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    visitor.ask(QUESTION)
    visitor.say("Copy")
    visitor.button("Copy").click()
    expect(visitor.page.get_by_text("Copied.")).to_be_visible()
    visitor.say("Good answer")
    (answer,) = visitor.answers()
    ids = [answer.interaction_id]
    assert visitor.said() == [("implicit", ids, "copy"), ("binary", ids, True)]
    question = visitor.page.get_by_label("Your message")
    question.press("ControlOrMeta+v")
    expect(question).not_to_have_value("")
    assert printable(question.input_value()) == printable(answer.completion[0]["content"])


def test_two_answers_are_compared_and_the_better_one_is_gone_on_from(visitor: Visitor):
    visitor.ask(QUESTION, answers=2)
    for button in ("A is better", "Equally good", "B is better"):
        visitor.say(button)
    compared = {row.interaction_id: row for row in visitor.answers()}
    ids = visitor.statements()[0].interaction_ids
    assert sorted(ids) == sorted(compared)
    assert visitor.said() == [("comparison", ids, value) for value in ("first", "tie", "second")]
    assert chain(visitor.statements()) == [None, 0, 1]
    shown = visitor.page.locator(".answer .text").all_text_contents()
    assert shown == [compared[interaction_id].completion[0]["content"] for interaction_id in ids]
    visitor.ask(NEXT_QUESTION)
    # What was gone on from stays, whatever is said about it later.
    visitor.say("A is better")
    visitor.ask(QUESTION)
    *_, second_turn, third_turn = visitor.answers()
    assert second_turn.prompt == [
        {"role": "user", "content": QUESTION},
        *compared[ids[1]].completion,
        {"role": "user", "content": NEXT_QUESTION},
    ]
    assert third_turn.prompt == [
        *second_turn.prompt,
        *second_turn.completion,
        {"role": "user", "content": QUESTION},
    ]
    assert len({row.session_id for row in visitor.answers()}) == 1
    assert visitor.problems == []


def test_comparison_is_taken_back(visitor: Visitor):
    visitor.ask(QUESTION, answers=2)
    visitor.say("B is better")
    visitor.say("B is better")
    assert [value for _, _, value in visitor.said()] == ["second", None]
    visitor.ask(NEXT_QUESTION)
    ids = visitor.statements()[0].interaction_ids
    first = next(row for row in visitor.answers() if row.interaction_id == ids[0])
    assert visitor.answers()[-1].prompt[1:2] == first.completion


def test_answers_are_ranked_with_ties_and_the_best_one_is_gone_on_from(visitor: Visitor):
    visitor.ask(QUESTION, answers=4)
    for _ in range(3):
        visitor.button("Move Answer D up").click()
    visitor.button("Move Answer A down").click()
    visitor.button("Answer A: as good as the one above").click()
    visitor.say("Record this order")
    visitor.button("Answer A: as good as the one above").click()
    visitor.say("Record the new order")
    visitor.say("Take it back")
    visitor.say("Record this order")
    statements = visitor.statements()
    ids = statements[0].interaction_ids
    ranks = [[2, 2, 3, 1], [3, 2, 4, 1], None, [3, 2, 4, 1]]
    assert visitor.said() == [("ranking", ids, value) for value in ranks]
    assert chain(statements) == [None, 0, 1, None]
    ranked = {row.interaction_id: row for row in visitor.answers()}
    visitor.ask(NEXT_QUESTION)
    assert visitor.answers()[-1].prompt[1:2] == ranked[ids[3]].completion
    assert visitor.problems == []


def test_answers_are_ranked_by_dragging(visitor: Visitor):
    visitor.ask(QUESTION, answers=3)
    handle = visitor.button("Move Answer C", exact=False).first
    handle.drag_to(visitor.page.get_by_role("article", name="Answer A"))
    visitor.say("Record this order")
    assert [value for _, _, value in visitor.said()] == [[2, 3, 1]]


def test_conversation_outlives_a_reload_and_a_new_one_has_another_session(visitor: Visitor):
    visitor.ask(QUESTION)
    visitor.say("Good answer")
    user_id = visitor.user_id
    visitor.page.reload()
    assert visitor.user_id == user_id
    visitor.say("Bad answer")
    visitor.ask(NEXT_QUESTION)
    visitor.button("New conversation").click()
    expect(visitor.page.locator(".turn")).to_have_count(0)
    expect(visitor.page.get_by_label("Your message")).to_be_focused()
    visitor.ask(QUESTION)
    first, second, other = visitor.answers()
    assert second.prompt == [*first.prompt, *first.completion, {"role": "user", "content": NEXT_QUESTION}]
    assert first.session_id == second.session_id != other.session_id
    assert second.parent_id == first.interaction_id
    assert other.prompt == [{"role": "user", "content": QUESTION}]
    assert chain(visitor.statements()) == [None, 0]


def test_everything_is_done_without_a_mouse(visitor: Visitor):
    press = visitor.page.keyboard.press

    def ask(mode: str) -> None:
        visitor.tab_to("Answers")
        visitor.page.keyboard.type(mode)
        visitor.tab_to("Your message")
        visitor.page.keyboard.type("One line")
        press("Shift+Enter")
        visitor.page.keyboard.type("and another")
        press("Enter")
        visitor.wait_for_answer()

    def say(button: str) -> None:
        visitor.tab_to(button)
        with visitor.saying():
            press("Enter")

    ask("one")
    say("Good answer")
    ask("two")
    say("B is better")
    ask("three")
    visitor.tab_to("Move Answer B with the arrow keys, or drag it")
    press("ArrowUp")
    expect(visitor.page.locator("#announcer")).to_have_text("Answer B is now at place 1 of 3.")
    press("ArrowDown")
    press("ArrowDown")
    press("ArrowDown")
    say("Record this order")
    assert [value for _, _, value in visitor.said()] == [True, "second", [1, 3, 2]]
    assert visitor.answers()[0].prompt == [{"role": "user", "content": "One line\nand another"}]
    assert visitor.problems == []


def test_visitor_sees_what_is_recorded_and_changes_and_forgets_the_id(visitor: Visitor):
    expect(visitor.page.get_by_text("Recorded: your messages, the answers and your reactions")).to_be_visible()
    drawn = visitor.user_id
    visitor.button("Details and your id").click()
    expect(visitor.page.get_by_role("dialog", name="What is recorded")).to_be_visible()
    expect(visitor.page.get_by_label("Your id")).to_have_value(drawn)
    visitor.page.get_by_label("Your id").fill("ada of page")
    visitor.button("Use this id").click()
    visitor.ask(QUESTION)
    visitor.say("Good answer")
    assert [row.user_id for row in visitor.answers() + visitor.statements()] == ["ada of page", "ada of page"]
    visitor.page.route(FEEDBACK, lambda route: route.abort())
    visitor.button("Bad answer").click()
    expect(visitor.page.locator(".said")).to_contain_text("Not sent yet")
    visitor.button("Details and your id").click()
    visitor.button("Forget it").click()
    expect(visitor.page.locator(".turn")).to_have_count(0)
    assert visitor.user_id not in (drawn, "ada of page")
    kept = visitor.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "ada of page" not in kept
    assert drawn not in kept


def visit_every_mode(visitor: Visitor) -> None:
    visitor.ask(QUESTION)
    visitor.button("Rewrite").click()
    visitor.page.get_by_label("How the answer should have been").fill("Press reset.")
    visitor.say("Record my version")
    visitor.say("Good answer")
    visitor.say("Another answer")
    visitor.wait_for_answer()
    visitor.button("Rewrite").click()
    visitor.ask(NEXT_QUESTION, answers=2)
    visitor.say("Equally good")
    visitor.ask(NEXT_QUESTION, answers=3)
    visitor.say("Record this order")
    visitor.button("Answer B: as good as the one above").click()
    visitor.page.context.set_offline(True)
    visitor.ask(QUESTION)
    visitor.page.context.set_offline(False)


def test_every_control_has_a_name_and_every_text_is_readable_on_every_screen(visitor: Visitor):
    visit_every_mode(visitor)
    for open_dialog in (False, True):
        if open_dialog:
            visitor.button("Details and your id").click()
        assert visitor.nameless_controls() == []
        for scheme in SCHEMES:
            visitor.page.emulate_media(color_scheme=scheme)
            assert visitor.page.evaluate(LOW_CONTRAST) == []
    visitor.button("Close").click()
    visitor.page.set_viewport_size({"width": PHONE_WIDTH, "height": 720})
    assert visitor.page.evaluate(OVERFLOWING) == []
    assert visitor.page.evaluate("document.documentElement.scrollWidth") == PHONE_WIDTH


def test_pressed_buttons_can_be_told_from_others_where_colours_are_forced(visitor: Visitor):
    visitor.ask(QUESTION)
    visitor.say("Good answer")
    visitor.page.emulate_media(forced_colors="active")
    backgrounds = visitor.page.locator("[data-thumb]").evaluate_all(
        "all => all.map(b => getComputedStyle(b).backgroundColor)"
    )
    assert len(set(backgrounds)) == 2
