from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from online_trl.registry import ModelRegistry, copy_model
from online_trl.serving.follower import follow
from online_trl.serving.policy_source import RegistryPolicies
from online_trl.serving.transformers_engine import TransformersEngine
from online_trl.types import ModelRole


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_engine_follows_promotion_past_a_damaged_version_and_back(
    tmp_path: Path, policy_folders: list[Path], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    registry = ModelRegistry(tmp_path)
    for folder in [*policy_folders, policy_folders[0]]:
        registry.publish(ModelRole.POLICY, copy_model(folder))
    registry.promote("policy-0001", "the first one")
    (registry.path("policy-0002") / "config.json").write_text("{}")

    async def run() -> None:
        policies = RegistryPolicies(registry)
        engine = TransformersEngine(policies, device="cpu")
        await engine.start()
        follower = asyncio.create_task(follow(policies, engine, interval=0.01))
        registry.promote("policy-0002", "better")
        await until(lambda: "still serving policy-0001" in caplog.text)
        assert engine.default_version == "policy-0001"
        registry.promote("policy-0003", "better still")
        await until(lambda: engine.default_version == "policy-0003")
        registry.promote("policy-0001", "it was good enough")
        await until(lambda: engine.default_version == "policy-0001")
        follower.cancel()
        await engine.stop()

    asyncio.run(run())
    assert caplog.text.count("still serving policy-0001") == 1
    assert "config.json" in caplog.text


def test_candidate_that_cannot_be_loaded_is_tried_on_nobody(
    tmp_path: Path, policy_folders: list[Path], caplog: pytest.LogCaptureFixture
):
    registry = ModelRegistry(tmp_path)
    for folder in [policy_folders[0], *policy_folders]:
        registry.publish(ModelRole.POLICY, copy_model(folder))
    registry.promote("policy-0001", "the first one")
    (registry.path("policy-0002") / "config.json").write_text("{}")

    async def given() -> str:
        return await engine.resolve("default", asker="the first user")

    engine = TransformersEngine(RegistryPolicies(registry), device="cpu")

    async def run() -> None:
        await engine.start()
        follower = asyncio.create_task(follow(RegistryPolicies(registry), engine, interval=0.01))
        registry.start_canary("policy-0002", 0.999999)
        await until(lambda: "policy-0002" in caplog.text)
        assert await given() == "policy-0001"
        registry.end_canary("policy-0002", "damaged", promote=False)
        registry.start_canary("policy-0003", 0.999999)
        while await given() != "policy-0003":
            await asyncio.sleep(0.01)
        # Whoever has the candidate keeps it when it is promoted.
        registry.end_canary("policy-0003", "better", promote=True)
        while engine.default_version != "policy-0003":
            assert await given() == "policy-0003"
            await asyncio.sleep(0)
        assert await given() == "policy-0003"
        follower.cancel()
        await engine.stop()

    asyncio.run(run())


def test_a_version_whose_load_fails_at_first_is_served_and_tried_after_another_attempt(
    tmp_path: Path, policy_folders: list[Path], caplog: pytest.LogCaptureFixture
):
    registry = ModelRegistry(tmp_path)
    for folder in [*policy_folders, policy_folders[0]]:
        registry.publish(ModelRole.POLICY, copy_model(folder))
    registry.promote("policy-0001", "the first one")
    engine = TransformersEngine(RegistryPolicies(registry), device="cpu")
    configs = [registry.path(name) / "config.json" for name in ("policy-0002", "policy-0003")]
    whole = [config.read_text() for config in configs]

    async def run() -> None:
        await engine.start()
        follower = asyncio.create_task(follow(RegistryPolicies(registry), engine, interval=0.01))
        for config in configs:
            config.write_text("{}")
        registry.promote("policy-0002", "better")
        registry.start_canary("policy-0003", 0.999999)
        await until(lambda: caplog.text.count("still serving policy-0001") == 2)
        for config, text in zip(configs, whole, strict=True):
            config.write_text(text)
        await until(lambda: engine.default_version == "policy-0002")
        while await engine.resolve("default", asker="the first user") != "policy-0003":
            await asyncio.sleep(0.01)
        follower.cancel()
        await engine.stop()

    asyncio.run(run())


def test_the_following_goes_on_after_an_unexpected_error(
    tmp_path: Path, policy_folders: list[Path], caplog: pytest.LogCaptureFixture
):
    registry = ModelRegistry(tmp_path)
    for folder in policy_folders:
        registry.publish(ModelRole.POLICY, copy_model(folder))
    registry.promote("policy-0001", "the first one")
    engine = TransformersEngine(RegistryPolicies(registry), device="cpu")

    class Confused(RegistryPolicies):
        def live(self) -> str | None:
            if "KeyError" not in caplog.text:
                raise KeyError("live")
            return super().live()

    async def run() -> None:
        await engine.start()
        follower = asyncio.create_task(follow(Confused(registry), engine, interval=0.01))
        registry.promote("policy-0002", "better")
        await until(lambda: engine.default_version == "policy-0002")
        follower.cancel()
        await engine.stop()

    asyncio.run(run())
    assert caplog.text.count("still serving policy-0001: KeyError('live')") == 1
