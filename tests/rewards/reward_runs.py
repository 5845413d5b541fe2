"""
Reward trainers on tiny models, for the tests; as a script, two refreshes that the tests launch on several processes:
`reward_runs.py MODEL FOLDER`.
"""

from __future__ import annotations

import random
import sys

from datasets import Dataset
from transformers import PrinterCallback

from online_trl.rewards.reward_trainer import OnlineRewardConfig, OnlineRewardTrainer, save_merged

SETTINGS = {
    "num_train_epochs": 4,
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-3,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
}


def answer(text):
    return [{"role": "assistant", "content": text}]


def statement(number, texts, ranks=(1,), *, score=None, weight=1.0, voice="ann", margin=None):
    """A row as `statement_dataset` makes it."""
    return {
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "completions": [answer(text) for text in texts],
        "ranks": list(ranks),
        "score": score,
        "margin": margin,
        "weight": weight,
        "voice": voice,
        "key": f"{number}/{'/'.join(texts)}/{voice}",
    }


def pair(number, chosen="yes", rejected="no", **more):
    return statement(number, [f"{chosen} {number}", f"{rejected} {number}"], (1, 2), **more)


def label(number, text, score, **more):
    return statement(number, [f"{text} {number}"], score=score, **more)


def mixture(count, seed=0):
    """Statements of every kind by somebody who likes a yes better than a maybe, and that better than a no."""
    draw = random.Random(seed)
    kinds = [
        pair,
        lambda number: statement(number, [f"no {number}", f"maybe {number}", f"yes {number}"], (3, 2, 1)),
        lambda number: statement(number, [f"no {number}", f"yes {number}", f"yes fox {number}"], (2, 1, 1)),
        lambda number: statement(number, [f"maybe {number}", f"maybe so {number}"], (1, 1)),
        lambda number: label(number, *draw.choice([("yes", 1.0), ("maybe", 0.5), ("no", 0.0)])),
    ]
    return [kinds[index % len(kinds)](draw.randrange(1000)) for index in range(count)]


def train(model, rows, folder, *, peft_config=None, **settings):
    """Returns a trainer that has learned from the rows."""
    args = OnlineRewardConfig(output_dir=str(folder), **{**SETTINGS, **settings})
    dataset = Dataset.from_list(rows) if isinstance(rows, list) else rows
    trainer = OnlineRewardTrainer(model, args, train_dataset=dataset, peft_config=peft_config)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def main(model: str, folder: str) -> None:
    from peft import LoraConfig

    repeated = train(f"{folder}/one", mixture(40), folder, num_heads=4, max_steps=1, learning_rate=0.0)
    save_merged(repeated, f"{folder}/repeated")
    first = train(model, mixture(40), folder, num_heads=4, max_steps=2)
    save_merged(first, f"{folder}/first")
    settings = {"num_heads": 4, "max_steps": 2, "pull_coefficient": 0.5, "center_rewards_coefficient": 0.01}
    second = train(f"{folder}/first", mixture(40), folder, peft_config=LoraConfig(init_lora_weights=False), **settings)
    save_merged(second, f"{folder}/second")
    rows = [*mixture(40), pair(1, rejected="the quick brown fox " * 50)]
    settings = {"num_heads": 3, "max_steps": 1, "max_length": 100, "freeze_backbone": True, "reinit_head": True}
    train(f"{folder}/second", rows, folder, **settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
