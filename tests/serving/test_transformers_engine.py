from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from online_trl.canary import assign
from online_trl.registry import ModelRegistry, copy_model
from online_trl.serving.decoding import Delivery, Row, answer_batch
from online_trl.serving.engine import EngineError, PromptTooLongError, UnknownVersionError, VersionLoadError
from online_trl.serving.generation import Generation, GenerationRequest, Sampling
from online_trl.serving.policy_source import RegistryPolicies, SinglePolicy
from online_trl.serving.transformers_engine import TransformersEngine
from online_trl.types import ModelRole

QUESTIONS = [f"How do I reset my password{'?' * count}" for count in range(1, 9)]


@pytest.fixture
def registry(tmp_path: Path, policy_folders: list[Path]) -> ModelRegistry:
    registry = ModelRegistry(tmp_path / "registry")
    for folder in policy_folders:
        registry.publish(ModelRole.POLICY, copy_model(folder))
    registry.promote("policy-0001", "the first one")
    return registry


def run(registry: ModelRegistry, use: Callable[[TransformersEngine], Awaitable[None]], **options: int) -> None:
    async def use_started() -> None:
        engine = TransformersEngine(RegistryPolicies(registry), device="cpu", **options)
        await engine.start()
        try:
            await use(engine)
        finally:
            await engine.stop()

    asyncio.run(use_started())


def request(
    question: str, version: str = "policy-0001", *, max_tokens: int = 20, n: int = 1, seed: int | None = None
) -> GenerationRequest:
    return GenerationRequest(
        messages=[{"role": "user", "content": question}],
        policy_version=version,
        sampling=Sampling(temperature=0.0 if seed is None else 1.0, max_tokens=max_tokens, seed=seed),
        n=n,
    )


async def answers(engine: TransformersEngine, asked: GenerationRequest) -> list[Generation]:
    whole = [answer async for answer in engine.generate(asked, streaming=False)]
    return sorted(whole, key=lambda answer: answer.index)


def stream(engine: TransformersEngine, asked: GenerationRequest) -> AsyncGenerator[Generation, None]:
    return engine.generate(asked, streaming=True)


async def text(engine: TransformersEngine, asked: GenerationRequest) -> str:
    return (await answers(engine, asked))[0].text


def test_requests_at_the_same_time_get_the_answers_of_one_after_the_other(registry: ModelRegistry):
    requests = [request(question, f"policy-000{1 + number % 2}") for number, question in enumerate(QUESTIONS)]

    async def use(engine: TransformersEngine) -> None:
        one_by_one = [await text(engine, asked) for asked in requests]
        together = await asyncio.gather(*(text(engine, asked) for asked in requests))
        assert together == one_by_one
        assert len(set(one_by_one)) == len(requests)

    run(registry, use, max_batch_size=3)


def test_several_answers_are_those_of_their_seeds(registry: ModelRegistry):
    async def use(engine: TransformersEngine) -> None:
        whole = await answers(engine, request("Hi", seed=4, n=3))
        assert [answer.index for answer in whole] == [0, 1, 2]
        alone = [await text(engine, request("Hi", seed=seed)) for seed in (4, 5, 6)]
        assert [answer.text for answer in whole] == alone
        assert len(set(alone)) == 3

    run(registry, use, max_batch_size=2)


def test_stream_of_several_answers_names_the_answer_of_each_stretch(registry: ModelRegistry):
    async def use(engine: TransformersEngine) -> None:
        asked = request("Hi", seed=4, n=3)
        stretches: dict[int, list[Generation]] = {0: [], 1: [], 2: []}
        async for stretch in stream(engine, asked):
            stretches[stretch.index].append(stretch)
        streamed = [Generation.joined(stretches[index]).text for index in range(3)]
        assert streamed == [answer.text for answer in await answers(engine, asked)]

    run(registry, use)


def test_switch_leaves_answers_in_flight_alone(registry: ModelRegistry):
    async def use(engine: TransformersEngine) -> None:
        expected = await text(engine, request("Hi", max_tokens=200))
        async with aclosing(stream(engine, request("Hi", max_tokens=200))) as stretches:
            received = [await anext(stretches)]
            await engine.switch("policy-0002")
            received += [stretch async for stretch in stretches]
        assert engine.default_version == "policy-0002"
        assert Generation.joined(received).text == expected

    run(registry, use, max_loaded=1)


def test_unknown_version_is_refused_with_what_there_is(registry: ModelRegistry):
    async def use(engine: TransformersEngine) -> None:
        with pytest.raises(UnknownVersionError, match="no model `policy-9`; available: policy-0001, policy-0002"):
            await answers(engine, request("Hi", "policy-9"))
        with pytest.raises(UnknownVersionError):
            await engine.switch("../policy-0001")
        assert engine.default_version == "policy-0001"

    run(registry, use)


def test_versions_that_there_are_not_neither_fail_otherwise_nor_drive_out_others(registry: ModelRegistry):
    async def use(engine: TransformersEngine) -> None:
        await text(engine, request("Hi", "policy-0002"))
        asked = [request("Hi", f"junk-{number}") for number in range(12)]
        asked[6:6] = [request("Hi"), request("Hi", "policy-0002")]
        given = await asyncio.gather(*(text(engine, each) for each in asked), return_exceptions=True)
        failed = [each for each in given if isinstance(each, BaseException)]
        assert len(failed) == 12
        assert all(isinstance(each, UnknownVersionError) for each in failed)
        assert sorted(engine._loads) == ["policy-0001", "policy-0002"]

    run(registry, use, max_loaded=2)


