"""
What an ensemble of heads costs: the time of a refresh and of scoring with several heads, as ratios to one head.

`python benchmarks/reward_ensemble.py` measures the size of the demo, `--hidden-size 512 --layers 8` a bigger one. The
arms take turns, and the processor's time stands beside the clock's, which other programs on the machine lengthen.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM, PrinterCallback
from transformers.utils import logging as transformers_logging

from online_trl.rewards.reward_trainer import OnlineRewardConfig, OnlineRewardTrainer
from online_trl.simulation.base_policy import build_tokenizer

_TEXT = "yes no maybe open the page and press reset then wait for a new password and ask again if it is late"
_WORDS = _TEXT.split()


def make_model(folder: Path, *, hidden_size: int, layers: int) -> int:
    """Saves a random Llama and its tokenizer; returns the number of its parameters."""
    tokenizer = build_tokenizer([_TEXT])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def make_statements(count: int, words: int) -> Dataset:
    """Pairs, rankings of four, ties and thumbs of random words, in the format of `statement_dataset`."""
    draw = random.Random(0)

    def message(role: str) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(draw.choices(_WORDS, k=words))}]

    said = [([1, 2], None), ([1, 2], None), ([1, 2, 3, 4], None), ([1, 1], None), ([1], 1.0), ([1], 0.0)]
    rows = []
    for index in range(count):
        ranks, score = said[index % len(said)]
        rows.append(
            {
                "prompt": message("user"),
                "completions": [message("assistant") for _ in ranks],
                "ranks": ranks,
                "score": score,
                "margin": None,
                "weight": 1.0,
                "voice": f"user {index % 20}",
                "key": str(index),
            }
        )
    return Dataset.from_list(rows)


def refresh(model: Path, rows: Dataset, heads: int, batch_size: int, **settings: Any) -> OnlineRewardTrainer:
    with tempfile.TemporaryDirectory() as folder:
        args = OnlineRewardConfig(
            output_dir=folder,
            num_heads=heads,
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            **settings,
        )
        trainer = OnlineRewardTrainer(str(model), args, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Runs something; returns the seconds of the clock and those of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - clock, time.process_time() - processor


def ratio(one: Sequence[float], many: Sequence[float]) -> float:
    """Of each turn on its own, so that what slows the machine down for a while hits both sides."""
    return statistics.median(above / below for below, above in zip(one, many, strict=True))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    parameters = make_model(folder, hidden_size=arguments.hidden_size, layers=arguments.layers)
    rows = make_statements(arguments.rows, arguments.words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = torch.randint(5, 40, (arguments.batch_size, 2 * arguments.words), device=device)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    scorers = {
        heads: AutoModelForSequenceClassification.from_pretrained(folder, num_labels=heads).to(device).eval()
        for heads in (1, arguments.heads)
    }

    def score(heads: int) -> None:
        with torch.inference_mode():
            for _ in range(max(1, arguments.rows // arguments.batch_size)):
                scorers[heads](**inputs, use_cache=False).logits.cpu()

    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for turn in range(arguments.repeats + 1):
        for heads in scorers:
            for name, work in (
                ("refresh", lambda heads=heads: refresh(folder, rows, heads, arguments.batch_size)),
                (
                    "refresh, head only",
                    lambda heads=heads: refresh(folder, rows, heads, arguments.batch_size, freeze_backbone=True),
                ),
                ("scoring", lambda heads=heads: score(heads)),
            ):
                spent = seconds(work)
                if turn:  # the first one warms up
                    times.setdefault((name, heads), []).append(spent)
    arms = []
    for name in dict.fromkeys(name for name, _ in times):
        (one, one_processor), (many, many_processor) = (zip(*times[name, heads], strict=True) for heads in scorers)
        arms.append(
            {
                "what": name,
                "one_head_seconds": statistics.median(one),
                "ensemble_seconds": statistics.median(many),
                "ratio": ratio(one, many),
                "processor_ratio": ratio(one_processor, many_processor),
            }
        )
    return {"parameters": parameters, "heads": arguments.heads, "device": device, "arms": arms}


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--hidden-size", type=int, default=96)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=192, help="statements of a refresh, and answers that are scored")
    parser.add_argument("--words", type=int, default=24, help="words of a prompt, and of an answer")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the result to as well")
    return parser.parse_args(given)


def main() -> None:
    arguments = parse_arguments()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    print(f"{result['parameters'] / 1e6:.1f} M parameters, {result['device']}, {arguments.rows} statements")
    print(f"| what | 1 head | {arguments.heads} heads | ratio | of processor time |\n|---|---|---|---|---|")
    for arm in result["arms"]:
        print(
            f"| {arm['what']} | {arm['one_head_seconds']:.2f} s | {arm['ensemble_seconds']:.2f} s "
            f"| {arm['ratio']:.2f} × | {arm['processor_ratio']:.2f} × |"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
