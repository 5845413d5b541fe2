"""How good a version is."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..evaluation_records import as_record, plain_evaluation
from ..evaluation_settings import EvaluationSettings, read_evaluation_settings
from ..registry import ModelRegistry
from ..report.evaluation import evaluation_table
from ..store import LogReader, open_store
from ..types import PolicyEvaluation
from .arguments import add_registry


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    add_registry(parser)
    parser.add_argument("--store", metavar="URL", help="the feedback log, for prompts and the reward model's accuracy")
    parser.add_argument("--config", type=Path, metavar="YAML", help="what to measure, see `EvaluationSettings`")
    parser.add_argument("--version", metavar="NAME", help="the policy to measure (default: the newest)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    settings = read_evaluation_settings(args.config)
    registry = ModelRegistry(args.registry)
    with open_store(args.store) if args.store is not None else contextlib.nullcontext() as store:
        evaluation = _measure(settings, registry, store, args.version)
    # Nothing is recorded of an evaluation that was stopped.
    registry.record_evaluation(evaluation.policy_version, as_record(evaluation))
    if settings.report_to:
        from ..evaluate_script import log_to_trackers

        log_to_trackers(evaluation, settings.report_to)
    if args.json:
        print(json.dumps(plain_evaluation(evaluation), indent=1))
    else:
        Console().print(evaluation_table(evaluation))


def _measure(
    settings: EvaluationSettings, registry: ModelRegistry, store: LogReader | None, version: str | None
) -> PolicyEvaluation:
    from ..evaluate_script import Evaluation, newest_policy

    version = version or newest_policy(registry)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        return Evaluation(settings, registry, store, progress=show).evaluate(version)
