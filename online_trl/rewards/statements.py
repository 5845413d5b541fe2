"""What people said, as rows of tokens and as batches of them: pairs, rankings, ties and verdicts side by side."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase
from trl.data_utils import get_dataset_column_names
from trl.trainer.utils import pad

from .ensemble import bootstrap_weights

logger = logging.getLogger(__name__)

_FEATURES = Features(
    {
        "answers_ids": List(List(Value("int32"))),
        "ranks": List(Value("int64")),
        "score": Value("float64"),
        "margin": Value("float64"),
        "weight": Value("float64"),
        "voice": Value("string"),
        "key": Value("string"),
    }
)
STATEMENT_COLUMNS = tuple(_FEATURES)
_FORMATS = (
    ("completions", "ranks"),
    ("chosen", "rejected"),
    ("completion", "label"),
    ("completion", "score"),
    ("chosen_ids", "rejected_ids"),
)


class NothingToTrainOnError(ValueError):
    """No statement is left that a reward model could learn from."""


def tokenize_statements(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    num_proc: int | None = None,
    name: str = "train",
) -> Dataset | IterableDataset:
    """
    Turns a dataset of any of the formats that [`~online_trl.rewards.reward_trainer.OnlineRewardTrainer`] takes into
    rows of tokens, as TRL's `RewardTrainer` makes them: the whole conversation by the chat template, plain text with
    the end-of-sequence token behind it. The answers of a row stand best first.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            What to convert; rows that are converted already are returned as they are.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer of the reward model.
        max_length (`int`, *optional*):
            Answers with more tokens are left out, and with them, with a warning, the rows that nothing is left of.
        num_proc (`int`, *optional*):
            Processes to use.
        name (`str`, *optional*, defaults to `"train"`):
            What the dataset is called in messages.

    Raises:
        `ValueError`: if the columns are those of no format, or a row contradicts itself.
        [`NothingToTrainOnError`]: if no row is left.
    """
    columns = get_dataset_column_names(dataset)
    if "answers_ids" in columns:
        return dataset
    if not any(set(format_) <= set(columns) for format_ in _FORMATS):
        known = "; ".join(" and ".join(f"`{column}`" for column in format_) for format_ in _FORMATS)
        raise ValueError(f"the {name} dataset has the columns {', '.join(columns)}; one of these is needed: {known}")
    # `IterableDataset` knows neither.
    options = {"num_proc": num_proc} if isinstance(dataset, Dataset) else {}
    progress = {"desc": f"Tokenizing {name} dataset"} if isinstance(dataset, Dataset) else {}
    with PartialState().main_process_first():
        dataset = dataset.map(
            _statement,
            fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
            remove_columns=columns,
            features=_FEATURES,
            **options,
            **progress,
        )
        fitting = dataset.filter(_says_something, **options)
    if isinstance(dataset, Dataset):
        _check_some_fit(len(fitting), len(dataset), max_length, name)
    return fitting


def _check_some_fit(fitting: int, rows: int, max_length: int | None, name: str) -> None:
    if fitting == 0:
        raise NothingToTrainOnError(
            f"the {name} dataset has no row with answers of at most `max_length` = {max_length} tokens"
        )
    if fitting < rows and PartialState().is_main_process:
        logger.warning(
            "%d of the %d rows of the %s dataset are left out: their answers have more than `max_length` = %s tokens",
            *(rows - fitting, rows, name, max_length),
        )


def stable_number(text: str) -> int:
    """Returns a number that stands for a text in every process, small enough for a tensor of int64."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _statement(example: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> dict[str, Any]:
    answers, ranks = _answers(example)
    score = example.get("score", example.get("label"))
    if len(answers) != len(ranks):
        raise ValueError(f"a row has {len(answers)} answers and the ranks {ranks}; each answer needs one rank")
    if (score is None) != (len(answers) > 1):
        raise ValueError(
            f"a row has {len(answers)} answers and the score {score}; a score goes with one answer, and several "
            "answers are compared by their ranks"
        )
    ids = [_tokens(answer, example, tokenizer) for answer in answers]
    fitting = [index for index, answer in enumerate(ids) if max_length is None or len(answer) <= max_length]
    order = sorted(fitting, key=lambda index: ranks[index])
    said = {
        "answers_ids": [ids[index] for index in order],
        "ranks": [ranks[index] for index in order],
        "score": None if score is None else float(score),
        "margin": example.get("margin"),
    }
    weight = example.get("weight")
    return {
        **said,
        "weight": 1.0 if weight is None else weight,
        "voice": example.get("voice") or "",
        # What two users say of one answer are two statements.
        "key": example.get("key") or json.dumps([said, example.get("voice")]),
    }


