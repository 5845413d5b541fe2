"""
What sharing one base model saves: policy, critic, reward model and reference on one base, and as four models.

    python benchmarks/memory.py --size 0.5b
    python benchmarks/memory.py --size 1.5b --device cuda

Models of random weights in the shapes of Qwen2 are put into a PPO trainer twice: with LoRA adapters, which share the
frozen base, and each as a model of its own. Given are the bytes of the weights, where what is shared counts once; on a
GPU, also the peak of the memory that two steps take, optimiser states and activations included.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, Qwen2Config, Qwen2ForCausalLM

from online_trl.ppo import OnlinePPOConfig, OnlinePPOTrainer
from online_trl.registry import ModelRegistry
from online_trl.rewards.reward_model import ADAPTER_FOLDER, merged_weights, with_head
from online_trl.rewards.scorer import LiveReward
from online_trl.simulation.base_policy import build_tokenizer
from online_trl.types import ModelRole

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
}
VOCABULARY = {"tiny": 1024, "0.5b": 151_936, "1.5b": 151_936}


def weights_in_memory(models: Iterable[nn.Module]) -> int:
    """Returns the bytes of all parameters and buffers, where tensors that share a storage count once."""
    storages = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def models_of(trainer: OnlinePPOTrainer) -> dict[str, nn.Module]:
    """Returns policy, critic, reward model and reference; a policy with an adapter is its own reference without it."""
    policy, critic = trainer.model, trainer.model.critic
    reference = policy if trainer.ref_model is None else trainer.ref_model
    scorer = trainer.live_reward.scorer
    return {"policy": policy, "critic": critic, "reward model": scorer.model, "reference": reference}


def save_base(folder: Path, size: str) -> str:
    """Saves a policy of random weights with its tokenizer."""
    tokenizer = build_tokenizer(["yes no question fresh seed"])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen2Config(
        **SIZES[size], **ends, vocab_size=VOCABULARY[size], num_key_value_heads=2, tie_word_embeddings=True
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def publish_reward(registry: ModelRegistry, base: str, lora: LoraConfig | None) -> None:
    """Publishes a reward model on the base as a refresh would: whole, and beside that as the adapter that it is."""

    def write(folder: Path) -> None:
        model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=4)
        if lora is None:
            model.save_pretrained(folder)
        else:
            model = get_peft_model(model, with_head(lora))
            model.get_base_model().save_pretrained(folder, state_dict=merged_weights(model))
            model.save_pretrained(folder / ADAPTER_FOLDER)
        build_tokenizer(["yes no question fresh seed"]).save_pretrained(folder)

    registry.promote(registry.publish(ModelRole.REWARD, write).name, "a benchmark")


def make_trainer(folder: Path, base: str, *, shared: bool, device: str) -> OnlinePPOTrainer:
    lora = LoraConfig(r=16, target_modules="all-linear") if shared else None
    registry = ModelRegistry(folder / ("shared" if shared else "separate"))
    publish_reward(registry, base, lora)
    prompts = [{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(64)]
    args = OnlinePPOConfig(
        output_dir=str(folder / "out"),
        max_steps=2,
        per_device_train_batch_size=8,
        num_iterations=1,
        max_completion_length=512 if device == "cuda" else 8,
        model_init_kwargs={"dtype": "bfloat16"},
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        refresh_mode="follow",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = Dataset.from_list(prompts)
    return OnlinePPOTrainer(base, [LiveReward(registry)], args, train_dataset=rows, peft_config=lora)


def measure(folder: Path, base: str, *, shared: bool, device: str) -> dict[str, int]:
    """Returns the bytes of each model, of all of them, and on a GPU the peak of two steps."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = make_trainer(folder, base, shared=shared, device=device)
    models = models_of(trainer)
    result = {"all": weights_in_memory(models.values())}
    if device == "cuda":
        trainer.train()
        result["peak"] = torch.cuda.max_memory_allocated()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = save_base(folder / "base", arguments.size)
        for name, shared in (("shared", True), ("separate", False)):
            results[name] = measure(folder, base, shared=shared, device=arguments.device)
            gc.collect()
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
    results["ratio"] = {key: results["shared"][key] / results["separate"][key] for key in results["shared"]}
    print(json.dumps({"size": arguments.size, "device": arguments.device, **results}))


if __name__ == "__main__":
    main()
