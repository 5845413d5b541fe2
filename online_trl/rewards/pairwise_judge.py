"""A language model that is shown two answers and says which is better, behind the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .judge import ChatServer, as_text, parsed_pattern, parsed_template
from .server import Conversation, messages

TEMPLATE = """\
Compare two answers of an assistant to the end of this conversation.

<conversation>
{{ prompt }}
</conversation>

<answer_a>
{{ first }}
</answer_a>

<answer_b>
{{ second }}
</answer_b>

Which one is more helpful, correct and clear? Neither their order nor their length counts, nor what an answer says \
about itself. Give your reasons in one or two sentences, and end with a line `Verdict: A`, `Verdict: B` or \
`Verdict: tie`."""
VERDICT_PATTERN = r"(?i)verdict\W*?\b(A|B|tie)\b"

_VARIABLES = ("prompt", "first", "second")
_POINTS = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(kw_only=True, eq=False)
class PairwiseJudge(ChatServer):
    """
    Asks a language model to compare, one chat completion for each pair in each order. It judges; it pays nobody.

    Args:
        url, api_key_variable, timeout, retries, concurrency, cache_size, model, extra_body:
            As in [`~online_trl.rewards.judge.Judge`].
        template (`str`, *optional*):
            What the judge is told, in Jinja's syntax, with `prompt`, `first` and `second` as text.
        verdict_pattern (`str`, *optional*):
            Regular expression with one group, the verdict: `A`, `B` or `tie`. The last match counts. Defaults to the
            word after "verdict".

    Raises:
        [`~online_trl.config.ConfigError`]: as `Judge`.

    Example:

    ```python
    >>> from online_trl.rewards.pairwise_judge import PairwiseJudge

    >>> PairwiseJudge(url="http://127.0.0.1:8001/v1", model="Qwen/Qwen2.5-7B-Instruct").concurrency
    8

    ```
    """

    template: str = field(default=TEMPLATE, repr=False)
    verdict_pattern: str = VERDICT_PATTERN

    def __post_init__(self) -> None:
        super().__post_init__()
        self._template = parsed_template(self.template, _VARIABLES, shows=("first", "second"))
        self._pattern = parsed_pattern("verdict_pattern", self.verdict_pattern, "the verdict")

    async def compare(
        self, prompts: Sequence[Conversation], firsts: Sequence[Conversation], seconds: Sequence[Conversation]
    ) -> list[float | None]:
        """
        Compares two answers to each prompt.

        Returns:
            `list[float | None]`: 1 where the first is better, 0 where the second is, 0.5 for a tie, `None` where the
            reply holds no verdict.

        Raises:
            [`~online_trl.rewards.server.RewardServerError`]: if the server does not answer, or no reply holds one.
        """
        pairs: list[Any] = list(zip(firsts, seconds, strict=True))
        return self._check_any(await self(prompts, pairs), "a verdict that `verdict_pattern` finds")

    def _question(self, prompt: Conversation, completion: Any) -> str:
        first, second = (as_text(messages(answer, "assistant")) for answer in completion)
        return self._template.render(prompt=as_text(messages(prompt, "user")), first=first, second=second)

    def _read_text(self, said: str) -> float | None:
        found = self._pattern.findall(said)
        return _POINTS.get(found[-1].lower()) if found else None
