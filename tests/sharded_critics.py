"""Kinds of critic in one launch of several processes: `accelerate launch … sharded_critics.py MODEL FOLDER KIND …`."""

import json
import sys
from pathlib import Path

import deepspeed
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

sys.path.insert(0, str(Path(__file__).parent))
from trainer_runs import brevity, logged, make

SETTINGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "learning_rate": 1e-2,
    "save_strategy": "steps",
    "save_steps": 2,
}


def whole(model):
    """The parameters of the policy and its critic, gathered where they are sharded."""
    parameters = dict(model.named_parameters())
    with deepspeed.zero.GatheredParameters(list(parameters.values()), enabled=is_deepspeed_zero3_enabled()):
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def main(model, folder, kinds):
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(32)])
    for name in kinds:
        output = folder / name
        kind, _, on_lora = name.partition("-on-")
        lora = LoraConfig(r=4, target_modules="all-linear") if on_lora else None
        straight, resumed = (
            make("ppo", model, output, brevity, prompts, peft_config=lora, critic=kind, **SETTINGS) for _ in range(2)
        )
        before = whole(straight.model)
        straight.train()
        straight.save_model(str(output / "saved"))
        after = whole(straight.model)
        # There is no step left to make: what is loaded is all that there is.
        resumed.train(resume_from_checkpoint=str(output / "checkpoint-2"))
        again = whole(resumed.model)
        if straight.accelerator.is_main_process:
            torch.save(after, output / "gathered.pt")
            result = {
                "moved": sorted(name for name in after if not after[name].equal(before[name])),
                "trained": sorted(name for name, each in straight.model.named_parameters() if each.requires_grad),
                "not_resumed": sorted(name for name in after if not after[name].equal(again[name])),
                "value_loss": logged(straight, "value_loss"),
            }
            (output / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
