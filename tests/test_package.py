import subprocess
import sys

import pytest

import online_trl

NAMES = [
    "Feedback",
    "FeedbackKind",
    "FeedbackStore",
    "Interaction",
    "LiveReward",
    "ModelRegistry",
    "OnlineGRPOConfig",
    "OnlineGRPOTrainer",
    "OnlinePPOConfig",
    "OnlinePPOTrainer",
]


def test_the_public_names_are_these():
    assert online_trl.__all__ == NAMES
    assert all(getattr(online_trl, name).__name__ == name for name in NAMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'OnlineDPOTrainer'"):
        _ = online_trl.OnlineDPOTrainer


@pytest.mark.parametrize(
    "module",
    ["types", "config", "store", "preferences", "registry", "gates", "serving", "report", "evaluation", "canary"],
)
def test_what_serves_and_stores_loads_without_the_training_stack(module):
    code = f"import sys, online_trl.{module}; print([n for n in ('torch', 'transformers', 'trl') if n in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
