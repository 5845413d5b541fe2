"""Two tiny policies on disk, and a server that offers them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from serving.deployment import Deployment, deployed
from serving.upstream import transformers_serve
from serving.visitor import Visitor, chromium

CONTEXT_LENGTH = 1024
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'tool' -%}{{ raise_exception('no tools here') }}{%- endif -%}
<|{{ 'assistant' if message.role == 'assistant' else 'user' }}|>{{ message.content }}<|end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "How do I reset the password of my account?",
    "Grüße aus München: fünf süße Öfen für dich.",
    "Please restart the router and wait for a minute.",
]


@pytest.fixture(scope="session")
def policy_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two untrained Llamas with the same tokenizer, which answer the same question differently."""
    tokenizer = _make_tokenizer()
    folders = [tmp_path_factory.mktemp("policies") / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        _make_model(tokenizer, seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


@pytest.fixture(scope="session")
def real_upstream(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[dict[str, str]]:
    """How to start a server before `transformers serve`, which answers with the first of the policies."""
    with transformers_serve(policy_folders[0], tmp_path_factory.mktemp("upstream") / "log") as url:
        yield {"upstream": url, "upstream_model": str(policy_folders[0])}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[Deployment]:
    """A server of this module's own, with `policy-0001` live and `policy-0002` beside it."""
    with deployed(tmp_path_factory.mktemp("deployment"), policy_folders) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser, deployment: Deployment) -> Iterator[Visitor]:
    """Somebody who opens the page of the module's server for the first time."""
    with browser.new_context() as context:
        visitor = Visitor(context.new_page(), deployment.store)
        visitor.page.goto(deployment.server.url)
        yield visitor


def _make_tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (PAD, USER, ASSISTANT, END)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
    )


def _make_model(tokenizer: Any, seed: int) -> Any:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        # Large enough that one token is clearly the most likely one, whatever the rounding.
        initializer_range=0.3,
        **ends,
    )
    model = LlamaForCausalLM(config)
    # The likeliest token is never the end, so that a greedy answer is as long as it is allowed to be.
    model.lm_head.weight.data[tokenizer.eos_token_id] = 0.0
    model.generation_config = GenerationConfig(do_sample=True, **ends)
    return model
