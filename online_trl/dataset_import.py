"""Preference datasets into the log: what others have judged, as if it had been said about answers of this deployment.

A row is known by its contents: its ids and keys are made from them, so the log recognises a row that it already holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .config import ConfigError
from .store import FeedbackStore
from .types import Feedback, FeedbackKind, FeedbackSource, Interaction, Message

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

IMPORT_VERSION = "import"
"""Policy version that imported answers are ascribed to."""

_CHUNK = 500
_NAMESPACE = uuid.UUID("6f6e6c69-6e65-5474-726c-696d706f7274")
_EXPECTED = (
    "`chosen` and `rejected`, with or without `prompt` (preference), or `prompt`, `completion` and `label` (unpaired "
    "preference)"
)


class DatasetFormatError(ValueError):
    """A dataset is in none of TRL's preference formats, or one of its rows is not."""


def load_hf_dataset(name: str, config: str | None = None, split: str = "train") -> Dataset:
    """
    Loads a dataset from wherever it is.

    Args:
        name (`str`):
            A folder written by `save_to_disk`, a JSON, JSON Lines or Parquet file, or a hub id.
        config (`str`, *optional*):
            Configuration of a hub dataset.
        split (`str`, *optional*, defaults to `"train"`):
            Split to take, of what is divided into splits.

    Raises:
        [`~config.ConfigError`]: if there is no such dataset or split.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetNotFoundError

    path = Path(name)
    try:
        if path.is_dir() and any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
            loaded = load_from_disk(name)
            return loaded[split] if isinstance(loaded, DatasetDict) else loaded
        if path.is_file():
            builder = "parquet" if path.suffix == ".parquet" else "json"
            return load_dataset(builder, data_files=name, split="train")
        return load_dataset(name, config, split=split)
    except (OSError, KeyError, ValueError, DatasetNotFoundError) as error:
        raise ConfigError(f"cannot load the dataset `{name}` (split `{split}`): {error}") from error


def import_dataset(
    store: FeedbackStore,
    dataset: Dataset | IterableDataset,
    *,
    user_id: str = "import",
    source: FeedbackSource = FeedbackSource.HUMAN,
) -> int:
    """
    Appends a preference dataset to the log: a preference row as a comparison, an unpaired row as a thumb.

    Rows are recognised by their contents, so importing them again adds nothing. Every row is a session of its own, and
    its answers are of the policy version `import`. A plain prompt becomes one user message.

    Args:
        store ([`~store.FeedbackStore`]):
            The log.
        dataset (`Dataset` or `IterableDataset`):
            In one of TRL's preference formats, conversational or plain: `chosen` and `rejected`, with `prompt` or
            beginning with the same one, or `prompt`, `completion` and `label`.
        user_id (`str`, *optional*, defaults to `"import"`):
            User to whom the rows are ascribed.
        source ([`~types.FeedbackSource`], *optional*, defaults to `FeedbackSource.HUMAN`):
            Who made the judgements.

    Returns:
        `int`: The number of feedback rows added. Rows that prefer an answer to itself, and those that were erased from
        the log, are left out.

    Raises:
        [`DatasetFormatError`]: if columns are missing, or a row cannot be read.
    """
    read_row = _row_reader(dataset)
    occurrences: Counter[str] = Counter()
    rows = enumerate(dataset)
    added = skipped = 0
    while chunk := list(islice(rows, _CHUNK)):
        judgements = [_read(read_row, number, row) for number, row in chunk]
        records = [_records(judged, occurrences, user_id, source) for judged in judgements if judged is not None]
        skipped += len(chunk) - len(records)
        records = _not_erased(store, records)
        end = store.latest_seq()
        store.add_interactions([answer for answers, _ in records for answer in answers])
        stored = store.add_feedback_batch([feedback for _, feedback in records])
        added += sum(row.seq is not None and row.seq > end for row in stored)
    if skipped:
        logger.warning("%d rows prefer an answer to itself and were left out", skipped)
    return added


def _not_erased(
    store: FeedbackStore, records: list[tuple[list[Interaction], Feedback]]
) -> list[tuple[list[Interaction], Feedback]]:
    erased = store.erased_among(name for _, feedback in records for name in feedback.interaction_ids)
    return [(answers, feedback) for answers, feedback in records if erased.isdisjoint(feedback.interaction_ids)]


@dataclass(frozen=True)
class _Judgement:
    """One row of a dataset: answers to a prompt and what was said of them."""

    prompt: list[Message]
    completions: list[list[Message]]
    kind: FeedbackKind
    value: Any


_Row = Mapping[str, Any]
_Content = str | list[Message]
_RowReader = Callable[[_Row], _Judgement | None]


def _row_reader(dataset: Dataset | IterableDataset) -> _RowReader:
    columns = dataset.column_names
    if isinstance(columns, Mapping):
        raise DatasetFormatError(f"the dataset has the splits {', '.join(columns)}; pass one of them")
    if columns is None:
        columns = list(next(iter(dataset), {}))
    if {"chosen", "rejected"} <= set(columns):
        return _read_preference
    if {"prompt", "completion", "label"} <= set(columns):
        return _read_label
    raise DatasetFormatError(f"the dataset has the columns {', '.join(columns)}; expected are {_EXPECTED}")


def _read(read_row: _RowReader, number: int, row: _Row) -> _Judgement | None:
    try:
        return read_row(row)
    except DatasetFormatError as error:
        raise DatasetFormatError(f"row {number}: {error}") from error


def _read_preference(row: _Row) -> _Judgement | None:
    chosen, rejected = _text_or_messages(row, "chosen"), _text_or_messages(row, "rejected")
    if chosen == rejected:
        return None
    # Some conversational datasets repeat the beginning of the conversation as a plain `prompt` column.
    if row.get("prompt") is None or (isinstance(row["prompt"], str) and not isinstance(chosen, str)):
        prompt, chosen, rejected = _split_prompt(chosen, rejected)
    else:
        prompt = _text_or_messages(row, "prompt")
    completions = [_messages("assistant", chosen), _messages("assistant", rejected)]
    return _Judgement(_messages("user", prompt), completions, FeedbackKind.COMPARISON, "first")


def _split_prompt(chosen: _Content, rejected: _Content) -> tuple[_Content, _Content, _Content]:
    """As TRL's `extract_prompt`, except that a plain text is cut between two words, never inside one."""
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    if isinstance(chosen, str):
        last_space = re.search(r"\s\S*\Z", chosen[:shared])
        shared = last_space.start() if last_space else 0
    if not (shared and chosen[shared:] and rejected[shared:]):
        raise DatasetFormatError("there is no `prompt`; `chosen` and `rejected` have to begin with it, then to differ")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _read_label(row: _Row) -> _Judgement:
    label = row["label"]
    if not isinstance(label, int) or label not in (0, 1):
        raise DatasetFormatError(f"`label` is {label!r}; expected is true or false")
    prompt, completion = _text_or_messages(row, "prompt"), _text_or_messages(row, "completion")
    return _Judgement(
        _messages("user", prompt), [_messages("assistant", completion)], FeedbackKind.BINARY, bool(label)
    )


