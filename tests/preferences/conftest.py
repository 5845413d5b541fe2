from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from online_trl.store import FeedbackStore
from preferences.log import Log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with FeedbackStore(f"sqlite:///{tmp_path / 'feedback.db'}") as store:
        yield Log(store)
