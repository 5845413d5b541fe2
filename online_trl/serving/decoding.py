"""
A loaded policy, and the loop that lets it answer a batch of requests token by token.

One loop serves whole answers and streams alike, each row with its own sampling parameters and seed, and keeps the
log-probability of every token that it draws. A row leaves the batch when its answer ends or is no longer wanted.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jinja2
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..types import Message
from .detokenizer import Detokenizer
from .engine import EngineError, InvalidPromptError, PromptTooLongError
from .generation import Generation, GenerationRequest, Origin, TokenLogprob
from .policy_source import PolicySource
from .sampler import draw
from .token_text import describe_token


@dataclass(frozen=True, eq=False)
class Policy:
    """
    A loaded policy version.

    Args:
        model (`PreTrainedModel`):
            The causal language model.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer, with a chat template.
        name (`str`):
            Name of the version.
        weights_hash (`str`):
            SHA-256 that identifies its weights.
        template_hash (`str`):
            SHA-256 of its chat template.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    weights_hash: str
    template_hash: str

    @classmethod
    def load(cls, policies: PolicySource, version: str, device: str) -> Policy:
        """
        Loads a version from its source.

        Args:
            policies ([`~online_trl.serving.policy_source.PolicySource`]):
                Where it is.
            version (`str`):
                Its name.
            device (`str`):
                Where it is to run.

        Raises:
            `ValueError`: if its tokenizer has no chat template.
        """
        path = policies.locate(version)
        tokenizer = AutoTokenizer.from_pretrained(path)
        if tokenizer.chat_template is None:
            raise ValueError("its tokenizer has no chat template, so that it cannot answer messages")
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
        model.to(torch.device(device))
        template_hash = hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()
        return cls(model.eval(), tokenizer, version, policies.weights_hash(version), template_hash)

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer share."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def generation_config(self) -> GenerationConfig:
        """The model's own settings, of which the longest answer and the tokens that end one are used."""
        config = self.model.generation_config
        assert config is not None, "a model that can generate has a generation config"
        return config

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ends = self.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return frozenset(end for end in [*ends, self.tokenizer.eos_token_id] if end is not None)

    def encode(self, messages: list[Message]) -> list[int]:
        """
        Returns the token ids of the prompt that asks for the next assistant message.

        Raises:
            [`InvalidPromptError`]: if the messages are not all text, or not what the chat template takes.
        """
        if any(not isinstance(message["content"], str) for message in messages):
            raise InvalidPromptError("a message holds parts that are no text; the policy reads only text")
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        # A template is a program, and fields such as `name` or `tool_calls` may be of a type that it does not expect.
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InvalidPromptError(f"the chat template refuses these messages: {error}") from error
        # The template has already put the special tokens in.
        return list[int](self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: list[int]) -> str:
        """Returns the text of token ids, special tokens left out and nothing else changed."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def answer_length(self, prompt_length: int, max_tokens: int | None) -> int:
        """Returns how many tokens an answer may have."""
        room = self.context_length - prompt_length
        if room < 1:
            raise PromptTooLongError(prompt_length, self.context_length)
        return min(room, max_tokens or self.generation_config.max_new_tokens or room)


Candidate = tuple[int, float]
"""A token that could have been drawn, and its log-probability."""


class Row:
    """
    One answer on its way.

    Args:
        policy ([`Policy`]):
            The policy that answers.
        request ([`GenerationRequest`]):
            What was asked.
        index (`int`):
            Which of the answers to the request.
        streaming (`bool`):
            Whether stretches are wanted as soon as they are certain, or only the whole answer.
    """

    def __init__(self, policy: Policy, request: GenerationRequest, index: int, *, streaming: bool) -> None:
        self.policy = policy
        self.request = request
        self.index = index
        self.streaming = streaming
        self.cancelled = False
        """Set from another thread when nobody waits for the answer any more."""
        self.finished = False
        self.prompt_ids: list[int] = []
        seed = request.seed_of(index)
        self._seed = random.getrandbits(32) if seed is None else seed

    def start(self) -> None:
        """
        Prepares the prompt.

        Raises:
            [`InvalidPromptError`]: if it cannot be answered.
        """
        sampling = self.request.sampling
        self.prompt_ids = self.policy.encode(self.request.messages)
        self._left = self.policy.answer_length(len(self.prompt_ids), sampling.max_tokens)
        self._end_ids = self.policy.end_ids
        self._random = random.Random(self._seed)
        self._detokenizer = Detokenizer(self.policy.decode, sampling.stop)
        self._origin = self._make_origin()
        self._clear()

    def uniform(self) -> float:
        """Returns the row's next random number."""
        return self._random.random()

    def push(self, token_id: int, logprob: float, candidates: Sequence[Candidate]) -> Generation | None:
        """
        Takes the token that was drawn and returns the stretch that is to be delivered now, if any.

        Args:
            token_id (`int`), logprob (`float`):
                The token.
            candidates (`Sequence[Candidate]`):
                The likeliest tokens for its place, likeliest first; at least as many as were asked for.
        """
        self._ids.append(token_id)
        self._logprobs.append(logprob)
        if self.request.top_logprobs is not None:
            self._tokens.append(self._describe(token_id, logprob, candidates[: self.request.top_logprobs]))
        self._left -= 1
        ended = token_id in self._end_ids
        if not ended:
            self._text += self._detokenizer.push(token_id)
        if ended or self._detokenizer.stopped:
            return self._stretch("stop")
        if self._left == 0:
            return self._stretch("length")
        return self._stretch(None) if self.streaming and self._text else None

    def _stretch(self, finish_reason: str | None) -> Generation:
        if finish_reason is not None:
            self.finished = True
            self._text += self._detokenizer.finish()
        stretch = Generation(
            text=self._text,
            origin=self._origin,
            prompt_ids=self.prompt_ids,
            completion_ids=self._ids,
            logprobs=self._logprobs,
            tokens=None if self.request.top_logprobs is None else self._tokens,
            finish_reason=finish_reason,
            index=self.index,
        )
        self._clear()
        return stretch

    def _clear(self) -> None:
        self._text, self._ids, self._logprobs = "", list[int](), list[float]()
        self._tokens: list[TokenLogprob] = []

    def _describe(self, token_id: int, logprob: float, candidates: Sequence[Candidate]) -> TokenLogprob:
        tokenizer = self.policy.tokenizer
        token = describe_token(tokenizer, token_id, logprob)
        # What the nucleus leaves out has no probability, which JSON has no number for.
        possible = [describe_token(tokenizer, *candidate) for candidate in candidates if candidate[1] > -math.inf]
        return TokenLogprob(token.token, token.logprob, token.bytes, possible)

    def _make_origin(self) -> Origin:
        sampling = self.request.sampling
        return Origin(
            policy_version=self.policy.name,
            sampling={
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "seed": self._seed,
                "stop": list(sampling.stop),
            },
            template_hash=self.policy.template_hash,
            weights_hash=self.policy.weights_hash,
        )


