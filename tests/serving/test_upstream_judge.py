"""A server that is not ours, asked as a judge: what is sent and read is what it takes and gives."""

import asyncio

import pytest

from online_trl.rewards.judge import Judge
from online_trl.rewards.server import RewardServerError

BATCH = {
    "prompts": [[{"role": "user", "content": "Why?"}]],
    "completions": [[{"role": "assistant", "content": "So."}]],
}


def test_transformers_serve_is_a_judge(real_upstream):
    model = real_upstream["upstream_model"]
    judge = Judge(url=real_upstream["upstream"], model=model, retries=0, extra_body={"max_tokens": 8})
    # An untrained judge gives no score; what it said instead is shown.
    with pytest.raises(RewardServerError, match=r"no reply of .* holds a score from 0 to 10 .*, such as '.+'$"):
        asyncio.run(judge(**BATCH))