def _answers(example: dict[str, Any]) -> tuple[list[Any], list[int]]:
    """Each answer with its prompt before it (as messages, text or token ids), and its rank."""
    if "chosen_ids" in example:
        return [example["chosen_ids"], example["rejected_ids"]], [1, 2]
    if "completions" in example:
        completions, ranks = example["completions"], example["ranks"]
    elif "chosen" in example:
        completions, ranks = [example["chosen"], example["rejected"]], [1, 2]
    else:
        completions, ranks = [example["completion"]], [1]
    if example.get("prompt") is not None:
        completions = [example["prompt"] + completion for completion in completions]
    return completions, ranks


def _tokens(answer: Any, example: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if isinstance(answer, str):
        text = answer if answer.endswith(tokenizer.eos_token) else answer + tokenizer.eos_token
        return tokenizer(text=text)["input_ids"]
    if answer and isinstance(answer[0], int):
        return answer
    tools = example.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    options = example.get("chat_template_kwargs") or {}
    return tokenizer.apply_chat_template(answer, tokenize=True, return_dict=True, tools=tools, **options)["input_ids"]


def _says_something(row: dict[str, Any]) -> bool:
    return len(row["answers_ids"]) >= (2 if row["score"] is None else 1)


@dataclass
class StatementCollator:
    """
    Makes a batch of `N` statements: their `A` answers below each other, and which of them belong to which statement.

    | key | shape | |
    |---|---|---|
    | `numbers`, `voices` | `(N,)` | which statement it is, and whose, as numbers |
    | `weights`, `bootstrap` | `(N,)`, `(N, K)` | how much it counts; which heads learn from it |
    | `verdicts` | `(N,)` | the verdict, NaN where answers are compared |
    | `margins` | `(N,)` | by how much the first is ahead, 0 if nobody said |
    | `places`, `mask`, `ranks` | `(N, L)` | where in the batch each answer is, whether there is one, its rank |
    | `input_ids`, `attention_mask` | `(A, T)` | the answers, padded on the right |

    Args:
        pad_token_id (`int`):
            Token to pad with.
        num_heads (`int`):
            `K`.
        pad_to_multiple_of (`int`, *optional*):
            Pads to a multiple of this many tokens.
    """

    pad_token_id: int
    num_heads: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        answers = [torch.tensor(ids) for row in rows for ids in row["answers_ids"]]
        lengths = [len(row["answers_ids"]) for row in rows]
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        places = torch.zeros_like(mask, dtype=torch.long).masked_scatter(mask, torch.arange(len(answers)))
        ranks = torch.tensor([rank for row in rows for rank in row["ranks"]])
        numbers = [stable_number(f"{row['key']} of {len(row['answers_ids'])}") for row in rows]
        # The rows come first: transformers takes the batch size from the first tensor.
        return {
            "numbers": torch.tensor(numbers),
            "voices": torch.tensor([stable_number(row["voice"]) for row in rows]),
            "weights": torch.tensor([row["weight"] for row in rows], dtype=torch.float),
            "bootstrap": bootstrap_weights([row["key"] for row in rows], self.num_heads),
            "verdicts": _floats([row["score"] for row in rows], float("nan")),
            "margins": _floats([row["margin"] for row in rows], 0.0),
            "places": places,
            "mask": mask,
            "ranks": torch.zeros_like(places).masked_scatter(mask, ranks),
            "input_ids": self._pad(answers, self.pad_token_id),
            "attention_mask": self._pad([torch.ones_like(ids) for ids in answers], 0),
        }

    def _pad(self, tensors: list[torch.Tensor], value: int) -> torch.Tensor:
        return pad(tensors, padding_value=value, padding_side="right", pad_to_multiple_of=self.pad_to_multiple_of)


def _floats(values: Sequence[float | None], missing: float) -> torch.Tensor:
    return torch.tensor([missing if value is None else value for value in values], dtype=torch.float)
