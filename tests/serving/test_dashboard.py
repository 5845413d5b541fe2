"""The dashboard: who sees it, what it shows, and when it is gathered anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, HttpCredentials, expect

from online_trl.registry import ModelRegistry
from online_trl.serving.dashboard import Dashboard
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, Interaction, ModelRole, Scope
from served_log import served
from serving.small_app import SmallApp, small_app

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def write(folder: Path) -> None:
    (folder / "weights").write_text("w")


def fill(store: FeedbackStore, version: str, users: int) -> None:
    for number in range(users):
        prompt, said = f"{EVIL} number {number}", f"{EVIL} by {version}"
        answer = store.add_interaction(
            Interaction(
                prompt=[{"role": "user", "content": prompt}],
                completion=[{"role": "assistant", "content": said}],
                policy_version=version,
                session_id=str(number),
                user_id=str(number),
            )
        )
        store.add_feedback(
            Feedback(
                kind=FeedbackKind.BINARY,
                interaction_ids=[answer.interaction_id],
                value=number % 3 == 0,
                user_id=str(number),
            )
        )


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path_factory.mktemp("dashboard"), policy_folders[0]) as app:
        fill(app.store, "one", 6)
        fill(app.store, "two", 6)
        yield app


@contextmanager
def guarded(store: FeedbackStore, status: Callable[[], int]) -> Iterator[str]:
    """While there is a key, everybody needs one; gives it."""
    key, row = store.keys.create([Scope.ADMIN])
    while status() != 401:
        pass
    yield key
    store.keys.revoke(row.key_id)
    while status() != 200:
        pass


def test_the_browser_asks_for_a_key_and_sends_it_as_a_password(app: SmallApp):
    with guarded(app.store, lambda: app.request("GET", "/v1/models").status_code) as key:
        refused = app.request("GET", "/dashboard")
        assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Basic ")
        # Elsewhere no browser shall ask: the chat page has a field for it.
        assert app.request("GET", "/v1/models").headers["www-authenticate"].startswith("Bearer ")
        shown = app.request("GET", "/dashboard", auth=("anybody", key))
        assert shown.status_code == 200
        policy = shown.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
        assert "script" not in policy


def test_the_versions_to_compare_are_chosen_by_the_address(app: SmallApp):
    shown = app.request("GET", "/dashboard.json", params={"before": "two", "after": "one"}).json()
    assert {(row["before_version"], row["after_version"]) for row in shown["samples"]} == {("two", "one")}
    assert [row["policy_version"] for row in shown["versions"]][:2] == ["one", "two"]
    page = app.request("GET", "/dashboard", params={"before": EVIL, "after": "one"}).text
    assert EVIL not in page
    assert "There is no prompt that both &lt;img" in page


class Clock:
    """A clock on which everything takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_what_was_gathered_is_kept_until_the_log_or_the_registry_changes(tmp_path: Path):
    registry = ModelRegistry(tmp_path / "registry")
    registry.publish(ModelRole.POLICY, write)
    registry.promote("policy-0001", "the first one")
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        clock = Clock()
        dashboard = Dashboard(store, registry, clock=clock)

        def gathered_at(*, seconds_later: float = 20.0) -> datetime:
            clock.now += seconds_later
            return dashboard.report("policy-0001")[0].gathered_at

        first = gathered_at()
        assert gathered_at() == first
        fill(store, "policy-0001", 1)
        second = gathered_at()
        assert second > first
        assert gathered_at() == second
        registry.publish(ModelRole.POLICY, write)
        third = gathered_at()
        assert third > second
        fill(store, "policy-0001", 1)
        assert gathered_at(seconds_later=5.0) == third, "gathering took a second: it rests for ten"
        assert gathered_at() > third


def test_what_is_erased_is_gone_from_the_dashboard_at_once(tmp_path: Path):
    clock = Clock()
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        for version in ("one", "two"):
            fill(store, version, 1)
        dashboard = Dashboard(store, None, clock=clock)
        assert len(dashboard.report("two", before="one", after="two")[0].samples) == 1
        store.erase_user("0")
        assert dashboard.report("two", before="one", after="two")[0].samples == ()


def test_a_browser_shows_the_numbers_of_the_json_and_follows_new_feedback(
    app: SmallApp, browser: Browser, monkeypatch: pytest.MonkeyPatch
):
    # The last of this file: while there is a browser, whose loop runs in this thread, the app's own loop cannot.
    monkeypatch.setattr("online_trl.report.page.REFRESH_SECONDS", 1)
    problems: list[str] = []

    def status(url: str) -> int:
        return httpx.get(f"{url}/v1/models").status_code

    with served(app.app) as url, guarded(app.store, lambda: status(url)) as key:
        credentials: HttpCredentials = {"username": "anybody", "password": key}
        with browser.new_context(http_credentials=credentials) as context:
            page = context.new_page()
            page.on("console", lambda message: message.type == "error" and problems.append(message.text))
            page.goto(f"{url}/dashboard")
            report = httpx.get(f"{url}/dashboard.json", auth=("anybody", key)).json()
            expect(page.get_by_role("heading", level=1)).to_have_text(report["headline"])
            for version in report["versions"]:
                name, chats = version["policy_version"], version["chats"]
                row = page.get_by_role("row", name=re.compile(rf"^{name}\b"))
                for each in (chats["satisfaction"], chats["response_rate"]) if chats else ():
                    expect(row).to_contain_text(f"{each['mean']:.2f} {each['low']:.2f} to {each['high']:.2f}")
                    expect(row).to_contain_text(f"n {each['n']}")
            page.get_by_label("Before").select_option("two")
            page.get_by_label("after").select_option("one")
            page.get_by_role("button", name="Show").click()
            expect(page.locator(".answer.before header").first).to_contain_text("before: two")
            assert report["latest_seq"] == app.store.latest_seq()
            fill(app.store, "one", 3)
            expect(page.get_by_text(f"{app.store.latest_seq()} rows of the log")).to_be_visible(timeout=15_000)
            expect(page.locator(".answer.after header").first).to_contain_text("after: one")
    assert problems == []