def _text_or_messages(row: _Row, name: str) -> _Content:
    value = row[name]
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(_is_message(message) for message in value):
        raise DatasetFormatError(f"`{name}` is {value!r}; expected is a text, or messages {{'role': …, 'content': …}}")
    # A dataset fills up with None what only some of its messages have.
    return [cast(Message, {key: part for key, part in message.items() if part is not None}) for message in value]


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _messages(role: str, content: _Content) -> list[Message]:
    return [{"role": role, "content": content}] if isinstance(content, str) else content


def _records(
    judged: _Judgement, occurrences: Counter[str], user_id: str, source: FeedbackSource
) -> tuple[list[Interaction], Feedback]:
    contents = json.dumps([judged.prompt, judged.completions, judged.value, user_id, source], sort_keys=True)
    digest = hashlib.sha256(contents.encode()).hexdigest()
    # A row that a dataset holds twice was judged twice.
    occurrences[digest] += 1
    name = f"import-{digest}-{occurrences[digest]}"
    answers = [
        Interaction(
            prompt=judged.prompt,
            completion=completion,
            policy_version=IMPORT_VERSION,
            session_id=name,
            user_id=user_id,
            interaction_id=str(uuid.uuid5(_NAMESPACE, f"{name}-{position}")),
        )
        for position, completion in enumerate(judged.completions)
    ]
    feedback = Feedback(
        kind=judged.kind,
        interaction_ids=[answer.interaction_id for answer in answers],
        value=judged.value,
        user_id=user_id,
        source=source,
        idempotency_key=name,
    )
    return answers, feedback
