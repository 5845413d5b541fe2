"""Pairs, labels and prompts as datasets in TRL's formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..types import Interaction, PreferencePair, Statement, UnpairedLabel

if TYPE_CHECKING:
    from datasets import Dataset


_PROVENANCE = ("seq", "weight", "feedback_ids", "interaction_ids", "session_ids", "user_ids", "policy_versions")
_PROMPT_PROVENANCE = ("seq", "interaction_id", "session_id", "user_id", "policy_version")


def preference_dataset(pairs: Sequence[PreferencePair], *, provenance: bool = False) -> Dataset:
    """
    Returns pairs in TRL's conversational preference format: `prompt`, `chosen`, `rejected`, and `margin` if every pair
    has one.

    Args:
        pairs (`Sequence[PreferencePair]`):
            One row each, in this order.
        provenance (`bool`, *optional*, defaults to `False`):
            Whether to add where each row comes from and how much it counts: `seq`, `weight`, `feedback_ids`,
            `interaction_ids`, `session_ids`, `user_ids` and `policy_versions`.
    """
    columns = _columns(pairs, ("prompt", "chosen", "rejected", "margin", *(_PROVENANCE if provenance else ())))
    if not pairs or None in columns["margin"]:
        del columns["margin"]
    return _dataset(columns)


def unpaired_dataset(labels: Sequence[UnpairedLabel], *, provenance: bool = False) -> Dataset:
    """
    Returns labels in TRL's conversational unpaired preference format: `prompt`, `completion`, `label`.

    Args:
        labels (`Sequence[UnpairedLabel]`):
            One row each, in this order.
        provenance (`bool`, *optional*, defaults to `False`):
            Whether to add the columns that [`preference_dataset`] adds.
    """
    return _dataset(_columns(labels, ("prompt", "completion", "label", *(_PROVENANCE if provenance else ()))))


def prompt_dataset(interactions: Sequence[Interaction], *, provenance: bool = False) -> Dataset:
    """
    Returns the prompts of interactions in TRL's conversational prompt-only format: `prompt`.

    Args:
        interactions (`Sequence[Interaction]`):
            One row each, in this order; repeated prompts stay.
        provenance (`bool`, *optional*, defaults to `False`):
            Whether to add `seq`, `interaction_id`, `session_id`, `user_id` and `policy_version`.
    """
    return _dataset(_columns(interactions, ("prompt", *(_PROMPT_PROVENANCE if provenance else ()))))


def statement_dataset(statements: Sequence[Statement]) -> Dataset:
    """
    Returns statements of every kind in one format, that of [`~online_trl.rewards.reward_trainer.OnlineRewardTrainer`].

    | column | pair | ranking | label |
    |---|---|---|---|
    | `prompt` | messages | messages | messages |
    | `completions` | the chosen and the rejected answer | all answers | the answer |
    | `ranks` | `[1, 2]` | one for each answer, equal ones are ties | `[1]` |
    | `score` | null | null | the verdict in [0, 1] |
    | `margin` | by how much the first was preferred, or null | null | null |

    Beside them stand `weight`, `voice` (whose word it is) and `key`, by which a statement is known again.

    Args:
        statements (`Sequence[Statement]`):
            One row each, in this order.
    """
    columns = _columns(statements, ("prompt", "completions", "ranks", "weight", "voice"))
    columns["score"] = [each.score if isinstance(each, UnpairedLabel) else None for each in statements]
    columns["margin"] = [each.margin if isinstance(each, PreferencePair) else None for each in statements]
    columns["key"] = [statement_key(each) for each in statements]
    return _dataset(columns)


def statement_key(statement: Statement) -> str:
    """Returns what a statement is known again by: the rows of the log that it rests on."""
    return "/".join((*statement.feedback_ids, *statement.interaction_ids))


def _columns(records: Sequence[Any], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [getattr(record, name) for record in records] for name in names}


def _dataset(columns: dict[str, list[Any]]) -> Dataset:
    from datasets import Dataset, Features, Value

    text = Value("string")
    messages = [{"role": text, "content": text}]
    types: dict[str, Any] = {
        **dict.fromkeys(("prompt", "chosen", "rejected", "completion"), messages),
        "completions": [messages],
        "ranks": [Value("int64")],
        **dict.fromkeys(("margin", "weight", "score"), Value("float64")),
        **{name: [text] for name in _PROVENANCE if name.endswith("s")},
        "label": Value("bool"),
        "seq": Value("int64"),
    }
    features = Features({name: types.get(name, text) for name in columns})
    return Dataset.from_dict(columns, features=features)
