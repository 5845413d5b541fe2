"""Looking after the log: its schema, keys, quarantine and erasure."""

from __future__ import annotations

import argparse
import contextlib
import sys

from rich.console import Console
from rich.table import Column, Table

from ..config import check_choice
from ..database import Database
from ..migrations import REVISIONS
from ..store import FeedbackStore
from ..types import Scope
from .arguments import add_store


def add_database(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    upgrade = commands.add_parser("upgrade", help="bring a log of an older release up to date, or make a new one")
    add_store(upgrade)
    upgrade.set_defaults(run=_upgrade)


def _upgrade(args: argparse.Namespace) -> None:
    with contextlib.closing(Database(args.store)) as database:
        found, newest = database.found_revision, REVISIONS[-1]
        if found == newest:
            print(f"{database.name} is up to date: revision {newest}")
        elif found is None:
            print(f"{database.name} is new: revision {newest}")
        else:
            print(f"{database.name} upgraded from revision {found} to {newest}")


def add_keys(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key, and show it this once")
    scopes = ", ".join(scope.value for scope in Scope)
    create.add_argument("--scope", action="append", required=True, help=f"what it opens, repeatable: {scopes}")
    create.add_argument("--name", default="", help="what it is for")
    create.set_defaults(run=_create_key)
    listing = commands.add_parser("list", help="the keys that were made, revoked ones too")
    listing.set_defaults(run=_list_keys)
    revoke = commands.add_parser("revoke", help="make a key worthless, for good")
    revoke.add_argument("key_id", metavar="KEY_ID", help="its id in the list")
    revoke.set_defaults(run=_revoke_key)
    for command in (create, listing, revoke):
        add_store(command)


def _create_key(args: argparse.Namespace) -> None:
    for scope in args.scope:
        check_choice("scope", scope, [each.value for each in Scope])
    with FeedbackStore(args.store) as store:
        key, row = store.keys.create(map(Scope, args.scope), name=args.name)
    print(f"The key {row.key_id}, which is not shown again:", file=sys.stderr)
    print(key)


def _list_keys(args: argparse.Namespace) -> None:
    with FeedbackStore(args.store) as store:
        keys = store.keys.list()
    # An id that is cut short revokes nothing.
    table = Table(Column("key", no_wrap=True, min_width=36), "name", "scopes", "made", "revoked")
    for key in keys:
        times = (f"{time:%Y-%m-%d}" if time else "" for time in (key.created_at, key.revoked_at))
        table.add_row(key.key_id, key.name, "\n".join(sorted(scope.value for scope in key.scopes)), *times)
    Console().print(table)


def _revoke_key(args: argparse.Namespace) -> None:
    with FeedbackStore(args.store) as store:
        key = store.keys.revoke(args.key_id)
    print(f"{key.key_id} is revoked; servers that run refuse it within seconds")


def add_quarantine(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="what waits, and why")
    listing.set_defaults(run=_list_quarantined)
    release = commands.add_parser("release", help="let feedback count from now on")
    release.add_argument("feedback_ids", nargs="+", metavar="FEEDBACK_ID", help="ids in the list")
    release.set_defaults(run=_release)
    for command in (listing, release):
        add_store(command)


def _list_quarantined(args: argparse.Namespace) -> None:
    with FeedbackStore(args.store) as store:
        waiting = store.quarantined()
    table = Table(Column("feedback", no_wrap=True, min_width=36), "user", "kind", "value", "why")
    for row in waiting:
        said = row.feedback
        table.add_row(said.feedback_id, said.user_id, said.kind.value, str(said.value), row.detail)
    Console().print(table)


def _release(args: argparse.Namespace) -> None:
    with FeedbackStore(args.store) as store:
        released = store.release(args.feedback_ids)
    print(f"{len(released)} rows of feedback count from now on")


def add_erase(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--user", metavar="ID", help="what a user asked and said, and what was said about it")
    subject.add_argument(
        "--interaction", metavar="ID", help="an answer, the turns that quote it, and feedback on them"
    )
    parser.set_defaults(run=_erase)


def _erase(args: argparse.Namespace) -> None:
    with FeedbackStore(args.store) as store:
        gone = store.erase_user(args.user) if args.user is not None else store.erase_interaction(args.interaction)
    print(f"{len(gone.interaction_ids)} answers and {len(gone.feedback_ids)} rows of feedback are erased")
    print("`online-trl lineage` tells which versions learned from them")
