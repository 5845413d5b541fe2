"""What there is, at a glance."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import ConfigError
from ..loop import STATE_FILE
from ..registry import ModelRegistry
from ..report import Gatherer, RunReport, console_table
from ..report.gather import loop_status
from ..report.page import duration
from ..report.result import interval, number
from ..store import StoreSummary, open_store
from ..types import ModelRole, ModelVersion
from .arguments import add_registry, add_store

_EVENTS = 5


def add_status(parser: argparse.ArgumentParser) -> None:
    add_store(parser, also_remote=True)
    add_registry(parser, required=False)
    parser.add_argument("--loop", type=Path, metavar="DIR", help="`output_dir` of an `online-trl run`")
    parser.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> None:
    loop = None if args.loop is None else loop_status(args.loop)
    if args.loop is not None and loop is None:
        raise ConfigError(f"`--loop` is {args.loop}, where no loop has begun: it holds no {STATE_FILE}")
    registry = None if args.registry is None else ModelRegistry(args.registry)
    with open_store(args.store) as store:
        summary = store.summary()
        is_known = summary.answers_by_version or (registry is not None and registry.versions(ModelRole.POLICY))
        report = replace(Gatherer(store, registry).report(), loop=loop) if is_known else None
    console = Console()
    console.print(_log_table(args.store, summary))
    if registry is not None:
        console.print(_versions_table(registry))
    if report is not None:
        console.print(console_table(report))
        for line in _lines(report):
            console.print(Text(line))


def _log_table(url: str, summary: StoreSummary) -> Table:
    log = Table("what", "rows", title=f"The log {url}", title_justify="left")
    log.add_row("answers", str(summary.interactions))
    for version, count in summary.answers_by_version.items():
        log.add_row(f"  by {version}", str(count))
    log.add_row("users", str(summary.users))
    for kind, count in summary.feedback_by_kind.items():
        log.add_row(f"feedback: {kind}", str(count))
    return log


def _versions_table(registry: ModelRegistry) -> Table:
    table = Table("version", "status", "parent", "published", "why", title=f"Versions in {registry.location}")
    for role in ModelRole:
        for version in registry.versions(role):
            published = f"{version.created_at:%Y-%m-%d %H:%M}"
            table.add_row(version.name, _status_of(version), version.parent or "", published, version.reason)
    return table


def _status_of(version: ModelVersion) -> str:
    return version.status.value if version.pruned_at is None else f"{version.status.value}, pruned"


def _lines(report: RunReport) -> list[str]:
    lines = []
    if report.live.chats is not None:
        chats = report.live.chats
        lines.append(
            f"In chats, {chats.policy_version}: satisfaction {number(chats.satisfaction.mean)} "
            f"({interval(chats.satisfaction)}, n {chats.satisfaction.n}), "
            f"{100 * chats.response_rate.mean:.0f} % of {chats.answers} answers got a response."
        )
    if report.delay is not None:
        lines.append(
            f"From feedback to a policy in service that learned from it: median {duration(report.delay.median)}, nine "
            f"in ten within {duration(report.delay.most)}; from {report.delay.unlearned:.0%} of all feedback, none "
            "has yet."
        )
    lines += [f"Drift, {row.version}: {row.drift}" for row in report.reward_history if row.drift]
    if report.canary is not None:
        lines.append(
            f"Canary: {report.canary.version} answers {report.canary.share:.0%} beside {report.canary.incumbent}."
        )
    lines += [f"{event.at:%Y-%m-%d %H:%M}  {event.version} {event.what}" for event in report.events[-_EVENTS:]]
    if report.loop is not None:
        stopped = " It is not running." if report.loop.is_running is False else ""
        lines.append(
            f"The loop is in round {report.loop.round}, last at {report.loop.step}.{stopped} "
            f"{report.loop.trouble}".strip()
        )
        lines += [f"  {name}: {how}" for name, how in report.loop.processes.items()]
    return lines
