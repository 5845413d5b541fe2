"""A base policy that was trained briefly, and a server that serves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from online_trl.simulation.base_policy import train_base_policy
from serving.deployment import Deployment, deployed


@pytest.fixture(scope="session")
def base_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readable already after these few steps."""
    return train_base_policy(tmp_path_factory.mktemp("base"), seed=0, max_steps=60, conversations=1000)


@pytest.fixture
def deployment(tmp_path: Path, base_policy: Path) -> Iterator[Deployment]:
    with deployed(tmp_path, [base_policy, base_policy]) as deployment:
        yield deployment
