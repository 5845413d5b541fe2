"""Policies that answer in this process, with transformers: as when they are served, and one loaded at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .config import ConfigError
from .evaluation.evaluator import Contestant
from .evaluation.harness import HarnessOptions, run_harness
from .reference import ReferencePolicy
from .registry import ModelRegistry
from .rewards.nesting import whole_models
from .serving.decoding import Policy, Row, answer_batch
from .serving.engine import EngineError
from .serving.generation import Generation, GenerationRequest, Sampling
from .serving.policy_source import PolicySource, RegistryPolicies, SinglePolicy
from .types import Estimate, Message, SampledAnswer


class LocalPolicies:
    """
    Lets policies answer prompts for an evaluation.

    Each prompt has a random seed of its own, the same for every policy, so that the same weights give the same answer.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            Where the versions are.
        sampling ([`~online_trl.serving.generation.Sampling`]):
            How answers are drawn.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the answers, and of what a benchmark draws.
        harness ([`~online_trl.evaluation.harness.HarnessOptions`], *optional*):
            Benchmarks to run each policy on.
        device (`str`, *optional*):
            Where they run. Defaults to the GPU if there is one.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        sampling: Sampling,
        *,
        seed: int = 0,
        harness: HarnessOptions | None = None,
        device: str | None = None,
    ) -> None:
        self.sampling = sampling
        self.seed = seed
        self.harness = harness
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._registry = RegistryPolicies(registry)
        self._loaded: Policy | None = None

    def version(self, name: str) -> Contestant:
        """Returns a version of the registry as a contestant. It is loaded when it is first asked."""
        return self._contestant(name, lambda: self._load(name, self._registry))

    def folder(self, name: str, path: Path) -> Contestant:
        """Returns a saved model as a contestant of that name, which no other has had."""
        return self._contestant(name, lambda: self._load(name, SinglePolicy(str(path))))

    def logprobs(self, name: str) -> Callable[[Sequence[SampledAnswer]], list[list[float]]]:
        """Returns what says how likely the tokens of answers are under a version of the registry."""
        return lambda answers: ReferencePolicy(self._load(name, self._registry).model).logprobs(answers)

    def _contestant(self, name: str, load: Callable[[], Policy]) -> Contestant:
        harness = self.harness

        def generate(prompts: Sequence[list[Message]]) -> list[SampledAnswer]:
            return self._answers(load(), prompts)

        def benchmarks() -> Mapping[str, Estimate]:
            assert harness is not None
            policy = load()
            return run_harness(policy.model, policy.tokenizer, harness, seed=self.seed)

        return Contestant(name=name, generate=generate, benchmarks=benchmarks if harness is not None else None)

    def _load(self, name: str, source: PolicySource) -> Policy:
        if self._loaded is None or self._loaded.name != name:
            self._loaded = None  # the memory is needed for the next one
            with whole_models():
                self._loaded = Policy.load(source, name, self.device)
        return self._loaded

    def _answers(self, policy: Policy, prompts: Sequence[list[Message]]) -> list[SampledAnswer]:
        rows = [Row(policy, self._request(policy, prompt), 0, streaming=False) for prompt in prompts]
        delivered: dict[Row, Generation | EngineError] = {}
        answer_batch(rows, delivered.update)
        return [self._answer(row, delivered[row]) for row in rows]

    def _request(self, policy: Policy, prompt: list[Message]) -> GenerationRequest:
        digest = hashlib.sha256(json.dumps([self.seed, prompt], sort_keys=True).encode()).digest()
        sampling = replace(self.sampling, seed=int.from_bytes(digest[:4], "big"))
        return GenerationRequest(messages=prompt, policy_version=policy.name, sampling=sampling)

    def _answer(self, row: Row, said: Generation | EngineError) -> SampledAnswer:
        if isinstance(said, EngineError):
            raise ConfigError(f"{row.policy.name} cannot answer {row.request.messages!r}: {said}")
        # Only what was drawn from the policy as it is says how far the policy is from another one.
        is_plain = self.sampling.temperature == self.sampling.top_p == 1
        return SampledAnswer(
            completion=[{"role": "assistant", "content": said.text}],
            prompt_ids=said.prompt_ids,
            completion_ids=said.completion_ids,
            logprobs=said.logprobs if is_plain else None,
        )
