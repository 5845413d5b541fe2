"""A reward model with an ensemble of heads: the rows of the linear head of a sequence classification model."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import RewardConfig
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.utils import create_model_from_path

from ..config import ConfigError


def load_reward_model(
    path: str, num_heads: int, args: RewardConfig, quantization_config: Any = None
) -> tuple[PreTrainedModel, bool]:
    """
    Loads a model as TRL's `RewardTrainer` does, with one label for each head.

    Returns:
        `tuple[PreTrainedModel, bool]`: The model, and whether its heads are new and random: those of a causal language
        model, or of a reward model that had another number of them.
    """
    config = AutoConfig.from_pretrained(path, **_tokenizer_options(args))
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    options = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    # A head of another size is replaced later: under ZeRO-3, transformers cannot leave it out.
    options["num_labels"] = config.num_labels if classifies else num_heads
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        options["device_map"] = None
    # A new head is drawn while loading, on every rank the same.
    set_seed(args.seed)
    with suppress_seqcls_warning():
        model = create_model_from_path(path, AutoModelForSequenceClassification, **options)
    if model.config.num_labels == num_heads:
        return model, not classifies
    replace_head(model, num_heads, seed=args.seed)
    return model, True


def load_tokenizer(path: str, args: RewardConfig) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of the revision that the model is loaded from."""
    return AutoTokenizer.from_pretrained(path, **_tokenizer_options(args))


def _tokenizer_options(args: RewardConfig) -> dict[str, Any]:
    options = {"trust_remote_code": args.trust_remote_code}
    revision = dict(args.model_init_kwargs or {}).get("revision")
    return options if revision is None else {**options, "revision": revision}


def check_heads(model: PreTrainedModel, num_heads: int) -> None:
    """
    Checks that a model can be trained as an ensemble.

    Raises:
        [`~online_trl.config.ConfigError`]: if it has another number of labels, or no linear head called `score`.
    """
    if model.config.num_labels != num_heads:
        raise ConfigError(
            f"the model has {model.config.num_labels} labels and `num_heads` is {num_heads}; pass its path instead, "
            "and it gets a new head, or set `num_heads`"
        )
    if not isinstance(getattr(_plain(model), "score", None), nn.Module):
        raise ConfigError(
            f"a `{type(model).__name__}` has no linear head called `score`, whose rows would be the heads"
        )


def replace_head(model: PreTrainedModel, num_heads: int, *, seed: int) -> None:
    """Gives a model new, random heads; from one seed, those of every rank are the same."""
    old = model.score
    set_seed(seed)
    model.score = nn.Linear(
        old.in_features, num_heads, bias=old.bias is not None, dtype=old.weight.dtype, device=old.weight.device
    )
    nn.init.normal_(model.score.weight, std=model.config.get_text_config().initializer_range)
    if model.score.bias is not None:
        nn.init.zeros_(model.score.bias)
    model.config.num_labels = model.num_labels = num_heads


def freeze_backbone(model: PreTrainedModel) -> None:
    """Leaves nothing but the heads to be trained."""
    model.requires_grad_(False)
    _plain(model).score.requires_grad_(True)


def with_head(peft_config: Any) -> Any:
    """Returns a PEFT configuration by which the head is trained and saved whole, with no adapter in it."""
    if peft_config is None:
        return None
    peft_config = copy.deepcopy(peft_config)
    peft_config.task_type = "SEQ_CLS"
    return peft_config


def merged_weights(model: Any) -> dict[str, torch.Tensor]:
    """Returns the weights of a [`~peft.PeftModel`] with its adapter merged, under the names of the plain model."""
    model.merge_adapter()
    weights = {}
    for name, weight in model.get_base_model().state_dict().items():
        plain = name.replace(".base_layer.", ".").replace(f".modules_to_save.{model.active_adapter}.", ".")
        if ".lora_" not in plain and ".original_module." not in plain:
            weights[plain] = weight.detach().clone()
    model.unmerge_adapter()
    return weights


@contextlib.contextmanager
def gathered(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Makes parameters whole where ZeRO-3 shards them; what is written into them is forgotten."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield


@contextlib.contextmanager
def passing_for_one_label(config: Any) -> Iterator[None]:
    """TRL takes models with one label alone, and looks at nothing but the number in the config."""
    heads = config.num_labels
    config.num_labels = 1
    try:
        yield
    finally:
        config.num_labels = heads


def _plain(model: Any) -> PreTrainedModel:
    return model.get_base_model() if is_peft_model(model) else model
