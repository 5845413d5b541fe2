"""Versions by hand: into service and out of it, before some users, checked and pruned."""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta

from rich.console import Console
from rich.table import Table

from ..config import ConfigError, check_choice, check_range
from ..registry import ModelRegistry
from ..types import Canary, ModelRole, ModelVersion
from .arguments import add_registry

_SOON = "servers that follow the registry go along within seconds"


def add_promote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="a candidate, or a version that was live before")
    _add_reason(parser, default="promoted by hand")
    parser.set_defaults(run=_promote)


def _promote(args: argparse.Namespace) -> None:
    registry = ModelRegistry(args.registry)
    # Every server would refuse a version that is not whole, and go on with the one before.
    registry.verify(args.version)
    version = registry.promote(args.version, args.reason)
    print(f"{version.name} is in service: {version.reason}; {_SOON}")


def add_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "version",
        nargs="?",
        metavar="VERSION",
        help="the version to take back: the live one, or a canary's candidate (default: the live policy)",
    )
    _add_reason(parser, default="rolled back by hand")
    parser.set_defaults(run=_rollback)


def _rollback(args: argparse.Namespace) -> None:
    registry = ModelRegistry(args.registry)
    canary = registry.canary()
    if canary is not None and args.version is None:
        raise ConfigError(f"a canary is running: say which to take back, {canary.version} or {canary.incumbent}")
    if canary is not None and args.version == canary.version:
        registry.end_canary(canary.version, args.reason, promote=False)
        print(f"{canary.version} is refused, and {canary.incumbent} answers all users; {_SOON}")
        return
    role = ModelRole.POLICY if args.version is None else registry.get(args.version).role
    back = registry.rollback(role, args.reason, version=args.version)
    print(f"{back.name} is back in service: {back.reason}; {_SOON}")


def add_canary(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="answer a share of the users with a candidate")
    start.add_argument("version", metavar="VERSION", help="a policy that is a candidate")
    start.add_argument("--share", type=float, default=0.1, help="share of the users who get it (default: 0.1)")
    start.set_defaults(run=_start_canary)
    status = commands.add_parser("status", help="the canary that runs, and those that ran")
    status.set_defaults(run=_show_canaries)
    for command in (start, status):
        add_registry(command)


def _start_canary(args: argparse.Namespace) -> None:
    registry = ModelRegistry(args.registry)
    registry.verify(args.version)
    canary = registry.start_canary(args.version, args.share)
    print(f"{canary.version} answers {canary.share:.0%} of the users beside {canary.incumbent}; {_SOON}")
    print(f"End it with `online-trl promote {canary.version}` or `online-trl rollback {canary.version}`.")


def _show_canaries(args: argparse.Namespace) -> None:
    registry = ModelRegistry(args.registry)
    table = Table("candidate", "beside", "share", "started", "ended", "outcome", "why", title="Canaries, oldest first")
    for canary in registry.canaries():
        table.add_row(*_canary_row(canary))
    Console().print(table)


def _canary_row(canary: Canary) -> tuple[str, ...]:
    outcome = "running" if canary.outcome is None else canary.outcome.value.replace("_", " ")
    times = (_minute(canary.started_at), _minute(canary.ended_at))
    return canary.version, canary.incumbent, f"{canary.share:.0%}", *times, outcome, canary.reason


def _minute(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M}"


def add_registry_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    prune = commands.add_parser("prune", help="remove the weights of old versions; what is known of them stays")
    prune.add_argument("--keep", type=int, default=10, help="keep so many of the newest of each role (default: 10)")
    prune.add_argument("--days", type=float, default=0.0, help="keep what was published in the last days, too")
    prune.add_argument("--role", help="policy or reward (default: both)")
    prune.set_defaults(run=_prune)
    verify = commands.add_parser("verify", help="compare the files of versions with their checksums")
    verify.add_argument("versions", nargs="*", metavar="VERSION", help="default: all that were not pruned")
    verify.set_defaults(run=_verify)
    for command in (prune, verify):
        add_registry(command)


def _prune(args: argparse.Namespace) -> None:
    roles = [role.value for role in ModelRole]
    check_range("keep", args.keep, 0, None)
    check_range("days", args.days, 0, None)
    if args.role is not None:
        check_choice("role", args.role, roles)
        roles = [args.role]
    registry = ModelRegistry(args.registry)
    for role in map(ModelRole, roles):
        gone = registry.prune(role, keep=args.keep, older_than=timedelta(days=args.days))
        print(f"{role.value}: {'pruned ' + ', '.join(gone) if gone else 'nothing to prune'}")


def _verify(args: argparse.Namespace) -> None:
    registry = ModelRegistry(args.registry)
    names = args.versions or [version.name for version in _loadable(registry)]
    for name in names:
        registry.verify(name)
    print(f"{len(names)} versions are as they were published")


def _loadable(registry: ModelRegistry) -> list[ModelVersion]:
    return [version for role in ModelRole for version in registry.versions(role) if version.pruned_at is None]


def _add_reason(parser: argparse.ArgumentParser, *, default: str) -> None:
    add_registry(parser)
    parser.add_argument("--reason", default=default, help=f"why, for whoever reads it later (default: {default})")
