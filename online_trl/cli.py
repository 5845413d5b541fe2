"""The `online-trl` command."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from .config import ConfigError, check_choice, check_config_file
from .database import Database
from .dataset_import import DatasetFormatError
from .lineage import feedback_behind, ingredients, uses
from .migrations import REVISIONS
from .registry import ModelRegistry, RegistryError
from .store import FeedbackStore, LogReader, StoreError, Trace, open_store
from .types import ErasedSubject, InvalidRecordError, ModelRole, Purpose, Scope

EXPORT_FORMATS = ("preference", "unpaired", "prompt")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`Sequence[str]`, *optional*):
            The command line. Defaults to that of the process.

    Returns:
        `int`: Exit status: 0 when it did what was asked, 2 when something in the request was wrong, 130 after Ctrl-C.
    """
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except (ConfigError, DatasetFormatError, StoreError, RegistryError, InvalidRecordError) as error:
        print(f"online-trl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("online-trl: stopped", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    root = argparse.ArgumentParser(
        prog="online-trl", description="Train a deployed language model on what its users say about it."
    )
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="the whole loop on this machine, with simulated users"))
    _add_serve(commands.add_parser("serve", help="serve a policy and collect feedback"))
    _add_import(commands.add_parser("import", help="put a preference dataset into the log"))
    _add_export(commands.add_parser("export", help="write the log as a dataset for any TRL trainer"))
    _add_status(commands.add_parser("status", help="what is in the log, which versions exist, which are live"))
    _add_keys(commands.add_parser("keys", help="who may ask the servers on a log"))
    _add_quarantine(commands.add_parser("quarantine", help="feedback that waits for somebody to look at it"))
    _add_erase(commands.add_parser("erase", help="erase a user or an answer from the log"))
    _add_lineage(commands.add_parser("lineage", help="which versions consumed what, and what made a version"))
    _add_database(commands.add_parser("db", help="bring the log's schema up to date"))
    return root


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trainer", default="grpo", help="grpo (default) or ppo")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default: 0)")
    parser.add_argument("--rounds", type=int, default=3, help="how often the loop goes round (default: 3)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/demo"), help="default: outputs/demo")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output directory")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> None:
    check_choice("trainer", args.trainer, ("grpo", "ppo"))
    from .demo import run_demo

    run_demo(trainer=args.trainer, seed=args.seed, rounds=args.rounds, output_dir=args.output_dir, resume=args.resume)


def _add_store(parser: argparse.ArgumentParser, *, also_remote: bool = False) -> None:
    remote = ", or https://chat.example.org for that of a server" if also_remote else ""
    parser.add_argument(
        "--store", required=True, metavar="URL", help=f"the feedback log: sqlite:///feedback.db{remote}"
    )


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    policy = parser.add_mutually_exclusive_group(required=True)
    policy.add_argument("--policy", metavar="PATH", help="a model: a folder, or a hub id")
    policy.add_argument("--registry", type=Path, metavar="DIR", help="a registry, whose live policy is followed")
    policy.add_argument(
        "--upstream", metavar="URL", help="an OpenAI-compatible server that answers: http://127.0.0.1:8001/v1"
    )
    parser.add_argument("--upstream-model", metavar="NAME", help="its model (default: the first that it lists)")
    parser.add_argument(
        "--upstream-token-ids",
        action="store_true",
        help="ask it for token ids and log-probabilities (vLLM with `--logprobs-mode processed_logprobs`)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings of the server, see `ServerSettings`")
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> None:
    from .serving.server import serve
    from .serving.settings import ServerSettings, read_settings

    settings = check_config_file(args.config, [ServerSettings]) if args.config is not None else {}
    serve(
        store_url=args.store,
        policy=args.policy,
        registry_root=args.registry,
        upstream=args.upstream,
        upstream_model=args.upstream_model,
        upstream_token_ids=args.upstream_token_ids,
        host=args.host,
        port=args.port,
        settings=read_settings(settings, where=str(args.config)),
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a preference dataset in TRL's format: hub id, folder, JSON or Parquet file")
    _add_store(parser)
    parser.add_argument("--config", help="configuration of a hub dataset")
    parser.add_argument("--split", default="train", help="split to take (default: train)")
    parser.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> None:
    from .dataset_import import import_dataset, load_hf_dataset

    dataset = load_hf_dataset(args.dataset, args.config, args.split)
    with FeedbackStore(args.store) as store:
        added = import_dataset(store, dataset)
    print(f"{added} rows of feedback added to {args.store}")


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_store(parser, also_remote=True)
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
    from .preferences import preference_dataset, prompt_dataset, read_preferences, unpaired_dataset

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


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_store(parser, also_remote=True)
    parser.add_argument("--registry", type=Path, metavar="DIR", help="the model registry")
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


def _add_database(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    upgrade = commands.add_parser("upgrade", help="bring a log of an older release up to date, or make a new one")
    _add_store(upgrade)
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


def _versions_table(registry: ModelRegistry) -> Table:
    table = Table("version", "status", "parent", "published", "why", title=f"Versions in {registry.root}")
    for role in ModelRole:
        for version in registry.versions(role):
            published = f"{version.created_at:%Y-%m-%d %H:%M}"
            table.add_row(version.name, version.status.value, version.parent or "", published, version.reason)
    return table


def _add_keys(parser: argparse.ArgumentParser) -> None:
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
        _add_store(command)


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


def _add_quarantine(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="what waits, and why")
    listing.set_defaults(run=_list_quarantined)
    release = commands.add_parser("release", help="let feedback count from now on")
    release.add_argument("feedback_ids", nargs="+", metavar="FEEDBACK_ID", help="ids in the list")
    release.set_defaults(run=_release)
    for command in (listing, release):
        _add_store(command)


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


def _add_erase(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
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


def _add_lineage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--registry", required=True, type=Path, metavar="DIR", help="the model registry")
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


if __name__ == "__main__":
    sys.exit(main())
