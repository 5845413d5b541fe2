from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from online_trl.registry import ModelRegistry, copy_model
from online_trl.rewards.scorer import RewardScorer
from online_trl.serving.live_scores import LiveScores, ScoringError
from online_trl.types import ModelRole
from serving.small_app import small_app
from serving.test_comparisons import ALWAYS, BODY, WELCOME

HEADS = 3
CONVERSATIONS: list[Any] = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
    for answer in ("Please restart the router.", "Grüße!", "")
]


@pytest.fixture(scope="module")
def reward_folders(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> list[Path]:
    """Two untrained reward models, each with several heads."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(policy_folders[0])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=HEADS,
        pad_token_id=tokenizer.pad_token_id,
        # Small enough that no answer is thought too bad to be shown.
        initializer_range=0.1,
    )
    folders = [tmp_path_factory.mktemp("rewards") / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        LlamaForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


@pytest.fixture
def registry(tmp_path: Path, reward_folders: list[Path]) -> ModelRegistry:
    """Has two candidates, and none in service."""
    registry = ModelRegistry(tmp_path / "registry")
    for folder in reward_folders:
        registry.publish(ModelRole.REWARD, copy_model(folder))
    return registry


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    with closing(asyncio.new_event_loop()) as loop:
        yield loop.run_until_complete
        loop.run_until_complete(loop.shutdown_default_executor())


async def ready(scores: LiveScores, version: str) -> None:
    while await scores.version() != version:
        await asyncio.sleep(0.01)


def test_live_version_is_loaded_when_it_is_first_asked_for_and_followed(
    registry: ModelRegistry, reward_folders: list[Path], run: Any
):
    scores = LiveScores(registry)
    assert run(scores.version()) is None
    with pytest.raises(ScoringError, match="no reward model is loaded"):
        run(scores.score(CONVERSATIONS))
    for name, folder in zip(("reward-0001", "reward-0002"), reward_folders, strict=True):
        registry.promote(name, "for a test")
        # Nobody waits for a load.
        assert run(scores.version()) is None
        run(ready(scores, name))
        version, found = run(scores.score(CONVERSATIONS))
        assert version == name
        assert found.shape == (len(CONVERSATIONS), HEADS)
        np.testing.assert_array_equal(found, RewardScorer(folder).head_scores(CONVERSATIONS).numpy())
    run(scores.stop())


def test_version_that_cannot_be_loaded_is_told_once(
    registry: ModelRegistry, run: Any, caplog: pytest.LogCaptureFixture
):
    registry.promote("reward-0001", "for a test")
    (registry.path("reward-0001") / "config.json").write_text("{}")
    scores = LiveScores(registry)
    with caplog.at_level(logging.ERROR):
        assert run(scores.version()) is None
        run(scores.stop())
        assert run(scores.version()) is None
    (message,) = caplog.messages
    assert message.startswith("cannot load the reward model reward-0001: ")
    assert "config.json" in message


def test_conversation_that_cannot_be_scored_is_an_error_that_names_the_version(registry: ModelRegistry, run: Any):
    registry.promote("reward-0001", "for a test")
    scores = LiveScores(registry)
    run(ready(scores, "reward-0001"))
    with pytest.raises(ScoringError, match="reward-0001 cannot score: no tools here"):
        run(scores.score([[{"role": "tool", "content": "a tool's"}]]))
    run(scores.stop())


def test_answers_to_compare_are_chosen_with_the_live_version(
    tmp_path: Path, policy_folders: list[Path], registry: ModelRegistry
):
    registry.promote("reward-0001", "for a test")
    scores = LiveScores(registry)
    settings = ALWAYS | {"comparison_candidates": 5}
    with small_app(tmp_path, policy_folders[0], scores=scores, **settings) as app:

        def ask() -> list[dict[str, Any]]:
            reply = app.request("POST", "/v1/chat/completions", json=BODY, headers=WELCOME)
            stored = app.store.get_interactions(reply.headers["X-Interaction-Id"].split(", "))
            assert len({row.completion[0]["content"] for row in stored.values()}) == len(stored)
            return [row.sampling["comparison"] for row in stored.values()]

        # Until it is loaded, any two are compared.
        assert ask() == [{"strategy": "random", "propensity": 1.0}] * 2
        app.run(ready(scores, "reward-0001"))
        one, other = ask()
        assert one == other
        assert (one["strategy"], one["reward_version"]) == ("double_thompson", "reward-0001")
        assert 0 < one["propensity"] <= 1
        assert 0 < one["worth"] <= 0.25
        app.run(scores.stop())
