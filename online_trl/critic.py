"""The critic of PPO: what gives each state its value, and how it is kept beside the policy.

A critic is a submodule of the policy, so that one optimiser, one DDP wrapper or one DeepSpeed engine holds both. Yet
it is no part of the policy: [`attach_critic`] keeps it out of what `save_pretrained` writes. There are three kinds:

| kind | backbone | trained |
|---|---|---|
| `model` | its own | all of it |
| `head` | the policy's | a value head; the value loss moves the policy's backbone too |
| `adapter` | the frozen one under the policy's adapter, held once for both | a LoRA adapter and a value head |
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CONFIG_NAME, AutoModel, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.trainer.utils import disable_dropout_in_model

from .config import ConfigError
from .shared_base import on_shared_base

CRITIC_FOLDER = "critic"
_LOADED_ALIKE = ("revision", "attn_implementation", "trust_remote_code", "cache_dir", "subfolder")
MODEL, HEAD, ADAPTER = "model", "head", "adapter"
_PREFIX = "critic."
_WEIGHTS, _HEAD = "critic.safetensors", "value_head.safetensors"
_OTHER_CRITIC = "{} holds a critic of another kind or shape: set `critic` to what it was then"


class Critic(nn.Module):
    """Gives each token of a sequence the value of the state after it."""

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """What can be told to recompute activations, beside the policy."""
        return ()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns values of shape `(B, S)` for sequences of `S` tokens."""
        raise NotImplementedError

    def beside_policy(self) -> contextlib.AbstractContextManager[None]:
        """While it is open, the policy runs on the sequences that the critic is asked about next."""
        return contextlib.nullcontext()

    def save(self, folder: Path, state_dict: dict[str, torch.Tensor]) -> None:
        """Saves what the critic does not share; `state_dict` is its own, whole where it is sharded."""
        kept = {name: state_dict[name] for name in self._own_names() if name in state_dict}
        folder.mkdir(parents=True, exist_ok=True)
        _save_weights(kept, folder / _WEIGHTS)

    def load(self, folder: Path) -> None:
        """
        Loads what [`save`] saved.

        Raises:
            [`~online_trl.config.ConfigError`]: if nothing was saved there, or by a critic of another kind or shape.
        """
        saved = load_file(_saved_file(folder, _WEIGHTS))
        if saved.keys() != self._own_names():
            raise ConfigError(_OTHER_CRITIC.format(folder))
        self.load_state_dict(saved, strict=False)

    def _own_names(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}


class ModelCritic(Critic):
    """
    A model of its own, and a value head on it.

    Args:
        path (`str`):
            Folder or hub id of a saved critic, or of a causal language model or reward model, of which the backbone is
            taken; it gets a head whose values are 0.
        dtype (`torch.dtype`):
            Type of its parameters.
        **kwargs:
            As for `AutoModel.from_pretrained`: `revision`, `attn_implementation` …
    """

    def __init__(self, path: str, *, dtype: torch.dtype, **kwargs: Any) -> None:
        super().__init__()
        self.model: PreTrainedModel = AutoModel.from_pretrained(path, dtype=dtype, **kwargs)
        width = self.model.config.get_text_config().hidden_size
        self.head = value_head(width, dtype=dtype, device=self.model.device)
        if (Path(path) / _HEAD).is_file():
            self.head.load_state_dict(load_file(Path(path) / _HEAD))
        disable_dropout_in_model(self.model)

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        return (self.model,)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.head(_last_hidden(self.model, input_ids, attention_mask))
        return values[..., 0]

    def save(self, folder: Path, state_dict: dict[str, torch.Tensor]) -> None:
        self.model.save_pretrained(folder, state_dict=_without_prefix(state_dict, "model."))
        _save_weights(_without_prefix(state_dict, "head."), folder / _HEAD)

    def load(self, folder: Path) -> None:
        _saved_file(folder, CONFIG_NAME)
        _saved_file(folder, _HEAD)
        self.load_state_dict(ModelCritic(str(folder), dtype=self.model.dtype).state_dict())


