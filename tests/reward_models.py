"""Reward models as others have trained them: one head on the backbone of a policy."""

from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel


def save_reward_model(policy: str, folder: str | Path) -> PreTrainedModel:
    """Saves one with a random head, with the policy's tokenizer, and returns it."""
    model = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy).save_pretrained(folder)
    return model
