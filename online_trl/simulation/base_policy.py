"""
A small policy made on the spot: a Llama of about 0.5 million parameters, taught to talk by TRL's `SFTTrainer`.

What it writes is readable and mediocre, with every good habit seen now and then. The saved folder is an ordinary
checkpoint: `AutoModelForCausalLM`, `AutoTokenizer` and TRL's trainers load it like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from . import helpdesk

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
VOCABULARY_SIZE = 768
CONTEXT_LENGTH = 256

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
<|assistant|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}
{%- else -%}
<|user|>{{ message.content }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""


def train_base_policy(
    output_dir: str | Path,
    *,
    seed: int,
    max_steps: int = 200,
    conversations: int = 4000,
    batch_size: int = 32,
    learning_rate: float = 6e-3,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """
    Trains the base policy and saves it, with its tokenizer, in `output_dir`.

    Args:
        output_dir (`str` or `Path`):
            Folder to save in; created if missing.
        seed (`int`):
            Decides the conversations, the initial weights and the order of the data.
        max_steps (`int`, *optional*, defaults to `200`):
            Optimizer steps. 200 take about 25 seconds on two cores; from about 60 on the text is readable.
        conversations (`int`, *optional*, defaults to `4000`):
            How many generated conversations to learn from.
        batch_size (`int`, *optional*, defaults to `32`):
            Conversations per step.
        learning_rate (`float`, *optional*, defaults to `6e-3`):
            Peak learning rate.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            Added to the trainer, for example to show progress.

    Returns:
        `Path`: `output_dir`.
    """
    output_dir = Path(output_dir)
    rows = helpdesk.generate_conversations(conversations, seed)
    tokenizer = build_tokenizer([message["content"] for row in rows for message in row["messages"]])
    set_seed(seed)
    trainer = SFTTrainer(
        model=_build_model(tokenizer),
        args=SFTConfig(
            output_dir=str(output_dir),
            max_steps=max_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, max_steps // 20),
            weight_decay=0.01,
            adam_beta2=0.98,
            max_length=CONTEXT_LENGTH,
            assistant_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            use_cache=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # whoever wants to see progress passes a callback
    trainer.train()
    trainer.model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return output_dir


def build_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """
    Returns a byte-level BPE tokenizer trained on `texts`, with the chat template and its special tokens.

    The base class is saved under its own name, so that `AutoTokenizer` loads exactly this tokenizer back rather than
    the one that usually goes with the model type.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special_tokens = [AddedToken(token, special=True, normalized=False) for token in (PAD, USER, ASSISTANT, END)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            tie_word_embeddings=True,
            initializer_range=0.06,  # at the usual 0.02 so small a model needs far longer to learn to repeat the item
            dtype=torch.float32,
            **ends,
        )
    )
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, max_new_tokens=64, **ends)
    return model