class HeadCritic(Critic):
    """
    A value head on the policy's own backbone. While the policy computes its loss, one forward pass serves both.

    Args:
        policy (`PreTrainedModel` or [`~peft.PeftModel`]):
            The policy.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        backbone = (policy.get_base_model() if is_peft_model(policy) else policy).base_model
        # In a tuple, lest it be a submodule: the policy holds the critic, and not the critic the policy.
        self._backbone = (backbone,)
        self._hidden: torch.Tensor | None = None
        width = policy.config.get_text_config().hidden_size
        self.head = value_head(width, dtype=policy.dtype, device=policy.device)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self._hidden
        if hidden is None:
            hidden = _last_hidden(self._backbone[0], input_ids, attention_mask)
        values: torch.Tensor = self.head(hidden)
        return values[..., 0]

    @contextlib.contextmanager
    def beside_policy(self) -> Iterator[None]:
        handle = self._backbone[0].register_forward_hook(self._keep)
        try:
            yield
        finally:
            handle.remove()
            self._hidden = None

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._hidden = output.last_hidden_state


class AdapterCritic(Critic):
    """
    A LoRA adapter with the settings of the policy's, and a value head, on the base model under the policy's adapter.

    Args:
        policy ([`~peft.PeftModel`]):
            The policy, trained by a LoRA adapter.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        from peft import get_peft_model

        config = copy.deepcopy(policy.active_peft_config)
        config.task_type, config.modules_to_save, config.inference_mode = None, None, False
        # The other ways to begin an adapter rewrite the base, which is not the critic's alone.
        config.init_lora_weights = True
        # As TRL makes the policy's adapter: parameters of two types do not go together under ZeRO-3.
        self.base = get_peft_model(
            on_shared_base(policy), config, autocast_adapter_dtype=not is_deepspeed_zero3_enabled()
        )
        width = policy.config.get_text_config().hidden_size
        self.head = value_head(width, dtype=policy.dtype, device=policy.device)
        disable_dropout_in_model(self.base)

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        return (self.base.get_base_model(),)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        backbone = self.base.get_base_model().base_model
        values: torch.Tensor = self.head(_last_hidden(backbone, input_ids, attention_mask))
        return values[..., 0]


def make_critic(kind: str, start: str | None, policy: Any, model_init_kwargs: dict[str, Any] | None = None) -> Critic:
    """
    Makes a critic for a policy.

    Args:
        kind (`str`):
            `model`, `head` or `adapter`.
        start (`str`, *optional*):
            Folder or hub id that it starts from.
        policy (`PreTrainedModel` or [`~peft.PeftModel`]):
            The policy.
        model_init_kwargs (`dict`, *optional*):
            How the policy was loaded: a critic of the policy's model is loaded alike.

    Raises:
        [`~online_trl.config.ConfigError`]: if there is nothing that a critic of its own could start from.
    """
    if kind == MODEL:
        return _model_critic(start, policy, model_init_kwargs or {})
    critic = HeadCritic(policy) if kind == HEAD else AdapterCritic(policy)
    if start is not None:
        critic.load(Path(start))
    return critic


def _model_critic(start: str | None, policy: Any, model_init_kwargs: dict[str, Any]) -> ModelCritic:
    path = start or policy.config._name_or_path
    if not path:
        raise ConfigError(
            "the policy was not loaded from anywhere that its critic could be loaded from too: name a `critic_model`, "
            "or set `critic` to `head`"
        )
    given = model_init_kwargs if start is None else {}
    alike = {name: value for name, value in given.items() if name in _LOADED_ALIKE}
    critic = ModelCritic(path, dtype=policy.dtype, **alike)
    tokens = policy.get_input_embeddings().num_embeddings
    if tokens > critic.model.get_input_embeddings().num_embeddings:  # the policy was given more of them
        critic.model.resize_token_embeddings(tokens)
    return critic


