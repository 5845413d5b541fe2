"""A training run in a process of its own, to be killed: `killed_run.py grpo|ppo MODEL FOLDER STORE [resume]`."""

import sys
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from online_trl.ppo import OnlinePPOConfig, OnlinePPOTrainer
from online_trl.registry import ModelRegistry
from online_trl.rewards.scorer import LiveReward
from online_trl.store import FeedbackStore, open_store

sys.path.insert(0, str(Path(__file__).parent))
from feedback import WriteEachStep


class WriteSteps(TrainerCallback):
    def __init__(self, file: Path) -> None:
        self.file = file

    def on_step_end(self, args, state, control, **kwargs):
        with self.file.open("a") as file:
            file.write(f"{state.global_step}\n")


def main(kind: str, model: str, folder: Path, url: str, *, resume: bool) -> None:
    store = open_store(url)
    # What is read through a server is written by those who talk to that server.
    writers = [WriteEachStep(store)] if isinstance(store, FeedbackStore) else []
    trainer_type, config_type = {
        "grpo": (OnlineGRPOTrainer, OnlineGRPOConfig),
        "ppo": (OnlinePPOTrainer, OnlinePPOConfig),
    }[kind]
    trainer = trainer_type(
        model,
        [LiveReward(ModelRegistry(folder / "registry"))],
        config_type(
            output_dir=str(folder / "out"),
            max_steps=12,
            per_device_train_batch_size=8,
            num_generations=4,
            num_iterations=1,
            max_completion_length=8,
            save_steps=2,
            refresh_steps=3,
            refresh_min_statements=4,
            reward_config={"learning_rate": 1e-3, "per_device_train_batch_size": 8},
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(32)]
        ),
        store=store,
        callbacks=[*writers, WriteSteps(folder / "steps")],
    )
    trainer.train(resume_from_checkpoint=resume)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], resume=sys.argv[5:] == ["resume"])
