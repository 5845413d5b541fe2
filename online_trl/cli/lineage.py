"""Which versions learned from what, and what made a version."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from ..config import ConfigError
from ..lineage import feedback_behind, ingredients, uses
from ..registry import ModelRegistry
from ..store import LogReader, Trace, open_store
from ..types import ErasedSubject
from .arguments import add_registry


def add_lineage(parser: argparse.ArgumentParser) -> None:
    add_registry(parser)
    parser.add_argument("--store", metavar="URL", help="the feedback log, for users and answers")
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--feedback", metavar="ID", help="which versions consumed a row of feedback")
    subject.add_argument("--interaction", metavar="ID", help="which versions consumed an answer or its prompt")
    subject.add_argument("--user", metavar="ID", help="which versions consumed what a user asked or said")
    subject.add_argument("--version", metavar="NAME", help="which feedback made a version")
    parser.add_argument("--json", action="store_true", help="all of it, as JSON")
    parser.set_defaults(run=_lineage)


def _lineage(args: argparse.Namespace) -> None:
    registry = ModelRegistry(args.registry)
    with open_store(args.store) if args.store is not None else contextlib.nullcontext() as store:
        report, table = _made_of(registry, store, args) if args.version else _used_by(registry, store, args)
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        Console().print(table)


def _used_by(
    registry: ModelRegistry, store: LogReader | None, args: argparse.Namespace
) -> tuple[dict[str, Any], Table]:
    asked, title = _traced(store, args)
    found = uses(registry, feedback_ids=asked.feedback_ids, interactions=asked.interactions)
    table = Table("version", "status", "how", title=title, title_justify="left")
    for use in found:
        table.add_row(use.version, use.status.value, ", ".join(use.how))
    report = {
        "interaction_ids": sorted(asked.interactions),
        "feedback_ids": sorted(asked.feedback_ids),
        "erased": sorted(asked.erased),
        "versions": [{"version": use.version, "status": use.status.value, "how": use.how} for use in found],
    }
    return report, table


def _traced(store: LogReader | None, args: argparse.Namespace) -> tuple[Trace, str]:
    if args.feedback is not None:
        erased = store.erased_among([args.feedback]) if store is not None else ()
        trace = Trace(feedback_ids=frozenset([args.feedback]), erased=frozenset(erased))
        return trace, f"Versions that consumed the feedback {args.feedback}{' (erased)' if erased else ''}"
    if store is None:
        raise ConfigError("the registry knows no users and no prompts: name the log with `--store`")
    if args.user is not None:
        trace = store.trace(ErasedSubject.USER, args.user)
        counted = (
            f"{len(trace.interactions)} answers, {len(trace.feedback_ids)} of feedback, {len(trace.erased)} erased"
        )
        return trace, f"Versions that consumed what the user {args.user} asked or said ({counted})"
    trace = store.trace(ErasedSubject.INTERACTION, args.interaction)
    return trace, f"Versions that consumed the answer {args.interaction}{' (erased)' if trace.erased else ''}"


def _made_of(
    registry: ModelRegistry, store: LogReader | None, args: argparse.Namespace
) -> tuple[dict[str, Any], Table]:
    made_of = ingredients(registry, args.version)
    behind = feedback_behind(made_of).feedback_ids
    erased = store.erased_among(behind) if store is not None else set()
    title = f"What made {args.version}: {len(behind)} rows of feedback, {len(erased)} erased since; --json names them"
    table = Table("version", "started from", "paid by", "trained on", "judged on", title=title, title_justify="left")
    for part in made_of:
        version, consumed = part.version, part.consumed
        counts = (str(len(sources.feedback_ids)) for sources in (consumed.trained_on, consumed.judged_on))
        table.add_row(version.name, version.parent or "", ", ".join(version.reward_versions), *counts)
    report = {
        "versions": [
            {
                "version": part.version.name,
                "parent": part.version.parent,
                "reward_versions": part.version.reward_versions,
                "prompt_interval": part.version.prompt_interval,
                "trained_on": sorted(part.consumed.trained_on.feedback_ids),
                "judged_on": sorted(part.consumed.judged_on.feedback_ids),
                "anchored_on": sorted(part.consumed.anchored_on.feedback_ids),
            }
            for part in made_of
        ],
        "feedback_ids": sorted(behind),
        "erased": sorted(erased),
    }
    return report, table