def critic_kind(kind: str | None, start: str | None, peft_config: Any) -> str:
    """
    Decides which kind of critic a policy gets, before a model is loaded.

    Args:
        kind (`str`, *optional*):
            What was asked for. Defaults to `adapter` where the policy has a LoRA adapter, unless the critic is to
            start from a model of its own.
        start (`str`, *optional*):
            What it is to start from.
        peft_config (`PeftConfig`, *optional*):
            The policy's adapter.

    Raises:
        [`~online_trl.config.ConfigError`]: if the critic would be `adapter` and the policy has no LoRA adapter, or
            `model` and what it is to start from is none.
    """
    has_lora = peft_config is not None and peft_config.peft_type == "LORA"
    is_part = start is not None and is_saved_part(start)
    if kind is None:
        kind = ADAPTER if has_lora and (start is None or is_part) else MODEL
    if kind == MODEL and is_part:
        raise ConfigError(
            f"{start} holds a critic that was on its policy's model, and is no model by itself: set `critic` to "
            "`head` or `adapter`, whichever it was"
        )
    if kind == ADAPTER and not has_lora:
        raise ConfigError(
            "`critic` is `adapter`, but the policy is not trained by a LoRA adapter: pass a `LoraConfig` as "
            "`peft_config`, or set `critic` to `head` or `model`"
        )
    return kind


def is_saved_part(path: str) -> bool:
    """Says whether a folder holds a critic of the kind `head` or `adapter`, which is no model by itself."""
    return (Path(path) / _WEIGHTS).is_file()


def is_saved_adapter(folder: Path) -> bool:
    """Says whether a folder holds a critic of the kind `adapter`."""
    if not is_saved_part(str(folder)):
        return False
    with safe_open(folder / _WEIGHTS, framework="pt") as weights:
        return any("lora_" in name for name in weights.keys())  # noqa: SIM118 - it is no mapping


def saved_beside(policy_path: str, kind: str) -> str | None:
    """Returns the folder of the critic of a kind that was saved beside a policy, if there is one."""
    folder = Path(policy_path) / CRITIC_FOLDER
    is_of_kind = is_saved_part(str(folder)) if kind != MODEL else (folder / _HEAD).is_file()
    return str(folder) if is_of_kind else None


def attach_critic(policy: Any, critic: Critic) -> None:
    """Makes a critic a submodule of the policy, and keeps it out of what the policy's `save_pretrained` writes."""
    policy.critic = critic
    save = policy.save_pretrained

    @functools.wraps(save)
    def save_policy(*args: Any, state_dict: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        state_dict = policy.state_dict() if state_dict is None else state_dict
        return save(*args, state_dict=without_critic(state_dict), **kwargs)

    policy.save_pretrained = save_policy


def without_critic(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Returns the policy's part of a state dict of both."""
    return {name: tensor for name, tensor in state_dict.items() if not is_critic_name(name)}


def is_critic_name(name: str) -> bool:
    """Says whether a parameter of the policy is one of its critic's."""
    return name.startswith(_PREFIX)


def critic_part(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Returns the critic's part of a state dict of both, under the critic's own names."""
    return _without_prefix(state_dict, _PREFIX)


def value_head(width: int, *, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    """Makes a head whose values are 0, so that the first advantages are those of the rewards, not of a random head."""
    head = nn.Linear(width, 1, dtype=dtype, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _last_hidden(backbone: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = backbone(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    return hidden


def _save_weights(weights: dict[str, torch.Tensor], file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)


def _saved_file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise ConfigError(
            f"there is no critic in {folder}, where PPO saves it beside the policy: restore the folder from a copy, "
            "or start a new run from the policy alone"
        )
    if not (folder / name).is_file():
        raise ConfigError(_OTHER_CRITIC.format(folder))
    return folder / name


def _without_prefix(state_dict: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
