"""Somebody at the page at `/`, in a headless Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Response, Route, sync_playwright

from online_trl.store import FeedbackStore
from online_trl.types import Feedback, Interaction

CHROMIUM_ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
QUESTION = "How do I reset my password?"
FEEDBACK, COMPLETIONS = "**/v1/feedback", "**/v1/chat/completions"
MOST_TAB_STOPS = 80
NAME_OF_FOCUS = """() => {
  const { ariaLabel, labels, textContent } = document.activeElement;
  return ariaLabel ?? (labels?.[0]?.firstChild.textContent ?? textContent).trim();
}"""

CONTROLS = {"button", "textbox", "combobox", "DisclosureTriangle"}
# The texts and buttons whose contrast is below what WCAG 2.2 asks for at level AA.
LOW_CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const luminance = (color) => {
    const [red, green, blue] = parse(color).map((part) => linear(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const background = (element) => {
    const { backgroundColor } = getComputedStyle(element);
    return (parse(backgroundColor)[3] ?? 1) > 0 ? backgroundColor : background(element.parentElement);
  };
  const contrast = (element) => {
    const luminances = [getComputedStyle(element).color, background(element)].map(luminance);
    return (Math.max(...luminances) + 0.05) / (Math.min(...luminances) + 0.05);
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && (hasText(element) || element.matches("button")))
    .filter((element) => !element.closest(":disabled, [aria-disabled=true]") && contrast(element) < 4.5)
    .map((element) => element.outerHTML);
}"""
# What reaches beyond the right edge of the screen.
OVERFLOWING = """() => [...document.querySelectorAll("body *")]
  .filter((element) => element.checkVisibility() && !element.closest(".unseen"))
  .filter((element) => element.getBoundingClientRect().right > innerWidth)
  .map((element) => element.outerHTML)"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts the Chromium of this machine."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium here: install Debian's package `chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


def printable(text: str) -> str:
    """Returns a text as a text field holds it; the tiny policies like control characters, text fields change them."""
    return "".join(character for character in text if character.isprintable())


def chain(statements: list[Feedback]) -> list[int | None]:
    """Returns for each statement the number of the one that it supersedes."""
    numbers = {row.feedback_id: number for number, row in enumerate(statements)}
    return [row.supersedes and numbers[row.supersedes] for row in statements]


@dataclass
class Visitor:
    """A page of their own, where answers have at most `max_tokens` tokens, and the log that they write to."""

    page: Page
    store: FeedbackStore
    max_tokens: int | None = 12
    asked: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.route(COMPLETIONS, lambda route: route.continue_(post_data=self.shortened(route)))

    def shortened(self, route: Route) -> str:
        """Returns the body of a request for an answer, with the length that this visitor's answers have."""
        self.asked += 1
        # The tiny policies may answer nothing, or what may not be sent back, but not with these settings.
        settings = {"max_tokens": self.max_tokens, "temperature": 0.5, "seed": self.asked}
        return json.dumps(route.request.post_data_json | settings)

    @property
    def user_id(self) -> str:
        return self.page.locator("#user").inner_text()

    def button(self, name: str, *, exact: bool = True) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact)

    def wait_for_answer(self) -> None:
        self.page.locator("body:not(.busy)").wait_for()

    def ask(self, question: str, answers: int = 1) -> None:
        """Asks with the keyboard and waits for the answer's end."""
        self.page.get_by_label("Answers").select_option(str(answers))
        self.page.get_by_label("Your message").fill(question)
        self.page.get_by_label("Your message").press("Enter")
        self.wait_for_answer()

    @contextmanager
    def saying(self) -> Iterator[None]:
        """Waits until the statement that is made inside is in the log."""

        def is_receipt(response: Response) -> bool:
            return response.url.endswith("/v1/feedback") and response.status == 201

        with self.page.expect_response(is_receipt):
            yield

    def say(self, button: str) -> None:
        """Presses a button that says something, and waits until that is in the log."""
        with self.saying():
            self.button(button).last.click()

    def tab_to(self, name: str) -> None:
        """Presses Tab until the control of this name has the focus, and sees to it that the focus is visible."""
        for _ in range(MOST_TAB_STOPS):
            self.page.keyboard.press("Tab")
            if self.page.evaluate(NAME_OF_FOCUS) == name:
                assert self.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
                return
        raise AssertionError(f"no Tab stop is called {name!r}")

    def answers(self) -> list[Interaction]:
        """Returns the visitor's rows of the log, in the order of the log."""
        return [row for row in self.store.interactions() if row.user_id == self.user_id]

    def statements(self) -> list[Feedback]:
        """Returns what the visitor said, in the order of the log."""
        return [row for row in self.store.feedback() if row.user_id == self.user_id]

    def said(self) -> list[tuple[str, list[str], Any]]:
        """Returns kind, interactions and value of what the visitor said."""
        return [(row.kind.value, row.interaction_ids, row.value) for row in self.statements()]

    def nameless_controls(self) -> list[Any]:
        """Returns the controls that Chromium has no name for, to tell those who do not see them."""
        nodes = self.page.context.new_cdp_session(self.page).send("Accessibility.getFullAXTree")["nodes"]
        controls = [node for node in nodes if node.get("role", {}).get("value") in CONTROLS]
        assert len(controls) > 3
        return [node for node in controls if not node["name"]["value"].strip()]
