"""A run of TRL's `PPOTrainer` on live feedback, on all ranks of a launch: `trl_ppo_run.py MODEL FOLDER STORE`."""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file

from online_trl.registry import ModelRegistry
from online_trl.rewards.scorer import LiveReward
from online_trl.store import FeedbackStore
from online_trl.trl_ppo import OnlineTRLPPOConfig, OnlineTRLPPOTrainer

sys.path.insert(0, str(Path(__file__).parent))
from feedback import WriteEachStep
from trainer_runs import REWARD

SETTINGS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "local_rollout_forward_batch_size": 4,
    "response_length": 8,
    "num_ppo_epochs": 1,
    "num_sample_generations": 0,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "refresh_min_statements": 4,
    "reward_config": REWARD,
}


def make(model, output_dir, reward_funcs, dataset, *, store=None, episodes=16, options=None, **settings):
    args = OnlineTRLPPOConfig(output_dir=str(output_dir), total_episodes=episodes, **{**SETTINGS, **settings})
    return OnlineTRLPPOTrainer(model, reward_funcs, args, train_dataset=dataset, store=store, **(options or {}))


def main(model: str, folder: Path, url: str) -> None:
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(32)])
    scored: list[tuple[str, float]] = []

    def length(prompts, completions, **columns):
        rewards = [len(completion[0]["content"]) / 10 for completion in completions]
        scored.extend((prompt[0]["content"], reward) for prompt, reward in zip(prompts, rewards, strict=True))
        return rewards

    rewards = [LiveReward(ModelRegistry(folder / "registry")), length]
    with FeedbackStore(url) as store:
        trainer = make(model, folder / "out", rewards, prompts, store=store, episodes=48, refresh_steps=2)
        if trainer.accelerator.is_main_process:
            trainer.add_callback(WriteEachStep(store))
        trainer.train()
    trainer.save_model(str(folder / "saved"))

    assert len(trainer.live_reward.versions_used) == 2
    assert any("question" in prompt for prompt, _ in scored)
    means = [row["rewards/length/mean"] for row in trainer.state.log_history if "objective/scores" in row]
    every_rank = trainer.accelerator.gather(torch.tensor([reward for _, reward in scored])).view(2, 3, 8)
    torch.testing.assert_close(every_rank.mean(dim=(0, 2)), torch.tensor(means))
    # After training under ZeRO-3, where each rank holds a part of it, the policy is saved whole.
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.accelerator.is_main_process:
        saved = load_file(folder / "saved" / "model.safetensors")
        assert saved
        assert all(torch.equal(weight, state[f"policy.{name}"]) for name, weight in saved.items())
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
