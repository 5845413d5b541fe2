from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from online_trl.types import Scope
from serving.deployment import deployed
from serving.visitor import COMPLETIONS, FEEDBACK, QUESTION, Visitor, chain


def test_stopped_answer_is_kept_as_what_was_shown(visitor: Visitor):
    visitor.max_tokens = None
    visitor.page.get_by_label("Your message").fill(QUESTION)
    visitor.button("Send").click()
    expect(visitor.button("Stop")).to_be_focused()
    expect(visitor.page.locator(".answer .text")).not_to_have_text("…")
    visitor.button("Stop").click()
    expect(visitor.page.get_by_text("stopped by you")).to_be_visible()
    expect(visitor.page.get_by_label("Your message")).to_be_focused()
    visitor.say("Bad answer")
    (answer,) = visitor.answers()
    assert answer.sampling["finish_reason"] == "cancelled"
    shown = visitor.page.locator(".answer .text").text_content()
    assert shown
    assert answer.completion[0]["content"].startswith(shown)
    assert visitor.said() == [("binary", [answer.interaction_id], False)]


def test_broken_stream_shows_what_came_and_offers_to_ask_again(visitor: Visitor):
    def cut(route: Route) -> None:
        reply = route.fetch(post_data=visitor.shortened(route))
        route.fulfill(response=reply, body=reply.body()[: len(reply.body()) // 2])

    visitor.page.route(COMPLETIONS, cut, times=1)
    visitor.ask(QUESTION)
    expect(visitor.page.get_by_role("alert")).to_have_text(
        "The connection to the server was lost. What came is shown."
    )
    expect(visitor.page.get_by_text("incomplete")).to_be_visible()
    assert visitor.page.locator(".answer .text").inner_text() not in ("", "…")
    expect(visitor.button("Good answer")).to_have_count(0)
    visitor.button("Ask again").click()
    expect(visitor.button("Good answer")).to_be_visible()
    expect(visitor.page.get_by_role("alert")).to_be_hidden()
    visitor.say("Good answer")
    assert visitor.said() == [("binary", [visitor.answers()[-1].interaction_id], True)]


def test_engine_that_breaks_off_is_told_in_words(visitor: Visitor):
    def end_with_error(route: Route) -> None:
        events = route.fetch(post_data=visitor.shortened(route)).text().split("\n\n")
        error = 'data: {"error": {"message": "the engine was stopped", "type": "server_error"}}'
        headers = {"Content-Type": "text/event-stream", "X-Interaction-Id": "unknown"}
        route.fulfill(headers=headers, body="\n\n".join([*events[:3], error, ""]))

    visitor.page.route(COMPLETIONS, end_with_error, times=1)
    visitor.ask(QUESTION)
    expect(visitor.page.get_by_role("alert")).to_have_text(
        "The server could not answer: the engine was stopped. What came is shown."
    )
    assert visitor.problems == []


def test_errors_are_shown_in_words(visitor: Visitor):
    visitor.ask("long " * 2000)
    expect(visitor.page.get_by_role("alert")).to_contain_text("Start a new conversation to go on.")
    expect(visitor.page.get_by_role("alert")).to_be_in_viewport()
    visitor.button("New conversation").click()
    visitor.page.context.set_offline(True)
    visitor.ask(QUESTION)
    expect(visitor.page.get_by_role("alert")).to_have_text("The connection to the server was lost.")
    visitor.page.context.set_offline(False)
    visitor.button("Ask again").click()
    expect(visitor.button("Good answer")).to_be_visible()
    assert len(visitor.answers()) == 1


def test_feedback_without_a_connection_is_sent_once_there_is_one(visitor: Visitor):
    visitor.ask(QUESTION)
    visitor.page.context.set_offline(True)
    visitor.button("Good answer").click()
    expect(visitor.page.locator(".said")).to_contain_text("Not sent yet")
    expect(visitor.page.get_by_text("One reaction waits to be sent.")).to_be_visible()
    assert visitor.statements() == []
    with visitor.saying():
        visitor.page.context.set_offline(False)
    expect(visitor.page.get_by_text("Recorded.")).to_be_visible()
    assert [value for _, _, value in visitor.said()] == [True]


def test_feedback_of_which_the_receipt_was_lost_is_stored_once(visitor: Visitor):
    def lose_receipt(route: Route) -> None:
        assert route.fetch().status == 201
        route.abort()

    visitor.ask(QUESTION)
    visitor.page.route(FEEDBACK, lose_receipt, times=1)
    visitor.say("Good answer")
    expect(visitor.page.get_by_text("Recorded.")).to_be_visible()
    assert [value for _, _, value in visitor.said()] == [True]


@pytest.mark.parametrize("fail", [lambda route: route.abort(), lambda route: route.fulfill(status=503, body="busy")])
def test_unsent_feedback_outlives_a_reload_in_its_order(visitor: Visitor, fail: Callable[[Route], None]):
    visitor.ask(QUESTION)
    visitor.page.route(FEEDBACK, fail)
    visitor.button("Good answer").click()
    visitor.button("Bad answer").click()
    expect(visitor.page.get_by_text("2 reactions wait to be sent.")).to_be_visible()
    visitor.page.unroute(FEEDBACK)
    visitor.page.reload()
    expect(visitor.page.get_by_text("Recorded.")).to_be_visible()
    assert [value for _, _, value in visitor.said()] == [True, False]
    assert chain(visitor.statements()) == [None, 0]


def test_connection_that_dies_without_a_word_is_given_up(visitor: Visitor):
    visitor.page.evaluate(
        "AbortSignal.timeout = ((timeout) => () => timeout(500))(AbortSignal.timeout.bind(AbortSignal))"
    )
    visitor.ask(QUESTION)
    visitor.page.route(FEEDBACK, lambda route: None, times=1)
    visitor.say("Good answer")
    assert [value for _, _, value in visitor.said()] == [True]


def test_reply_of_another_network_is_no_receipt(visitor: Visitor):
    visitor.ask(QUESTION)
    visitor.page.route(FEEDBACK, lambda route: route.fulfill(status=200, body="<p>Welcome to our hotel</p>"), times=1)
    visitor.say("Good answer")
    assert [value for _, _, value in visitor.said()] == [True]


def test_feedback_that_the_server_refuses_is_told_and_undone(visitor: Visitor):
    visitor.ask(QUESTION)
    refusal = {"error": {"message": "no feedback today", "type": "invalid_request_error"}}
    visitor.page.route(FEEDBACK, lambda route: route.fulfill(status=403, json=refusal), times=1)
    visitor.button("Good answer").click()
    expect(visitor.page.get_by_text("The server did not take it: no feedback today")).to_be_visible()
    expect(visitor.button("Good answer")).to_have_attribute("aria-pressed", "false")
    visitor.say("Good answer")
    assert chain(visitor.statements()) == [None]


def test_key_is_asked_for_and_the_visitor_goes_on(browser: Browser, tmp_path: Path, policy_folders: list[Path]):
    with deployed(tmp_path, policy_folders[:1]) as deployment, browser.new_context() as context:
        key, _ = deployment.store.keys.create([Scope.CHAT, Scope.FEEDBACK], name="page")
        while deployment.http.get("/v1/models").status_code != 401:
            time.sleep(0.05)  # a server takes note of new keys within a second
        visitor = Visitor(context.new_page(), deployment.store)
        visitor.page.goto(deployment.server.url)
        visitor.page.get_by_label("Your message").fill(QUESTION)
        visitor.button("Send").click()
        dialog = visitor.page.get_by_role("dialog", name="This server asks for a key")
        visitor.page.get_by_label("Key", exact=True).fill("sk-wrong")
        visitor.button("Go on").click()
        expect(dialog).to_contain_text("The server does not accept this key.")
        visitor.button("Not now").click()
        expect(visitor.page.get_by_role("alert")).to_be_visible()
        visitor.button("Ask again").click()
        visitor.page.get_by_label("Key", exact=True).fill(key)
        visitor.button("Go on").click()
        visitor.say("Good answer")
        visitor.page.reload()
        visitor.say("Bad answer")
        assert [value for _, _, value in visitor.said()] == [True, False]
        assert len(visitor.answers()) == 1
