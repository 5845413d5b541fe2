"""
Both trainers, whole and by an adapter, with and without reuse of rollouts: `sharded_runs.py MODEL REWARD FOLDER`, as
it is or on several processes.

All runs of one accelerate config share a process, since importing takes longer than a run.
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent))

from feedback import WriteEachStep, add_comparisons
from online_trl.distributed import leave_process_group
from online_trl.registry import ModelRegistry, RegistryError, copy_model
from online_trl.rewards.scorer import LiveReward
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole
from sharded_critics import whole
from trainer_runs import REWARD, TRAINERS, logged, make

SETTINGS = {"max_steps": 4, "per_device_train_batch_size": 4}
REUSED = {"gradient_accumulation_steps": 2, "steps_per_generation": 2, "num_iterations": 2}
INLINE = {"refresh_steps": 3, "refresh_min_statements": 4, "reward_config": {**REWARD, "max_steps": 4}}
# The first one refreshes its reward model itself; the others follow what somebody else puts into service.
VARIANTS = {
    "plain": {"num_iterations": 1, "log_completions": True, "num_completions_to_print": 0, **INLINE},
    "reused": {**REUSED, "refresh_mode": "follow"},
    "lora": {**REUSED, "refresh_mode": "follow"},
}


class OnMain(TrainerCallback):
    """Lets another callback act on the main process alone."""

    def __init__(self, callback):
        self.callback = callback

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.callback.on_step_end(args, state, control, **kwargs)


class Publish(TrainerCallback):
    """Puts a version into service after steps 2 and 3, the second one of which the last rank cannot read."""

    def __init__(self, live, reward):
        self.live = live
        self.reward = reward

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (2, 3) and state.is_world_process_zero:
            publish(self.live.registry, self.reward)
        if state.global_step == 3 and args.world_size > 1 and args.process_index == args.world_size - 1:
            self.live.registry.path = unreadable


class Record(TrainerCallback):
    """Takes down after each step what the ranks have to agree on."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.steps = []

    def on_step_end(self, args, state, control, **kwargs):
        live = self.trainer.live_reward
        total = sum(value.double().abs().sum().item() for value in whole(self.trainer.model).values())
        self.steps.append({"paid_by": live.versions_used[-1], "live": live.version, "parameters": total})


def unreadable(version):
    raise RegistryError(f"{version} cannot be read here")


def publish(registry, reward):
    version = registry.publish(ModelRole.REWARD, copy_model(reward))
    registry.promote(version.name, "for the test")


def run(kind, variant, model, reward, folder):
    rank, main = int(os.environ.get("RANK", "0")), os.environ.get("RANK", "0") == "0"
    registry, store = ModelRegistry(folder / "registry"), FeedbackStore(f"sqlite:///{folder / 'log.db'}")
    live = LiveReward(registry)
    writes = OnMain(WriteEachStep(store)) if variant == "plain" else Publish(live, reward)
    if main and variant == "plain":
        add_comparisons(store, 40)
    elif main:
        publish(registry, reward)
    trainer = make(
        kind,
        model,
        folder / "out",
        [live],
        Dataset.from_list([{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(32)]),
        store=store if variant == "plain" else None,
        callbacks=[writes],
        peft_config=LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        if variant == "lora"
        else None,
        **{**SETTINGS, **VARIANTS[variant]},
    )
    record = Record(trainer)
    trainer.add_callback(record)
    trainer.train()
    trainer.save_model(str(folder / "saved"))
    gathered = whole(trainer.model)
    if main:
        torch.save(gathered, folder / "gathered.pt")
    result = {"steps": record.steps, "losses": logged(trainer, "loss")}
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    store.close()


def main(model, reward, folder):
    gc.freeze()  # whatever trains collects garbage, and goes through all that was imported
    for kind in TRAINERS:
        for variant in VARIANTS:
            path = folder / kind / variant
            path.mkdir(parents=True, exist_ok=True)
            run(kind, variant, model, reward, path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    leave_process_group()
