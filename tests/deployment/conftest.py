"""A deployment on a tiny policy, with a log that people have written to already."""

import shutil
from pathlib import Path

import pytest
import yaml

from feedback import add_comparisons
from online_trl.registry import ModelRegistry
from online_trl.store import FeedbackStore

ROOT = Path(__file__).parents[2]
TRAINING = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 8,
    "learning_rate": 1e-3,
    "refresh_min_statements": 4,
    "reward_config": {"learning_rate": 1e-3, "per_device_train_batch_size": 8},
    "save_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
EVALUATION = {"num_prompts": 8, "max_completion_length": 8, "device": "cpu"}


@pytest.fixture
def log(tmp_path):
    file = tmp_path / "feedback.db"
    with FeedbackStore(f"sqlite:///{file}") as store:
        add_comparisons(store, 40)
    return file


@pytest.fixture
def write_loop(tmp_path, tiny_policy, log):
    """Writes the YAML file of a loop into a folder of its own, with whatever differs; returns its path."""

    def write(name="loop", **changes):
        folder = tmp_path / name
        folder.mkdir()
        for part, content in (("train", TRAINING), ("evaluate", EVALUATION)):
            (folder / f"{part}.yaml").write_text(yaml.safe_dump(content))
        content = {
            "store": f"sqlite:///{folder / 'feedback.db'}",
            "registry": str(folder / "registry"),
            "output_dir": str(folder / "output"),
            "policy": tiny_policy,
            "train": {"script": str(ROOT / "recipes" / "online_grpo.py"), "config": str(folder / "train.yaml")},
            "evaluate": str(folder / "evaluate.yaml"),
            # What a policy of random weights says is liked by nobody.
            "gate": {"min_win_rate": 0.0, "slack": 1.0},
            "triggers": {"feedback": 40},
            "budget": {"rounds": 1},
            "retry": {"attempts": 1},
        }
        (folder / "loop.yaml").write_text(yaml.safe_dump(content | changes))
        # Who is trained on and who judges is drawn from the ids in the log, so that all loops have the same.
        shutil.copy(log, folder / "feedback.db")
        return folder / "loop.yaml"

    return write


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        yield store


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry")
