"""The live reward model as an ordinary TRL reward function.

Scores are standardised on a fixed anchor set, so that a new version changes the order of answers and not the scale of
what the policy is paid. Every rank holds the whole model: a swap is then a local load, without collectives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..registry import ModelRegistry
from ..types import Message
from .nesting import whole_models

ANCHORS_FILE = "anchors.json"
# Below this spread the anchors carry no order worth scaling up.
_MIN_STD = 1e-3


class AnchorSource(TypedDict):
    """The rows of the log that an anchor came from."""

    feedback_ids: list[str]
    interaction_ids: list[str]


class Anchors(TypedDict):
    """The answers that scores are standardised on, where each came from, and a version's mean and spread over them."""

    conversations: list[list[Message]]
    sources: list[AnchorSource]
    mean: float
    std: float


class RewardScorer:
    """
    A reward model that scores conversations.

    Args:
        path (`str` or `Path`):
            Folder or hub id of a sequence classification model with one label, and its tokenizer. A folder may hold
            `anchors.json`, with the mean and spread by which scores are standardised.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Where to score.
        batch_size (`int`, *optional*, defaults to `64`):
            Conversations scored at once.
    """

    def __init__(self, path: str | Path, *, device: torch.device | str = "cpu", batch_size: int = 64) -> None:
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
        with whole_models():
            model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = model.to(self.device).eval()
        self.anchors = _read_anchors(path)

    def raw_scores(self, conversations: Sequence[list[Message]]) -> torch.Tensor:
        """
        Scores conversations on the model's own scale.

        Args:
            conversations (`Sequence[list[Message]]`):
                Prompt and completion messages of each answer.

        Returns:
            `torch.Tensor` of shape `(len(conversations),)`, float32, on the CPU.
        """
        ids = [
            self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
            for messages in conversations
        ]
        # Answers of like length share a batch, so that little of it is padding.
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        scores = torch.empty(len(ids))
        for start in range(0, len(ids), self.batch_size):
            chunk = order[start : start + self.batch_size]
            inputs = self.tokenizer.pad(
                {"input_ids": [ids[index] for index in chunk]}, padding_side="right", return_tensors="pt"
            ).to(self.device)
            with torch.inference_mode():
                logits = self.model(**inputs, use_cache=False).logits[:, 0]
            scores[chunk] = logits.float().cpu()
        return scores

    def scores(self, conversations: Sequence[list[Message]]) -> torch.Tensor:
        """Scores conversations, standardised on the anchors; shape `(len(conversations),)`."""
        raw = self.raw_scores(conversations)
        if self.anchors is None:
            return raw
        return (raw - self.anchors["mean"]) / self.anchors["std"]


class LiveReward:
    """
    The reward model in service, as a reward function in TRL's signature. Pass it in `reward_funcs`; the version that
    it serves can be swapped while training runs.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            Where the versions are.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Where to score.
    """

    __name__ = "live_reward"

    def __init__(self, registry: ModelRegistry, *, device: torch.device | str = "cpu") -> None:
        self.registry = registry
        self.device = device
        self.version: str | None = None
        self.scorer: RewardScorer | None = None
        self.heldout_accuracy: float | None = None
        self.versions_used: list[str] = []

    def load(self, version: str) -> None:
        """Puts a version of the registry into service, after verifying its files."""
        self.registry.verify(version)
        self.scorer = RewardScorer(self.registry.path(version), device=self.device)
        self.heldout_accuracy = self.registry.get(version).metrics.get("reward_accuracy")
        self.version = version

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
        if not self.versions_used or self.versions_used[-1] != self.version:
            self.versions_used.append(self.version)
        if log_extra is not None:
            log_extra("reward_version", [self.version] * len(prompts))
        if log_metric is not None:
            log_metric("live_reward/version", float(self.version.rpartition("-")[2]))
            if self.heldout_accuracy is not None:
                log_metric("live_reward/heldout_accuracy", self.heldout_accuracy)
        conversations = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return self.scorer.scores(conversations).tolist()


def standardise(path: Path, conversations: list[list[Message]], sources: list[AnchorSource]) -> None:
    """
    Writes `anchors.json` beside a reward model: the anchor conversations, and the model's mean and spread over them.

    Args:
        path (`Path`):
            Folder of the reward model.
        conversations (`list[list[Message]]`):
            The anchor answers, each with its prompt. The same for every version of a run, but for those that were
            withdrawn.
        sources (`list[AnchorSource]`):
            Where each came from.
    """
    scores = RewardScorer(path).raw_scores(conversations)
    spread = max(float(scores.std()), _MIN_STD)
    anchors = Anchors(conversations=conversations, sources=sources, mean=float(scores.mean()), std=spread)
    (path / ANCHORS_FILE).write_text(json.dumps(anchors), encoding="utf-8")


def _read_anchors(path: str | Path) -> Anchors | None:
    file = Path(path) / ANCHORS_FILE
    if not file.is_file():
        return None
    anchors: Anchors = json.loads(file.read_text(encoding="utf-8"))
    return anchors
