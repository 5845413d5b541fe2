"""Datasets into the log, and out of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config import ConfigError, check_choice
from ..store import FeedbackStore, open_store
from ..types import Purpose
from .arguments import add_store

EXPORT_FORMATS = ("preference", "unpaired", "prompt")


def add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a preference dataset in TRL's format: hub id, folder, JSON or Parquet file")
    add_store(parser)
    parser.add_argument("--config", help="configuration of a hub dataset")
    parser.add_argument("--split", default="train", help="split to take (default: train)")
    parser.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> None:
    from ..dataset_import import import_dataset, load_hf_dataset

    dataset = load_hf_dataset(args.dataset, args.config, args.split)
    with FeedbackStore(args.store) as store:
        added = import_dataset(store, dataset)
    print(f"{added} rows of feedback added to {args.store}")


def add_export(parser: argparse.ArgumentParser) -> None:
    add_store(parser, also_remote=True)
    parser.add_argument("--format", default="preference", help=f"one of: {', '.join(EXPORT_FORMATS)}")
    parser.add_argument(
        "--output", required=True, type=Path, help="a .jsonl or .parquet file, or a folder for `load_from_disk`"
    )
    parser.add_argument(
        "--provenance", action="store_true", help="add columns that say where each row comes from, and its weight"
    )
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    check_choice("format", args.format, EXPORT_FORMATS)
    from ..preferences import preference_dataset, prompt_dataset, read_preferences, unpaired_dataset

    with open_store(args.store) as store:
        preferences = read_preferences(store, after=0, upto=store.latest_seq())
        interactions = store.interactions(purpose=Purpose.CHAT)
    dataset = {
        "preference": lambda: preference_dataset(preferences.pairs, provenance=args.provenance),
        "unpaired": lambda: unpaired_dataset(preferences.labels, provenance=args.provenance),
        "prompt": lambda: prompt_dataset(interactions, provenance=args.provenance),
    }[args.format]()
    if not len(dataset):
        raise ConfigError(f"the log {args.store} gives no rows of the format `{args.format}`")
    writers = {".jsonl": dataset.to_json, ".json": dataset.to_json, ".parquet": dataset.to_parquet}
    writers.get(args.output.suffix, dataset.save_to_disk)(str(args.output))
    print(f"{len(dataset)} rows written to {args.output}")
