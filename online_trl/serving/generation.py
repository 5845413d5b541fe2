"""
Requests for answers, and the answers, as they pass between the server and its engine.

A reply comes in pieces: bytes for the client, and the stretches of the answers that they carry, for the log. A stream
is consecutive stretches, a whole answer is their concatenation, and what a client got before it hung up is the first
of them: all three are one record, a [`Generation`].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

from ..types import Message

_Item = TypeVar("_Item")


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
        top_logprobs (`int`, *optional*):
            How many candidates to name for each token. `None` names no token at all.
    """

    messages: list[Message]
    policy_version: str
    sampling: Sampling = Sampling()
    n: int = 1
    top_logprobs: int | None = None

    def seed_of(self, index: int) -> int | None:
        """Returns the seed of one of the answers: each has its own, or all would be the same."""
        return None if self.sampling.seed is None else self.sampling.seed + index


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """
    A request for a chat completion: what is to be generated, and how the reply is written.

    Args:
        generation ([`GenerationRequest`]):
            What is to be generated.
        interaction_ids (`tuple[str, ...]`):
            Id of each answer in the log.
        body (`Mapping[str, Any]`):
            The request as the client sent it.
        stream (`bool`, *optional*, defaults to `False`):
            Whether the reply is a stream of events or one JSON object.
        include_usage (`bool`, *optional*, defaults to `False`):
            Whether a stream ends with the number of tokens.
    """

    generation: GenerationRequest
    interaction_ids: tuple[str, ...]
    body: Mapping[str, Any]
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """
    How an answer came about, as far as the engine knows.

    Args:
        policy_version (`str`):
            What answered.
        sampling (`Mapping[str, Any]`):
            Sampling parameters that were in force.
        template_hash (`str`, *optional*), weights_hash (`str`, *optional*):
            SHA-256 of the chat template and of the weights.
        upstream_id (`str`, *optional*):
            Id that an upstream server gave its completion.
    """

    policy_version: str
    sampling: Mapping[str, Any]
    template_hash: str | None = None
    weights_hash: str | None = None
    upstream_id: str | None = None


@dataclass(frozen=True, slots=True)
class TokenCandidate:
    """
    A token that was, or could have been, drawn.

    Args:
        token (`str`):
            Its text.
        logprob (`float`):
            Log-probability under the sampling distribution.
        bytes (`list[int]`, *optional*):
            Its UTF-8 bytes; unlike texts, those of consecutive tokens can be joined where a character is split.
    """

    token: str
    logprob: float
    bytes: list[int] | None


@dataclass(frozen=True, slots=True)
class TokenLogprob(TokenCandidate):
    """
    A token that was drawn, with the likeliest candidates for its place; those that `top_p` ruled out are left out.

    Args:
        top_logprobs (`list[TokenCandidate]`):
            Likeliest first.
    """

    top_logprobs: list[TokenCandidate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """
    A stretch of an answer, or all of it.

    Args:
        text (`str`):
            Text of the stretch.
        origin ([`Origin`]):
            How it came about.
        prompt_ids (`list[int]`, *optional*):
            Token ids of the prompt; the same in every stretch.
        completion_ids (`list[int]`, *optional*):
            Token ids of the stretch as they were sampled, the one that ends the answer included.
        logprobs (`list[float]`, *optional*):
            For each of them, the natural logarithm of the probability with which it was drawn: the softmax of the
            logits divided by the temperature, cut to the `top_p` nucleus and scaled back to sum to one. At temperature
            0 nothing is drawn, and the plain softmax (temperature 1, no cut) is taken.
        tokens (`list[TokenLogprob]`, *optional*):
            The same tokens as the client sees them, if it asked for them.
        fields (`Mapping[str, Any]`, *optional*):
            What the message holds beside its role and content, such as `tool_calls`.
        finish_reason (`str`, *optional*):
            Why the answer ends here: `"stop"` if the policy or a stop text ended it, `"length"` if there was no room
            for more. `None` if it goes on.
        index (`int`, *optional*, defaults to `0`):
            Which of the answers to the request it belongs to.
    """

    text: str
    origin: Origin
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    logprobs: list[float] | None = None
    tokens: list[TokenLogprob] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    index: int = 0

    @classmethod
    def joined(cls, stretches: Sequence[Generation]) -> Generation:
        """Returns consecutive stretches of one answer, at least one, as one stretch."""
        fields: dict[str, Any] = {}
        for stretch in stretches:
            merge_fields(fields, stretch.fields)
        completion_ids = _chained(stretch.completion_ids for stretch in stretches)
        logprobs = _chained(stretch.logprobs for stretch in stretches)
        return cls(
            text="".join(stretch.text for stretch in stretches),
            origin=stretches[0].origin,
            prompt_ids=next((each.prompt_ids for each in stretches if each.prompt_ids is not None), None),
            completion_ids=completion_ids,
            logprobs=logprobs if logprobs and len(logprobs) == len(completion_ids or []) else None,
            tokens=_chained(stretch.tokens for stretch in stretches),
            fields=fields,
            finish_reason=stretches[-1].finish_reason,
            index=stretches[0].index,
        )


def merge_fields(fields: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """
    Puts what a message grew by into its fields: texts grow at their end, and parts of a list go where their `index`
    says.

    Args:
        fields (`dict[str, Any]`):
            The message so far; changed in place.
        delta (`Mapping[str, Any]`):
            What comes to it.
    """
    for name, value in delta.items():
        known = fields.get(name)
        if isinstance(value, list):
            fields[name] = _merged_list(known if isinstance(known, list) else [], value)
        elif isinstance(value, dict):
            fields[name] = known if isinstance(known, dict) else {}
            merge_fields(fields[name], value)
        elif isinstance(value, str) and isinstance(known, str) and name not in ("id", "type"):
            fields[name] = known + value
        elif value is not None:
            fields[name] = value


def _merged_list(parts: list[Any], delta: list[Any]) -> list[Any]:
    for part in delta:
        place = part.get("index") if isinstance(part, dict) else None
        if not isinstance(place, int) or place < 0:
            parts.append(part)
            continue
        if place >= len(parts):
            parts.append({})
        merge_fields(parts[min(place, len(parts) - 1)], {name: part[name] for name in part if name != "index"})
    return parts


def _chained(parts: Iterable[list[_Item] | None]) -> list[_Item] | None:
    known = [part for part in parts if part is not None]
    return list(chain.from_iterable(known)) if known else None


@dataclass(frozen=True, slots=True)
class TokenCount:
    """
    How many tokens a reply has, where an engine tells that and not the tokens.

    Args:
        policy_version (`str`):
            What answered.
        prompt (`int`), completion (`int`):
            Tokens of the prompt and of all answers.
    """

    policy_version: str
    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Piece:
    """
    A piece of a reply.

    Args:
        wire (`bytes`):
            What the client gets: a whole number of events of a stream, or the whole reply.
        stretches (`tuple[Generation, ...]`):
            What it carries of the answers. The last stretch of each answer, and only it, has a `finish_reason`.
        token_count ([`TokenCount`], *optional*):
            That of the whole reply, with its last piece, if the stretches carry no tokens.
    """

    wire: bytes
    stretches: tuple[Generation, ...] = ()
    token_count: TokenCount | None = None
