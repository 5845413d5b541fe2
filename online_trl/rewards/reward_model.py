"""A reward model with an ensemble of heads: the rows of the linear head of a sequence classification model."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
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
from ..shared_base import classifier_on
from .nesting import whole_models

# Where these have changed, an adapter is begun anew.
_ADAPTER_SETTINGS = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora")
ADAPTER_FOLDER = "adapter"
"""Where a version keeps the adapter that is merged into its weights."""


def load_reward_model(
    path: str, num_heads: int, args: RewardConfig, quantization_config: Any = None
) -> tuple[PreTrainedModel, bool]:
    """
    Loads a model as TRL's `RewardTrainer` does, with one label for each head. The one head of an ordinary reward model
    becomes each of them: what they learn from is drawn for each, and makes them differ.

    Returns:
        `tuple[PreTrainedModel, bool]`: The model, and whether its heads are new and random: those of a causal language
        model, or of a reward model that had another number of them, and not 1.
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
    if model.config.num_labels == 1:
        repeat_head(model, num_heads)
        return model, False
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
    set_seed(seed)
    head = _resize_head(model, num_heads)
    nn.init.normal_(head.weight, std=model.config.get_text_config().initializer_range)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def repeat_head(model: PreTrainedModel, num_heads: int) -> None:
    """Gives a model with one head so many like it."""
    old = list(model.score.parameters())
    with gathered(old):
        whole = [parameter.detach().clone() for parameter in old]
    head = _resize_head(model, num_heads)
    for parameter, row in zip(head.parameters(), whole, strict=True):
        parameter.data.copy_(row.expand_as(parameter))


def _resize_head(model: PreTrainedModel, num_heads: int) -> nn.Linear:
    old = model.score
    model.score = nn.Linear(
        old.in_features, num_heads, bias=old.bias is not None, dtype=old.weight.dtype, device=old.weight.device
    )
    model.config.num_labels = model.num_labels = num_heads
    return model.score


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


def adapter_to_continue(version: Path, base_model: str, peft_config: Any) -> Path | None:
    """
    Finds the adapter of a version, if it is one that training can go on with.

    Args:
        version (`Path`):
            Folder of the version.
        base_model (`str`):
            The model that the adapter has to be on.
        peft_config (`PeftConfig`, *optional*):
            The settings that it has to have.
    """
    adapter = version / ADAPTER_FOLDER
    if peft_config is None or not adapter.is_dir():
        return None
    saved = type(peft_config).from_pretrained(str(adapter))
    wanted = peft_config.target_modules  # a word or a pattern, or what it stands for
    is_same = (
        saved.base_model_name_or_path == base_model
        and all(getattr(saved, name, None) == getattr(peft_config, name, None) for name in _ADAPTER_SETTINGS)
        and (wanted is None or isinstance(wanted, str) or set(wanted) == set(saved.target_modules))
    )
    return adapter if is_same else None


def continue_adapter(model: Any, folder: str | Path, *, with_heads: bool) -> None:
    """
    Puts the weights of a saved adapter into a new one of the same settings.

    Args:
        model ([`~peft.PeftModel`]):
            Whose adapter is new.
        folder (`str` or `Path`):
            Where the adapter was saved.
        with_heads (`bool`):
            Whether to take over its heads too.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(folder), device="cpu")
    if not with_heads:
        weights = {name: weight for name, weight in weights.items() if ".score." not in name}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with gathered(trained, written_by=0):
        set_peft_model_state_dict(model, weights)


def classifier_on_shared_base(base: PreTrainedModel, folder: str | Path) -> Any:
    """
    Loads a version onto a base model that is in memory already.

    Args:
        base (`PreTrainedModel`):
            The base.
        folder (`str` or `Path`):
            The version.

    Returns:
        [`~peft.PeftModel`], *optional*: `None` if the version is no adapter on that base.
    """
    adapter = Path(folder) / ADAPTER_FOLDER
    if not adapter.is_dir():
        return None
    from peft import PeftConfig, PeftModel

    if PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path != base.name_or_path:
        return None
    with whole_models():
        model = classifier_on(base, AutoConfig.from_pretrained(folder))
    return PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)


@contextlib.contextmanager
def gathered(parameters: list[nn.Parameter], *, written_by: int | None = None) -> Iterator[None]:
    """Makes parameters whole where ZeRO-3 shards them; what is written into them is kept from one rank alone."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=written_by):
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