Delivery = tuple[Row, Generation | EngineError]


@torch.inference_mode()
def answer_batch(rows: Sequence[Row], deliver: Callable[[list[Delivery]], None]) -> None:
    """
    Lets one policy answer a batch of requests.

    Args:
        rows (`Sequence[Row]`):
            The requests, all for the same policy.
        deliver (`Callable[[list[Delivery]], None]`):
            Called after each token with the stretches that are ready, and first with the requests that were refused.
    """
    rows, refused = _started(rows)
    deliver(refused)
    if not rows:
        return
    batch = _Batch(rows)
    while batch.rows:
        tokens, logprobs, candidates = batch.draw()
        pushed = map(Row.push, batch.rows, tokens, logprobs, candidates)
        deliver([(row, stretch) for row, stretch in zip(batch.rows, pushed, strict=True) if stretch])
        batch.drop_done()


def _started(rows: Sequence[Row]) -> tuple[list[Row], list[Delivery]]:
    started: list[Row] = []
    refused: list[Delivery] = []
    for row in rows:
        try:
            row.start()
        except InvalidPromptError as error:
            refused.append((row, error))
        else:
            started.append(row)
    return started, refused


class _Batch:
    """Rows that are decoded together, padded on the left so that all of them continue at the same place."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self._model = rows[0].policy.model
        self._cache = DynamicCache(config=self._model.config)
        device = self._model.device
        width = max(len(row.prompt_ids) for row in rows)
        self._input_ids = torch.tensor(
            [[0] * (width - len(row.prompt_ids)) + row.prompt_ids for row in rows], device=device
        )
        lengths = torch.tensor([len(row.prompt_ids) for row in rows], device=device)
        self._mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
        self._positions = (self._mask.cumsum(dim=-1) - 1).clamp(min=0)
        sampling = [row.request.sampling for row in rows]
        self._temperature = torch.tensor([each.temperature for each in sampling], dtype=torch.float32, device=device)
        self._top_p = torch.tensor([each.top_p for each in sampling], dtype=torch.float32, device=device)

    def draw(self) -> tuple[list[int], list[float], list[list[Candidate]]]:
        """Returns for each row its next token, the log-probability of that, and the candidates that are asked for."""
        uniform = torch.tensor([row.uniform() for row in self.rows], dtype=torch.float64, device=self._mask.device)
        tokens, logprobs, distribution = draw(self._logits(), self._temperature, self._top_p, uniform)
        self._input_ids = tokens[:, None]
        self._positions = self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=-1)
        return tokens.tolist(), logprobs.tolist(), self._candidates(distribution)

    def _candidates(self, distribution: torch.Tensor) -> list[list[Candidate]]:
        wanted = max(row.request.top_logprobs or 0 for row in self.rows)
        likeliest = distribution.topk(min(wanted, distribution.shape[-1]), dim=-1)
        return [
            list(zip(ids, logprobs, strict=True))
            for ids, logprobs in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        ]

    def drop_done(self) -> None:
        """Drops the rows that are finished or no longer wanted."""
        kept = [index for index, row in enumerate(self.rows) if not (row.finished or row.cancelled)]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in kept]
        indices = torch.tensor(kept, dtype=torch.long, device=self._mask.device)
        self._cache.batch_select_indices(indices)
        self._input_ids, self._positions, self._mask = (
            each[indices] for each in (self._input_ids, self._positions, self._mask)
        )
        self._temperature, self._top_p = self._temperature[indices], self._top_p[indices]

    def _logits(self) -> torch.Tensor:
        logits: torch.Tensor = self._model(
            input_ids=self._input_ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]
