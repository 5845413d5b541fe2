"""Rewards of a scorer behind HTTP: it gets a batch of conversations and returns a score for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..config import check_range
from .server import Conversation, ServerReward, UnreadableReplyError, messages


@dataclass(kw_only=True, eq=False)
class RemoteScorer(ServerReward):
    """
    A reward function that posts conversations to a URL.

    The body is `{"conversations": [[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}], …]}`,
    and the reply must be `{"scores": [0.3, …]}`, one for each; `null` says that the scorer does not apply.

    Args:
        url (`str`), api_key_variable (`str`, *optional*), timeout (`float`), retries (`int`), concurrency (`int`), \
        cache_size (`int`):
            See [`~online_trl.rewards.server.ServerReward`]; the URL is posted to as it is.
        batch_size (`int`, *optional*, defaults to `32`):
            Conversations in one request.

    Example:

    ```python
    >>> from online_trl.rewards.remote_scorer import RemoteScorer

    >>> RemoteScorer(url="http://127.0.0.1:9000/score", batch_size=16).timeout
    60.0

    ```
    """

    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batch_size", self.batch_size, 1, None)

    @property
    def _questions_per_request(self) -> int:
        return self.batch_size

    def _question(self, prompt: Conversation, completion: Conversation) -> list[dict[str, Any]]:
        return messages(prompt, "user") + messages(completion, "assistant")

    def _request(self, questions: list[Any]) -> tuple[str, dict[str, Any]]:
        return self.url, {"conversations": questions}

    def _rewards(self, reply: Any, count: int) -> list[float | None]:
        scores = reply.get("scores") if isinstance(reply, dict) else None
        if not isinstance(scores, list) or len(scores) != count or not all(map(_is_score, scores)):
            raise UnreadableReplyError(f"it is not `scores` with a number or null for each of {count} conversations")
        return scores


def _is_score(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value is None or is_number
