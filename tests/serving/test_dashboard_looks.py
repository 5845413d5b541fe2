"""The dashboard in a browser: with one version and with forty, and with what users wrote made of HTML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from online_trl.registry import ModelRegistry
from online_trl.report import dashboard_html
from online_trl.serving.dashboard import Dashboard
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, Interaction, ModelRole
from serving.visitor import LOW_CONTRAST, OVERFLOWING

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
PHONE_WIDTH = 360
PAPER_WIDTH = 718  # of A4, between Chromium's margins
HIDDEN_TEXT = """(folds) => folds
  .flatMap((fold) => [...fold.querySelectorAll("td, li")])
  .filter((element) => element.textContent.trim() && !element.checkVisibility())
  .map((element) => element.outerHTML)"""


def write(folder: Path) -> None:
    (folder / "weights").write_text("w")


def fill(store: FeedbackStore, version: str) -> None:
    for number in range(6):
        user = str(number)
        answers = store.add_interactions(
            [
                Interaction(
                    prompt=[{"role": "user", "content": f"{EVIL} number {number}"}],
                    completion=[{"role": "assistant", "content": f"{EVIL} by {name}"}],
                    policy_version=name,
                    session_id=user,
                    user_id=user,
                )
                for name in dict.fromkeys((version, "policy-0001"))
            ]
        )
        names = [answer.interaction_id for answer in answers]
        said = [Feedback(kind=FeedbackKind.BINARY, interaction_ids=names[:1], value=number % 3 == 0, user_id=user)]
        if len(names) == 2:
            said.append(Feedback(kind=FeedbackKind.COMPARISON, interaction_ids=names, value="first", user_id=user))
        store.add_feedback_batch(said)


@pytest.fixture(params=[0, 1, 40])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A dashboard of so many versions that were judged; of one that was not, where there is none."""
    registry = ModelRegistry(tmp_path / "registry")
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        for _ in range(max(1, request.param)):
            version = registry.publish(ModelRole.POLICY, write).name
            registry.promote(version, f"because of {EVIL}")
            if request.param:
                fill(store, version)
        report, chosen = Dashboard(store, registry).report("policy-0001")
        yield dashboard_html(report, **chosen)


def test_the_dashboard_fits_can_be_read_and_runs_nothing(page: str, browser: Browser, tmp_path: Path):
    (tmp_path / "dashboard.html").write_text(page)
    problems: list[str] = []
    for scheme, width, medium in (
        ("light", 1100, "screen"),
        ("dark", 1100, "screen"),
        ("light", PHONE_WIDTH, "screen"),
        ("dark", PAPER_WIDTH, "print"),
    ):
        shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        shown.emulate_media(media=medium)
        shown.on("dialog", lambda dialog: problems.append(dialog.message))
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.goto((tmp_path / "dashboard.html").as_uri())
        assert shown.evaluate(LOW_CONTRAST) == []
        assert shown.evaluate(OVERFLOWING) == []
        assert shown.get_by_text(EVIL).count() > 0
        assert "nan" not in shown.locator("body").inner_text()
        assert problems == []
        if medium == "print":
            check_paper(shown)
        shown.close()


def check_paper(shown: Page) -> None:
    """Nothing is folded up, nothing asks for a click, and ink is on white, whatever the screen prefers."""
    assert shown.locator("details").evaluate_all(HIDDEN_TEXT) == []
    assert shown.locator("form:visible").count() == 0
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.pdf(format="A4").startswith(b"%PDF")
