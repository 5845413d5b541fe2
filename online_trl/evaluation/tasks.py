"""Task performance: any dataset with a reward function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..rewards.functions import RewardFunction
from ..types import Message

_NOT_COLUMNS = ("prompt", "completion", "completion_ids")


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    Prompts, and a reward function that says how well each was answered.

    Args:
        name (`str`):
            What it is called in the results.
        rows (`Sequence[Mapping[str, Any]]`):
            The dataset, with a column `prompt`, conversational or plain text.
        reward (`Callable`):
            A reward function in TRL's signature, which gets the other columns too, such as the right answer. Where
            prompts are plain text, it gets completions as text.

    Example:

    ```python
    >>> from online_trl.evaluation.tasks import Task

    >>> def exact(completions, answer, **columns):
    ...     return [float(text == right) for text, right in zip(completions, answer)]
    >>> Task(name="sums", rows=[{"prompt": "1 + 1 =", "answer": "2"}], reward=exact).conversations
    [[{'role': 'user', 'content': '1 + 1 ='}]]

    ```
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    reward: RewardFunction

    @property
    def prompts(self) -> list[Any]:
        """The prompts as the dataset holds them."""
        return [row["prompt"] for row in self.rows]

    @property
    def conversations(self) -> list[list[Message]]:
        """The prompts as a policy gets them."""
        return [
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in self.prompts
        ]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The other columns, as the reward function gets them."""
        names = [name for name in (self.rows[0] if len(self.rows) else ()) if name not in _NOT_COLUMNS]
        return {name: [row[name] for row in self.rows] for name in names}
