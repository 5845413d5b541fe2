"""Tiny runs of the online trainers, for the tests: settings, rewards, and what makes a trainer of them."""

from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from online_trl.ppo import OnlinePPOConfig, OnlinePPOTrainer

TRAINERS = {"grpo": (OnlineGRPOTrainer, OnlineGRPOConfig), "ppo": (OnlinePPOTrainer, OnlinePPOConfig)}
SETTINGS = {
    "max_steps": 4,
    "per_device_train_batch_size": 8,
    "max_completion_length": 8,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}
# Those of TRL's `_compute_loss`, which the contract test reads it for.
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")
REWARD = {"learning_rate": 1e-3, "per_device_train_batch_size": 8}


def brevity(completions, **columns):
    return [-len(completion[0]["content"]) / 10 for completion in completions]


async def ones(completions, **columns):
    return [1.0] * len(completions)


def broken(completions, **columns):
    raise KeyError("answer")


def make(
    kind,
    model,
    output_dir,
    reward_funcs,
    dataset,
    *,
    store=None,
    peft_config=None,
    callbacks=None,
    eval_dataset=None,
    **settings,
):
    trainer_type, config_type = TRAINERS[kind]
    generations = {"num_generations": 4} if kind == "grpo" else {}
    args = config_type(output_dir=str(output_dir), **{**SETTINGS, **generations, **settings})
    given = {"store": store, "peft_config": peft_config, "callbacks": callbacks, "eval_dataset": eval_dataset}
    return trainer_type(model, reward_funcs, args, train_dataset=dataset, **given)


def rollout(trainer):
    """Runs one rollout as `train` would, and returns what the loss gets."""
    trainer.model.train()
    return trainer._generate_and_score_completions([dict(row) for row in trainer.train_dataset.select(range(8))])


def logged(trainer, key):
    return [row[key] for row in trainer.state.log_history if key in row]
