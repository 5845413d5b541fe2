"""Random models of the demo's size or of real sizes for the benchmark of the trainers, and prompts for them."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

PAD, END, USER, ASSISTANT = "pad", "end", "user", "assistant"
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message.role }} {{ message.content }} end
{%- endfor -%}
{%- if add_generation_prompt %} assistant {% endif -%}"""


def _qwen2(hidden: int, inner: int, layers: int, heads: int, groups: int, *, tied: bool = True) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=151_936,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=tied,
    )


def _llama(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, groups: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=True,
    )


SHAPES: dict[str, Any] = {
    "tiny": _llama(320, 32, 64, 2, 2, 2),
    "demo": _llama(768, 128, 384, 2, 4, 4),
    "qwen2-0.5b": _qwen2(896, 4_864, 24, 14, 2),
    "llama-1b": _llama(128_256, 2_048, 8_192, 16, 32, 8),
    "qwen2-1.5b": _qwen2(1_536, 8_960, 28, 12, 2),
    "qwen2-3b": _qwen2(2_048, 11_008, 36, 16, 2),
    "qwen2-7b": _qwen2(3_584, 18_944, 28, 28, 4, tied=False),
    "qwen2-14b": _qwen2(5_120, 13_824, 48, 40, 8, tied=False),
}


def make_models(folder: Path, shape: str, *, bf16: bool, device: str) -> None:
    """Saves a random policy and a random reward model of one shape, each with its tokenizer, in `folder`."""
    tokenizer = build_tokenizer(SHAPES[shape].vocab_size)
    config = copy.deepcopy(SHAPES[shape])
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    config.bos_token_id, config.num_labels = None, 1
    torch.manual_seed(0)
    for name, kind in (("policy", AutoModelForCausalLM), ("reward", AutoModelForSequenceClassification)):
        with torch.device(device):
            model = kind.from_config(config, dtype=torch.bfloat16 if bf16 else torch.float32)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def build_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with a word for each token, so that what random weights write is read back as it was."""
    words = [PAD, END, USER, ASSISTANT, *(f"w{index}" for index in range(size - 4))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, chat_template=CHAT_TEMPLATE, model_max_length=100_000
    )


def random_prompts(count: int, words: int, vocabulary: int, *, seed: int = 0) -> list[list[dict[str, str]]]:
    """Returns conversations of one message of about so many random words."""
    draw = random.Random(seed)
    lengths = [draw.randint(max(1, words // 2), words) for _ in range(count)]
    return [
        [{"role": "user", "content": " ".join(f"w{draw.randrange(vocabulary - 4)}" for _ in range(length))}]
        for length in lengths
    ]