def test_damaged_version_is_refused_and_can_be_tried_again(registry: ModelRegistry):
    config = registry.path("policy-0002") / "config.json"
    content = config.read_text()
    config.write_text(content + " ")

    async def use(engine: TransformersEngine) -> None:
        with pytest.raises(VersionLoadError, match=r"policy-0002.*config\.json"):
            await engine.switch("policy-0002")
        assert engine.default_version == "policy-0001"
        config.write_text(content)
        await engine.switch("policy-0002")
        assert engine.default_version == "policy-0002"

    run(registry, use)


def test_versions_used_least_recently_are_dropped_and_loaded_again(
    registry: ModelRegistry, policy_folders: list[Path]
):
    registry.publish(ModelRole.POLICY, copy_model(policy_folders[1]))

    async def use(engine: TransformersEngine) -> None:
        answer = await text(engine, request("Hi", "policy-0002"))
        assert await text(engine, request("Hi", "policy-0003")) == answer
        assert await text(engine, request("Hi", "policy-0002")) == answer
        assert list(engine._loads) == ["policy-0001", "policy-0002"]

    run(registry, use, max_loaded=2)


def test_candidate_on_trial_stays_loaded_and_answers_its_share(registry: ModelRegistry, policy_folders: list[Path]):
    registry.publish(ModelRole.POLICY, copy_model(policy_folders[1]))
    canary = registry.start_canary("policy-0002", 0.5)
    askers = [f"user-{number}" for number in range(20)]

    async def use(engine: TransformersEngine) -> None:
        await engine.try_out(canary)
        await text(engine, request("Hi", "policy-0003"))
        assert list(engine._loads) == ["policy-0001", "policy-0002", "policy-0003"]
        await text(engine, request("Hi", "policy-0001"))
        assert "policy-0002" in engine._loads
        assert await engine.resolve("canary") == "policy-0002"
        assert await engine.resolve("policy-0001", asker=askers[0]) == "policy-0001"
        for asker in askers:
            tried = assign(asker, canary.canary_id, 0.5)
            assert await engine.resolve("default", asker=asker) == ("policy-0002" if tried else "policy-0001")
        await engine.try_out(None)
        assert {await engine.resolve("default", asker=asker) for asker in askers} == {"policy-0001"}

    run(registry, use, max_loaded=2)


def test_published_version_can_be_asked_for_at_once(registry: ModelRegistry, policy_folders: list[Path]):
    async def use(engine: TransformersEngine) -> None:
        registry.publish(ModelRole.POLICY, copy_model(policy_folders[1]))
        assert [version.name for version in await engine.versions()] == ["policy-0001", "policy-0002", "policy-0003"]
        assert await text(engine, request("Hi", "policy-0003")) == await text(engine, request("Hi", "policy-0002"))

    run(registry, use)


def test_refused_prompt_raises_before_the_first_stretch(registry: ModelRegistry):
    async def use(engine: TransformersEngine) -> None:
        with pytest.raises(PromptTooLongError):
            await anext(stream(engine, request("word " * 2000)))

    run(registry, use)


def test_broken_generation_fails_its_requests_and_no_others(tmp_path: Path, policy_folders: list[Path]):
    copy_model(policy_folders[0])(tmp_path / "broken")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "broken")
    tokenizer.add_tokens(["beyond"])  # the model has no embedding for it
    tokenizer.save_pretrained(tmp_path / "broken")

    async def use() -> None:
        engine = TransformersEngine(SinglePolicy(str(tmp_path / "broken")), device="cpu")
        await engine.start()
        answer = await text(engine, request("Hi", "broken"))
        with pytest.raises(EngineError, match="generation failed: index out of range"):
            await answers(engine, request("beyond", "broken"))
        assert await text(engine, request("Hi", "broken")) == answer
        await engine.stop()

    asyncio.run(use())


def test_stop_lets_answers_finish(registry: ModelRegistry):
    async def use(engine: TransformersEngine) -> None:
        asked = request("Hi", max_tokens=100)
        expected = await text(engine, asked)
        streams = [stream(engine, asked) for _ in range(4)]
        first = await asyncio.gather(*(anext(each) for each in streams))
        await engine.stop()
        for begin, rest in zip(first, streams, strict=True):
            assert Generation.joined([begin, *[stretch async for stretch in rest]]).text == expected

    run(registry, use, max_batch_size=2)


def test_registry_without_a_live_policy_cannot_be_started(tmp_path: Path):
    async def use() -> None:
        engine = TransformersEngine(RegistryPolicies(ModelRegistry(tmp_path)))
        with pytest.raises(EngineError, match="before it is started"):
            _ = engine.default_version
        with pytest.raises(EngineError, match="no policy is in service"):
            await engine.start()

    asyncio.run(use())


def test_requests_that_wait_are_answered_as_one_batch(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch):
    sizes = []

    def answer_and_note(rows: Sequence[Row], deliver: Callable[[list[Delivery]], None]) -> None:
        sizes.append(len(rows))
        answer_batch(rows, deliver)

    monkeypatch.setattr("online_trl.serving.transformers_engine.answer_batch", answer_and_note)

    async def use(engine: TransformersEngine) -> None:
        first = stream(engine, request("Hi", max_tokens=60))
        await anext(first)
        waiting = asyncio.gather(*(text(engine, request(question)) for question in QUESTIONS))
        assert sizes == [1]
        async with aclosing(first):
            assert [stretch async for stretch in first]
        await waiting
        assert sizes == [1, 8]

    run(registry, use)


def test_aliases_stand_for_versions(registry: ModelRegistry):
    async def use(engine: TransformersEngine) -> None:
        names = ("default", "canary", "policy-0002", "unknown")
        assert [await engine.resolve(name) for name in names] == [
            "policy-0001",
            "policy-0002",
            "policy-0002",
            "unknown",
        ]
        registry.refuse("policy-0002", "worse")
        assert await engine.resolve("canary") == "policy-0001"

    run(registry, use)
