"""
What the server asks of whatever generates: the records that go in and out, and the interface between.

A [`Generation`] is a stretch of an answer. A stream is consecutive stretches, a whole answer is their concatenation,
and what a client got before it hung up is the first of them: all three are one record.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Literal, Protocol

from ..types import Message

FinishReason = Literal["stop", "length"]


class EngineError(RuntimeError):
    """The engine cannot do what was asked of it."""


class UnknownVersionError(EngineError):
    """
    A policy version that the engine does not have was asked for.

    Args:
        version (`str`):
            The version asked for.
        available (`Iterable[str]`):
            The versions that there are.
    """

    def __init__(self, version: str, available: Iterable[str]) -> None:
        super().__init__(f"there is no model `{version}`; available: {', '.join(available)}")


class VersionLoadError(EngineError):
    """A policy version exists but cannot be loaded."""


class InvalidPromptError(EngineError):
    """The messages cannot be made into a prompt for this policy."""


class PromptTooLongError(InvalidPromptError):
    """
    The prompt leaves no room for an answer in the model's context.

    Args:
        length (`int`):
            Tokens of the prompt.
        context_length (`int`):
            Tokens that prompt and answer share.
    """

    def __init__(self, length: int, context_length: int) -> None:
        super().__init__(
            f"the prompt has {length} tokens; prompt and answer share the model's context of {context_length} tokens"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """
    How an answer is drawn.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits. `0` takes the most likely token at every step.
        top_p (`float`, *optional*, defaults to `1.0`):
            Draws among the fewest most likely tokens whose probabilities reach this sum.
        max_tokens (`int`, *optional*):
            Longest answer, in tokens. Defaults to what the policy's generation config says, else to what is left of
            the context; never more than that.
        seed (`int`, *optional*):
            The same seed gives the same answer, whatever else is generated beside it. Defaults to a random one.
        stop (`tuple[str, ...]`, *optional*):
            Texts that end the answer; they are not part of its text.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """
    A request for one answer, or for several to the same messages.

    Args:
        messages (`list[Message]`):
            The conversation, up to and including the turn to answer.
        policy_version (`str`):
            Concrete version that answers; all of the answer comes from it.
        sampling ([`Sampling`], *optional*):
            How the answer is drawn. With several answers, the seed of each is [`GenerationRequest.seed_of`] it.
        n (`int`, *optional*, defaults to `1`):
            How many answers.
    """

    messages: list[Message]
    policy_version: str
    sampling: Sampling = Sampling()
    n: int = 1

    def seed_of(self, index: int) -> int | None:
        """Returns the seed of one of the answers: each has its own, or all would be the same."""
        return None if self.sampling.seed is None else self.sampling.seed + index


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """
    A stretch of an answer, or all of it.

    Args:
        text (`str`):
            Text of the stretch.
        prompt_ids (`list[int]`):
            Token ids of the prompt; the same in every stretch.
        completion_ids (`list[int]`):
            Token ids of the stretch as they were sampled, the one that ends the answer included.
        logprobs (`list[float]`):
            For each of them, the natural logarithm of the probability with which it was drawn: the softmax of the
            logits divided by the temperature, cut to the `top_p` nucleus and scaled back to sum to one. At temperature
            0 nothing is drawn, and the plain softmax (temperature 1, no cut) is taken.
        finish_reason (`"stop"` or `"length"`, *optional*):
            Why the answer ends here: the policy or a stop text ended it, or there was no room for more. `None` if it
            goes on.
        index (`int`, *optional*, defaults to `0`):
            Which of the answers to the request it belongs to.
    """

    text: str
    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None = None
    index: int = 0

    @classmethod
    def joined(cls, stretches: Sequence[Generation]) -> Generation:
        """Returns consecutive stretches of one answer, at least one, as one stretch."""
        return cls(
            text="".join(stretch.text for stretch in stretches),
            prompt_ids=stretches[0].prompt_ids,
            completion_ids=list(chain.from_iterable(stretch.completion_ids for stretch in stretches)),
            logprobs=list(chain.from_iterable(stretch.logprobs for stretch in stretches)),
            finish_reason=stretches[-1].finish_reason,
            index=stretches[0].index,
        )


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A policy version that can be asked for by name, and when it was made."""

    name: str
    created_at: datetime


class Engine(Protocol):
    """Generates answers with one of several policy versions, of which one is the default."""

    @property
    def default_version(self) -> str:
        """Version that answers when none is asked for."""
        ...

    def versions(self) -> list[ServedVersion]:
        """Returns every version that can be asked for, oldest first. May read files: not for the event loop."""
        ...

    async def start(self) -> None:
        """Loads the default version."""
        ...

    async def stop(self) -> None:
        """Finishes what was asked for and frees the engine's threads."""
        ...

    async def switch(self, version: str) -> None:
        """
        Makes another version the default, once it is ready to answer. Requests in flight keep theirs.

        Raises:
            [`UnknownVersionError`], [`VersionLoadError`]: and the default stays as it was.
        """
        ...

    async def generate(self, request: GenerationRequest) -> list[Generation]:
        """
        Returns the whole answers, `request.n` of them, in the order of their index.

        Raises:
            [`EngineError`]: one of its kinds, if there is no answer.
        """
        ...

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Generation, None]:
        """
        Yields the answers stretch by stretch, several side by side; the last stretch of each, and only it, has a
        `finish_reason`. To close the generator is to take back the request.

        Raises:
            [`EngineError`]: one of its kinds; when the request cannot be met at all, before the first stretch.
        """
        ...
