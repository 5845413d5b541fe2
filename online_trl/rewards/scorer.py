"""The live reward model as an ordinary TRL reward function.

Scores are standardised on a fixed anchor set, so that a new version changes the order of answers and not the scale of
what the policy is paid. Every rank holds the whole model: a swap is then a local load, without collectives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..distributed import broadcast_from_main, on_every_rank
from ..registry import ModelRegistry, RegistryError
from ..types import Message, ModelRole
from .anchors import Standard
from .ensemble import disagreement, pessimistic
from .nesting import whole_models
from .reward_model import classifier_on_shared_base

logger = logging.getLogger(__name__)

VERSION_METRIC = "live_reward/version"


class RewardScorer:
    """
    A reward model that scores conversations.

    Args:
        path (`str` or `Path`):
            Folder or hub id of a sequence classification model and its tokenizer. Each of its labels is one head of an
            ensemble; an ordinary reward model has one. A folder may hold the scale of a version, `anchors.json`.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Where to score.
        pessimism (`float`, *optional*, defaults to `0.0`):
            Standard deviations, over the heads, that are taken off their mean.
        batch_size (`int`, *optional*, defaults to `64`):
            Conversations scored at once.
        base (`PreTrainedModel`, *optional*):
            A base model that is in memory already. A version that is an adapter on it is loaded onto it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        pessimism: float = 0.0,
        batch_size: int = 64,
        base: PreTrainedModel | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.pessimism = pessimism
        self.batch_size = batch_size
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
        model: Any = None if base is None else classifier_on_shared_base(base, path)
        if model is None:
            with whole_models():
                model = AutoModelForSequenceClassification.from_pretrained(path)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = model.to(self.device).eval()
        self.standard = Standard.read(path)

    def raw_scores(self, conversations: Sequence[list[Message]]) -> torch.Tensor:
        """
        Scores conversations on the model's own scale.

        Args:
            conversations (`Sequence[list[Message]]`):
                Prompt and completion messages of each answer.

        Returns:
            `torch.Tensor` of shape `(len(conversations), num_heads)`, float32, on the CPU.
        """
        if not conversations:
            return torch.empty(0, self.model.config.num_labels)
        ids = self.tokenizer.apply_chat_template(list(conversations), tokenize=True, return_dict=True)["input_ids"]
        # Answers of like length share a batch, so that little of it is padding.
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        scores = torch.empty(len(ids), self.model.config.num_labels)
        for start in range(0, len(ids), self.batch_size):
            chunk = order[start : start + self.batch_size]
            inputs = self.tokenizer.pad(
                {"input_ids": [ids[index] for index in chunk]}, padding_side="right", return_tensors="pt"
            ).to(self.device)
            with torch.inference_mode(), self._autocast():
                logits = self.model(**inputs, use_cache=False).logits
            scores[chunk] = logits.float().cpu()
        return scores

    def _autocast(self) -> torch.autocast:
        # The head and the adapter need not be of the type of a base that is shared.
        dtype = self.model.dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype in (torch.bfloat16, torch.float16))

    def head_scores(self, conversations: Sequence[list[Message]]) -> torch.Tensor:
        """Scores conversations, each head standardised on the anchors; shape `(len(conversations), num_heads)`."""
        return self.standardised(self.raw_scores(conversations))

    def standardised(self, raw: torch.Tensor) -> torch.Tensor:
        """Standardises raw scores of shape `(N, num_heads)`, each head on the anchors."""
        return raw if self.standard is None else self.standard.head_scores(raw)

    def scores(self, conversations: Sequence[list[Message]]) -> torch.Tensor:
        """Scores conversations as the policy is paid, standardised on the anchors; shape `(len(conversations),)`."""
        return self.paid_scores(self.raw_scores(conversations))

    def paid_scores(self, raw: torch.Tensor) -> torch.Tensor:
        """Turns raw scores of shape `(N, num_heads)` into what the policy is paid, shape `(N,)`."""
        if self.standard is None:
            return pessimistic(raw, self.pessimism)
        return self.standard.paid_scores(raw, pessimism=self.pessimism)


class LiveReward:
    """
    The reward model in service, as a reward function in TRL's signature. Pass it in `reward_funcs`; the version that
    it serves can be swapped while training runs.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            Where the versions are.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Where to score. The online trainers set their own.
        pessimism (`float`, *optional*, defaults to `0.0`):
            Standard deviations, over the heads of the ensemble, that are taken off their mean. The online trainers
            set their `reward_pessimism`.

    Attributes:
        versions_used (`list[str]`):
            The versions that paid a policy in training, in the order in which they took over.
    """

    __name__ = "live_reward"

    def __init__(self, registry: ModelRegistry, *, device: torch.device | str = "cpu", pessimism: float = 0.0) -> None:
        self.registry = registry
        self.device = device
        self.pessimism = pessimism
        # Set by a trainer whose policy is an adapter: versions that are adapters on the same base share it.
        self.base: PreTrainedModel | None = None
        self.version: str | None = None
        self.scorer: RewardScorer | None = None
        self.metrics: dict[str, float] = {}
        self.versions_used: list[str] = []
        self._unreadable = ""

    def load(self, version: str) -> None:
        """
        Puts a version of the registry into service, once its files are known to be whole. Every rank calls it; where
        one of them fails, all do, and keep the version that they have.

        Raises:
            [`~online_trl.registry.RegistryError`]: if the version is not there, or its files are not as published.
        """
        self.scorer, self.metrics = on_every_rank(lambda: self._read(version))
        self.version = version

    def follow(self) -> None:
        """
        Takes over the version that somebody else has put into service, if there is another one. One that cannot be
        read is passed over with a warning, as long as there is a version to go on with. Every rank calls it.
        """
        try:
            version = broadcast_from_main(lambda: self.registry.live(ModelRole.REWARD))
            if version is not None and version.name != self.version:
                self.load(version.name)
        except RegistryError as error:
            if self.version is None:
                raise
            if str(error) != self._unreadable:
                logger.warning("going on with %s, for the version in service cannot be read: %s", self.version, error)
            self._unreadable = str(error)

    def _read(self, version: str) -> tuple[RewardScorer, dict[str, float]]:
        return self.scorer_of(self.registry.path(version)), self.registry.get(version).metrics

    def scorer_of(self, folder: Path) -> RewardScorer:
        """Loads a model that scores as the one in service would."""
        return RewardScorer(folder, device=self.device, pessimism=self.pessimism, base=self.base)

    def __call__(
        self,
        prompts: list[list[Message]],
        completions: list[list[Message]],
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Returns the standardised score of each completion, and logs the version that gave it."""
        if self.scorer is None or self.version is None:
            raise RuntimeError("the live reward has no version yet; call `load` or let the first refresh train one")
        if log_extra is not None:
            log_extra("reward_version", [self.version] * len(prompts))
        if log_metric is not None:
            log_metric(VERSION_METRIC, version_number(self.version))
            for name, value in self.metrics.items():
                log_metric(f"live_reward/{name}", value)
        conversations = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        raw = self.scorer.raw_scores(conversations)
        if log_metric is not None:
            log_metric("live_reward/disagreement", float(disagreement(self.scorer.standardised(raw)).mean()))
        return self.scorer.paid_scores(raw).tolist()

    def note_payment(self) -> None:
        """Takes down that the version in service paid the policy; where it only scores an evaluation, it does not."""
        if self.version is not None and self.versions_used[-1:] != [self.version]:
            self.versions_used.append(self.version)


def version_number(version: str) -> float:
    """Returns a version's number, by which metrics name it."""
    return float(version.rpartition("-")[2])
