"""What there is, at a glance."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from ..registry import ModelRegistry
from ..store import open_store
from ..types import ModelRole, ModelVersion
from .arguments import add_registry, add_store


def add_status(parser: argparse.ArgumentParser) -> None:
    add_store(parser, also_remote=True)
    add_registry(parser, required=False)
    parser.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> None:
    console = Console()
    with open_store(args.store) as store:
        summary = store.summary()
    log = Table("what", "rows", title=f"The log {args.store}", title_justify="left")
    log.add_row("answers", str(summary.interactions))
    for version, count in summary.answers_by_version.items():
        log.add_row(f"  by {version}", str(count))
    log.add_row("users", str(summary.users))
    for kind, count in summary.feedback_by_kind.items():
        log.add_row(f"feedback: {kind}", str(count))
    console.print(log)
    if args.registry is not None:
        console.print(_versions_table(ModelRegistry(args.registry)))


def _versions_table(registry: ModelRegistry) -> Table:
    table = Table("version", "status", "parent", "published", "why", title=f"Versions in {registry.location}")
    for role in ModelRole:
        for version in registry.versions(role):
            published = f"{version.created_at:%Y-%m-%d %H:%M}"
            table.add_row(version.name, _status_of(version), version.parent or "", published, version.reason)
    return table


def _status_of(version: ModelVersion) -> str:
    return version.status.value if version.pruned_at is None else f"{version.status.value}, pruned"
