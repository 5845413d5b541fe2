"""What a tiny run of a trainer needs beside a policy: prompts, a log and a registry."""

import pytest
from datasets import Dataset

from online_trl.registry import ModelRegistry
from online_trl.store import FeedbackStore


@pytest.fixture
def prompts():
    return Dataset.from_list([{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(32)])


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        yield store


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry")
