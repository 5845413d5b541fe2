"""Completions from vLLM in the trainer's process, on a GPU or, with the build for it, on a CPU."""

import os

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from feedback import add_comparisons
from online_trl.rewards.scorer import LiveReward
from online_trl.types import ModelRole
from trainer_runs import REWARD, TRAINERS, brevity, logged, make

pytest.importorskip(
    "vllm", reason="vLLM is not installed; it has an environment of its own, see `tests/trainers/test_vllm.py`"
)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """What `accelerate launch` sets for one process, and what vLLM needs to take weights on a CPU."""
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", str(29500 + os.getpid() % 1000))
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if torch.cuda.is_available():
        return
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # On a CPU vLLM packs weights for its own kernels and then takes no others.
    monkeypatch.setattr("vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm", _leave_unpacked)


def _leave_unpacked(layer, remove_weight):
    layer.cpu_linear = torch.nn.functional.linear


@pytest.fixture
def policy(tiny_policy, tmp_path):
    """The tiny policy with heads as wide as vLLM's kernels need them."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_policy, head_dim=32)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_policy).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("peft_config", [None, LoraConfig(lora_alpha=64, init_lora_weights=False)], ids=["whole", "lora"])
@pytest.mark.parametrize("kind", TRAINERS)
def test_completions_come_from_the_weights_of_each_step(kind, peft_config, policy, tmp_path, prompts, store, registry):
    add_comparisons(store, 40)
    trainer = make(
        kind,
        policy,
        tmp_path / "out",
        [LiveReward(registry), brevity],
        prompts,
        store=store,
        peft_config=peft_config,
        max_steps=8,
        num_iterations=1,
        learning_rate=0.05,
        beta=0.01,
        refresh_steps=4,
        refresh_min_statements=4,
        reward_config=REWARD,
        use_vllm=True,
        vllm_mode="colocate",
        vllm_max_model_length=128,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer.train()
    assert registry.live(ModelRole.REWARD).name == trainer.live_reward.version
    print("KL", logged(trainer, "kl"), logged(trainer, "sampling/sampling_logp_difference/mean"))
    assert max(logged(trainer, "kl")) > 0.3  # the policy is far from what vLLM had in the beginning
    apart = logged(trainer, "sampling/sampling_logp_difference/mean")
    assert len(apart) == 8
    assert max(apart) < 0.01
