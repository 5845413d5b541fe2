"""Conversations that stay with the version that answered them first, under a promotion."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from online_trl.registry import copy_model
from online_trl.types import ModelRole
from serving.deployment import Deployment, deployed

CLIENTS = 16


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[Deployment]:
    """A server that pins conversations, with `policy-0001` live and `policy-0002` beside it."""
    with deployed(tmp_path_factory.mktemp("pinned"), policy_folders, pin_sessions=True) as deployment:
        yield deployment


class Conversation:
    """One user's chat, streamed turn by turn."""

    def __init__(self, deployment: Deployment, user: str) -> None:
        self.deployment = deployment
        self.user = user
        self.messages: list[Any] = []
        self.turns: list[tuple[str, set[str], str, str | None]] = []
        """Of each turn: the interaction, the versions that its chunks name, the text, and why it ended."""

    def ask(self, model: str = "default") -> str:
        question = {"role": "user", "content": f"{self.user}, turn {len(self.turns)}?"}
        with self.deployment.openai.chat.completions.create(
            model=model,
            messages=[*self.messages, question],
            stream=True,
            max_tokens=16,
            temperature=0,
            user=self.user,
        ) as stream:
            chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        versions = {chunk.model for chunk in chunks}
        self.turns.append((chunks[0].id, versions, text, chunks[-1].choices[0].finish_reason))
        self.messages += [question, {"role": "assistant", "content": text}]
        return chunks[-1].model


def live_version(deployment: Deployment) -> str:
    return deployment.http.get("/healthz").json()["policy_version"]


def test_conversations_stay_with_their_version_under_a_promotion(pinned: Deployment):
    all_streaming, promoted = threading.Barrier(CLIENTS + 1), threading.Event()

    def chat(number: int) -> tuple[Conversation, Conversation]:
        before = Conversation(pinned, f"user-{number}")
        before.ask()
        all_streaming.wait()
        while not promoted.is_set():
            before.ask()
        before.ask()
        after = Conversation(pinned, f"user-{number}")
        after.ask()
        after.ask()
        return before, after

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(chat, number) for number in range(CLIENTS)]
        all_streaming.wait()
        pinned.registry.promote("policy-0002", "better")
        while live_version(pinned) != "policy-0002":
            time.sleep(0.05)
        promoted.set()
        conversations = [client.result() for client in clients]

    rows = pinned.store.get_interactions(
        turn[0] for pair in conversations for conversation in pair for turn in conversation.turns
    )
    counts: Counter[str] = Counter()
    for before, after in conversations:
        for conversation, version in ((before, "policy-0001"), (after, "policy-0002")):
            counts["conversations"] += 1
            counts["split"] += len({rows[name].session_id for name, *_ in conversation.turns}) != 1
            for name, versions, text, ending in conversation.turns:
                counts["replies"] += 1
                counts["failed"] += ending is None
                counts["mixed"] += versions != {rows[name].policy_version}
                counts["changed"] += rows[name].completion != [{"role": "assistant", "content": text}]
                counts["moved"] += rows[name].policy_version != version
    wrong = {what: counts[what] for what in ("split", "failed", "mixed", "changed", "moved")}
    assert wrong == dict.fromkeys(wrong, 0), f"of {counts['replies']} replies in {counts['conversations']} chats"
    assert counts["conversations"] == 2 * CLIENTS
    assert counts["replies"] >= 4 * CLIENTS


def test_version_that_is_asked_for_by_name_answers(pinned: Deployment):
    conversation = Conversation(pinned, "guest")
    live = conversation.ask()
    other = {"policy-0001": "policy-0002", "policy-0002": "policy-0001"}[live]
    assert conversation.ask(other) == other
    assert conversation.ask() == live
    rows = pinned.store.get_interactions(name for name, *_ in conversation.turns)
    assert len({row.session_id for row in rows.values()}) == 1


def test_conversation_whose_version_is_gone_goes_on_with_the_live_one(pinned: Deployment, policy_folders: list[Path]):
    gone = pinned.registry.publish(ModelRole.POLICY, copy_model(policy_folders[0]))
    conversation = Conversation(pinned, "orphan")
    assert conversation.ask(gone.name) == gone.name
    assert conversation.ask() == gone.name
    folder = pinned.registry.path(gone.name)
    folder.rename(folder.with_name("set-aside"))
    assert conversation.ask() == live_version(pinned)


def test_conversation_leaves_a_version_that_is_rolled_back(pinned: Deployment, policy_folders: list[Path]):
    bad = pinned.registry.publish(ModelRole.POLICY, copy_model(policy_folders[0])).name
    before = live_version(pinned)
    pinned.registry.promote(bad, "better")
    while live_version(pinned) != bad:
        time.sleep(0.05)
    conversation = Conversation(pinned, "early")
    assert conversation.ask() == bad
    pinned.registry.rollback(ModelRole.POLICY, "worse", version=bad)
    while live_version(pinned) == bad:
        time.sleep(0.05)
    assert conversation.ask() == before
